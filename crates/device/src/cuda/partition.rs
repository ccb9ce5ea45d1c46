//! What a stream that fills the GPU does to small work on another stream, and what keeps them apart: nothing, priorities,
//! or green contexts, each with multiprocessors of its own. A measurement; nothing in the product divides a GPU.
#![allow(unsafe_code, reason = "calls of the CUDA driver for green contexts, which cudarc offers without a safe form")]

use std::ffi::{c_uint, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUgreenCtx, CUlibrary, CUstream};
use cudarc::driver::{CudaContext, DriverError, result};
use serde::{Deserialize, Serialize};

use super::cache::CubinCache;
use super::compile::{Arch, Nvrtc};
use super::kernels::PARTITION;
use super::launch::LaunchError;

/// Pieces of small work for each way.
const PIECES: usize = 500;
/// Between two of them.
const PIECE_EVERY: Duration = Duration::from_millis(2);
/// How long a small piece takes alone: one small block each on some multiprocessors.
const PIECE_US: u64 = 20;
const PIECE_BLOCKS: u32 = 4;
const PIECE_THREADS: u32 = 128;
/// How long a block of the work that fills the GPU takes, how many rounds of blocks a launch has, and launches in a queue.
const FILL_US: u64 = 100;
const FILL_ROUNDS: u32 = 4;
const FILL_THREADS: u32 = 1024;
const FILL_QUEUE: u32 = 4;
/// A multiprocessor's clock where the driver does not tell it, in kHz.
const CLOCK_KHZ: u32 = 1_500_000;
/// Multiprocessors that the small work is to have for itself.
const KEPT_PROCESSORS: u32 = 16;

/// How long small work took beside work that fills the GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Apart {
    /// `alone`, `same_priority`, `priorities` or `green_contexts`.
    pub name: String,
    /// From launch to end, in microseconds; 0 where the driver cannot, and then `problem` says why.
    pub p50_us: f64,
    pub p99_us: f64,
    /// Launches a second of the work that fills the GPU.
    pub fill_per_s: f64,
    /// Multiprocessors of the small work and of the other.
    pub processors: (u32, u32),
    pub problem: Option<String>,
}

fn failed(what: &'static str) -> impl Fn(DriverError) -> LaunchError {
    move |error| LaunchError::Driver { what, error }
}

/// Kernels of no particular context: they run where their stream does.
struct Loaded {
    library: CUlibrary,
    kernel: sys::CUkernel,
}

// SAFETY: handles of the driver, which may be used from any thread.
unsafe impl Sync for Loaded {}

impl Loaded {
    fn new(cubin: &[u8]) -> Result<Self, DriverError> {
        let mut library = ptr::null_mut();
        let none = ptr::null_mut;
        // SAFETY: a whole cubin (the driver copies it), no options, and the result in a local variable.
        unsafe {
            sys::cuLibraryLoadData(
                &raw mut library,
                cubin.as_ptr().cast(),
                ptr::null_mut(),
                none(),
                0,
                ptr::null_mut(),
                none(),
                0,
            )
        }
        .result()?;
        let mut loaded = Self { library, kernel: ptr::null_mut() };
        // SAFETY: the library is loaded, the name ends with a zero, and the result is of this value.
        unsafe { sys::cuLibraryGetKernel(&raw mut loaded.kernel, library, c"wait_clocks".as_ptr()) }.result()?;
        Ok(loaded)
    }

    fn launch(&self, stream: &Stream, blocks: u32, threads: u32, clocks: u64) -> Result<(), DriverError> {
        let mut clocks = clocks;
        let mut arguments = [(&raw mut clocks).cast::<c_void>()];
        // SAFETY: the kernel takes one number of 64 bits, which is copied during the call; a kernel of a library may be
        // given in place of a function.
        unsafe {
            sys::cuLaunchKernel(
                self.kernel.cast(),
                blocks,
                1,
                1,
                threads,
                1,
                1,
                0,
                stream.stream,
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        }
        .result()
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: loaded by `new`, and its work is done: streams are waited for before they go.
        let _ = unsafe { sys::cuLibraryUnload(self.library) };
    }
}

/// Some of a GPU's multiprocessors.
struct Green(CUgreenCtx);

// SAFETY: a handle of the driver, which may be used from any thread.
unsafe impl Send for Green {}
// SAFETY: as above.
unsafe impl Sync for Green {}

impl Green {
    fn new(context: &CudaContext, resource: &mut sys::CUdevResource) -> Result<Arc<Self>, DriverError> {
        let mut description = ptr::null_mut();
        // SAFETY: one resource, as the driver gave it; the result goes to a local variable.
        unsafe { sys::cuDevResourceGenerateDesc(&raw mut description, resource, 1) }.result()?;
        let mut green = ptr::null_mut();
        let flags = sys::CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM as c_uint;
        // SAFETY: a description of this device's resources; the result goes to a local variable.
        unsafe { sys::cuGreenCtxCreate(&raw mut green, description, context.cu_device(), flags) }.result()?;
        Ok(Arc::new(Self(green)))
    }
}

impl Drop for Green {
    fn drop(&mut self) {
        // SAFETY: made by `new`; its streams, which hold it, are gone.
        let _ = unsafe { sys::cuGreenCtxDestroy(self.0) };
    }
}

/// A stream, with the green context that it belongs to, if it does.
struct Stream {
    stream: CUstream,
    /// Goes after the stream.
    _green: Option<Arc<Green>>,
}

// SAFETY: handles of the driver, which may be used from any thread.
unsafe impl Sync for Stream {}
// SAFETY: as above.
unsafe impl Send for Stream {}

impl Stream {
    fn new(priority: i32) -> Result<Self, DriverError> {
        let mut stream = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
        // SAFETY: a context is current, and the result goes to a local variable.
        unsafe { sys::cuStreamCreateWithPriority(&raw mut stream, flags, priority) }.result()?;
        Ok(Self { stream, _green: None })
    }

