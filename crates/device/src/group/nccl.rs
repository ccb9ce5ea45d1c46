//! The transport between GPUs: NCCL, each member a process with one GPU.
//!
//! The communicator does not block: starting, each exchange and every wait is looked at in turns, so that all of them have
//! a limit and the node can end them. What cannot be done in time is aborted, which frees the GPU from kernels that wait
//! for a lost member.
//!
//! cudarc binds NCCL too, but looks for names that NVIDIA's packages do not have (`libnccl.so.2` is not among them), and
//! panics where it finds none; here what is missing is an error.
#![allow(unsafe_code, reason = "loads NCCL and calls its C functions")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{ManuallyDrop, offset_of};
use std::ptr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cudarc::driver::sys::{CUevent_flags, CUstream};
use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DriverError};
use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclUniqueId};
use libloading::Library;

use super::{GroupError, Transport, Wait, check_all_gather, check_broadcast, check_ranks};

/// Bytes of the identifier that rank 0 makes for all.
pub const ID_BYTES: usize = 128;
/// Where NCCL is looked for: the loader finds the first in NVIDIA's packages, the second in a system's.
const LIBRARIES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// How often something that goes on is looked at.
const LOOK: Duration = Duration::from_micros(50);
/// How long the GPU may take to end what was aborted, in milliseconds.
const ABORT_MS_MAX: u64 = 5_000;
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;
/// `ncclFloat32`.
const FLOAT: c_int = 7;
/// `NCCL_API_MAGIC` and `NCCL_CONFIG_UNDEF_INT`.
const CONFIG_MAGIC: u32 = 0xcafe_beef;
const UNSET: c_int = c_int::MIN;
/// The configuration's fields as of this version are told, and no later ones: every later library understands it.
const CONFIG_VERSION: u32 = 21_700;
/// Oldest library with that configuration.
const VERSION_MIN: c_int = 21_700;

type Collected = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, ncclComm_t, CUstream) -> c_int;
type Sent = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, ncclComm_t, CUstream) -> c_int;

/// NCCL's functions. The library is never unloaded: it has threads of its own.
struct Api {
    version: c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    unique_id: unsafe extern "C" fn(*mut ncclUniqueId) -> c_int,
    init: unsafe extern "C" fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> c_int,
    async_error: unsafe extern "C" fn(ncclComm_t, *mut c_int) -> c_int,
    abort: unsafe extern "C" fn(ncclComm_t) -> c_int,
    all_gather: Collected,
    broadcast: Sent,
    _library: ManuallyDrop<Library>,
}

impl Api {
    /// The library of this process.
    fn get() -> Result<&'static Self, GroupError> {
        static LOADED: OnceLock<Result<Api, String>> = OnceLock::new();
        LOADED.get_or_init(Self::load).as_ref().map_err(|reason| GroupError::Library(reason.clone()))
    }

    fn load() -> Result<Self, String> {
        let mut problems = Vec::new();
        for name in LIBRARIES {
            // SAFETY: the loader's NCCL; its initialisers touch nothing of this program.
            match unsafe { Library::new(name) } {
                Ok(library) => return Self::of(library),
                Err(error) => problems.push(error.to_string()),
            }
        }
        Err(format!("not found ({}); install NCCL and name its folder in LD_LIBRARY_PATH", problems.join("; ")))
    }

    fn of(library: Library) -> Result<Self, String> {
        macro_rules! function {
            ($name:literal) => {{
                // SAFETY: the type is the one that NCCL's header gives to this name (an enumeration is an `int`), and the
                // library is never unloaded.
                let found = unsafe { library.get($name) };
                *found.map_err(|error| error.to_string())?
            }};
        }
        let version_of: unsafe extern "C" fn(*mut c_int) -> c_int = function!(b"ncclGetVersion");
        let mut version = 0;
        // SAFETY: the result goes to a local variable.
        let outcome = unsafe { version_of(&raw mut version) };
        if outcome != SUCCESS || version < VERSION_MIN {
            return Err(format!("version {version}; {VERSION_MIN} or later is needed"));
        }
        Ok(Self {
            version,
            error_string: function!(b"ncclGetErrorString"),
            unique_id: function!(b"ncclGetUniqueId"),
            init: function!(b"ncclCommInitRankConfig"),
            async_error: function!(b"ncclCommGetAsyncError"),
            abort: function!(b"ncclCommAbort"),
            all_gather: function!(b"ncclAllGather"),
            broadcast: function!(b"ncclBroadcast"),
            _library: ManuallyDrop::new(library),
        })
    }

    fn error(&self, what: &str, code: c_int) -> GroupError {
        // SAFETY: any code may be asked for.
        let text = unsafe { (self.error_string)(code) };
        let text = if text.is_null() {
            String::new()
        } else {
            // SAFETY: what NCCL gives here ends with a zero and is never freed.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        };
        GroupError::Library(format!("{what}: {text} ({code})"))
    }
}

