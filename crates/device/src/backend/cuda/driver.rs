//! The driver, as far as it is called from here: presence, context, streams, pinned memory, copies.
//!
//! Everything that `cudarc` offers only as a raw call is wrapped here, and nowhere else.
#![allow(unsafe_code, reason = "calls of the CUDA driver that cudarc offers without a safe form")]

use std::ffi::c_void;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUdeviceptr};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, DriverError, LaunchConfig, PinnedHostSlice, result,
};
use cudarc::nvrtc::Ptx;

use super::fault::{GpuFault, check_driver_version};
use crate::slab::SharedMemory;

/// The libraries that ONNX Runtime's CUDA provider needs, those that others need first, and what brings them.
const LIBRARIES: [(&str, &str); 5] = [
    ("libcudart.so.13", "the CUDA 13 runtime"),
    ("libcublasLt.so.13", "cuBLAS of CUDA 13"),
    ("libcublas.so.13", "cuBLAS of CUDA 13"),
    ("libcurand.so.10", "cuRAND of CUDA 13"),
    ("libcudnn.so.9", "cuDNN 9 for CUDA 13"),
];

/// The driver's code in a number.
pub(super) fn code(error: DriverError) -> u32 {
    error.0 as u32
}

/// That there is a driver, and that it is new enough. Asked before anything else: cudarc panics without a driver.
pub(super) fn check_driver() -> Result<(), GpuFault> {
    // SAFETY: only looks for the library and opens it.
    if !unsafe { sys::is_culib_present() } {
        return Err(GpuFault::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the library is there (just checked), and the result goes to a local variable; may be called before cuInit.
    let outcome = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    outcome.map_err(|error| GpuFault::of_code(code(error), "asking for the driver's version", ""))?;
    check_driver_version(version)
}

/// That the provider's libraries can be loaded. They stay loaded: the provider finds them by their names.
pub(super) fn check_libraries() -> Result<(), GpuFault> {
    match LIBRARIES.into_iter().find(|(library, _)| missing([library]).is_some()) {
        Some((library, package)) => Err(GpuFault::LibraryMissing { library: library.to_owned(), package }),
        None => Ok(()),
    }
}

/// The first of these libraries of NVIDIA's that cannot be loaded. Those that can stay loaded.
pub(super) fn missing<const COUNT: usize>(libraries: [&'static str; COUNT]) -> Option<&'static str> {
    libraries.into_iter().find(|library| {
        // SAFETY: NVIDIA's libraries, whose initialisers do nothing but set themselves up; ONNX Runtime would load the same.
        match unsafe { libloading::Library::new(*library) } {
            Ok(loaded) => {
                std::mem::forget(loaded);
                false
            }
            Err(_) => true,
        }
    })
}

/// The context of the only GPU that this process sees, `uuid`.
pub(super) fn open(uuid: &str) -> Result<Arc<CudaContext>, GpuFault> {
    let fault = |error: DriverError| GpuFault::of_code(code(error), "opening the GPU", uuid);
    let context = CudaContext::new(0).map_err(fault)?;
    // A slice's own identifier is not given for it; a whole GPU's is, and must be the planned one.
    let found = format!("GPU-{}", hyphenated(context.uuid().map_err(fault)?.bytes));
    if uuid.starts_with("GPU-") && !uuid.eq_ignore_ascii_case(&found) {
        return Err(GpuFault::NotFound { uuid: uuid.to_owned() });
    }
    // SAFETY: this code orders its streams with events of its own.
    unsafe { context.disable_event_tracking() };
    Ok(context)
}

/// Bytes as in `8-4-4-4-12` hexadecimal digits.
fn hyphenated(bytes: [std::ffi::c_char; 16]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.into_iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let [byte] = byte.to_ne_bytes();
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A lane's streams: one to compute, with the lane's priority, and one for each way of copying.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) compute: Arc<CudaStream>,
    pub(super) upload: Arc<CudaStream>,
    pub(super) download: Arc<CudaStream>,
    /// Uploads are done; the computation is done.
    pub(super) uploaded: CudaEvent,
    pub(super) computed: CudaEvent,
}

impl Streams {
    /// `choose` gives the priority, between the device's least and greatest.
    pub(super) fn new(context: &Arc<CudaContext>, choose: impl Fn(i32, i32) -> i32) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        let (least, greatest) = result::stream::get_priority_range()?;
        let priority = choose(least, greatest);
        let stream = || context.new_stream_with_priority(priority);
        Ok(Self {
            compute: stream()?,
            upload: stream()?,
            download: stream()?,
            uploaded: context.new_event(None)?,
            computed: context.new_event(None)?,
        })
    }

    /// What is computed from here on waits for what was uploaded.
    pub(super) fn compute_after_upload(&self) -> Result<(), DriverError> {
        self.uploaded.record(&self.upload)?;
        self.compute.wait(&self.uploaded)
    }

    /// What is downloaded from here on waits for what was computed.
    pub(super) fn download_after_compute(&self) -> Result<(), DriverError> {
        self.computed.record(&self.compute)?;
        self.download.wait(&self.computed)
    }
}

/// A kernel that writes to an address where nothing is. As text for the driver, so that no compiler is needed for it; what
/// NVRTC 13.0 makes for compute capability 7.5 of the line of CUDA C in its comment.
const ILLEGAL: &str = include_str!("../../../kernels/illegal.ptx");

/// Lets the GPU write to memory that is not there and waits until it has. The error is the point: it is a sticky one, and
/// nothing of this process runs on the GPU after it.
pub(super) fn access_illegally(stream: &Arc<CudaStream>) -> Result<(), DriverError> {
    let module = stream.context().load_module(Ptx::from_src(ILLEGAL))?;
    let kernel = module.load_function("illegal")?;
    let one = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the kernel takes no arguments, and harms no memory: the address that it writes to is never mapped.
    unsafe { stream.launch_builder(&kernel).launch(one) }?;
    stream.synchronize()
}

/// Tensors, images and lists in pinned and device memory start at multiples of this many bytes.
const ALIGNMENT_BYTES: usize = 256;

pub(super) const fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT_BYTES)
}

