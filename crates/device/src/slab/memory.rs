//! The shared mapping itself: the only place that turns offsets into pointers.
#![allow(unsafe_code, reason = "maps shared memory and hands out slices of it")]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Most NUMA nodes that the kernel is told of.
const NODES_MAX: u32 = 1024;

/// A mapping of a sealed memfd.
pub struct SharedMemory {
    fd: OwnedFd,
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is plain memory that lives as long as the value; slices of it are handed out under the rules of
// `Slab` (a slot has one owner), so threads never write the same bytes at once.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// New memory of `bytes` bytes that can neither shrink nor grow.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(bytes: u64) -> io::Result<Self> {
        let fd = rustix::fs::memfd_create("sensorium-slab", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, bytes)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(fd, bytes)
    }

    /// Maps memory that another process made.
    ///
    /// # Errors
    /// When it is shorter than `bytes`, could shrink, or cannot be mapped.
    pub fn map(fd: OwnedFd, bytes: u64) -> io::Result<Self> {
        let invalid = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text);
        if u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0) < bytes {
            return Err(invalid("the shared memory is shorter than announced"));
        }
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK) {
            return Err(invalid("the shared memory is not sealed against shrinking"));
        }
        let bytes = usize::try_from(bytes).map_err(|_| invalid("the shared memory does not fit the address space"))?;
        // SAFETY: a fresh mapping at an address that the kernel chooses; the seal keeps the file from shrinking under it.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &fd, 0)?
        };
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| invalid("mapped at address 0"))?;
        // Huge pages are best effort: they save page faults and a little of each copy where the host allows them.
        // SAFETY: advice about a mapping that was just made.
        let _ = unsafe { rustix::mm::madvise(base.as_ptr().cast::<c_void>(), bytes, Advice::LinuxHugepage) };
        Ok(Self { fd, base, bytes })
    }

    /// Pages that are touched from now on, by whichever process, come from these NUMA nodes: of one as long as it has some,
    /// of several in turn. None = from wherever the kernel likes.
    ///
    /// # Errors
    /// What the kernel says; a container may forbid it, and a node may not exist.
    pub fn place(&self, nodes: &[u32]) -> io::Result<()> {
        let mut mask = [0_u64; (NODES_MAX / u64::BITS) as usize];
        for node in nodes {
            let word = mask.get_mut((node / u64::BITS) as usize).ok_or(io::ErrorKind::InvalidInput)?;
            *word |= 1 << (node % u64::BITS);
        }
        let mode = match nodes {
            [] => return Ok(()),
            // Not bound: payloads elsewhere are better than none.
            [_] => libc::MPOL_PREFERRED,
            _ => libc::MPOL_INTERLEAVE,
        };
        // One more than the bits that count: the kernel leaves the last one out.
        let bits = libc::c_ulong::from(NODES_MAX + 1);
        let flags: libc::c_uint = 0;
        // SAFETY: the range is our own mapping, and the kernel reads `bits` - 1 bits of the array, which has as many. The
        // policy belongs to the shared memory itself, and moves no page that is there already.
        let outcome =
            unsafe { libc::syscall(libc::SYS_mbind, self.base.as_ptr(), self.bytes, mode, mask.as_ptr(), bits, flags) };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Touches the first `bytes` bytes. Best effort: what is not touched now is touched by its first use.
    pub fn populate(&self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(self.bytes).min(self.bytes);
        if bytes > 0 {
            // SAFETY: advice about the start of our own mapping.
            let _ =
                unsafe { rustix::mm::madvise(self.base.as_ptr().cast::<c_void>(), bytes, Advice::LinuxPopulateWrite) };
        }
    }

    /// Where all of it lies in this process, for registration with a device. Nobody reads or writes through this pointer.
    pub fn span_of_all(&self) -> (NonNull<u8>, usize) {
        (self.base, self.bytes)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn len(&self) -> u64 {
        self.bytes as u64
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn span(&self, offset: u64, bytes: u64) -> Option<(usize, usize)> {
        let end = offset.checked_add(bytes)?;
        (end <= self.len()).then_some((usize::try_from(offset).ok()?, usize::try_from(bytes).ok()?))
    }

    /// `bytes` bytes at `offset`, or `None` outside the mapping. The caller owns these bytes for the slice's life.
    pub fn read(&self, offset: u64, bytes: u64) -> Option<&[u8]> {
        let (offset, bytes) = self.span(offset, bytes)?;
        // SAFETY: inside the mapping (checked), initialised (the kernel zeroes it), and nobody writes these bytes while
        // the slot's owner reads them.
        Some(unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset), bytes) })
    }

    /// Copies `data` to `offset`; `false` outside the mapping.
    pub fn write(&self, offset: u64, data: &[u8]) -> bool {
        let Some((offset, bytes)) = self.span(offset, data.len() as u64) else { return false };
        // SAFETY: inside the mapping (checked); `data` is private memory or another slot, so the two do not overlap
        // unless they are the same slot, which has one owner.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.base.as_ptr().add(offset), bytes) };
        true
    }

    /// `bytes` writable bytes at `offset`, or `None` outside the mapping.
    ///
    /// # Safety
    /// The caller must be the only one that uses these bytes: a worker may do so with the output slot that the node
    /// assigned to the run it is at, once per run. Runs of one job, its slices among them, follow each other.
    #[expect(
        clippy::mut_from_ref,
        reason = "the memory is shared between processes; exclusivity is the caller's promise"
    )]
    pub unsafe fn write_access(&self, offset: u64, bytes: u64) -> Option<&mut [u8]> {
        let (offset, bytes) = self.span(offset, bytes)?;
        // SAFETY: inside the mapping (checked), exclusive by the caller's promise.
        Some(unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(offset), bytes) })
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and no slice outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast::<c_void>(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_can_be_placed_on_nodes_that_exist() {
        let memory = SharedMemory::create(1 << 20).unwrap();
        assert!(memory.place(&[]).is_ok());
        assert!(memory.place(&[NODES_MAX]).is_err());
        // A container may forbid it; then it is an error, and the memory works all the same.
        let _ = memory.place(&[0]);
        memory.populate(1 << 20);
        assert!(memory.write(5, b"placed"));
        assert_eq!(memory.read(5, 6), Some(&b"placed"[..]));
    }
}
