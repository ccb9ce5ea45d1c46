//! What every transport of a group must do, on the one between workers of a machine; each member is a thread here, and a
//! process in the tests of the whole.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sensorium_device::group::host::{HostGroup, mesh};
use sensorium_device::group::member::{self, exchange};
use sensorium_device::group::orders::{self, Order, Report};
use sensorium_device::group::{GATHERED_VALUES_MAX, GroupError, RANKS_MAX, Transport, VALUES_MAX, Wait};

const PATIENCE_MS: u64 = 60_000;

fn members(ranks: u32, generation: u64) -> Vec<HostGroup> {
    let sockets = mesh(ranks).unwrap();
    let group = |(rank, sockets)| HostGroup::new(rank, ranks, generation, sockets).unwrap();
    (0..).zip(sockets).map(group).collect()
}

fn wait() -> Wait<'static> {
    Wait::new(PATIENCE_MS, None)
}

/// What each member did, all at once.
fn each<T: Send>(groups: Vec<HostGroup>, act: impl Fn(HostGroup) -> T + Sync) -> Vec<T> {
    let act = &act;
    thread::scope(|scope| {
        let running: Vec<_> = groups.into_iter().map(|group| scope.spawn(move || act(group))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn values_arrive_whatever_their_number() {
    for ranks in [1, 2, 3, 5] {
        each(members(ranks, 7), |mut group| {
            let own = f32::from(u16::try_from(group.rank()).unwrap());
            for values in [1_usize, 2, 3, 127, 1000, 65_537, 300_001] {
                for root in [0, ranks - 1] {
                    let is_root = group.rank() == root;
                    let value = |at: usize| f32::from(u16::try_from(at % 60_013).unwrap()) + 0.25;
                    let mut given: Vec<f32> = (0..values).map(|at| if is_root { value(at) } else { -1.0 }).collect();
                    group.broadcast(root, &mut given, &wait()).unwrap();
                    assert!(given.iter().enumerate().all(|(at, found)| *found == value(at)), "{ranks} {values} {root}");
                }
                let mine: Vec<f32> = (0..values).map(|at| if at % 2 == 0 { own } else { -own - 1.0 }).collect();
                let mut all = vec![f32::NAN; values * ranks as usize];
                group.all_gather(&mine, &mut all, &wait()).unwrap();
                for (rank, part) in (0_u16..).zip(all.chunks_exact(values)) {
                    let rank = f32::from(rank);
                    let expected = |at: usize| if at.is_multiple_of(2) { rank } else { -rank - 1.0 };
                    assert!(part.iter().enumerate().all(|(at, found)| *found == expected(at)), "{ranks} {values}");
                }
                exchange(&mut group, 7, values as u64, values, &wait()).unwrap();
            }
        });
    }
}

#[test]
fn what_is_not_a_number_arrives_as_it_is() {
    let odd = [f32::NAN, -0.0, f32::INFINITY, f32::MIN_POSITIVE / 2.0, f32::from_bits(0x7fa0_0001)];
    each(members(2, 1), |mut group| {
        let mut all = [0.0; 10];
        group.all_gather(&odd, &mut all, &wait()).unwrap();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&all[..5]), bits(&odd));
        assert_eq!(bits(&all[5..]), bits(&odd));
    });
}

#[test]
fn wrong_calls_are_refused_and_the_group_goes_on() {
    each(members(3, 1), |mut group| {
        let refused = |outcome: Result<_, GroupError>, text: &str| {
            let error = outcome.map(|_| ()).unwrap_err();
            assert!(error.is_argument() && error.to_string().contains(text), "{error}");
        };
        let large = vec![0.0; VALUES_MAX + 1];
        refused(group.broadcast(0, &mut [], &wait()), "no values; 1 to 4194304");
        refused(group.broadcast(3, &mut [1.0], &wait()), "rank 3 of 3; ranks are 0 to 2");
        refused(group.broadcast(0, &mut large.clone(), &wait()), "4194305 values of a member; at most 4194304");
        refused(group.all_gather(&[], &mut [], &wait()), "no values");
        refused(group.all_gather(&large, &mut [], &wait()), "at most 4194304");
        refused(group.all_gather(&[1.0], &mut [0.0; 2], &wait()), "room for 2 values; 3 members give 3");
        exchange(&mut group, 1, 0, 5, &wait()).unwrap();
    });
    each(members(5, 1).into_iter().take(1).collect(), |mut group| {
        let mine = vec![0.0; VALUES_MAX];
        let error = group.all_gather(&mine, &mut [], &wait()).unwrap_err();
        assert!(matches!(error, GroupError::GatheredTooLarge { values } if values > GATHERED_VALUES_MAX), "{error}");
    });
    assert!(HostGroup::new(0, RANKS_MAX + 1, 1, Vec::new()).is_err());
    assert!(HostGroup::new(2, 2, 1, mesh(2).unwrap().pop().unwrap()).is_err());
    assert!(HostGroup::new(0, 3, 1, mesh(2).unwrap().pop().unwrap()).is_err());
}

#[test]
fn a_member_that_ends_is_told_to_all_at_once() {
    let mut groups = members(3, 1);
    drop(groups.pop());
    let errors = each(groups, |mut group| {
        let error = exchange(&mut group, 1, 2, 100_000, &wait()).unwrap_err();
        assert!(matches!(exchange(&mut group, 1, 3, 1, &wait()), Err(GroupError::Broken)));
        error
    });
    for error in errors {
        assert!(matches!(error, GroupError::Lost { rank: 2, .. }), "{error}");
    }
}

#[test]
fn a_member_that_hangs_costs_the_limit_and_is_named() {
    let mut groups = members(3, 1);
    let hangs = groups.remove(1);
    let errors = each(groups, |mut group| {
        let (mine, mut all) = (vec![1.0; 1_000_000], vec![0.0; 3_000_000]);
        group.all_gather(&mine, &mut all, &Wait::new(100, None)).unwrap_err()
    });
    for error in errors {
        let text = error.to_string();
        assert!(text.contains("not done after 100 ms; waited for rank 1"), "{text}");
    }
    drop(hangs);
}

#[test]
fn the_node_ends_a_wait() {
    let mut groups = members(2, 1);
    let (node, member) = UnixStream::pair().unwrap();
    let mut group = groups.remove(0);
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            let wait = Wait::new(PATIENCE_MS, Some(member.as_fd()));
            group.all_gather(&[1.0], &mut [0.0; 2], &wait).unwrap_err()
        });
        drop(node);
        assert!(matches!(running.join().unwrap(), GroupError::Interrupted { .. }));
    });
}

