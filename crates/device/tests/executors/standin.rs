//! The backend of GPUs as it is, on stand-ins for CUDA's driver and ONNX Runtime's CUDA provider: networks that are only
//! queued, in memory of their own, with kernels, copies and events that run late and in an order that a seed chooses.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use sensorium_device::backend::cuda::{GpuSetup, KernelSetup};
use sensorium_device::backend::images::{ImageNetwork, ImagePlan};
use sensorium_device::backend::{Backend, BackendError, CudaBackend, CudaDevice, LoadOptions, Network};
use sensorium_device::cuda::compile::NvrtcSearch;
use sensorium_device::executor::{JobInput, Slice};
use sensorium_device::slab::SharedMemory;
use sensorium_models::manifest::Compute;
use sensorium_wire::Modality;
use sensorium_wire::rejection::Reason;
use sensorium_wire::result::ModelResult;

use crate::build::{cubins, onnxruntime, seeds, sensorium_cache, with_stand_in};
use crate::contract::contract;
use crate::harness::{Job, run_one};
use crate::media::jpeg;
use crate::{images, models};

/// The stand-in's identifier.
const UUID: &str = "GPU-00112233-4455-6677-8899-aabbccddeeff";

pub(crate) fn setup() -> GpuSetup {
    let nvrtc = NvrtcSearch { named: None, cache: Some(sensorium_cache()) };
    let kernels = Some(KernelSetup { nvrtc, folder: cubins() });
    GpuSetup { uuid: UUID.to_owned(), kernels, ..GpuSetup::first(8 << 30) }
}

fn device() -> Arc<CudaDevice> {
    CudaDevice::open(&onnxruntime().unwrap(), &setup()).unwrap_or_else(|error| panic!("{error}"))
}

/// A lane whose networks are all on the GPU, whatever their manifests say, with or without recorded launches.
struct Lane {
    backend: CudaBackend,
    graphs: bool,
    /// Instead of what the manifest says.
    rows_max: Option<usize>,
}

impl Lane {
    fn new(device: &Arc<CudaDevice>, graphs: bool) -> Self {
        Self { backend: CudaBackend::new(device, Modality::Visual).unwrap(), graphs, rows_max: None }
    }

    fn options<'a>(&self, options: &LoadOptions<'a>) -> LoadOptions<'a> {
        LoadOptions {
            compute: Compute::Gpu,
            graphs: self.graphs,
            rows_max: self.rows_max.unwrap_or(options.rows_max),
            ..*options
        }
    }
}

impl Backend for Lane {
    fn name(&self) -> &'static str {
        self.backend.name()
    }

    fn load(&self, file: &Path, options: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError> {
        self.backend.load(file, &self.options(options))
    }

    fn load_images(
        &self,
        file: &Path,
        options: &LoadOptions<'_>,
        plan: &ImagePlan,
    ) -> Result<Option<Box<dyn ImageNetwork>>, BackendError> {
        let network = self.backend.load_images(file, &self.options(options), plan)?;
        assert!(network.is_some(), "the GPU prepares images itself");
        Ok(network)
    }
}

