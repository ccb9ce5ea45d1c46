//! Every kernel, compiled by NVRTC, loaded and launched as the product does it, against its twin: to the bit. What runs is
//! the kernels' own source, compiled for a processor; see `kernels.cpp`.

use std::iter::repeat_with;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, ValidAsZeroBits};
use half::f16;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sensorium_device::cuda::arguments::{
    Geometry, ImageSource, LogMel, Matrix, PixelLayout, PrepareStep, RowsStep, SelectStep, SoundSource,
};
use sensorium_device::cuda::cache::{CacheLimits, CubinCache};
use sensorium_device::cuda::check::{inputs, kernels_against_twins};
use sensorium_device::cuda::compile::{Nvrtc, NvrtcSearch};
use sensorium_device::cuda::launch::{BoxBuffers, Kernels, LogMelTables, PreparedElement};
use sensorium_device::cuda::twin::{self, Candidates, LevelOutputs};
use sensorium_device::cuda::{partition, rates};
use sensorium_models::manifest::{ChannelOrder, Fit, Layout};
use sensorium_processing::image::{ImageStep, ImageView};
use sensorium_wire::submit::PixelFormat;

use crate::build::{cubins, seeds, sensorium_cache, with_stand_in};

/// Made-up batches of each kind.
const CASES: usize = 60;

fn nvrtc() -> Nvrtc {
    Nvrtc::open(&NvrtcSearch { named: None, cache: Some(sensorium_cache()) }).unwrap()
}

fn cache() -> CubinCache {
    CubinCache::new(&cubins(), CacheLimits::default())
}

struct Gpu {
    stream: Arc<CudaStream>,
    kernels: Kernels,
}

impl Gpu {
    fn open() -> Self {
        let context = CudaContext::new(0).unwrap();
        let kernels = Kernels::load(&context, &nvrtc(), &cache()).unwrap();
        Self { stream: context.new_stream().unwrap(), kernels }
    }
}

/// Values of a strategy, the same for the same seed.
fn some<S: Strategy>(strategy: &S, count: usize) -> impl Iterator<Item = S::Value> {
    let seed: u8 = std::env::var("STANDIN_SEED").unwrap().parse().unwrap();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    repeat_with(move || strategy.new_tree(&mut runner).unwrap().current()).take(count)
}

