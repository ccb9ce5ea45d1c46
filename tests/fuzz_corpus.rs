//! The fuzzing targets on the stable compiler: every corpus file, and a bounded number of damaged ones.
//!
//! This is no substitute for a fuzzer that is guided by coverage; it keeps the targets compiling and their corpus
//! accepted, and finds what shallow damage finds. `FUZZ_SEED` and `FUZZ_ROUNDS` in the environment change the seed and
//! the number of damaged inputs per target.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

#[path = "../fuzz/seeds.rs"]
pub mod seeds;
#[path = "../fuzz/src/lib.rs"]
pub mod targets;

const SEED: u64 = 0x5e6e_0417_3d2b_9c15;
/// Damaged inputs per target.
const ROUNDS: u64 = 2_000;
/// Damaged inputs grow to at most this, in bytes.
const INPUT_BYTES_MAX: usize = 16 << 10;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the corpus of a target and then damaged versions of it.
fn exercise(target: &str, body: fn(&[u8])) {
    let folder = root().join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).expect("every target has a corpus");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect("corpus files can be read")).collect();
    for (file, bytes) in files.iter().zip(&corpus) {
        run(target, body, bytes, &file.display().to_string());
    }
    let seed = environment("FUZZ_SEED", SEED);
    eprintln!("{target}: {} files, then damage from FUZZ_SEED={seed}", corpus.len());
    let mut random = Random(seed | 1);
    for round in 0..environment("FUZZ_ROUNDS", ROUNDS) {
        let input = random.damaged(&corpus);
        run(target, body, &input, &format!("round {round} of FUZZ_SEED={seed}"));
    }
}

fn environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a decimal number"))
}

/// Runs one input; when the target panics, says which input it was and keeps it for `cargo fuzz run`.
fn run(target: &str, body: fn(&[u8]), input: &[u8], origin: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(input))) {
        let folder = root().join("fuzz/artifacts").join(target);
        let file = folder.join("found-by-test");
        let kept = fs::create_dir_all(&folder).and_then(|()| fs::write(&file, input));
        eprintln!("{target} panicked on {origin}; {} bytes in {}: {kept:?}", input.len(), file.display());
        resume_unwind(panic);
    }
}

/// Xorshift: the same inputs on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The low bits of a plain xorshift are poor.
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number below `bound`, which is above 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    /// One of the corpus after one to four kinds of damage.
    fn damaged(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            self.damage(&mut bytes, corpus);
        }
        bytes.truncate(INPUT_BYTES_MAX);
        bytes
    }

    fn damage(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        const EXTREMES: [u64; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
        let at = self.below(bytes.len() + 1);
        let length = self.below(bytes.len() - at + 1);
        match self.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            2 if at < bytes.len() => bytes[at] = self.next().to_le_bytes()[0],
            // A number where there may have been another.
            3 => {
                let number = EXTREMES[self.below(EXTREMES.len())].to_le_bytes();
                let width = (1 << self.below(4)).min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..at + length.min(16))),
            // A piece twice.
            6 => {
                let piece = bytes[at..at + length.min(64)].to_vec();
                bytes.splice(at..at, piece);
            }
            // The start of one, the end of another.
            _ => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
}

/// A test for every target; a target without one fails the last test.
macro_rules! targets {
    ($($target:ident)*) => {
        const TARGETS: &[&str] = &[$(stringify!($target)),*];
        $(
            #[test]
            fn $target() {
                exercise(stringify!($target), targets::$target);
            }
        )*
    };
}

targets!(frame submit header principal message nut npy wav image tokenizer manifest worker_packet worker_report);

#[test]
fn every_fuzzing_target_is_run_here() {
    let files = fs::read_dir(root().join("fuzz/fuzz_targets")).unwrap();
    let mut names: Vec<String> =
        files.map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    let mut here = TARGETS.to_vec();
    here.sort_unstable();
    assert_eq!(names, here);
}

/// The corpus is worth its place only while decoders accept it: a damaged file damages little.
#[test]
fn decoders_accept_the_corpus() {
    let files = |target: &str| {
        let entries = fs::read_dir(root().join("fuzz/corpus").join(target)).unwrap();
        entries.map(|entry| entry.unwrap().path()).map(|path| (path.clone(), fs::read(path).unwrap()))
    };
    for (path, bytes) in files("nut") {
        let mut demuxer = sensorium_processing::nut::NutDemuxer::default();
        demuxer.push(&bytes);
        while let Some(_item) = demuxer.next().unwrap() {}
        demuxer.finish().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    for (path, bytes) in files("image") {
        let read = sensorium_processing::image::decode(&bytes, Default::default());
        assert!(read.is_ok(), "{}: {read:?}", path.display());
    }
    for (path, bytes) in files("wav") {
        let read = sensorium_processing::sound::decode_wav(&bytes);
        assert!(read.is_ok(), "{}: {read:?}", path.display());
    }
    for (path, bytes) in files("npy") {
        let read = sensorium_processing::npy::read(&bytes);
        assert!(read.is_ok(), "{}: {read:?}", path.display());
    }
    for (path, bytes) in files("frame") {
        let (mut reader, mut input) = (sensorium_transport::FrameReader::default(), &bytes[..]);
        while reader.step(&mut input).unwrap() != sensorium_transport::Step::More {}
        assert!(reader.is_between_frames(), "{}", path.display());
    }
    for (path, bytes) in files("submit") {
        let version = if path.to_string_lossy().ends_with("-v0") { 0 } else { 1 };
        let (length, header) = bytes.split_first_chunk().unwrap();
        let header = sensorium_wire::codec::decode_submit(version, header).unwrap();
        header.check(u64::from_be_bytes(*length)).unwrap();
    }
    for (path, bytes) in files("message") {
        let result = sensorium_wire::codec::decode::<sensorium_wire::result::ModelResult>(&bytes).is_some();
        let event = sensorium_wire::codec::decode::<sensorium_wire::Event>(&bytes).is_some();
        assert!(result || event, "{}", path.display());
    }
    for (_, bytes) in files("principal") {
        sensorium_wire::Principal::from_uri(std::str::from_utf8(&bytes).unwrap()).unwrap();
    }
    for (_, bytes) in files("tokenizer") {
        sensorium_processing::tokens::Tokenizer::from_json(&bytes).unwrap();
    }
    for (_, bytes) in files("worker_report") {
        serde_json::from_slice::<sensorium_device::protocol::WorkerReport>(&bytes).unwrap();
    }
    for (path, bytes) in files("manifest") {
        let read = sensorium_models::Manifest::parse(std::str::from_utf8(&bytes).unwrap(), &path);
        assert!(read.is_ok(), "{}: {read:?}", path.display());
    }
}

#[test]
#[ignore = "writes the corpus files that are made by code"]
fn write_corpus() {
    seeds::write(&root().join("fuzz/corpus"), &root().join("cluster/models")).unwrap();
}
