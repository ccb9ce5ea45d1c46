//! From kernel sources to machine code (cubins) with NVRTC, NVIDIA's run-time compiler.
//!
//! Finds NVRTC without panicking where there is none, and compiles one source at a time. It needs neither a GPU nor
//! CUDA's driver, and keeps nothing: [`super::cache`] does.

mod nvrtc;

use std::ffi::{CString, OsStr};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::kernels::Source;
use nvrtc::{Api, Companion};

/// Longest source that is compiled, in bytes.
pub const SOURCE_BYTES_MAX: usize = 256 << 10;
/// Longest machine code that is taken, in bytes.
pub const CUBIN_BYTES_MAX: usize = 16 << 20;
/// Longest log of the compiler that is read, in bytes.
pub const LOG_BYTES_MAX: usize = 1 << 20;

/// Where NVRTC lies below the cache that `ops/setup` fills.
pub const CACHED_LIBRARY: &str = "cuda/lib/libnvrtc.so.13";

/// Names that the system's loader is asked for, in this order.
const LOADER_NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// Why there is no machine code. Each is one line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompileError {
    #[error(
        "NVRTC, which compiles the CUDA kernels, was not found ({tried}); run ops/setup, or name libnvrtc.so.13 with --nvrtc"
    )]
    Missing { tried: String },
    #[error("{library} is not a usable NVRTC: {problem}; run ops/setup, or name another with --nvrtc")]
    Unusable { library: String, problem: String },
    #[error("kernel source {name}: {problem}")]
    Source { name: String, problem: String },
    #[error("{problem}; kernel source {name} was not compiled for {arch} by NVRTC {version}")]
    Refused { name: String, arch: Arch, version: Version, problem: String },
}

/// Where to look for NVRTC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvrtcSearch {
    /// The library's file as the operator named it: no other is tried. Default: not named.
    pub named: Option<PathBuf>,
    /// The cache that `ops/setup` fills; its [`CACHED_LIBRARY`] comes first. What it lacks is asked of the system's loader.
    pub cache: Option<PathBuf>,
}

/// A generation of GPUs by its compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arch {
    pub major: u32,
    pub minor: u32,
}

impl Arch {
    /// H100 and H200.
    pub const HOPPER: Self = Self { major: 9, minor: 0 };
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.major, self.minor)
    }
}

/// NVRTC's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub major: i32,
    pub minor: i32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The compiler.
pub struct Nvrtc {
    api: Api,
    version: Version,
    library: String,
    _builtins: Option<Companion>,
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nvrtc {} from {}", self.version, self.library)
    }
}

impl Nvrtc {
    /// Finds and loads NVRTC: the named library alone if one is named, else the cache's, else the system's.
    ///
    /// # Errors
    /// [`CompileError::Missing`] with what was tried, [`CompileError::Unusable`] when a library is there but is no NVRTC.
    pub fn open(search: &NvrtcSearch) -> Result<Self, CompileError> {
        if let Some(named) = &search.named {
            if !named.is_file() {
                return Err(CompileError::Missing { tried: format!("{} is no file", named.display()) });
            }
            return Self::load(named.as_os_str());
        }
        let mut tried = Vec::new();
        if let Some(cache) = &search.cache {
            let file = cache.join(CACHED_LIBRARY);
            if file.is_file() {
                return Self::load(file.as_os_str());
            }
            tried.push(format!("{} is not there", file.display()));
        }
        for name in LOADER_NAMES {
            match Self::load(OsStr::new(name)) {
                // So the loader puts it when there is no such file; anything else is for the operator to know.
                Err(CompileError::Unusable { problem, .. }) if problem.contains("No such file") => {}
                found_or_broken => return found_or_broken,
            }
        }
        tried.push(format!("the system has no {}", LOADER_NAMES.join(", ")));
        Err(CompileError::Missing { tried: tried.join("; ") })
    }

