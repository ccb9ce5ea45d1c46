//! Pictures and sound from the cache.

use std::fs;
use std::process::Command;

use crate::cache::cached;

/// Frame number `number` of a video as `height × width` RGB.
pub(crate) fn frame(video: &str, number: u32, height: usize, width: usize) -> Vec<u8> {
    let bytes = ffmpeg(video, number, &["-f", "rawvideo", "-pix_fmt", "rgb24"]);
    assert_eq!(bytes.len(), height * width * 3);
    bytes
}

/// The same frame as JPEG.
pub(crate) fn jpeg(video: &str, number: u32) -> Vec<u8> {
    ffmpeg(video, number, &["-f", "image2pipe", "-c:v", "mjpeg", "-q:v", "2"])
}

fn ffmpeg(video: &str, number: u32, form: &[&str]) -> Vec<u8> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i"])
        .arg(cached(&format!("media/{video}")))
        .args(["-vf", &format!("select=eq(n\\,{number})"), "-frames:v", "1"])
        .args(form)
        .arg("-")
        .output()
        .expect("ffmpeg is installed; run ops/setup");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A spoken sentence: the WAV file, its samples (mono, 16 kHz), and the words.
pub(crate) struct Spoken {
    pub(crate) wav: Vec<u8>,
    pub(crate) samples: Vec<i16>,
    pub(crate) words: String,
}

pub(crate) fn spoken(number: &str) -> Spoken {
    let id = format!("sense_and_sensibility_01_austen_64kb-{number}");
    let wav = fs::read(cached(&format!("media/librivox/{id}.wav"))).unwrap();
    let data = wav.windows(4).position(|bytes| bytes == b"data").unwrap() + 8;
    let samples = wav[data..].chunks_exact(2).map(|bytes| i16::from_le_bytes([bytes[0], bytes[1]])).collect();
    let transcription = fs::read_to_string(cached("media/librivox/transcription")).unwrap();
    let line = transcription.lines().find(|line| line.contains(&id)).unwrap();
    let words = line.split("<s>").nth(1).unwrap().split("</s>").next().unwrap().trim().to_owned();
    Spoken { wav, samples, words }
}