/// Memory of this process that the GPU reads and writes by itself.
pub(super) struct Staging {
    context: Arc<CudaContext>,
    memory: Option<PinnedHostSlice<u8>>,
}

impl Staging {
    pub(super) fn new(context: &Arc<CudaContext>) -> Self {
        Self { context: Arc::clone(context), memory: None }
    }

    /// At least `bytes` bytes, with whatever was in them. Nothing may be on its way from or to what was given before.
    pub(super) fn of(&mut self, bytes: usize) -> Result<&mut [u8], DriverError> {
        if self.memory.as_ref().is_none_or(|memory| memory.len() < bytes) {
            self.memory = None;
            // Flags 0: ordinary cached memory, which the CPU can read at its usual speed.
            // SAFETY: the bytes are set before anything reads them, right below.
            let mut memory =
                unsafe { self.context.alloc_pinned_with_flags::<u8>(bytes.next_power_of_two().max(4096), 0)? };
            memory.as_mut_slice()?.fill(0);
            self.memory = Some(memory);
        }
        match &mut self.memory {
            Some(memory) => memory.as_mut_slice(),
            None => Ok(&mut []),
        }
    }
}

/// Starts copying `from` to the GPU's memory at `to`.
///
/// # Safety
/// `to` has room for it; `from` stays as it is, and both stay allocated, until the stream has been waited for.
pub(super) unsafe fn upload(stream: &CudaStream, from: &[u8], to: CUdeviceptr) -> Result<(), DriverError> {
    stream.context().bind_to_thread()?;
    // SAFETY: by the caller's promise.
    unsafe { result::memcpy_htod_async(to, from, stream.cu_stream()) }
}