    fn load(file: &OsStr) -> Result<Self, CompileError> {
        let library = file.to_string_lossy().into_owned();
        let unusable = |problem: String| CompileError::Unusable { library: library.clone(), problem };
        let api = Api::load(file).map_err(unusable)?;
        let (major, minor) = api.version().map_err(unusable)?;
        // NVRTC asks the loader for its builtins by name; where they lie beside it, they are loaded before it asks.
        let beside = Path::new(file).with_file_name(format!("libnvrtc-builtins.so.{major}.{minor}"));
        let builtins = if beside.is_file() { Some(nvrtc::preload(&beside).map_err(unusable)?) } else { None };
        Ok(Self { api, version: Version { major, minor }, library, _builtins: builtins })
    }

    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The file or name it was loaded from.
    #[must_use]
    pub fn library(&self) -> &str {
        &self.library
    }

    /// Machine code of `source` for `arch`: an ELF file with every entry point that the source promises.
    ///
    /// # Errors
    /// The compiler's first complaint, with the place in the source.
    pub fn compile(&self, source: &Source, arch: Arch) -> Result<Vec<u8>, CompileError> {
        let named = |problem: String| CompileError::Source { name: source.name.to_owned(), problem };
        let refused = |problem: String| {
            let (name, version) = (source.name.to_owned(), self.version);
            CompileError::Refused { name, arch, version, problem }
        };
        if source.text.len() > SOURCE_BYTES_MAX {
            return Err(named(format!("{} bytes; at most {SOURCE_BYTES_MAX} are taken", source.text.len())));
        }
        let zero_free = |text: &str| CString::new(text).map_err(|_| named("it holds a zero byte".to_owned()));
        let options = options(source, arch).iter().map(|option| zero_free(option)).collect::<Result<Vec<_>, _>>()?;
        let program = self.api.program(&zero_free(source.text)?, &zero_free(source.name)?).map_err(refused)?;
        if let Err(problem) = program.compile(&options) {
            let log = program.log(LOG_BYTES_MAX).unwrap_or_default();
            return Err(refused(complaint(&log).unwrap_or(problem)));
        }
        let cubin = program.cubin(CUBIN_BYTES_MAX).map_err(refused)?;
        match defect(&cubin, source) {
            None => Ok(cubin),
            Some(problem) => Err(refused(problem)),
        }
    }
}

/// All options that a source is compiled with.
pub(super) fn options(source: &Source, arch: Arch) -> Vec<String> {
    let fixed = [format!("--gpu-architecture={arch}"), "--std=c++17".to_owned()];
    fixed.into_iter().chain(source.options.iter().map(|option| (*option).to_owned())).collect()
}

/// What keeps bytes from being the machine code of `source`.
pub(super) fn defect(cubin: &[u8], source: &Source) -> Option<String> {
    if !cubin.starts_with(b"\x7fELF") {
        return Some(format!("what came out is no ELF file: {} bytes", cubin.len()));
    }
    // The symbol table's strings end with a zero each.
    let has = |entry: &str| {
        let symbol = [&[0], entry.as_bytes(), &[0]].concat();
        cubin.windows(symbol.len()).any(|bytes| bytes == symbol)
    };
    let missing = source.entries.iter().find(|entry| !has(entry));
    missing.map(|entry| format!("what came out lacks the entry point {entry}"))
}

/// The first error of a compiler's log as one line: `prepare.cu(12): error: expected a ";"`.
fn complaint(log: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains("error")).or_else(|| log.lines().find(|line| !line.is_empty()))?;
    Some(line.trim().trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_a_log_is_found() {
        let log = "a.cu(3): warning #177-D: unused\n  int x;\n      ^\n\na.cu(7): error: expected a \";\"\n  }\n\n1 error detected\n";
        assert_eq!(complaint(log).unwrap(), "a.cu(7): error: expected a \";\"");
        assert_eq!(complaint("\nodd\n").unwrap(), "odd");
        assert_eq!(complaint(""), None);
    }

    #[test]
    fn what_is_no_machine_code_is_seen() {
        let source = Source { name: "a.cu", text: "", options: &[], entries: &["first", "second"] };
        assert!(defect(b"", &source).unwrap().contains("no ELF file"));
        assert!(defect(b"\x7fELF\0first\0", &source).unwrap().contains("lacks the entry point second"));
        assert!(defect(b"\x7fELF\0first\0xsecond\0", &source).is_some());
        assert_eq!(defect(b"\x7fELF\0first\0second\0", &source), None);
    }
}
