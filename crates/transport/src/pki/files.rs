//! Small files with the right modes, written whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::PkiError;

/// Longest PEM file that is read, in bytes. A chain of a few certificates is below 8 KiB.
const PEM_BYTES_MAX: u64 = 256 << 10;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrecy {
    /// Mode 0644.
    Public,
    /// Mode 0600.
    Secret,
}

impl Secrecy {
    const fn mode(self) -> u32 {
        match self {
            Self::Public => 0o644,
            Self::Secret => 0o600,
        }
    }
}

/// Creates the folder and those above it, with mode 0700 where they are new.
pub(super) fn create_folder(folder: &Path) -> Result<(), PkiError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| PkiError::Write { path: folder.to_owned(), source })
}

/// Reads a text file of bounded length.
pub(super) fn read(path: &Path, advice: &'static str) -> Result<String, PkiError> {
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut text)).map_err(
        |source| match source.kind() {
            io::ErrorKind::NotFound => PkiError::Missing { path: path.to_owned(), advice },
            _ => PkiError::Read { path: path.to_owned(), source },
        },
    )?;
    let corrupt = |detail: String| PkiError::Corrupt { path: path.to_owned(), detail, advice };
    if text.len() as u64 > PEM_BYTES_MAX {
        return Err(corrupt(format!("longer than {PEM_BYTES_MAX} bytes")));
    }
    String::from_utf8(text).map_err(|_| corrupt("not a text file".to_owned()))
}

/// Creates a file that must not exist yet.
pub(super) fn create(path: &Path, text: &str, secrecy: Secrecy) -> Result<(), PkiError> {
    write_new(path, text, secrecy).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists { path: path.to_owned() },
        _ => PkiError::Write { path: path.to_owned(), source },
    })
}

/// Creates or replaces a file: whoever reads it meanwhile sees the old or the new one whole.
pub(super) fn replace(path: &Path, text: &str, secrecy: Secrecy) -> Result<(), PkiError> {
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let result = match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => write_new(&temporary, text, secrecy).and_then(|()| fs::rename(&temporary, path)),
    };
    result.map_err(|source| PkiError::Write { path: path.to_owned(), source })
}

/// Holds the folder's lock until the returned file is dropped.
pub(super) fn lock(folder: &Path) -> Result<File, PkiError> {
    let path = folder.join(".lock");
    let error = |source| PkiError::Write { path: path.clone(), source };
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(error)?;
    file.lock().map_err(error)?;
    Ok(file)
}

fn write_new(path: &Path, text: &str, secrecy: Secrecy) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(secrecy.mode()).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
