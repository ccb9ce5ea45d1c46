mod variants;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use sensorium_wire::BodyKind;
use sensorium_wire::receipt::Stage;
use sensorium_wire::submit::Modality;

use super::*;
use crate::backend::{BackendError, LoadOptions, Network};
use crate::executor::{JobAnswer, JobInput, JobOutput, Slice};
use crate::protocol::{AnswerEntry, AnswerHead, BatchHead, JobEntry, put_packet, read_packet};

/// Leaves every job once and answers its continuation with the payload; says what slices it was given.
struct OnceLeft {
    slices: mpsc::Sender<Slice>,
}

impl Executor for OnceLeft {
    fn run(&mut self, jobs: &[JobInput<'_>], outputs: &mut [JobOutput<'_>], _: &dyn Fn(Stage)) {
        for (job, output) in jobs.iter().zip(outputs) {
            self.slices.send(job.slice).unwrap();
            output.times.infer_ns = 7;
            output.unfinished = job.slice.continues == 0;
            output.answer = Ok(JobAnswer::default());
            if !output.unfinished {
                output.bytes[..job.bytes.len()].copy_from_slice(job.bytes);
                let bytes = job.bytes.len();
                output.answer = Ok(JobAnswer { body: BodyKind::Result, bytes, ..JobAnswer::default() });
            }
        }
    }
}

/// A backend that is only asked whether it is sound.
struct Sound;

impl Backend for Sound {
    fn name(&self) -> &'static str {
        "sound"
    }

    fn load(&self, file: &Path, _: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError> {
        Err(BackendError::Load { file: file.to_owned(), message: "nothing is loaded".to_owned() })
    }
}

#[test]
fn slices_reach_the_executor_and_unfinished_jobs_are_said_to_be() {
    let memory = SharedMemory::create(8192).unwrap();
    assert!(memory.write(0, b"sound"));
    let (slices, seen) = mpsc::channel();
    let mut lane = Lane {
        models: vec![Model { executor: Some(Box::new(OnceLeft { slices })) }],
        report: LaneReport { modality: Modality::Audio, models: Vec::new() },
    };
    let (node, worker) = sockets();
    let job = JobEntry { input_bytes: 5, output_offset: 4096, output_bytes_max: 4096, ..Default::default() };
    let first = JobEntry { run: 3, slice_us: 40_000, ..job };
    let second = JobEntry { run: 5, continues: 3, slice_us: 0, ..job };
    let answers = thread::scope(|scope| {
        let lane = scope.spawn(|| {
            // The socket ends with this thread, or a lane that failed would leave the other side waiting.
            let worker = worker;
            lane.run(&worker, &memory, &Injection::default(), &Sound)
        });
        let mut answers = Vec::new();
        let mut packet = Vec::new();
        for entry in [first, second] {
            put_packet(&mut packet, &BatchHead { batch: entry.run, jobs: 1, ..Default::default() }, [entry]);
            rustix::net::send(&node, &packet, SendFlags::empty()).unwrap();
            answers.extend(answer(&node).1);
        }
        drop(node);
        lane.join().unwrap().unwrap();
        answers
    });
    let seen: Vec<_> = seen.iter().take(2).collect();
    let expected =
        [Slice { run: 3, continues: 0, budget_ns: 40_000_000 }, Slice { run: 5, continues: 3, budget_ns: 0 }];
    assert_eq!(seen, expected);
    let brief = |entry: &AnswerEntry| (entry.run, entry.unfinished, entry.reason, entry.output_bytes, entry.infer_ns);
    assert_eq!(answers.iter().map(brief).collect::<Vec<_>>(), [(3, 1, 0, 0, 7), (5, 0, 0, 5, 7)]);
    assert_eq!(memory.read(4096, 5), Some(&b"sound"[..]));
}

fn sockets() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn answer(node: &OwnedFd) -> (AnswerHead, Vec<AnswerEntry>) {
    let mut answer = vec![0; PACKET_BYTES_MAX];
    let (bytes, _) = rustix::net::recv(node, &mut answer[..], RecvFlags::empty()).unwrap();
    let (head, entries) = read_packet::<AnswerHead, AnswerEntry>(&answer[..bytes], |head| head.jobs).unwrap();
    (head, entries.collect())
}

/// Can start batches of at most two jobs; says what is done with it.
struct Ahead {
    doings: mpsc::Sender<(&'static str, usize)>,
    waits: VecDeque<usize>,
    /// Is done with nothing before so many batches have been started.
    patient_until: usize,
    started: usize,
}

impl Ahead {
    fn new(doings: mpsc::Sender<(&'static str, usize)>, patient_until: usize) -> Self {
        Self { doings, waits: VecDeque::new(), patient_until, started: 0 }
    }
}

fn answered(output: &mut JobOutput<'_>) {
    output.answer = Ok(JobAnswer { body: BodyKind::Result, bytes: 1, ..JobAnswer::default() });
    output.bytes[0] = 1;
}

impl Executor for Ahead {
    fn run(&mut self, jobs: &[JobInput<'_>], outputs: &mut [JobOutput<'_>], _: &dyn Fn(Stage)) {
        self.doings.send(("run", jobs.len())).unwrap();
        outputs.iter_mut().for_each(answered);
    }

