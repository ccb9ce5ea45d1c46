//! Runs ffmpeg and ffprobe.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What `ffmpeg` writes to its standard output.
pub(crate) fn ffmpeg(arguments: &str) -> Vec<u8> {
    run("ffmpeg", &format!("-v error -nostdin {arguments} pipe:1"), &[])
}

/// What `ffmpeg` makes of `input`.
pub(crate) fn convert(input: &[u8], from: &str, to: &str) -> Vec<u8> {
    run("ffmpeg", &format!("-v error {from} -i pipe:0 {to} pipe:1"), input)
}

/// What `ffprobe` says about `input`, as JSON.
pub(crate) fn ffprobe(input: &[u8], arguments: &str) -> serde_json::Value {
    serde_json::from_slice(&run("ffprobe", &format!("-v error -of json {arguments} pipe:0"), input)).unwrap()
}

/// A file that `ops/setup` fetched, where it has been.
pub(crate) fn cached(path: &str) -> Option<PathBuf> {
    let file = PathBuf::from(std::env::var_os("HOME")?).join(".cache/sensorium").join(path);
    let found = file.exists();
    if !found {
        eprintln!("skipped: {} is not there", file.display());
    }
    found.then_some(file)
}

fn run(program: &str, arguments: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; ops/setup installs it"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may stop reading before the end.
    let feed = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let output = child.wait_with_output().unwrap();
    feed.join().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", output.status);
    output.stdout
}
