//! The transport of GPUs against a stand-in for CUDA's driver and NCCL: that it calls them as they want to be called, that
//! every wait ends, and that what was begun is aborted before its memory goes. What the real ones do is for a GPU to show.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Barrier;
use std::thread;

use cudarc::driver::CudaContext;
use sensorium_device::group::member::exchange;
use sensorium_device::group::nccl::{self, ID_BYTES, NcclGroup};
use sensorium_device::group::{GroupError, Transport, Wait};

use crate::build::{seeds, with_stand_in};

const PATIENCE_MS: u64 = 30_000;

#[test]
fn the_transport_of_gpus_keeps_its_contract() {
    for seed in seeds(3) {
        // Memory from a pool, or from the driver at once.
        with_stand_in(
            "nccl::as_the_libraries_want_it",
            seed,
            &[("STANDIN_POOLS", if seed % 2 == 0 { "1" } else { "0" })],
        );
    }
}

fn wait(ms: u64) -> Wait<'static> {
    Wait::new(ms, None)
}

fn id() -> [u8; ID_BYTES] {
    nccl::unique_id().unwrap()
}

/// Runs each member of a group of `ranks` on a thread, from when all have joined.
fn each<T: Send>(ranks: u32, act: impl Fn(NcclGroup) -> T + Sync) -> Vec<T> {
    let (id, act, all_joined) = (id(), &act, &Barrier::new(ranks as usize));
    thread::scope(|scope| {
        let member = |rank| {
            scope.spawn(move || {
                let context = CudaContext::new(0).unwrap();
                let group = NcclGroup::join(&context, rank, ranks, id, &wait(PATIENCE_MS)).unwrap();
                all_joined.wait();
                act(group)
            })
        };
        let running: Vec<_> = (0..ranks).map(member).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn as_the_libraries_want_it() {
    assert_eq!(nccl::version().unwrap(), 23_203);
    values_arrive();
    a_member_that_does_not_come();
    a_member_that_hangs();
    a_member_that_goes();
    the_node_says_something_else();
}

fn values_arrive() {
    for ranks in [1, 2, 5] {
        let all_done = Barrier::new(ranks as usize);
        each(ranks, |mut group| {
            // Smaller after larger: buffers are used again, and their rest is not sent.
            for values in [1, 3, 1000, 127, 70_001, 2] {
                exchange(&mut group, 3, values as u64, values, &wait(PATIENCE_MS)).unwrap();
            }
            assert!(group.broadcast(ranks, &mut [1.0], &wait(PATIENCE_MS)).unwrap_err().is_argument());
            assert!(group.all_gather(&[], &mut [], &wait(PATIENCE_MS)).unwrap_err().is_argument());
            exchange(&mut group, 3, 9, 10, &wait(PATIENCE_MS)).unwrap();
            // Nobody goes before all are done: to the others that would be an error.
            all_done.wait();
        });
    }
}

fn a_member_that_does_not_come() {
    let context = CudaContext::new(0).unwrap();
    let error = NcclGroup::join(&context, 0, 2, id(), &wait(100)).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("forming: not done after 100 ms"), "{error}");
    let error = NcclGroup::join(&context, 2, 2, id(), &wait(100)).map(|_| ()).unwrap_err();
    assert!(matches!(error, GroupError::Rank { rank: 2, ranks: 2 }), "{error}");
}

fn a_member_that_hangs() {
    let errors = each(3, |mut group| {
        if group.rank() == 1 {
            thread::sleep(std::time::Duration::from_millis(400));
            return None;
        }
        let error = group.all_gather(&[1.0; 1000], &mut [0.0; 3000], &wait(100)).unwrap_err();
        let again = group.all_gather(&[1.0; 1000], &mut [0.0; 3000], &wait(100)).unwrap_err();
        assert!(matches!(again, GroupError::Broken), "{again}");
        Some(error.to_string())
    });
    // Whoever gives up first is gone for the other, too.
    let given_up = errors.iter().flatten().filter(|error| error.contains("not done after 100 ms")).count();
    assert!(given_up >= 1 && errors.iter().flatten().count() == 2, "{errors:?}");
}

fn a_member_that_goes() {
    let errors = each(2, |mut group| {
        if group.rank() == 1 {
            return None;
        }
        Some(group.broadcast(1, &mut [0.0; 10], &wait(PATIENCE_MS)).unwrap_err().to_string())
    });
    let error = errors[0].as_ref().unwrap();
    assert!(error.contains("remote process exited (6)"), "{error}");
}

fn the_node_says_something_else() {
    let (node, member) = UnixStream::pair().unwrap();
    let node = std::sync::Mutex::new(Some(node));
    each(2, |mut group| {
        if group.rank() == 1 {
            thread::sleep(std::time::Duration::from_millis(50));
            drop(node.lock().unwrap().take());
            thread::sleep(std::time::Duration::from_millis(300));
            return;
        }
        let wait = Wait::new(PATIENCE_MS, Some(member.as_fd()));
        let error = group.all_gather(&[1.0], &mut [0.0; 2], &wait).unwrap_err();
        assert!(matches!(error, GroupError::Interrupted { .. }), "{error}");
    });
}