/// A transport that spoils one value.
struct Spoiling(HostGroup, usize);

impl Transport for Spoiling {
    fn rank(&self) -> u32 {
        self.0.rank()
    }

    fn ranks(&self) -> u32 {
        self.0.ranks()
    }

    fn broadcast(&mut self, root: u32, values: &mut [f32], wait: &Wait<'_>) -> Result<Duration, GroupError> {
        self.0.broadcast(root, values, wait)
    }

    fn all_gather(&mut self, mine: &[f32], all: &mut [f32], wait: &Wait<'_>) -> Result<Duration, GroupError> {
        let time = self.0.all_gather(mine, all, wait)?;
        all[self.1] += 1.0;
        Ok(time)
    }
}

#[test]
fn an_exercise_finds_a_single_wrong_value() {
    for at in [0, 99, 100, 150, 299] {
        let errors = each(members(3, 1), |group| exchange(&mut Spoiling(group, at), 1, 2, 100, &wait()).unwrap_err());
        for error in errors {
            let GroupError::Wrong { rank, at: place, .. } = error else { panic!("{error}") };
            assert_eq!((rank, place), (at / 100, at % 100));
        }
    }
    // Values of another generation, round or rank are not taken for these.
    let errors = each(members(2, 1), |mut group| {
        let rank = u64::from(group.rank());
        exchange(&mut group, 1 + rank, 4, 10, &wait()).err()
    });
    assert!(errors.iter().flatten().any(|error| matches!(error, GroupError::Wrong { .. })), "{errors:?}");
}

/// A member on a thread, as a worker has it; gives the node's end of its socket.
fn member() -> (OwnedFd, thread::JoinHandle<std::io::Result<()>>) {
    let (node, worker) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    (node, thread::spawn(move || member::run(&worker, None)))
}

