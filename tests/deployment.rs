//! `ops/systemd/install` as far as it goes without systemd: what it refuses, and where it puts things with `--root`.
//! `ops/systemd/verify` goes the whole way.
#![allow(clippy::unwrap_used, reason = "a test fails where it cannot go on")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sensorium(words: &[&str], folder: &Path) {
    let status = Command::new(env!("CARGO_BIN_EXE_sensorium")).args(words).current_dir(folder).output().unwrap();
    assert!(status.status.success(), "sensorium {words:?}: {}", complaint(&status));
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An unpacked archive with stand-ins for what is large, an authority, and bundles.
struct Archive {
    folder: TempDir,
}

impl Archive {
    fn new() -> Self {
        let archive = Self { folder: tempfile::tempdir().unwrap() };
        let pack = archive.path("pack");
        for folder in ["share/lib", "share/models/movenet", "share/repository/movenet"] {
            fs::create_dir_all(pack.join(folder)).unwrap();
        }
        for (file, source) in [
            ("install", "ops/systemd/install"),
            ("sensorium@.service", "ops/systemd/sensorium@.service"),
            ("60-sensorium.conf", "ops/systemd/60-sensorium.conf"),
            ("lib.sh", "ops/lib.sh"),
            ("deployment.md", "docs/deployment.md"),
            ("share/repository/movenet/model.toml", "cluster/models/movenet/model.toml"),
        ] {
            fs::copy(root().join(source), pack.join(file)).unwrap();
        }
        fs::write(pack.join("share/lib/libonnxruntime.so"), "stand-in").unwrap();
        fs::write(pack.join("share/models/movenet/movenet.onnx"), "stand-in").unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sensorium"), pack.join("sensorium")).unwrap();
        fs::copy(root().join("cluster/three-tier.toml"), archive.path("cluster.toml")).unwrap();
        let folder = archive.folder.path();
        sensorium(&["ca", "init", "--out", "ca"], folder);
        let issue = ["ca", "issue", "--name", "edge-1", "--role", "peer", "--tier", "edge", "--out", "edge-1"];
        sensorium(&issue, folder);
        archive
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn install(&self, words: &[&str]) -> Output {
        Command::new(self.path("pack/install")).args(words).current_dir(self.folder.path()).output().unwrap()
    }

    fn refused(&self, words: &[&str], why: &str) {
        let output = self.install(words);
        assert_eq!(output.status.code(), Some(1), "install {words:?}");
        assert!(complaint(&output).contains(why), "install {words:?}: {}", complaint(&output));
        assert!(!self.path("host").exists(), "something was changed");
    }
}

const GOOD: [&str; 8] = ["--cluster", "cluster.toml", "--name", "edge-1", "--bundle", "edge-1", "--root", "host"];

fn with<'a>(position: usize, value: &'a str) -> Vec<&'a str> {
    let mut words: Vec<&'a str> = GOOD.to_vec();
    words[position] = value;
    words
}

#[test]
fn mistakes_are_refused_before_anything_is_changed() {
    let archive = Archive::new();
    archive.refused(&["--root", "host"], "are needed");
    archive.refused(&["--root"], "--root needs a value");
    archive.refused(&["--force"], "unknown option --force");
    archive.refused(&with(1, "nothing.toml"), "nothing.toml");
    archive.refused(&with(3, "edge-2"), "no node edge-2");
    archive.refused(&with(5, "nowhere"), "nowhere/ca.pem is missing");
    fs::copy(archive.path("ca/ca.key"), archive.path("edge-1/ca.key")).unwrap();
    archive.refused(&GOOD, "authority's key");
    fs::remove_file(archive.path("edge-1/ca.key")).unwrap();
    let text = fs::read_to_string(archive.path("cluster.toml")).unwrap();
    fs::write(archive.path("cluster.toml"), text.replace("tier = \"central\"", "tier = \"edge\"")).unwrap();
    archive.refused(&GOOD, "a higher tier is expected");
}

#[test]
fn everything_is_put_in_place_once_and_again() {
    let archive = Archive::new();
    for _ in 0..2 {
        let output = archive.install(&GOOD);
        assert!(output.status.success(), "{}", complaint(&output));
    }
    let unit = fs::read_to_string(archive.path("host/etc/systemd/system/sensorium@.service")).unwrap();
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    // What the unit names is where the script puts it.
    let words: Vec<&str> = command.split(' ').collect();
    let at = |option: &str| words[words.iter().position(|word| *word == option).unwrap() + 1];
    let placed = |path: &str| archive.path("host").join(path.replace("%i", "edge-1").trim_start_matches('/'));
    assert!(placed(words[0]).is_file() && placed(at("--cluster")).is_file());
    let key = placed(at("--data")).join("certificates/node/key.pem");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let variable = |name: &str| {
        let start = format!("Environment={name}=");
        placed(unit.lines().find_map(|line| line.strip_prefix(&start)).unwrap())
    };
    assert!(variable("SENSORIUM_CACHE").join("lib/libonnxruntime.so").is_file());
    assert!(variable("SENSORIUM_CACHE").join("models/movenet/movenet.onnx").is_file());
    assert!(variable("SENSORIUM_MODELS").join("movenet/model.toml").is_file());
    // Nothing of the second installation is left beside what it replaced.
    let share = fs::read_dir(variable("SENSORIUM_CACHE")).unwrap();
    assert_eq!(share.count(), 3);
}

#[test]
fn the_script_says_that_it_belongs_to_an_archive() {
    let output = Command::new(root().join("ops/systemd/install")).arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("archive that ops/systemd/pack makes"), "{}", complaint(&output));
}