#[test]
fn kernels_do_what_their_twins_do_on_the_batches_of_gpu_check() {
    with_stand_in("kernels::batches_of_gpu_check", 1, &[]);
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn batches_of_gpu_check() {
    let gpu = Gpu::open();
    let results = kernels_against_twins(gpu.stream.context(), &gpu.kernels);
    assert_eq!(results.len(), 17);
    for result in results {
        // The processor's own exponential, root and logarithm are the twins', too.
        assert!(result.passed() && result.worst == 0.0, "{result:?}");
    }
}

#[test]
fn kernels_do_what_their_twins_do_on_any_batch() {
    for seed in seeds(3) {
        with_stand_in("kernels::any_batch", seed, &[("STANDIN_POOLS", if seed == 1 { "0" } else { "1" })]);
    }
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn any_batch() {
    let gpu = Gpu::open();
    for (step, sources, slab) in some(&any_images(), CASES) {
        same_images::<f32, 4>(&gpu, &step, &sources, &slab, f32::to_le_bytes);
        same_images::<f16, 2>(&gpu, &step, &sources, &slab, f16::to_le_bytes);
        same_images::<i32, 4>(&gpu, &step, &sources, &slab, i32::to_le_bytes);
    }
    for (rows, score_min, iou_max, detections_max) in some(&any_rows(), CASES) {
        same_rows(&gpu, &rows, score_min, (iou_max, detections_max));
    }
    rows_of_all_sizes(&gpu);
    let crowds: Vec<[f32; 6]> = inputs::crowds().chunks_exact(6).map(|row| row.try_into().unwrap()).collect();
    same_rows(&gpu, &crowds[..crowds.len() / 2], 0.0, (0.5, 300));
    for dfl in inputs::dfl() {
        same_distributions(&gpu, &dfl, (0.5, 100));
    }
    let (samples, _) = inputs::sound();
    for sounds in some(&any_sounds(samples.len()), CASES / 4) {
        same_sounds(&gpu, &samples, &sounds);
    }
}

fn any_images() -> impl Strategy<Value = (PrepareStep, Vec<ImageSource>, Vec<u8>)> {
    let side = || prop_oneof![1_u32..6, 1_u32..90];
    let step = (side(), side(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(width, height, a, b, c)| {
        let fit = if a { Fit::Letterbox } else { Fit::Stretch };
        let channels = if b { ChannelOrder::Bgr } else { ChannelOrder::Rgb };
        let layout = if c { Layout::Nchw } else { Layout::Nhwc };
        ImageStep { width, height, fit, channels, layout, mean: [103.53, 116.28, 123.675], std: [57.4, 57.1, 58.4] }
    });
    let image = (side(), side(), 0_u8..5, any::<bool>(), 0_usize..4);
    (step, proptest::collection::vec(image, 1..5), any::<u64>()).prop_map(|(step, images, noise)| {
        let (mut sources, mut end) = (Vec::new(), 0);
        for (slot, (width, height, format, wide, gap)) in (0_u32..).zip(images) {
            end += gap;
            let packed = |format: PixelFormat, end: &mut usize| {
                let offset = *end as u64;
                *end += (width * height) as usize * format.bytes_per_pixel();
                ImageSource::packed(&step, &ImageView { width, height, format, bytes: &[] }, offset, slot)
            };
            let planar = |layout, end: &mut usize| {
                let matrix = if wide { Matrix::Bt709 } else { Matrix::Bt601 };
                let offset = *end as u64;
                *end += (width * height + 2 * width.div_ceil(2) * height.div_ceil(2)) as usize;
                ImageSource::planar(&step, layout, matrix, (width, height), offset, slot)
            };
            sources.push(match format {
                0 => packed(PixelFormat::Rgb24, &mut end),
                1 => packed(PixelFormat::Bgr24, &mut end),
                2 => packed(PixelFormat::Gray8, &mut end),
                3 => planar(PixelLayout::Nv12, &mut end),
                _ => planar(PixelLayout::I420, &mut end),
            });
        }
        // No byte more than a slab must have: its end is where the images' end is, but for a multiple of four.
        let mut state = noise | 1;
        let slab = repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()[7]
        });
        (PrepareStep::from(&step), sources, slab.take(end.next_multiple_of(4)).collect())
    })
}

fn same_images<T: PreparedElement + ValidAsZeroBits, const BYTES: usize>(
    gpu: &Gpu,
    step: &PrepareStep,
    sources: &[ImageSource],
    slab: &[u8],
    bits: fn(T) -> [u8; BYTES],
) {
    let Gpu { stream, kernels } = gpu;
    let sent = stream.clone_htod(slab).unwrap();
    let mut descriptors = stream.alloc_zeros(sources.len()).unwrap();
    let mut out = stream.alloc_zeros::<T>(step.values() * sources.len()).unwrap();
    kernels.prepare(stream, step, sources, &sent, &mut descriptors, &mut out).unwrap();
    let found = stream.clone_dtoh(&out).unwrap();
    let mut expected = vec![T::of(f32::INFINITY); found.len()];
    twin::prepare(slab, sources, step, &mut expected);
    let differ = found.into_iter().zip(expected).position(|(found, expected)| bits(found) != bits(expected));
    assert_eq!(differ, None, "{step:?} {sources:?}");
}

type Rows = (Vec<[f32; 6]>, f32, f32, u32);

fn any_rows() -> impl Strategy<Value = Rows> {
    let side = || prop_oneof![20 => (-20_i16..70).prop_map(f32::from), 1 => Just(f32::NAN), 1 => Just(f32::INFINITY)];
    // Eighths, so that many scores are equal.
    let score = prop_oneof![
        20 => (0_u8..9).prop_map(|score| f32::from(score) / 8.0),
        1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(-0.0_f32), 1 => Just(-1.0_f32),
    ];
    let class =
        prop_oneof![60 => (0_u8..3).prop_map(f32::from), 1 => Just(3.0_f32), 1 => Just(0.5_f32), 1 => Just(f32::NAN)];
    let row = (side(), side(), side(), side(), score, class).prop_map(|row| row.into());
    let score_min = prop_oneof![Just(-2.0_f32), Just(0.0_f32), 0.0_f32..1.0];
    (proptest::collection::vec(row, 1..300), score_min, 0.0_f32..1.0, 1_u32..40)
}

/// Boxes in rows of an image, twice.
fn same_rows(gpu: &Gpu, rows: &[[f32; 6]], score_min: f32, (iou_max, detections_max): (f32, u32)) {
    let Gpu { stream, kernels } = gpu;
    let geometries = [Geometry { width: 640, height: 360, fitted_width: 320, fitted_height: 180 }; 2];
    let step = RowsStep { rows: u32::try_from(rows.len()).unwrap(), classes: 3, score_min, reserved: 0 };
    let output = [rows, rows].concat().concat();
    let sent = stream.clone_htod(&output).unwrap();
    let mut boxes = BoxBuffers::new(stream, step.rows, 2, detections_max).unwrap();
    kernels.detect_rows(stream, &step, &sent, (iou_max, &geometries), &mut boxes).unwrap();
    let candidates = twin::candidates_rows(&step, &output, 2);
    same_choice(gpu, &boxes, &candidates, &geometries, (iou_max, detections_max));
}

fn same_distributions(gpu: &Gpu, dfl: &inputs::Dfl, (iou_max, detections_max): (f32, u32)) {
    let Gpu { stream, kernels } = gpu;
    let images = dfl.geometries.len();
    let sent: Vec<_> = dfl
        .outputs
        .iter()
        .map(|(scores, distances)| (stream.clone_htod(scores).unwrap(), stream.clone_htod(distances).unwrap()))
        .collect();
    let outputs: Vec<_> = sent.iter().map(|(scores, distances)| (scores, distances)).collect();
    let mut boxes = BoxBuffers::new(stream, dfl.step.candidates, images, detections_max).unwrap();
    kernels.detect_dfl(stream, &dfl.step, &outputs, (iou_max, &dfl.geometries), &mut boxes).unwrap();
    let views: Vec<_> = dfl.outputs.iter().map(|(scores, distances)| LevelOutputs { scores, distances }).collect();
    let candidates = twin::candidates_dfl(&dfl.step, &views, images);
    same_choice(gpu, &boxes, &candidates, &dfl.geometries, (iou_max, detections_max));
}

fn same_choice(
    gpu: &Gpu,
    boxes: &BoxBuffers,
    candidates: &Candidates,
    geometries: &[Geometry],
    (iou_max, detections_max): (f32, u32),
) {
    let images = geometries.len();
    let step = SelectStep {
        candidates: u32::try_from(candidates.keys.len() / images).unwrap(),
        detections_max,
        iou_max,
        reserved: 0,
    };
    let (outcomes, found) = boxes.read(&gpu.stream, images).unwrap();
    let (expected_outcomes, expected) = twin::select_boxes(&step, candidates, geometries);
    assert_eq!(outcomes, expected_outcomes);
    for (image, outcome) in outcomes.iter().enumerate() {
        let from = image * detections_max as usize;
        let places = from..from + outcome.count as usize;
        let bytes = |found| bytemuck::cast_slice::<_, u8>(found).to_vec();
        assert!(bytes(&found[places.clone()]) == bytes(&expected[places]), "image {image}");
    }
}

/// Around the sizes of warps, blocks and what is looked at; from everything to nothing.
fn rows_of_all_sizes(gpu: &Gpu) {
    let output = inputs::rows();
    let rows: Vec<[f32; 6]> = output.chunks_exact(6).map(|row| row.try_into().unwrap()).collect();
    for count in [1, 2, 3, 31, 33, 511, 512, 513, 1025, 4095, 4096, 4097, 4110] {
        same_rows(gpu, &rows[..count], 0.0, (0.5, 300));
    }
    for score_min in [0.0, 0.1, 0.7, 0.9975, 2.0] {
        same_rows(gpu, &rows[..6000], score_min, (0.5, 300));
    }
}

fn any_sounds(samples: usize) -> impl Strategy<Value = Vec<SoundSource>> {
    proptest::collection::vec((1_u32..20, 0_usize..1000), 1..4).prop_map(move |sounds| {
        let mut first_row = 0;
        let sound = |(frames, place): (u32, usize)| {
            let long = 400 + 160 * (frames as usize - 1);
            // Some end with the last sample of all.
            let offset = if place < 300 { samples - long } else { place * (samples - long) / 1000 };
            first_row += frames;
            SoundSource { offset: offset as u64, frames, first_row: first_row - frames }
        };
        sounds.into_iter().map(sound).collect()
    })
}

fn same_sounds(gpu: &Gpu, samples: &[f32], sounds: &[SoundSource]) {
    let Gpu { stream, kernels } = gpu;
    let mel = LogMel::audioset();
    let frames: u32 = sounds.iter().map(|sound| sound.frames).sum();
    let tables = LogMelTables::upload(stream, &mel).unwrap();
    let sent = stream.clone_htod(samples).unwrap();
    let mut descriptors = stream.alloc_zeros(sounds.len()).unwrap();
    let mut out = stream.alloc_zeros(frames as usize * mel.step.bands as usize).unwrap();
    kernels.log_mel(stream, &tables, sounds, &sent, &mut descriptors, &mut out).unwrap();
    let found = stream.clone_dtoh(&out).unwrap();
    let mut expected = vec![f32::NAN; found.len()];
    twin::log_mel(&mel, samples, sounds, &mut expected);
    assert!(found.iter().map(|value| value.to_bits()).eq(expected.iter().map(|value| value.to_bits())), "{sounds:?}");
}

/// Kernels are not run, and memory not copied within the GPU: it is more than a processor does in time.
#[test]
fn measurements_queue_what_a_driver_takes() {
    for name in ["kernels::rates_of_kernels", "kernels::parts_of_a_gpu"] {
        with_stand_in(name, 1, &[("STANDIN_DRY", "1")]);
    }
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn rates_of_kernels() {
    let gpu = Gpu::open();
    let rates = rates::measure(gpu.stream.context(), &gpu.kernels).unwrap();
    assert_eq!(rates.len(), 1 + 4 * 3 + 3 + 3);
    assert!(rates.iter().all(|rate| rate.us > 0.0), "{rates:?}");
}

#[test]
#[ignore = "started by the test above, with the stand-in"]
fn parts_of_a_gpu() {
    let context = CudaContext::new(0).unwrap();
    let ways = partition::measure(&context, &nvrtc(), &cache()).unwrap();
    let names: Vec<_> = ways.iter().map(|way| way.name.as_str()).collect();
    assert_eq!(names, ["alone", "same_priority", "priorities", "green_contexts"]);
    for way in &ways[..3] {
        assert!(way.problem.is_none() && way.p50_us > 0.0 && way.p99_us >= way.p50_us, "{way:?}");
    }
    assert!(ways[1].fill_per_s > 0.0 && ways[0].fill_per_s == 0.0);
    let problem = ways[3].problem.as_ref().unwrap();
    assert!(problem.contains("this driver or GPU does not make green contexts"), "{problem}");
}
