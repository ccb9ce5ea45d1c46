//! Frames and sound from the cache, in any of ffmpeg's pixel formats.

use std::process::Command;

use crate::setup::cached;

/// A video of the cache and its size.
pub(crate) const VIDEOS: [(&str, u32, u32); 4] = [
    ("vtest.avi", 768, 576),
    ("bigbuckbunny.mp4", 1280, 720),
    ("bikes.mp4", 640, 272),
    ("carphone_pristine.mp4", 176, 144),
];

/// Frame `number` of a video, raw; `arguments` are words for ffmpeg, such as a pixel format.
pub(crate) fn frame(video: &str, number: u32, arguments: &str) -> Vec<u8> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i"])
        .arg(cached(&format!("media/{video}")))
        .args(["-vf", &format!("select=eq(n\\,{number})"), "-frames:v", "1", "-f", "rawvideo"])
        .args(arguments.split_whitespace())
        .arg("-")
        .output()
        .expect("ffmpeg is installed; run ops/setup");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The same bytes `start` bytes into a slab whose length is a multiple of four; what is around them is noise.
pub(crate) fn slab(start: usize, bytes: &[u8]) -> Vec<u8> {
    let mut slab = vec![0xa5; (start + bytes.len()).next_multiple_of(4)];
    slab[start..start + bytes.len()].copy_from_slice(bytes);
    slab
}