    fn started_jobs_max(&self) -> usize {
        2
    }

    fn start(&mut self, jobs: &[JobInput<'_>], _: &dyn Fn(Stage)) {
        self.doings.send(("start", jobs.len())).unwrap();
        self.waits.push_back(jobs.len());
        self.started += 1;
    }

    fn is_done(&self) -> bool {
        self.started >= self.patient_until || self.waits.len() == STARTED_BATCHES_MAX
    }

    fn finish(&mut self, outputs: &mut [JobOutput<'_>], _: Instant, _: &dyn Fn(Stage)) {
        assert_eq!(self.waits.pop_front(), Some(outputs.len()), "the batch that was started first");
        self.doings.send(("finish", outputs.len())).unwrap();
        outputs.iter_mut().for_each(answered);
    }
}

#[test]
fn two_batches_are_under_way_and_all_are_answered_in_order() {
    let memory = SharedMemory::create(1 << 20).unwrap();
    let (doings, seen) = mpsc::channel();
    let mut lane = Lane {
        models: vec![Model { executor: Some(Box::new(Ahead::new(doings, 4))) }],
        report: LaneReport { modality: Modality::Visual, models: Vec::new() },
    };
    let (node, worker) = sockets();
    let mut packet = Vec::new();
    let mut run = 0;
    // All are there before the lane looks: 1, 2, 1, 2 jobs can be started ahead, 3 cannot.
    for (batch, jobs) in (1..).zip([1, 2, 1, 3, 2]) {
        let entries = (0..jobs).map(|_| {
            run += 1;
            JobEntry { run, input_bytes: 5, output_offset: run * 4096, output_bytes_max: 4096, ..Default::default() }
        });
        let entries: Vec<_> = entries.collect();
        put_packet(&mut packet, &BatchHead { batch, jobs, ..Default::default() }, entries);
        rustix::net::send(&node, &packet, SendFlags::empty()).unwrap();
    }
    let heads = thread::scope(|scope| {
        let lane = scope.spawn(|| {
            let worker = worker;
            lane.run(&worker, &memory, &Injection::default(), &Sound)
        });
        let heads: Vec<_> = (0..5).map(|_| answer(&node)).collect();
        drop(node);
        lane.join().unwrap().unwrap();
        heads
    });
    let runs: Vec<u64> = heads.iter().flat_map(|(_, entries)| entries.iter().map(|entry| entry.run)).collect();
    assert_eq!(runs, (1..=9).collect::<Vec<_>>());
    assert!(heads.iter().flat_map(|(_, entries)| entries).all(|entry| entry.reason == 0));
    for pair in heads.windows(2) {
        assert!(pair[1].0.batch == pair[0].0.batch + 1, "in the order in which they came");
        assert!(pair[1].0.received_ns >= pair[0].0.finished_ns, "a lane's time is counted once");
    }
    let seen: Vec<_> = seen.iter().take(9).collect();
    let expected = [
        ("start", 1),
        ("start", 2),
        ("finish", 1),
        ("start", 1),
        ("finish", 2),
        ("finish", 1),
        ("run", 3),
        ("start", 2),
        ("finish", 2),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_batch_that_comes_while_another_is_computed_is_started_beside_it() {
    let memory = SharedMemory::create(1 << 16).unwrap();
    let (doings, seen) = mpsc::channel();
    let mut lane = Lane {
        models: vec![Model { executor: Some(Box::new(Ahead::new(doings, 2))) }],
        report: LaneReport { modality: Modality::Visual, models: Vec::new() },
    };
    let (node, worker) = sockets();
    let send = |node: &OwnedFd, run: u64| {
        let job =
            JobEntry { run, input_bytes: 5, output_offset: run * 4096, output_bytes_max: 4096, ..Default::default() };
        let mut packet = Vec::new();
        put_packet(&mut packet, &BatchHead { batch: run, jobs: 1, ..Default::default() }, [job]);
        rustix::net::send(node, &packet, SendFlags::empty()).unwrap();
    };
    let runs = thread::scope(|scope| {
        let lane = scope.spawn(|| {
            let worker = worker;
            lane.run(&worker, &memory, &Injection::default(), &Sound)
        });
        send(&node, 1);
        // The first is under way, and would be for ever if the second were not taken.
        assert_eq!(seen.recv().unwrap(), ("start", 1));
        send(&node, 2);
        let runs: Vec<_> = (0..2).map(|_| answer(&node).1[0].run).collect();
        drop(node);
        lane.join().unwrap().unwrap();
        runs
    });
    assert_eq!(runs, [1, 2]);
    assert_eq!(seen.iter().take(3).collect::<Vec<_>>(), [("start", 1), ("finish", 1), ("finish", 1)]);
}
