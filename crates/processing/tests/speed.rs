//! How fast preparation is. Run by hand: `cargo test --release -p sensorium-processing --test speed -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use sensorium_models::manifest::{ChannelOrder, Fit, Layout};
use sensorium_processing::image::{ImageStep, ImageView, prepare_into};
use sensorium_processing::nut::{NutDemuxer, NutItem};
use sensorium_processing::sound::Resampler;
use sensorium_wire::submit::PixelFormat;

/// The median of `rounds` runs.
fn median(rounds: usize, mut run: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[rounds / 2]
}

#[test]
#[ignore = "a measurement, for a quiet machine and a release build"]
fn a_frame_is_prepared_in_a_millisecond_and_a_half() {
    let bytes: Vec<u8> = (0_u8..=255).cycle().take(768 * 576 * 3).collect();
    let image = ImageView { width: 768, height: 576, format: PixelFormat::Rgb24, bytes: &bytes };
    for layout in [Layout::Nchw, Layout::Nhwc] {
        let step = ImageStep {
            width: 416,
            height: 416,
            fit: Fit::Stretch,
            channels: ChannelOrder::Bgr,
            layout,
            mean: [103.53, 116.28, 123.675],
            std: [57.375, 57.12, 58.395],
        };
        let mut out = vec![0.0; step.values()];
        let time = median(101, || {
            prepare_into(&step, image, black_box(&mut out)).unwrap();
        });
        println!("768 × 576 to 416 × 416, {layout:?}: {time:?}");
        assert!(time < Duration::from_micros(1500));
    }
}

#[test]
#[ignore = "a measurement, for a quiet machine and a release build"]
fn nut_frames_pass_at_a_gigabyte_per_second() {
    let frames = std::process::Command::new("ffmpeg")
        .args(
            "-v error -f lavfi -i testsrc=size=768x576:rate=10:duration=10 -c:v rawvideo -pix_fmt rgb24 -f nut pipe:1"
                .split(' '),
        )
        .output()
        .unwrap()
        .stdout;
    for piece in [4_096, 65_536, 1 << 20] {
        let time = median(7, || {
            let (mut demuxer, mut payload_bytes) = (NutDemuxer::default(), 0);
            for bytes in frames.chunks(piece) {
                demuxer.push(bytes);
                while let Some(item) = demuxer.next().unwrap() {
                    if let NutItem::Packet(packet) = item {
                        payload_bytes += black_box(packet).payload.len();
                    }
                }
            }
            assert_eq!(payload_bytes, 768 * 576 * 3 * 100);
        });
        #[expect(clippy::cast_precision_loss, reason = "a file of 133 MB")]
        let rate = frames.len() as f64 / time.as_secs_f64() / 1e9;
        println!("NUT in pieces of {piece}: {rate:.2} GB/s");
        assert!(rate > 1.0);
    }
}

#[test]
#[ignore = "a measurement, for a quiet machine and a release build"]
fn a_second_of_sound_is_resampled() {
    for (from, to) in [(44_100, 16_000), (48_000, 16_000), (8_000, 16_000)] {
        let samples = vec![0.25; from as usize];
        let made = median(21, || drop(black_box(Resampler::new(from, to).unwrap())));
        let resampler = Resampler::new(from, to).unwrap();
        let run = median(21, || drop(black_box(resampler.run(&samples).unwrap())));
        println!("{from} to {to} Hz: filter {made:?}, one second {run:?}");
        assert!(run < Duration::from_millis(20));
    }
}