fn ask(node: &OwnedFd, order: &Order, sockets: &[OwnedFd]) -> Report {
    let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    orders::put(node, order, &sockets).unwrap();
    orders::take::<Report>(node).unwrap().expect("a member that goes on").0
}

#[test]
fn a_member_answers_every_order_and_keeps_nothing_of_what_failed() {
    let (node, running) = member();
    let failed = |order: &Order, sockets: &[OwnedFd], text: &str| {
        let Report::Failed { generation, reason } = ask(&node, order, sockets) else { panic!("{order:?}") };
        assert_eq!(generation, order.generation());
        assert!(reason.contains(text), "{reason}");
    };
    let form = |generation, ranks, id| Order::Form { generation, rank: 0, ranks, wait_ms: 1000, id };
    let exercise = |generation, values| Order::Exercise { generation, sequence: 3, values, rounds: 2, wait_ms: 1000 };
    failed(&exercise(1, 5), &[], "of no more use");
    failed(&form(1, 2, None), &[], "0 sockets for a group of 2");
    failed(&form(1, 17, None), &[], "a group of 17");
    failed(&form(1, 0, None), &[], "a group of 0");
    failed(&form(1, 2, Some(vec![0; 127])), &[], "128 bytes");
    failed(&form(1, 2, Some(vec![0; 128])), &[], "this device is none");
    assert!(matches!(ask(&node, &form(2, 1, None), &[]), Report::Formed { generation: 2, .. }));
    assert!(matches!(ask(&node, &exercise(2, 1001), &[]), Report::Exercised { generation: 2, sequence: 3, .. }));
    failed(&exercise(1, 5), &[], "of no more use");
    assert!(matches!(ask(&node, &form(3, 1, None), &[]), Report::Formed { generation: 3, .. }));
    failed(&exercise(3, 0), &[], "no values");
    assert!(matches!(ask(&node, &form(4, 1, None), &[]), Report::Formed { generation: 4, .. }));
    failed(&exercise(4, u32::MAX), &[], "4294967295 values of a member");
    for generation in [0, 4, u64::MAX] {
        assert_eq!(ask(&node, &Order::Abort { generation }, &[]), Report::Aborted { generation });
    }
    drop(node);
    running.join().unwrap().unwrap();
    let (node, running) = member();
    rustix::net::send(&node, b"{\"Form\":1}", rustix::net::SendFlags::empty()).unwrap();
    assert_eq!(running.join().unwrap().unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}

#[test]
fn an_abort_ends_what_a_member_waits_for() {
    let (node, _running) = member();
    let mut sockets = mesh(2).unwrap();
    // The other member is there, and says nothing.
    let _other = sockets.pop();
    let form = Order::Form { generation: 1, rank: 0, ranks: 2, wait_ms: 1000, id: None };
    assert!(matches!(ask(&node, &form, &sockets.remove(0)), Report::Formed { .. }));
    let exercise = Order::Exercise { generation: 1, sequence: 1, values: 9, rounds: 1, wait_ms: PATIENCE_MS };
    orders::put(&node, &exercise, &[]).unwrap();
    orders::put(&node, &Order::Abort { generation: 1 }, &[]).unwrap();
    let said = || orders::take::<Report>(&node).unwrap().unwrap().0;
    let Report::Failed { reason, .. } = said() else { panic!("it did not fail") };
    assert!(reason.contains("the node says something else"), "{reason}");
    assert_eq!(said(), Report::Aborted { generation: 1 });
}

#[test]
fn members_that_are_out_of_step_do_not_take_each_others_values() {
    let [mut a, mut b] = <[HostGroup; 2]>::try_from(members(2, 1)).map_err(|_| ()).unwrap();
    let outcomes = thread::scope(|scope| {
        let a = scope.spawn(move || a.all_gather(&[1.0; 4], &mut [0.0; 8], &wait()).map(|_| a));
        let b = scope.spawn(move || b.all_gather(&[1.0; 5], &mut [0.0; 10], &wait()).map(|_| b));
        [a.join().unwrap().err(), b.join().unwrap().err()]
    });
    let out_of_step = |error: &GroupError| matches!(error, GroupError::OutOfStep { .. });
    assert!(outcomes.iter().flatten().any(out_of_step), "{outcomes:?}");
    assert!(outcomes.iter().all(Option::is_some));
}