/// The library's version, for example 23203.
///
/// # Errors
/// [`GroupError::Library`] where there is none.
pub fn version() -> Result<i32, GroupError> {
    Ok(Api::get()?.version)
}

/// Makes the identifier with which members find each other; its maker must live until they have.
///
/// # Errors
/// [`GroupError::Library`].
pub fn unique_id() -> Result<[u8; ID_BYTES], GroupError> {
    let api = Api::get()?;
    let mut id = ncclUniqueId { internal: [0; ID_BYTES] };
    // SAFETY: the result goes to a local variable of the type that is asked for.
    let outcome = unsafe { (api.unique_id)(&raw mut id) };
    if outcome != SUCCESS {
        return Err(api.error("making an identifier", outcome));
    }
    Ok(id.internal.map(|byte| byte.to_ne_bytes()[0]))
}

/// A communicator; aborted when it goes, so that nobody waits for it.
struct Communicator {
    api: &'static Api,
    handle: ncclComm_t,
}

impl Communicator {
    /// Whether what was begun with it is under way; errors of the network and of other members are told here alone.
    fn is_settled(&self, what: &'static str) -> Result<bool, GroupError> {
        let mut state = IN_PROGRESS;
        // SAFETY: the communicator is alive, and the result goes to a local variable.
        let asked = unsafe { (self.api.async_error)(self.handle, &raw mut state) };
        match (asked, state) {
            (SUCCESS, SUCCESS) => Ok(true),
            (SUCCESS, IN_PROGRESS) => Ok(false),
            (SUCCESS, code) | (code, _) => Err(self.api.error(what, code)),
        }
    }

    /// Waits until what was begun with it is under way.
    fn settle(&self, what: &'static str, wait: &Wait<'_>) -> Result<(), GroupError> {
        loop {
            if self.is_settled(what)? {
                return Ok(());
            }
            wait.check(what, || "the others".to_owned())?;
            std::thread::sleep(LOOK);
        }
    }

    fn begun(&self, what: &'static str, outcome: c_int, wait: &Wait<'_>) -> Result<(), GroupError> {
        match outcome {
            SUCCESS | IN_PROGRESS => self.settle(what, wait),
            code => Err(self.api.error(what, code)),
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: made by `init`, and not used after this.
            let _ = unsafe { (self.api.abort)(self.handle) };
        }
    }
}

/// A member's end.
pub struct NcclGroup {
    /// `None` after a failure. Goes before the stream and the memory that its kernels use.
    communicator: Option<Communicator>,
    rank: u32,
    ranks: u32,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    began: CudaEvent,
    ended: CudaEvent,
    mine: Option<CudaSlice<f32>>,
    all: Option<CudaSlice<f32>>,
}

fn driver(what: &'static str) -> impl Fn(DriverError) -> GroupError {
    move |error| GroupError::System { what, message: error.to_string() }
}

