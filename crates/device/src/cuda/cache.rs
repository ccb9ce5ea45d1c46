//! Compiled kernels on disk: a source is compiled once per architecture, NVRTC version and set of options.
//!
//! A folder of files, each named by the digest of everything that its content follows from. What is damaged is compiled
//! again; what cannot be written costs only time. Nothing is shared between processes but the files, which appear whole.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::compile::{Arch, CUBIN_BYTES_MAX, CompileError, Nvrtc, Version, defect, options};
use super::kernels::Source;

/// How much the folder may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Most entries. Default 64: three sources for some generations of GPUs and versions of NVRTC.
    pub files_max: usize,
    /// Most bytes in all. Default 64 MiB; an entry has some ten KiB.
    pub bytes_max: u64,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { files_max: 64, bytes_max: 64 << 20 }
    }
}

/// Machine code and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cubin {
    pub bytes: Vec<u8>,
    pub origin: Origin,
}

/// Where machine code came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the folder.
    Cache,
    /// Compiled, and kept in the folder.
    Compiled,
    /// Compiled, but the folder could not keep it.
    Unkept { problem: String },
}

/// The folder of compiled kernels.
#[derive(Clone, Debug)]
pub struct CubinCache {
    folder: PathBuf,
    limits: CacheLimits,
}

/// First bytes of an entry; the digest of the machine code and the machine code follow.
const MAGIC: &[u8; 16] = b"sensorium cubin\n";
const DIGEST_BYTES: usize = 32;
const EXTENSION: &str = "cubin";
/// Part of an entry that is being written.
const PART: &str = "part";
/// A part that is older was left by a process that died.
const PART_AGE_MAX: Duration = Duration::from_secs(3600);

/// Tells the parts of one process apart.
static PARTS: AtomicU64 = AtomicU64::new(0);

impl CubinCache {
    /// The cache in `folder`, which is made when something is first kept.
    #[must_use]
    pub fn new(folder: &Path, limits: CacheLimits) -> Self {
        Self { folder: folder.to_owned(), limits }
    }

    /// Machine code of `source` for `arch`, compiled if the folder has none that is whole.
    ///
    /// # Errors
    /// When it has to be compiled and cannot be.
    pub fn cubin(&self, nvrtc: &Nvrtc, source: &Source, arch: Arch) -> Result<Cubin, CompileError> {
        let file = self.file(source, arch, nvrtc.version());
        if let Some(bytes) = read(&file, source) {
            // Only the order of removal depends on it.
            let _ = File::open(&file).and_then(|file| file.set_modified(SystemTime::now()));
            return Ok(Cubin { bytes, origin: Origin::Cache });
        }
        let bytes = nvrtc.compile(source, arch)?;
        let origin = match self.keep(&file, &bytes) {
            Ok(()) => Origin::Compiled,
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "a compiled kernel could not be kept");
                Origin::Unkept { problem: format!("{}: {error}", file.display()) }
            }
        };
        Ok(Cubin { bytes, origin })
    }

    /// The file of an entry.
    #[must_use]
    pub fn file(&self, source: &Source, arch: Arch, version: Version) -> PathBuf {
        self.folder.join(key(source, arch, version)).with_extension(EXTENSION)
    }

    fn keep(&self, file: &Path, cubin: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let number = PARTS.fetch_add(1, Ordering::Relaxed);
        let part = file.with_extension(format!("{}-{number}.{PART}", std::process::id()));
        let written = write(&part, cubin).and_then(|()| fs::rename(&part, file));
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written?;
        self.sweep(file)
    }

    /// Removes the entries that were used longest ago, as far as the limits ask for it, and parts that were left behind.
    fn sweep(&self, keep: &Path) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            // Another process may have removed it meanwhile.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(EXTENSION) => entries.push((modified, metadata.len(), path)),
                Some(PART) if modified.elapsed().is_ok_and(|age| age > PART_AGE_MAX) => {
                    let _ = fs::remove_file(&path);
                }
                _ => {}
            }
        }
        entries.sort();
        let (mut files, mut bytes) = (entries.len(), entries.iter().map(|(_, bytes, _)| bytes).sum::<u64>());
        for (_, entry_bytes, path) in entries.iter().filter(|(.., path)| path != keep) {
            if files <= self.limits.files_max && bytes <= self.limits.bytes_max {
                break;
            }
            let _ = fs::remove_file(path);
            files -= 1;
            bytes -= entry_bytes;
        }
        Ok(())
    }
}