/// Starts copying from the GPU's memory at `from`.
///
/// # Safety
/// As many bytes lie at `from` as `to` has; both stay allocated and nobody else uses `to` until the stream has been waited
/// for.
pub(super) unsafe fn download(stream: &CudaStream, from: CUdeviceptr, to: &mut [u8]) -> Result<(), DriverError> {
    stream.context().bind_to_thread()?;
    // SAFETY: by the caller's promise.
    unsafe { result::memcpy_dtoh_async(to, from, stream.cu_stream()) }
}

/// Values on the device that somebody else allocated, lent to kernels. It frees nothing.
pub(super) struct Foreign<T>(ManuallyDrop<CudaSlice<T>>);

impl<T> Foreign<T> {
    /// # Safety
    /// `values` values that mean something as `T` lie at `address` for as long as this value and what was queued with it live.
    pub(super) unsafe fn new(stream: &Arc<CudaStream>, address: CUdeviceptr, values: usize) -> Self {
        // SAFETY: by the caller's promise; `drop` keeps it from being freed.
        Self(ManuallyDrop::new(unsafe { stream.upgrade_device_ptr(address, values) }))
    }
}

impl<T> Deref for Foreign<T> {
    type Target = CudaSlice<T>;

    fn deref(&self) -> &CudaSlice<T> {
        &self.0
    }
}

impl<T> DerefMut for Foreign<T> {
    fn deref_mut(&mut self) -> &mut CudaSlice<T> {
        &mut self.0
    }
}

impl<T> Drop for Foreign<T> {
    fn drop(&mut self) {
        // SAFETY: taken once, here.
        let slice = unsafe { ManuallyDrop::take(&mut self.0) };
        let _ = slice.leak();
    }
}

/// Payload memory that the GPU may read without a copy of its own, for as long as this value lives.
pub struct PinnedSlab {
    context: Arc<CudaContext>,
    /// Keeps the mapping until it has been given back to the driver.
    memory: Arc<SharedMemory>,
}

impl PinnedSlab {
    /// Pins all of `memory`: its pages are taken, and stay where they are.
    pub(super) fn register(context: &Arc<CudaContext>, memory: Arc<SharedMemory>) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        let attribute = Attribute::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED;
        let read_only = if context.attribute(attribute)? > 0 { sys::CU_MEMHOSTREGISTER_READ_ONLY } else { 0 };
        let (start, bytes) = memory.span_of_all();
        let register = |flags| {
            // SAFETY: the mapping is whole pages, and lives until this value has unregistered it.
            unsafe { sys::cuMemHostRegister_v2(start.as_ptr().cast::<c_void>(), bytes, flags) }.result()
        };
        // Some drivers take the read-only flag for memory that the process may not write either.
        register(sys::CU_MEMHOSTREGISTER_PORTABLE | read_only)
            .or_else(|_| register(sys::CU_MEMHOSTREGISTER_PORTABLE))?;
        Ok(Self { context: Arc::clone(context), memory })
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &SharedMemory {
        &self.memory
    }
}

impl fmt::Debug for PinnedSlab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedSlab of {} bytes", self.memory.len())
    }
}

impl Drop for PinnedSlab {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            let (start, _) = self.memory.span_of_all();
            // SAFETY: registered by `register`, and the mapping is still there.
            let _ = unsafe { sys::cuMemHostUnregister(start.as_ptr().cast::<c_void>()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_written_as_the_driver_writes_them() {
        let bytes = std::array::from_fn(|at| std::ffi::c_char::from_ne_bytes([u8::try_from(at * 17).unwrap()]));
        assert_eq!(hyphenated(bytes), "00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn a_machine_without_a_driver_says_so() {
        // SAFETY: only looks for the library.
        if !unsafe { sys::is_culib_present() } {
            assert_eq!(check_driver(), Err(GpuFault::NoDriver));
        }
    }
}