impl NcclGroup {
    /// Joins the group of `id`.
    ///
    /// # Errors
    /// [`GroupError`]: no library, another that does not come in time, or what CUDA says.
    pub fn join(
        context: &Arc<CudaContext>,
        rank: u32,
        ranks: u32,
        id: [u8; ID_BYTES],
        wait: &Wait<'_>,
    ) -> Result<Self, GroupError> {
        check_ranks(rank, ranks)?;
        let api = Api::get()?;
        let context = Arc::clone(context);
        let failed = driver("forming");
        let stream = context.new_stream().map_err(&failed)?;
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let (began, ended) = (context.new_event(timed).map_err(&failed)?, context.new_event(timed).map_err(&failed)?);
        context.bind_to_thread().map_err(&failed)?;
        let mut config = configuration();
        let id = ncclUniqueId { internal: id.map(|byte| c_char::from_ne_bytes([byte])) };
        let mut communicator = Communicator { api, handle: ptr::null_mut() };
        let number = |rank: u32| c_int::try_from(rank).unwrap_or(c_int::MAX);
        // SAFETY: handle and configuration are local variables of the types that are asked for; the context is current.
        let outcome =
            unsafe { (api.init)(&raw mut communicator.handle, number(ranks), id, number(rank), &raw mut config) };
        communicator.begun("forming", outcome, wait)?;
        let communicator = Some(communicator);
        Ok(Self { rank, ranks, context, stream, began, ended, mine: None, all: None, communicator })
    }

    /// Runs `begin` between two events and waits for it.
    fn timed(
        &mut self,
        what: &'static str,
        wait: &Wait<'_>,
        begin: impl FnOnce(&Communicator, CUstream) -> c_int,
    ) -> Result<Duration, GroupError> {
        let communicator = self.communicator.take().ok_or(GroupError::Broken)?;
        let outcome = self.exchange(&communicator, what, wait, begin);
        match outcome {
            Ok(time) => {
                self.communicator = Some(communicator);
                Ok(time)
            }
            Err(error) => {
                // Kernels that wait for a lost member end with this; the memory that they use must outlive them.
                drop(communicator);
                self.let_go();
                Err(error)
            }
        }
    }

    fn exchange(
        &self,
        communicator: &Communicator,
        what: &'static str,
        wait: &Wait<'_>,
        begin: impl FnOnce(&Communicator, CUstream) -> c_int,
    ) -> Result<Duration, GroupError> {
        let failed = driver(what);
        self.context.bind_to_thread().map_err(&failed)?;
        self.began.record(&self.stream).map_err(&failed)?;
        let outcome = begin(communicator, self.stream.cu_stream());
        communicator.begun(what, outcome, wait)?;
        self.ended.record(&self.stream).map_err(&failed)?;
        while !self.ended.try_is_complete().map_err(&failed)? {
            // The stream itself does not say that a member is gone: it would wait for ever.
            communicator.is_settled(what)?;
            wait.check(what, || "the others".to_owned())?;
            std::thread::sleep(LOOK);
        }
        let ms = self.began.elapsed_ms(&self.ended).map_err(&failed)?;
        Ok(Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3))
    }

    /// Waits a bounded time for the GPU to be done with the buffers; if it is not, they are never freed.
    fn let_go(&mut self) {
        let wait = Wait::new(ABORT_MS_MAX, None);
        let recorded = self.ended.record(&self.stream);
        let is_idle = loop {
            match recorded.and_then(|()| self.ended.try_is_complete()) {
                Ok(true) | Err(_) => break true,
                Ok(false) if wait.check("aborting", String::new).is_err() => break false,
                Ok(false) => std::thread::sleep(LOOK),
            }
        };
        if !is_idle {
            std::mem::forget((self.mine.take(), self.all.take()));
        }
    }

    /// A buffer of the GPU with room for `values`.
    fn room<'b>(
        stream: &Arc<CudaStream>,
        buffer: &'b mut Option<CudaSlice<f32>>,
        values: usize,
    ) -> Result<&'b mut CudaSlice<f32>, GroupError> {
        if buffer.as_ref().is_none_or(|buffer| buffer.len() < values) {
            *buffer = None;
            *buffer = Some(stream.alloc_zeros(values).map_err(driver("making room"))?);
        }
        buffer.as_mut().ok_or(GroupError::Broken)
    }
}