    /// A stream whose work runs on these multiprocessors and no others.
    fn green(green: &Arc<Green>) -> Result<Self, DriverError> {
        let mut stream = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
        // SAFETY: the green context is alive, and goes after the stream; the result goes to a local variable.
        unsafe { sys::cuGreenCtxStreamCreate(&raw mut stream, green.0, flags, 0) }.result()?;
        Ok(Self { stream, _green: Some(Arc::clone(green)) })
    }

    fn is_done(&self) -> Result<bool, DriverError> {
        // SAFETY: the stream is alive.
        match unsafe { sys::cuStreamQuery(self.stream) }.result() {
            Ok(()) => Ok(true),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the stream is alive.
        unsafe { sys::cuStreamSynchronize(self.stream) }.result()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.wait();
        // SAFETY: made by this type, and done.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.stream) };
    }
}

/// Multiprocessors for the small work, and all others.
fn split(context: &CudaContext) -> Result<(sys::CUdevResource, sys::CUdevResource), DriverError> {
    // SAFETY: plain data of the driver, which the calls below fill.
    let [mut all, mut kept, mut others]: [sys::CUdevResource; 3] = unsafe { std::mem::zeroed() };
    let kind = sys::CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM;
    // SAFETY: the result goes to a local variable.
    unsafe { sys::cuDeviceGetDevResource(context.cu_device(), &raw mut all, kind) }.result()?;
    let mut groups = 1;
    // SAFETY: room for one group, as `groups` says; all point to local variables.
    unsafe {
        sys::cuDevSmResourceSplitByCount(
            &raw mut kept,
            &raw mut groups,
            &raw const all,
            &raw mut others,
            0,
            KEPT_PROCESSORS,
        )
    }
    .result()?;
    Ok((kept, others))
}

fn processors_of(resource: &sys::CUdevResource) -> u32 {
    // SAFETY: only resources of multiprocessors are made here.
    unsafe { resource.__bindgen_anon_1.sm.smCount }
}

/// Measures each way.
///
/// # Errors
/// When the kernel cannot be compiled, or the driver refuses what every driver can. Without green contexts the last way
/// says so.
pub fn measure(context: &Arc<CudaContext>, nvrtc: &Nvrtc, cache: &CubinCache) -> Result<Vec<Apart>, LaunchError> {
    context.bind_to_thread().map_err(failed("a measurement"))?;
    let number = |attribute| -> Result<u32, LaunchError> {
        let value = context.attribute(attribute).map_err(failed("asking for the GPU's properties"))?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    let arch = Arch {
        major: number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        minor: number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    };
    let processors = number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let threads = number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?;
    // Where it is not told, times are not exact, and the same for all ways.
    let khz = number(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE).ok().filter(|khz| *khz > 0).unwrap_or(CLOCK_KHZ);
    let loaded = Loaded::new(&cache.cubin(nvrtc, &PARTITION, arch)?.bytes).map_err(failed("loading a kernel"))?;
    let work = Work {
        context,
        loaded: &loaded,
        clocks_per_us: (u64::from(khz) / 1000).max(1),
        fill_blocks: processors * (threads / FILL_THREADS).max(1) * FILL_ROUNDS,
    };
    let all = (processors, processors);
    let (least, greatest) = result::stream::get_priority_range().map_err(failed("a measurement"))?;
    let streams = |small, fill| -> Result<(Stream, [Stream; 2]), DriverError> {
        Ok((Stream::new(small)?, [Stream::new(fill)?, Stream::new(fill)?]))
    };
    let (small, fill) = streams(least, least).map_err(failed("making streams"))?;
    let mut found = vec![work.run("alone", &small, None, all)?, work.run("same_priority", &small, Some(&fill), all)?];
    drop((small, fill));
    let (small, fill) = streams(greatest, least).map_err(failed("making streams"))?;
    found.push(work.run("priorities", &small, Some(&fill), all)?);
    drop((small, fill));
    found.push(
        match split(context).and_then(|(mut kept, mut others)| {
            let counts = (processors_of(&kept), processors_of(&others));
            let (kept, others) = (Green::new(context, &mut kept)?, Green::new(context, &mut others)?);
            Ok((Stream::green(&kept)?, [Stream::green(&others)?, Stream::green(&others)?], counts))
        }) {
            Ok((small, fill, counts)) => work.run("green_contexts", &small, Some(&fill), counts)?,
            Err(error) => Apart {
                name: "green_contexts".to_owned(),
                p50_us: 0.0,
                p99_us: 0.0,
                fill_per_s: 0.0,
                processors: (0, 0),
                problem: Some(format!("this driver or GPU does not make green contexts: {error}")),
            },
        },
    );
    Ok(found)
}

struct Work<'a> {
    context: &'a Arc<CudaContext>,
    loaded: &'a Loaded,
    clocks_per_us: u64,
    fill_blocks: u32,
}

impl Work<'_> {
    /// Small pieces one after the other, beside work that fills the GPU on two streams in turn, so that one always has some.
    fn run(
        &self,
        name: &str,
        small: &Stream,
        fill: Option<&[Stream; 2]>,
        processors: (u32, u32),
    ) -> Result<Apart, LaunchError> {
        // The driver loads a kernel into a context at its first launch there, which must not wait for a GPU that is full.
        let warm_up = |stream: &Stream| self.loaded.launch(stream, 1, 1, 1).and_then(|()| stream.wait());
        std::iter::once(small)
            .chain(fill.into_iter().flatten())
            .try_for_each(warm_up)
            .map_err(failed("a first launch"))?;
        let (stop, launches) = (AtomicBool::new(false), AtomicU64::new(0));
        let began = Instant::now();
        let (pieces, filled) = thread::scope(|scope| {
            let filling = fill.map(|fill| scope.spawn(|| self.fill(fill, &stop, &launches)));
            let pieces = self.pieces(small, fill.is_some());
            stop.store(true, Ordering::Relaxed);
            (pieces, filling.map(thread::ScopedJoinHandle::join))
        });
        let seconds = began.elapsed().as_secs_f64();
        let mut times = pieces.map_err(failed("running small work"))?;
        match filled {
            Some(Ok(outcome)) => outcome.map_err(failed("filling the GPU"))?,
            None => {}
            Some(Err(_)) => return Err(failed("filling the GPU")(DriverError(sys::CUresult::CUDA_ERROR_UNKNOWN))),
        }
        times.sort_by(f64::total_cmp);
        #[expect(clippy::cast_precision_loss, reason = "a rate for display")]
        let fill_per_s = launches.load(Ordering::Relaxed) as f64 / seconds;
        Ok(Apart {
            name: name.to_owned(),
            p50_us: times[PIECES / 2],
            p99_us: times[(PIECES - 1) * 99 / 100],
            fill_per_s,
            processors,
            problem: None,
        })
    }

