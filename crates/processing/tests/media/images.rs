//! JPEG and PNG as ffmpeg writes them.

use proptest::prelude::*;
use sensorium_processing::ProcessingError;
use sensorium_processing::image::{ImageLimits, decode};

use crate::ffmpeg::{convert, ffmpeg};

fn picture(size: &str, arguments: &str) -> Vec<u8> {
    ffmpeg(&format!("-f lavfi -i testsrc=size={size}:duration=1 -frames:v 1 {arguments} -f image2pipe"))
}

fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    #[expect(clippy::cast_precision_loss, reason = "small images")]
    let mean = sum as f64 / a.len() as f64;
    mean
}

#[test]
fn a_jpeg_has_the_pixels_that_ffmpeg_finds() {
    for format in ["yuvj420p", "yuvj422p", "yuvj444p"] {
        let bytes = picture("150x110", &format!("-c:v mjpeg -pix_fmt {format} -q:v 2"));
        let image = decode(&bytes, ImageLimits::default()).unwrap();
        assert_eq!((image.width, image.height), (150, 110));
        let expected =
            convert(&bytes, "-f jpeg_pipe", "-sws_flags accurate_rnd+full_chroma_int -pix_fmt rgb24 -f rawvideo");
        let difference = mean_difference(&image.rgb, &expected);
        // Chroma is interpolated differently; sharp edges of the test picture make the most of it.
        assert!(difference < 4.0, "{format}: {difference}");
    }
}

#[test]
fn a_png_has_exactly_the_pixels_that_ffmpeg_finds() {
    for format in ["rgb24", "rgba", "gray", "rgb48be", "pal8", "monob"] {
        let bytes = picture("33x17", &format!("-c:v png -pix_fmt {format}"));
        let image = decode(&bytes, ImageLimits::default()).unwrap();
        let expected = convert(&bytes, "-f png_pipe", "-sws_flags accurate_rnd -pix_fmt rgb24 -f rawvideo");
        let worst = image.rgb.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        // 16 bits are rounded by one and cut by the other.
        assert!(worst <= u8::from(format == "rgb48be"), "{format}: {worst}");
    }
}

#[test]
fn a_truncated_jpeg_is_an_error_at_every_length() {
    let whole = picture("64x48", "-c:v mjpeg");
    decode(&whole, ImageLimits::default()).unwrap();
    for length in 3..whole.len() {
        let error = decode(&whole[..length], ImageLimits::default()).unwrap_err();
        assert!(matches!(error, ProcessingError::Truncated { bytes, .. } if bytes == length), "{length}: {error}");
    }
    // Bytes after the end are no part of it.
    decode(&[&whole[..], &[0; 9]].concat(), ImageLimits::default()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]
    #[test]
    fn a_damaged_jpeg_never_panics(
        which in 0_usize..2,
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        thread_local!(static WHOLE: [Vec<u8>; 2] = [
            picture("48x32", "-c:v mjpeg"),
            picture("48x32", "-c:v mjpeg -pix_fmt yuvj444p -huffman optimal"),
        ]);
        let mut bytes = WHOLE.with(|whole| whole[which].clone());
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(image) = decode(&bytes, ImageLimits::default()) {
            prop_assert_eq!(image.rgb.len(), image.width as usize * image.height as usize * 3);
        }
    }
}