/// Not blocking; everything else is NCCL's choice.
fn configuration() -> ncclConfig_t {
    // SAFETY: numbers and pointers: zeros are a value of each; every field that is told is set below.
    let mut config: ncclConfig_t = unsafe { std::mem::zeroed() };
    config.size = offset_of!(ncclConfig_t, trafficClass);
    config.magic = CONFIG_MAGIC;
    config.version = CONFIG_VERSION;
    config.blocking = 0;
    config.cgaClusterSize = UNSET;
    config.minCTAs = UNSET;
    config.maxCTAs = UNSET;
    config.netName = ptr::null();
    config.splitShare = UNSET;
    config
}

impl Transport for NcclGroup {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn ranks(&self) -> u32 {
        self.ranks
    }

    fn broadcast(&mut self, root: u32, values: &mut [f32], wait: &Wait<'_>) -> Result<Duration, GroupError> {
        check_broadcast(root, self.ranks, values.len())?;
        let failed = driver("broadcast");
        let stream = Arc::clone(&self.stream);
        let buffer = Self::room(&stream, &mut self.mine, values.len())?;
        if root == self.rank {
            stream.memcpy_htod(values, &mut buffer.slice_mut(..values.len())).map_err(&failed)?;
        }
        let address = buffer.device_ptr_mut(&stream).0;
        let root = c_int::try_from(root).unwrap_or(c_int::MAX);
        let count = values.len();
        let time = self.timed("broadcast", wait, |communicator, stream| {
            let at = address as *mut c_void;
            // SAFETY: `at` is memory of this GPU with room for `count` floats, which is freed only after the stream is
            // done or the communicator aborted; sending in place is allowed.
            unsafe { (communicator.api.broadcast)(at, at, count, FLOAT, root, communicator.handle, stream) }
        })?;
        let buffer = self.mine.as_ref().ok_or(GroupError::Broken)?;
        stream.memcpy_dtoh(&buffer.slice(..count), values).map_err(&failed)?;
        stream.synchronize().map_err(&failed)?;
        Ok(time)
    }

    fn all_gather(&mut self, mine: &[f32], all: &mut [f32], wait: &Wait<'_>) -> Result<Duration, GroupError> {
        check_all_gather(self.ranks, mine.len(), all.len())?;
        let failed = driver("all-gather");
        let stream = Arc::clone(&self.stream);
        let buffer = Self::room(&stream, &mut self.mine, mine.len())?;
        stream.memcpy_htod(mine, &mut buffer.slice_mut(..mine.len())).map_err(&failed)?;
        let from = buffer.device_ptr(&stream).0;
        let to = Self::room(&stream, &mut self.all, all.len())?.device_ptr_mut(&stream).0;
        let count = mine.len();
        let time = self.timed("all-gather", wait, |communicator, stream| {
            // SAFETY: both are memory of this GPU: `count` floats, and `count` for each rank (checked above); they are
            // freed only after the stream is done or the communicator aborted.
            unsafe {
                (communicator.api.all_gather)(
                    from as *const c_void,
                    to as *mut c_void,
                    count,
                    FLOAT,
                    communicator.handle,
                    stream,
                )
            }
        })?;
        let buffer = self.all.as_ref().ok_or(GroupError::Broken)?;
        stream.memcpy_dtoh(&buffer.slice(..all.len()), all).map_err(&failed)?;
        stream.synchronize().map_err(&failed)?;
        Ok(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_nccl_says_so() {
        match unique_id() {
            Ok(id) => assert!(version().unwrap() >= VERSION_MIN && id.iter().any(|byte| *byte != 0)),
            Err(error) => assert!(error.to_string().starts_with("NCCL: "), "{error}"),
        }
    }

    #[test]
    fn the_configuration_is_that_of_the_header() {
        let config = configuration();
        assert_eq!((config.size, config.magic, config.blocking), (44, 0xcafe_beef, 0));
        assert_eq!(offset_of!(ncclConfig_t, splitShare), 40);
    }
}
