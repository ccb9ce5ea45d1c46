//! The end of a process that used a device.
#![allow(unsafe_code, reason = "ends the process without what libraries want to do at its end")]

/// Ends the process at once with this exit status, as `exit` would, but runs no destructor of any library.
///
/// Other threads may be in the middle of a computation when one of them ends a worker. What CUDA's libraries and ONNX Runtime
/// tear down at an ordinary end is then still in use, and even without that their order is known to end in a crash; after
/// an error that broke the GPU for the process it may also wait for ever. Nothing is lost: memory, files and the place on the
/// GPU are the kernel's and the driver's to take back.
pub fn leave(status: u8) -> ! {
    // SAFETY: takes a number and does not come back.
    unsafe { libc::_exit(i32::from(status)) }
}