#[test]
fn the_backend_of_gpus_keeps_the_contract() {
    for seed in seeds(2) {
        with_stand_in("standin::any_network", seed, &[("STANDIN_POOLS", if seed == 1 { "0" } else { "1" })]);
    }
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn any_network() {
    let device = device();
    for modality in Modality::ALL {
        let backend = CudaBackend::new(&device, modality).unwrap();
        for (compute, graphs) in
            [(Compute::Mixed, false), (Compute::Gpu, false), (Compute::Gpu, true), (Compute::Cpu, false)]
        {
            contract(&backend, &LoadOptions { compute, graphs, ..LoadOptions::default() });
        }
    }
}

#[test]
fn models_of_images_on_a_gpu() {
    for seed in seeds(2) {
        with_stand_in("standin::images_of_all_kinds", seed, &[]);
    }
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn images_of_all_kinds() {
    let (device, seed) = (device(), seed());
    let lane = Lane::new(&device, seed % 2 == 1);
    models::movenet(&lane);
    if seed == 0 {
        models::nanodet(&lane);
        models::centernet(&lane);
    } else {
        images::contract(&lane);
    }
}

#[test]
fn models_of_tensors_on_a_gpu() {
    for seed in seeds(3) {
        with_stand_in("standin::tensors", seed, &[]);
    }
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn tensors() {
    let device = device();
    // Each time has one run, and one chance for what is queued to come in a wrong order.
    for time in 0..16 {
        models::fusion(&Lane::new(&device, time % 2 == 1));
    }
}

fn seed() -> u64 {
    std::env::var("STANDIN_SEED").unwrap().parse().unwrap()
}

#[test]
fn payloads_are_read_from_where_they_lie_until_they_are_answered_and_no_longer() {
    for seed in seeds(3) {
        // A driver that pins for reading only, one that does not, and one that says that it does.
        let (said, able) = [("1", "1"), ("0", "0"), ("1", "0")][usize::try_from(seed % 3).unwrap()];
        with_stand_in(
            "standin::payloads_in_shared_memory",
            seed,
            &[("STANDIN_READ_ONLY_SAID", said), ("STANDIN_READ_ONLY", able)],
        );
    }
}

/// What a lane's loop does: two batches under way, payloads in shared memory and decoded ones, slots that are given to
/// others as soon as a batch is answered.
#[test]
#[ignore = "started by the test above, with the stand-in"]
fn payloads_in_shared_memory() {
    const SLOT_BYTES: usize = 576 * 768 * 3;
    const SLOTS: usize = 6;
    let device = device();
    let memory = Arc::new(SharedMemory::create((SLOTS * SLOT_BYTES) as u64 + 4096).unwrap());
    device.read_from(Arc::clone(&memory)).unwrap();
    let lane = Lane::new(&device, seed() % 2 == 1);
    let (mut gpu, mut twin) =
        (models::loaded(&lane, "nanodet"), models::loaded(&images::TwinDevice::open(), "nanodet"));
    let frames: Vec<Job> = (0..8).map(|number| images::street(number * 37)).collect();
    let photo = Job::image(jpeg("vtest.avi", 200));
    let expected: Vec<_> = frames.iter().map(|job| run_one(twin.as_mut(), job).result()).collect();
    let expected_photo = run_one(twin.as_mut(), &photo).result();

    let mut under_way: VecDeque<(Vec<usize>, Vec<usize>)> = VecDeque::new();
    let mut free: Vec<usize> = (0..SLOTS).collect();
    // Batches of one to three images in shared memory, some with a photo at their end.
    for batch in 0..8 {
        let images: Vec<usize> = (0..=batch % 3).map(|image| (batch * 3 + image) % frames.len()).collect();
        let slots: Vec<usize> = images.iter().map(|_| free.pop().unwrap()).collect();
        for (image, slot) in images.iter().zip(&slots) {
            assert!(memory.write((slot * SLOT_BYTES + 7) as u64, &frames[*image].bytes));
        }
        let lies = |slot: &usize| memory.read((slot * SLOT_BYTES + 7) as u64, SLOT_BYTES as u64).unwrap();
        let mut jobs: Vec<_> = images
            .iter()
            .zip(&slots)
            .map(|(image, slot)| JobInput { bytes: lies(slot), ..frames[*image].input(Slice::default()) })
            .collect();
        if batch % 2 == 1 {
            jobs.push(photo.input(Slice::default()));
        }
        gpu.start(&jobs, &|_| ());
        under_way.push_back((images, slots));
        if under_way.len() == 2 || batch == 7 {
            while let Some((images, slots)) = under_way.pop_front() {
                let number = batch + 1 - under_way.len() - 1;
                let photos = number % 2;
                let answers = images::finish(gpu.as_mut(), images.len() + photos, Instant::now());
                for (image, answer) in images.iter().zip(&answers) {
                    same_boxes(&answer.result(), &expected[*image]);
                }
                if photos == 1 {
                    same_boxes(&answers[images.len()].result(), &expected_photo);
                }
                // Somebody else's from here on.
                for slot in slots {
                    assert!(memory.write((slot * SLOT_BYTES) as u64, &vec![0xee; SLOT_BYTES]));
                    free.insert(0, slot);
                }
                if batch < 7 {
                    break;
                }
            }
        }
    }
}

#[test]
fn batches_that_nobody_finishes_end_before_their_memory_goes() {
    for seed in seeds(2) {
        with_stand_in("standin::batches_under_way", seed, &[]);
    }
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn batches_under_way() {
    let device = device();
    let lane = Lane::new(&device, false);
    let photo = Job::image(jpeg("vtest.avi", 200));
    for started in [1, 2] {
        let mut executor = models::loaded(&lane, "nanodet");
        for _ in 0..started {
            executor.start(&[photo.input(Slice::default())], &|_| ());
        }
    }
    let _ = run_one(models::loaded(&lane, "nanodet").as_mut(), &photo).result();
}

#[test]
fn a_batch_of_a_new_size_gets_no_memory_that_another_under_way_uses() {
    for seed in seeds(2) {
        with_stand_in("standin::batches_of_new_sizes", seed, &[]);
    }
}

/// More images than sizes have memory from the start.
#[test]
#[ignore = "started by the test above, with the stand-in"]
fn batches_of_new_sizes() {
    let device = device();
    let lane = Lane { rows_max: Some(11), ..Lane::new(&device, false) };
    let mut executor = models::loaded(&lane, "nanodet");
    let photo = Job::image(jpeg("vtest.avi", 200));
    let expected = run_one(executor.as_mut(), &photo).result();
    for sizes in [[8, 9], [9, 10], [10, 11]] {
        for size in sizes {
            let jobs: Vec<_> = (0..size).map(|_| photo.input(Slice::default())).collect();
            executor.start(&jobs, &|_| ());
        }
        for size in sizes {
            for answer in images::finish(executor.as_mut(), size, Instant::now()) {
                same_boxes(&answer.result(), &expected);
            }
        }
    }
}

/// The same but for the last digits, which the size of a batch changes.
pub(crate) fn same_boxes(found: &ModelResult, expected: &ModelResult) {
    let boxes = |result: &ModelResult| match result {
        ModelResult::Detections { detections } => detections.clone(),
        other => panic!("{other:?}"),
    };
    let (found, expected) = (boxes(found), boxes(expected));
    assert!(found.len() == expected.len() && !found.is_empty(), "{found:?}, {expected:?}");
    for (found, expected) in found.iter().zip(&expected) {
        let near = found.class == expected.class && (found.score - expected.score).abs() < 1e-3;
        assert!(near && models::iou(&found.bbox, &expected.bbox) > 0.999, "{found:?}, {expected:?}");
    }
}

#[test]
fn lanes_share_a_gpu() {
    for seed in seeds(1) {
        with_stand_in("standin::three_lanes", seed, &[]);
    }
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn three_lanes() {
    let device = device();
    thread::scope(|scope| {
        scope.spawn(|| models::movenet(&Lane::new(&device, false)));
        scope.spawn(|| models::yamnet(&Lane::new(&device, false)));
        scope.spawn(|| {
            for graphs in [true, false] {
                models::fusion(&Lane::new(&device, graphs));
            }
        });
    });
}

#[test]
fn what_is_wrong_with_a_gpu_is_said() {
    with_stand_in("standin::a_gpu_that_breaks", 0, &[]);
    with_stand_in("standin::another_gpu", 0, &[]);
    with_stand_in("standin::an_older_driver", 0, &[("STANDIN_VERSION", "12080")]);
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn a_gpu_that_breaks() {
    let device = device();
    let lane = Lane::new(&device, false);
    let mut executor = models::loaded(&lane, "nanodet");
    let job = images::street(0);
    let _ = run_one(executor.as_mut(), &job).result();
    assert_eq!(lane.backend.check(), Ok(()));
    // With a batch under way.
    executor.start(&[job.input(Slice::default())], &|_| ());
    lane.backend.access_illegally().unwrap();
    let reason = lane.backend.check().unwrap_err();
    assert!(reason.contains("CUDA error 700") && reason.contains("the process is replaced"), "{reason}");
    images::finish(executor.as_mut(), 1, Instant::now())[0].refused(Reason::ExecutionFailed, "CUDA error 700");
    run_one(executor.as_mut(), &job).refused(Reason::ExecutionFailed, "CUDA error 700");
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn another_gpu() {
    let setup = GpuSetup { uuid: UUID.replace("00", "01"), ..GpuSetup::first(8 << 30) };
    let error = CudaDevice::open(&onnxruntime().unwrap(), &setup).unwrap_err().to_string();
    assert!(error.contains("is not there for this process"), "{error}");
    let device = device();
    assert_eq!(device.name().unwrap(), "stand-in");
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn an_older_driver() {
    let error = CudaDevice::open(&onnxruntime().unwrap(), &GpuSetup::first(8 << 30)).unwrap_err().to_string();
    assert!(error.contains("runs CUDA 12.8 and 13.0 is needed"), "{error}");
}
