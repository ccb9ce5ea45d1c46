//! The functions of NVRTC that are used, loaded from a library that is named.
//!
//! cudarc binds them too, but finds the library by names of its own alone, once per process, and panics where there is
//! none; here the library can be named, and what is missing is an error.
#![allow(unsafe_code, reason = "loads NVRTC and calls its C functions")]

use std::error::Error;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr;

use libloading::Library;

type RawProgram = *mut c_void;
type SizeOf = unsafe extern "C" fn(RawProgram, *mut usize) -> c_int;
type Fill = unsafe extern "C" fn(RawProgram, *mut c_char) -> c_int;

/// NVRTC's functions. The library is never unloaded: it has threads and tables of its own.
pub(super) struct Api {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    create: unsafe extern "C" fn(
        *mut RawProgram,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    destroy: unsafe extern "C" fn(*mut RawProgram) -> c_int,
    compile: unsafe extern "C" fn(RawProgram, c_int, *const *const c_char) -> c_int,
    cubin_size: SizeOf,
    cubin: Fill,
    log_size: SizeOf,
    log: Fill,
    _library: ManuallyDrop<Library>,
}

/// A library that is loaded so that another finds it.
pub(super) struct Companion(#[expect(dead_code, reason = "keeps the library loaded")] ManuallyDrop<Library>);

/// Loads a library that another one will ask the loader for by its file name.
pub(super) fn preload(file: &Path) -> Result<Companion, String> {
    // SAFETY: NVIDIA's libraries of builtins run no code when loaded but registering themselves.
    let library = unsafe { Library::new(file) }.map_err(|error| in_full(&error))?;
    Ok(Companion(ManuallyDrop::new(library)))
}

impl Api {
    /// Loads the library at a path, or by a name that the system's loader looks for.
    pub(super) fn load(file: &OsStr) -> Result<Self, String> {
        // SAFETY: the file is what the operator, `ops/setup` or the system's loader calls NVRTC; its initialisers touch
        // nothing of this program.
        let library = unsafe { Library::new(file) }.map_err(|error| in_full(&error))?;
        macro_rules! function {
            ($name:literal) => {{
                // SAFETY: the type is the one that NVRTC's header gives to this name, and the library is never unloaded.
                let found = unsafe { library.get($name) };
                *found.map_err(|error| in_full(&error))?
            }};
        }
        Ok(Self {
            version: function!(b"nvrtcVersion"),
            error_string: function!(b"nvrtcGetErrorString"),
            create: function!(b"nvrtcCreateProgram"),
            destroy: function!(b"nvrtcDestroyProgram"),
            compile: function!(b"nvrtcCompileProgram"),
            cubin_size: function!(b"nvrtcGetCUBINSize"),
            cubin: function!(b"nvrtcGetCUBIN"),
            log_size: function!(b"nvrtcGetProgramLogSize"),
            log: function!(b"nvrtcGetProgramLog"),
            _library: ManuallyDrop::new(library),
        })
    }

    /// Major and minor.
    pub(super) fn version(&self) -> Result<(i32, i32), String> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both point to integers that outlive the call.
        self.done(unsafe { (self.version)(&raw mut major, &raw mut minor) })?;
        Ok((major, minor))
    }

    /// A program of this source; `name` stands for the file in messages.
    pub(super) fn program(&self, source: &CStr, name: &CStr) -> Result<Program<'_>, String> {
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` is written by the call; both strings end with a zero and are copied by NVRTC; there are no headers.
        let code = unsafe { (self.create)(&raw mut raw, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null()) };
        self.done(code)?;
        Ok(Program { api: self, raw })
    }

    fn done(&self, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: NVRTC gives a constant string for every number, known or not.
        let text = unsafe { (self.error_string)(code) };
        if text.is_null() {
            return Err(format!("NVRTC error {code}"));
        }
        // SAFETY: not null, ends with a zero, and lives as long as the library.
        Err(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }
}

/// A program that NVRTC holds.
pub(super) struct Program<'a> {
    api: &'a Api,
    raw: RawProgram,
}

impl Program<'_> {
    /// Compiles; what was wrong is then in [`Self::log`].
    pub(super) fn compile(&self, options: &[CString]) -> Result<(), String> {
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|_| "too many options".to_owned())?;
        // SAFETY: the program lives; `pointers` has `count` strings that end with a zero and outlive the call.
        self.api.done(unsafe { (self.api.compile)(self.raw, count, pointers.as_ptr()) })
    }

    /// The compiled code; refused when it is longer than `bytes_max`.
    pub(super) fn cubin(&self, bytes_max: usize) -> Result<Vec<u8>, String> {
        self.bytes(self.api.cubin_size, self.api.cubin, bytes_max)
    }

    /// Messages of the compiler, without the closing zero.
    pub(super) fn log(&self, bytes_max: usize) -> Result<String, String> {
        let bytes = self.bytes(self.api.log_size, self.api.log, bytes_max)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
    }

    fn bytes(&self, size: SizeOf, fill: Fill, bytes_max: usize) -> Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: the program lives; the size is written to an integer that outlives the call.
        self.api.done(unsafe { size(self.raw, &raw mut bytes) })?;
        if bytes > bytes_max {
            return Err(format!("{bytes} bytes came out; at most {bytes_max} are taken"));
        }
        let mut buffer = vec![0_u8; bytes];
        // SAFETY: the buffer is as long as NVRTC just said that it writes.
        self.api.done(unsafe { fill(self.raw, buffer.as_mut_ptr().cast()) })?;
        Ok(buffer)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: created by this library and destroyed once.
        unsafe { (self.api.destroy)(&raw mut self.raw) };
    }
}

/// What went wrong and why, on one line.
fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut reason = error.source();
    while let Some(inner) = reason {
        text = format!("{text}: {inner}");
        reason = inner.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
