//! A worker process that drives a stand-in for a GPU: its lanes' loops, with two batches under way and payloads in the
//! node's shared memory, whose slots go to others as soon as they are answered.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use sensorium_device::protocol::{
    AnswerEntry, AnswerHead, BatchHead, JobEntry, LaneSetup, ModelSetup, WorkerReport, WorkerSetup, put_packet,
    read_packet,
};
use sensorium_device::slab::{Slab, SlabClass, Slot};
use sensorium_device::supervise::{WorkerEvent, WorkerSpec, WorkerSupervisor};
use sensorium_models::manifest::Precision;
use sensorium_wire::result::ModelResult;
use sensorium_wire::submit::{PayloadKind, PixelFormat};
use sensorium_wire::{Dtype, Modality, codec};

use crate::build::{onnxruntime, seeds, with_stand_in};
use crate::cache::{cached, root};
use crate::harness::{Job, run_one};
use crate::{images, models, standin};

const PATIENCE: Duration = Duration::from_secs(120);
const PACKET_BYTES: usize = 64 << 10;
const ANSWER_BYTES: u64 = 16 << 10;
const BATCHES: usize = 12;

#[test]
fn a_worker_serves_with_two_batches_under_way() {
    for seed in seeds(1) {
        with_stand_in("standin_worker::batches_of_a_node", seed, &[]);
    }
}

/// What the process of a worker is here.
#[test]
#[ignore = "started by the test below"]
fn as_a_worker() {
    sensorium_device::worker::run(std::os::unix::process::parent_id()).unwrap();
}

fn spec(slab: &std::sync::Arc<Slab>) -> WorkerSpec {
    let model = |name: &str| ModelSetup { name: name.to_owned(), precision: Precision::Fp32, known: None };
    let setup = WorkerSetup {
        device: "cuda:0".to_owned(),
        gpu: Some(standin::setup()),
        cpus: Vec::new(),
        nice: 0,
        onnxruntime: onnxruntime().unwrap(),
        repositories: vec![root().join("cluster/models")],
        weights: cached("models"),
        slab_bytes: slab.memory_bytes(),
        lanes: vec![
            LaneSetup { modality: Modality::Visual, models: vec![model("nanodet")] },
            LaneSetup { modality: Modality::Fusion, models: vec![model("fusion")] },
        ],
        groups: Vec::new(),
        injection: None,
        standby: false,
    };
    WorkerSpec {
        program: std::env::current_exe().unwrap(),
        arguments: ["--ignored", "--exact", "standin_worker::as_a_worker"].map(str::to_owned).to_vec(),
        setup,
        slab: std::sync::Arc::clone(slab),
        ready_ms_max: 120_000,
    }
}

fn ready(told: &mpsc::Receiver<WorkerEvent>) -> (WorkerReport, Vec<OwnedFd>) {
    loop {
        match told.recv_timeout(PATIENCE).unwrap() {
            WorkerEvent::Spawned { .. } => {}
            WorkerEvent::Ready { report, lanes, .. } => return (report, lanes),
            WorkerEvent::Exited { reason, .. } => panic!("the worker ended: {reason}"),
        }
    }
}

/// A batch that a worker has: for each job which image it is, its slot, and the slot of its answer.
struct Sent {
    batch: u64,
    jobs: Vec<(usize, Slot, Slot)>,
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn batches_of_a_node() {
    let slab =
        Slab::create(&[SlabClass { slot_bytes: 16 << 10, slots: 16 }, SlabClass { slot_bytes: 2 << 20, slots: 8 }])
            .unwrap();
    let (events, told) = mpsc::channel();
    let supervisor = WorkerSupervisor::launch("cuda:0", move |event| {
        let _ = events.send(event);
    })
    .unwrap();
    supervisor.start(0, spec(&slab)).unwrap();
    let (report, lanes) = ready(&told);
    assert_eq!(report.notes, Vec::<String>::new());
    for model in report.lanes.iter().flat_map(|lane| &lane.models) {
        assert!(model.outcome.is_ok(), "{}: {:?}", model.name, model.outcome);
    }

    let frames: Vec<Job> = (0..6).map(|number| images::street(number * 50)).collect();
    let mut twin = models::loaded(&images::TwinDevice::open(), "nanodet");
    let expected: Vec<_> = frames.iter().map(|job| run_one(twin.as_mut(), job).result()).collect();
    let mut under_way = VecDeque::new();
    for batch in 0..BATCHES {
        let jobs = (0..=batch % 2).map(|job| (batch + job) % frames.len()).collect();
        under_way.push_back(send(&lanes[0], &slab, &frames, batch, jobs));
        if under_way.len() == 2 {
            collect(&lanes[0], under_way.pop_front().unwrap(), &expected);
        }
    }
    while let Some(sent) = under_way.pop_front() {
        collect(&lanes[0], sent, &expected);
    }
    drop(lanes);
    assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), WorkerEvent::Exited { .. }));
}

fn send(lane: &OwnedFd, slab: &std::sync::Arc<Slab>, frames: &[Job], batch: usize, images: Vec<usize>) -> Sent {
    let mut entries = Vec::new();
    let mut jobs = Vec::new();
    for (number, image) in images.into_iter().enumerate() {
        let bytes = &frames[image].bytes;
        let (mut input, output) = (slab.allocate(bytes.len() as u64).unwrap(), slab.allocate(ANSWER_BYTES).unwrap());
        assert!(input.write(0, bytes));
        entries.push(JobEntry {
            run: (2 * batch + number + 1) as u64,
            input_offset: input.offset(),
            input_bytes: bytes.len() as u64,
            output_offset: output.offset(),
            output_bytes_max: ANSWER_BYTES,
            shape: [576, 768, 0, 0, 0, 0],
            payload: PayloadKind::RawFrame as u8,
            dtype: Dtype::U8 as u8,
            pixels: PixelFormat::Rgb24 as u8,
            rank: 2,
            ..JobEntry::default()
        });
        jobs.push((image, input, output));
    }
    let mut packet = Vec::new();
    let jobs_count = u32::try_from(entries.len()).unwrap();
    put_packet(&mut packet, &BatchHead { batch: batch as u64, jobs: jobs_count, ..BatchHead::default() }, entries);
    rustix::net::send(lane, &packet, SendFlags::empty()).unwrap();
    Sent { batch: batch as u64, jobs }
}

fn collect(lane: &OwnedFd, sent: Sent, expected: &[ModelResult]) {
    let mut packet = vec![0; PACKET_BYTES];
    let (bytes, _) = rustix::net::recv(lane, &mut packet[..], RecvFlags::empty()).unwrap();
    let (head, entries) = read_packet::<AnswerHead, AnswerEntry>(&packet[..bytes], |head| head.jobs).unwrap();
    assert_eq!((head.batch, entries.len()), (sent.batch, sent.jobs.len()));
    for (entry, (image, mut input, output)) in entries.zip(sent.jobs) {
        let body = output.read(entry.output_bytes);
        assert_eq!(entry.reason, 0, "{}", String::from_utf8_lossy(body));
        standin::same_boxes(&codec::decode(body).unwrap(), &expected[image]);
        // Somebody else's from here on.
        let noise = vec![0xee; usize::try_from(input.capacity()).unwrap()];
        assert!(input.write(0, &noise));
    }
}
