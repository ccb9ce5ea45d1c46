//! A member of a group in its worker: carries out what the node orders, and says how it went.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::host::HostGroup;
use super::nccl::{self, ID_BYTES, NcclGroup};
use super::orders::{self, Order, ROUNDS_MAX, Report};
use super::{GroupError, Transport, VALUES_MAX, WAIT_MS_MAX, WAIT_MS_MIN, Wait};
use crate::backend::cuda::CudaDevice;

/// Carries out orders until the node is gone.
///
/// # Errors
/// What the socket says, or that the node talks nonsense.
pub fn run(socket: &OwnedFd, gpu: Option<&Arc<CudaDevice>>) -> std::io::Result<()> {
    let mut member = Member { socket, gpu, group: None, generation: 0 };
    while let Some((order, sockets)) = orders::take::<Order>(socket)? {
        let report = member.obey(order, sockets);
        orders::put(socket, &report, &[])?;
        if matches!(report, Report::Failed { .. }) {
            // At once, so that the others do not wait for this member; and told first, so that the node hears why this one
            // let go before it hears from others that it did.
            member.group = None;
        }
    }
    Ok(())
}

struct Member<'a> {
    socket: &'a OwnedFd,
    gpu: Option<&'a Arc<CudaDevice>>,
    /// `None` unless it has come together.
    group: Option<Box<dyn Transport>>,
    generation: u64,
}

impl Member<'_> {
    fn obey(&mut self, order: Order, sockets: Vec<OwnedFd>) -> Report {
        let generation = order.generation();
        let outcome = match order {
            Order::MakeId { .. } => nccl::unique_id().map(|id| Report::Id { generation, id: id.to_vec() }),
            Order::Form { rank, ranks, wait_ms, id, .. } => {
                let began = Instant::now();
                self.group = None;
                self.generation = generation;
                self.form(rank, ranks, wait_ms, id, sockets).map(|group| {
                    self.group = Some(group);
                    Report::Formed { generation, us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX) }
                })
            }
            Order::Exercise { sequence, values, rounds, wait_ms, .. } => {
                self.exercise(generation, sequence, values as usize, (rounds, wait_ms))
            }
            Order::Abort { .. } => {
                self.group = None;
                Ok(Report::Aborted { generation })
            }
        };
        outcome.unwrap_or_else(|error| Report::failed(generation, &error.to_string()))
    }

    fn form(
        &self,
        rank: u32,
        ranks: u32,
        wait_ms: u64,
        id: Option<Vec<u8>>,
        sockets: Vec<OwnedFd>,
    ) -> Result<Box<dyn Transport>, GroupError> {
        let wait = self.wait(wait_ms);
        // Something newer may have been said while this member was held up.
        wait.check("forming", || "the node".to_owned())?;
        let Some(id) = id else { return Ok(Box::new(HostGroup::new(rank, ranks, self.generation, sockets)?)) };
        let wrong = |message: &str| GroupError::System { what: "forming", message: message.to_owned() };
        let id: [u8; ID_BYTES] = id.try_into().map_err(|_| wrong("an identifier of 128 bytes is expected"))?;
        let gpu = self.gpu.ok_or_else(|| wrong("NCCL connects GPUs, and this device is none"))?;
        Ok(Box::new(NcclGroup::join(gpu.context(), rank, ranks, id, &wait)?))
    }

    fn wait(&self, wait_ms: u64) -> Wait<'_> {
        Wait::new(wait_ms.clamp(WAIT_MS_MIN, WAIT_MS_MAX), Some(self.socket.as_fd()))
    }

    fn exercise(
        &mut self,
        generation: u64,
        sequence: u64,
        values: usize,
        (rounds, wait_ms): (u32, u64),
    ) -> Result<Report, GroupError> {
        if values > VALUES_MAX {
            return Err(GroupError::TooLarge { what: "exercise", values });
        }
        let socket = self.socket;
        let group = self.group.as_deref_mut().filter(|_| generation == self.generation).ok_or(GroupError::Broken)?;
        let (mut broadcast, mut all_gather) = (Vec::new(), Vec::new());
        let rounds = rounds.clamp(1, ROUNDS_MAX);
        for round in 0..rounds {
            let wait = Wait::new(wait_ms.clamp(WAIT_MS_MIN, WAIT_MS_MAX), Some(socket.as_fd()));
            let sequence = sequence.wrapping_add(u64::from(round));
            let (sent, gathered) = exchange(group, generation, sequence, values, &wait)?;
            broadcast.push(sent);
            all_gather.push(gathered);
        }
        let (broadcast_us, all_gather_us) = (median_us(broadcast), median_us(all_gather));
        Ok(Report::Exercised { generation, sequence, broadcast_us, all_gather_us })
    }
}

fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

/// A broadcast and an all-gather of made-up values, every one of which is checked.
///
/// # Errors
/// [`GroupError::Wrong`] with the first that is not what its sender made, or those of [`Transport`].
pub fn exchange(
    group: &mut dyn Transport,
    generation: u64,
    sequence: u64,
    values: usize,
    wait: &Wait<'_>,
) -> Result<(Duration, Duration), GroupError> {
    let (rank, ranks) = (group.rank(), group.ranks());
    let root = u32::try_from(sequence % u64::from(ranks)).unwrap_or(0);
    let seed = |what: u64, rank: u32| Seed { what, generation, sequence, rank };
    let mut mine = if rank == root { made_up(seed(1, root), values) } else { vec![f32::NAN; values] };
    let sent = group.broadcast(root, &mut mine, wait)?;
    compare("broadcast", root, &mine, seed(1, root))?;
    let mine = made_up(seed(2, rank), values);
    let mut all = vec![f32::NAN; values * ranks as usize];
    let gathered = group.all_gather(&mine, &mut all, wait)?;
    for (from, part) in (0..).zip(all.chunks_exact(values)) {
        compare("all-gather", from, part, seed(2, from))?;
    }
    Ok((sent, gathered))
}

#[derive(Clone, Copy)]
struct Seed {
    what: u64,
    generation: u64,
    sequence: u64,
    rank: u32,
}

/// Values that another generation, round, rank or place would not have.
fn made_up(seed: Seed, values: usize) -> Vec<f32> {
    let start = [seed.what, seed.generation, seed.sequence, u64::from(seed.rank)]
        .into_iter()
        .fold(0_u64, |mixed, part| (mixed ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    let value = |at: usize| {
        let mixed = (start ^ at as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        #[expect(clippy::cast_precision_loss, reason = "24 bits")]
        let value = (mixed >> 40) as f32;
        value
    };
    (0..values).map(value).collect()
}

fn compare(what: &'static str, rank: u32, found: &[f32], seed: Seed) -> Result<(), GroupError> {
    let expected = made_up(seed, found.len());
    match found.iter().zip(&expected).position(|(found, expected)| found.to_bits() != expected.to_bits()) {
        None => Ok(()),
        Some(at) => Err(GroupError::Wrong { what, rank: rank as usize, at, found: found[at], expected: expected[at] }),
    }
}
