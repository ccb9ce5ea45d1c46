use ::png::{BitDepth, ColorType, Encoder};
use proptest::prelude::*;

use super::*;

/// A PNG image of a gradient; `depth` bits and `color` as they are stored.
fn png_image(width: u32, height: u32, color: ColorType, depth: BitDepth) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == ColorType::Indexed {
        encoder.set_palette([0, 0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90].as_slice());
    }
    let row = (width as usize * color.samples() * depth as usize).div_ceil(8);
    let data: Vec<u8> = (0_u8..=255).cycle().take(row * height as usize).collect();
    encoder.write_header().unwrap().write_image_data(&data).unwrap();
    bytes
}

/// The markers of a JPEG image of this size, without a picture.
fn jpeg_header(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xc0, 0, 17, 8];
    bytes.extend(height.to_be_bytes());
    bytes.extend(width.to_be_bytes());
    bytes.extend([3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]);
    bytes.extend([0xff, 0xda, 0, 12, 3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0, 0xff, 0xd9]);
    bytes
}

#[test]
fn every_kind_of_png_becomes_rgb() {
    let rgb = |color, depth| decode(&png_image(4, 2, color, depth), ImageLimits::default()).unwrap().rgb;
    assert_eq!(rgb(ColorType::Rgb, BitDepth::Eight), (0..24).collect::<Vec<u8>>());
    assert_eq!(rgb(ColorType::Rgba, BitDepth::Eight)[..9], [0, 1, 2, 4, 5, 6, 8, 9, 10]);
    assert_eq!(rgb(ColorType::Grayscale, BitDepth::Eight)[..6], [0, 0, 0, 1, 1, 1]);
    assert_eq!(rgb(ColorType::GrayscaleAlpha, BitDepth::Eight)[..6], [0, 0, 0, 2, 2, 2]);
    assert_eq!(rgb(ColorType::Rgb, BitDepth::Sixteen)[..6], [0, 2, 4, 6, 8, 10]);
    // The first row is 0b0000_0000, the second 0b0000_0001: the palette's first colour but for the last pixel.
    assert_eq!(rgb(ColorType::Indexed, BitDepth::Two)[18..], [0, 0, 0, 10, 20, 30]);
    assert_eq!(rgb(ColorType::Grayscale, BitDepth::One)[..3], [0, 0, 0]);
}

#[test]
fn a_truncated_png_is_an_error_at_every_length() {
    let whole = png_image(16, 16, ColorType::Rgb, BitDepth::Eight);
    for length in 1..whole.len() {
        assert!(decode(&whole[..length], ImageLimits::default()).is_err(), "{length} of {} bytes", whole.len());
    }
    assert_eq!(decode(&[], ImageLimits::default()), Err(ProcessingError::Empty("image")));
    let text = decode(b"GIF89a", ImageLimits::default()).unwrap_err().to_string();
    assert!(text.starts_with("neither JPEG nor PNG"), "{text}");
}

#[test]
fn a_size_beyond_the_limits_is_refused_before_decoding() {
    let limits = ImageLimits { side_pixels_max: 64, pixels_max: 1000 };
    let refused = |bytes: &[u8]| matches!(decode(bytes, limits), Err(ProcessingError::ImageSize { .. }));
    assert!(refused(&png_image(65, 1, ColorType::Rgb, BitDepth::Eight)));
    assert!(refused(&png_image(40, 40, ColorType::Rgb, BitDepth::Eight)));
    assert!(refused(&jpeg_header(65, 1)));
    assert!(refused(&jpeg_header(40, 40)));
    assert!(refused(&jpeg_header(0, 4)));
    assert!(matches!(
        decode(&jpeg_header(65_535, 65_535), ImageLimits::default()),
        Err(ProcessingError::ImageSize { width: 65_535, height: 65_535, .. })
    ));
    // A scan of a few bytes costs as much as a long one.
    let header = jpeg_header(4_000, 4_000);
    let scan = &header[21..header.len() - 2];
    let text = decode(&[&header[..21], &scan.repeat(26), &[0xff, 0xd9]].concat(), ImageLimits::default()).unwrap_err();
    assert!(text.to_string().contains("26 scans of 4000 × 4000 pixels"), "{text}");
    // Its header says 20,000 × 20,000; the picture would take 1.2 GB.
    let mut bomb = png_image(1, 1, ColorType::Rgb, BitDepth::Eight);
    bomb[16..24].copy_from_slice(&[0, 0, 0x4e, 0x20, 0, 0, 0x4e, 0x20]);
    assert!(decode(&bomb, ImageLimits::default()).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        start in prop_oneof![Just(vec![]), Just(vec![0xff, 0xd8, 0xff]), Just(b"\x89PNG\r\n\x1a\n".to_vec())],
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = decode(&[start, bytes].concat(), ImageLimits::default());
    }

    #[test]
    fn damaged_png_images_never_panic(at in any::<proptest::sample::Index>(), value in any::<u8>()) {
        let mut bytes = png_image(8, 8, ColorType::Rgba, BitDepth::Eight);
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = decode(&bytes, ImageLimits::default());
    }
}
