//! A picture with something to be found in it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

/// A frame of the demonstration's street camera as a JPEG, taken from the recording with ffmpeg.
pub(super) fn street(cache: &Path) -> anyhow::Result<Vec<u8>> {
    let recording = cache.join("media/vtest.avi");
    let frame = Command::new("ffmpeg")
        .args(["-v", "error", "-ss", "10", "-i"])
        .arg(&recording)
        .args(["-frames:v", "1", "-q:v", "4", "-c:v", "mjpeg", "-f", "image2pipe", "-"])
        .stdin(Stdio::null())
        .output();
    match frame {
        Ok(frame) if frame.status.success() && !frame.stdout.is_empty() => Ok(frame.stdout),
        _ => bail!("no frame of {} could be taken with ffmpeg; run ops/setup", recording.display()),
    }
}
