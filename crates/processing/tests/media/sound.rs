//! WAV files as ffmpeg writes them.

use sensorium_processing::sound::{Pcm, decode_wav};

use crate::ffmpeg::{cached, convert, ffmpeg};

/// ffmpeg cannot seek back on a pipe, so its WAV files need their sizes set.
fn sized(mut bytes: Vec<u8>) -> Vec<u8> {
    let data = bytes.windows(4).position(|window| window == b"data").unwrap();
    let length = |start: usize| u32::try_from(bytes.len() - start).unwrap().to_le_bytes();
    let (riff, content) = (length(8), length(data + 8));
    bytes[4..8].copy_from_slice(&riff);
    bytes[data + 4..data + 8].copy_from_slice(&content);
    bytes
}

#[test]
fn every_sample_format_and_many_channels() {
    for (codec, worst) in
        [("pcm_u8", 0.009), ("pcm_s16le", 1e-4), ("pcm_s24le", 1e-5), ("pcm_s32le", 1e-5), ("pcm_f32le", 1e-6)]
    {
        for channels in [1_u32, 2, 6] {
            let streamed =
                ffmpeg(&format!("-f lavfi -i sine=sample_rate=22050:duration=0.3 -ac {channels} -c:a {codec} -f wav"));
            // A file that says it is 4 GiB long is not what it says.
            assert!(decode_wav(&streamed).is_err(), "{codec}");
            let bytes = sized(streamed);
            let pcm = decode_wav(&bytes).unwrap();
            let expected = convert(&bytes, "-f wav", "-c:a pcm_f32le -f f32le");
            let expected: Vec<f32> =
                expected.as_chunks::<4>().0.iter().map(|sample| f32::from_le_bytes(*sample)).collect();
            assert_eq!((pcm.sample_rate_hz, pcm.channels), (22_050, channels));
            assert_eq!(pcm.samples.len(), expected.len());
            let most = pcm.samples.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(most < worst, "{codec} with {channels} channels: {most}");
        }
    }
}

#[test]
fn compressed_sound_is_refused_by_name() {
    let bytes = sized(ffmpeg("-f lavfi -i sine=sample_rate=8000:duration=0.3 -c:a pcm_mulaw -f wav"));
    let text = decode_wav(&bytes).unwrap_err().to_string();
    assert!(text.contains("0x0007 with 8 bits"), "{text}");
}

#[test]
fn recorded_speech() {
    let Some(file) = cached("media/librivox/sense_and_sensibility_01_austen_64kb-0870.wav") else { return };
    let bytes = std::fs::read(file).unwrap();
    let Pcm { sample_rate_hz, channels, samples } = decode_wav(&bytes).unwrap();
    assert_eq!((sample_rate_hz, channels, samples.len()), (16_000, 1, (bytes.len() - 44) / 2));
}
