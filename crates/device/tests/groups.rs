//! What every transport of a group must do, on the one between workers of a machine; each member is a thread here, and a
//! process in the tests of the whole.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

use sensorium_device::group::host::{HostGroup, mesh};
use sensorium_device::group::member::exchange;
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