/// 64 hexadecimal digits of everything that the machine code follows from. Each part is preceded by its length, so that
/// no two sets of parts are one text.
fn key(source: &Source, arch: Arch, version: Version) -> String {
    let mut digest = Sha256::new();
    let (arch_text, version_text) = (arch.to_string(), version.to_string());
    let options = options(source, arch);
    let parts = [source.name, source.text, &arch_text, &version_text];
    for part in parts.into_iter().chain(options.iter().map(String::as_str)) {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The machine code of an entry, if it is whole.
fn read(file: &Path, source: &Source) -> Option<Vec<u8>> {
    let bytes_max = (MAGIC.len() + DIGEST_BYTES + CUBIN_BYTES_MAX) as u64;
    let mut bytes = Vec::new();
    File::open(file).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes)).ok()?;
    let whole = bytes.split_at_checked(MAGIC.len() + DIGEST_BYTES).is_some_and(|(head, cubin)| {
        head[..MAGIC.len()] == MAGIC[..]
            && head[MAGIC.len()..] == Sha256::digest(cubin)[..]
            && cubin.len() <= CUBIN_BYTES_MAX
            && defect(cubin, source).is_none()
    });
    if !whole {
        tracing::warn!(file = %file.display(), "a kept kernel is damaged and is compiled again");
        return None;
    }
    bytes.drain(..MAGIC.len() + DIGEST_BYTES);
    Some(bytes)
}

fn write(part: &Path, cubin: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(part)?;
    file.write_all(MAGIC)?;
    file.write_all(&Sha256::digest(cubin))?;
    file.write_all(cubin)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_the_code_follows_from_is_in_the_key() {
        let source = Source { name: "a.cu", text: "x", options: &["-o"], entries: &[] };
        let version = Version { major: 13, minor: 0 };
        let keys = [
            key(&source, Arch::HOPPER, version),
            key(&Source { name: "b.cu", ..source }, Arch::HOPPER, version),
            key(&Source { text: "y", ..source }, Arch::HOPPER, version),
            key(&Source { options: &["-", "o"], ..source }, Arch::HOPPER, version),
            key(&Source { options: &[], ..source }, Arch::HOPPER, version),
            key(&source, Arch { major: 8, minor: 0 }, version),
            key(&source, Arch::HOPPER, Version { major: 13, minor: 1 }),
        ];
        let mut distinct = keys.to_vec();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(keys[0].len(), 64);
    }

    #[test]
    fn the_oldest_entries_go_first_and_the_newest_never() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CubinCache::new(folder.path(), CacheLimits { files_max: 2, bytes_max: 1000 });
        let entry = |name: &str| folder.path().join(name).with_extension(EXTENSION);
        for (age, name) in [(9, "oldest"), (8, "old"), (7, "young")] {
            fs::write(entry(name), [0; 10]).unwrap();
            let file = File::options().write(true).open(entry(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age * 100)).unwrap();
        }
        let left = folder.path().join("x.1-1.part");
        fs::write(&left, "").unwrap();
        File::options().write(true).open(&left).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::write(folder.path().join("x.1-2.part"), "").unwrap();
        cache.keep(&entry("new"), b"code").unwrap();
        let names = |folder: &Path| {
            let mut names: Vec<_> =
                fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(folder.path()), ["new.cubin", "x.1-2.part", "young.cubin"]);
        // One that is larger than all the room is kept all the same, alone.
        cache.keep(&entry("large"), &[0; 2000]).unwrap();
        assert_eq!(names(folder.path()), ["large.cubin", "x.1-2.part"]);
    }
}
