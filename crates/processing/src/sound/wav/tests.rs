use proptest::prelude::*;

use super::*;

fn wav(tag: u16, bits: u16, channels: u16, rate_hz: u32, data: &[u8]) -> Vec<u8> {
    let frame = channels * bits / 8;
    let mut chunk = Vec::new();
    chunk.extend(tag.to_le_bytes());
    chunk.extend(channels.to_le_bytes());
    chunk.extend(rate_hz.to_le_bytes());
    chunk.extend((rate_hz.wrapping_mul(u32::from(frame))).to_le_bytes());
    chunk.extend(frame.to_le_bytes());
    chunk.extend(bits.to_le_bytes());
    let mut bytes = b"RIFF\0\0\0\0WAVE".to_vec();
    for (name, content) in [(b"fmt ", &chunk[..]), (b"LIST", b"odd"), (b"data", data)] {
        bytes.extend(name);
        bytes.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(2), 0);
    }
    set_u32(&mut bytes, 4, |_| 0);
    let size = u32::try_from(bytes.len() - 8).unwrap();
    set_u32(&mut bytes, 4, |_| size);
    bytes
}

fn set_u32(bytes: &mut [u8], at: usize, change: impl Fn(u32) -> u32) {
    let value = change(u32_at(bytes, at));
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn data_size_at(bytes: &[u8]) -> usize {
    bytes.windows(4).position(|window| window == b"data").unwrap() + 4
}

#[test]
fn every_sample_format_gives_the_same_levels() {
    let half: [(u16, u16, Vec<u8>); 5] = [
        (1, 8, vec![192, 64]),
        (1, 16, [16_384_i16, -16_384].iter().flat_map(|sample| sample.to_le_bytes()).collect()),
        (1, 24, vec![0, 0, 0x40, 0, 0, 0xc0]),
        (1, 32, [1_i32 << 30, -(1 << 30)].iter().flat_map(|sample| sample.to_le_bytes()).collect()),
        (3, 32, [0.5_f32, -0.5].iter().flat_map(|sample| sample.to_le_bytes()).collect()),
    ];
    for (tag, bits, data) in half {
        let pcm = decode_wav(&wav(tag, bits, 1, 16_000, &data)).unwrap();
        assert_eq!(pcm, Pcm { sample_rate_hz: 16_000, channels: 1, samples: vec![0.5, -0.5] }, "{tag} {bits}");
    }
}

#[test]
fn a_header_that_lies_about_a_size_is_named() {
    let good = wav(1, 16, 2, 48_000, &[0; 400]);
    assert_eq!(decode_wav(&good).unwrap().samples.len(), 200);
    let at = data_size_at(&good);
    for lie in [0, 100, 392, 399, 401, 500, 1 << 30, u32::MAX] {
        let mut bytes = good.clone();
        set_u32(&mut bytes, at, |_| lie);
        let error = decode_wav(&bytes).unwrap_err();
        assert!(!error.to_string().is_empty(), "{lie}: {error}");
    }
    for lie in [0, 36, 1 << 30, u32::MAX] {
        let mut bytes = good.clone();
        set_u32(&mut bytes, 4, |_| lie);
        let text = decode_wav(&bytes).unwrap_err().to_string();
        assert!(text.contains("header says"), "{text}");
    }
    let mut bytes = good;
    set_u32(&mut bytes, at, |_| 401);
    let text = decode_wav(&bytes).unwrap_err().to_string();
    assert!(text.contains("\"data\" chunk says 401 bytes, 400 are left"), "{text}");
}

#[test]
fn a_truncated_file_is_an_error_at_every_length() {
    let good = wav(1, 16, 1, 16_000, &[1; 64]);
    for length in 0..good.len() - 1 {
        assert!(decode_wav(&good[..length]).is_err(), "{length} of {} bytes", good.len());
    }
    assert_eq!(decode_wav(&[]), Err(ProcessingError::Empty("WAV file")));
}

#[test]
fn absurd_rates_channels_and_formats_are_refused() {
    let error = |bytes: Vec<u8>| decode_wav(&bytes).unwrap_err();
    for hz in [0, 1, 3_999, 384_001, u32::MAX] {
        assert_eq!(error(wav(1, 16, 1, hz, &[0; 4])), ProcessingError::SampleRate { hz });
    }
    assert_eq!(error(wav(1, 16, 0, 16_000, &[0; 4])), ProcessingError::Channels { channels: 0 });
    assert_eq!(error(wav(1, 8, 999, 16_000, &[0; 999])), ProcessingError::Channels { channels: 999 });
    assert!(matches!(error(wav(7, 8, 1, 8_000, &[0; 4])), ProcessingError::Unsupported { .. }));
    assert!(matches!(error(wav(1, 12, 1, 8_000, &[0; 4])), ProcessingError::Unsupported { .. }));
    assert!(matches!(error(wav(3, 32, 1, 8_000, &[0xff; 4])), ProcessingError::SampleValue { .. }));
    // 3,601 seconds.
    assert!(matches!(error(wav(1, 8, 1, 4_000, &vec![0; 14_404_000])), ProcessingError::TooLong { .. }));
    assert_eq!(error(wav(1, 16, 1, 16_000, &[])), ProcessingError::Empty("sound of the WAV file"));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = decode_wav(&bytes);
    }

    #[test]
    fn damaged_files_never_panic(
        tag in prop_oneof![Just(1_u16), Just(3), Just(0xfffe), any::<u16>()],
        bits in prop_oneof![Just(8_u16), Just(16), Just(24), Just(32), any::<u16>()],
        channels in 0_u16..40,
        rate_hz in any::<u32>(),
        data in proptest::collection::vec(any::<u8>(), 0..64),
        at in any::<proptest::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut bytes = wav(tag, bits % 4096, channels % 15, rate_hz, &data);
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(pcm) = decode_wav(&bytes) {
            prop_assert!(pcm.samples.len() <= bytes.len());
            prop_assert!(pcm.samples.len().is_multiple_of(pcm.channels as usize));
        }
    }
}