    fn fill(&self, streams: &[Stream; 2], stop: &AtomicBool, launches: &AtomicU64) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        let queue = |stream: &Stream| {
            (0..FILL_QUEUE).try_for_each(|_| {
                launches.fetch_add(1, Ordering::Relaxed);
                self.loaded.launch(stream, self.fill_blocks, FILL_THREADS, FILL_US * self.clocks_per_us)
            })
        };
        streams.iter().try_for_each(queue)?;
        while !stop.load(Ordering::Relaxed) {
            for stream in streams {
                stream.wait()?;
                queue(stream)?;
            }
        }
        streams.iter().try_for_each(Stream::wait)
    }

    /// Times from launch to end, in microseconds.
    fn pieces(&self, stream: &Stream, is_beside: bool) -> Result<Vec<f64>, DriverError> {
        self.context.bind_to_thread()?;
        let clocks = PIECE_US * self.clocks_per_us;
        let mut times = Vec::with_capacity(PIECES);
        if is_beside {
            thread::sleep(Duration::from_millis(50));
        }
        for _ in 0..PIECES {
            let began = Instant::now();
            self.loaded.launch(stream, PIECE_BLOCKS, PIECE_THREADS, clocks)?;
            while !stream.is_done()? {
                std::hint::spin_loop();
            }
            times.push(began.elapsed().as_secs_f64() * 1e6);
            thread::sleep(PIECE_EVERY);
        }
        Ok(times)
    }
}
