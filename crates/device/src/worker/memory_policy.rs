//! Where the memory of this process comes from.
#![allow(unsafe_code, reason = "a system call that no library wraps for single threads")]

use std::io;

/// Most NUMA nodes that the kernel is told of.
const NODES_MAX: u32 = 1024;
const BITS: u32 = u64::BITS;

/// Memory that this thread touches first, and threads that it starts from now on, comes from NUMA node `node` as long as
/// that has some. Shared memory that the node process has touched stays where it is.
///
/// # Errors
/// What the kernel says; a container may forbid it.
pub(super) fn prefer(node: u32) -> io::Result<()> {
    let mut nodes = [0_u64; (NODES_MAX / BITS) as usize];
    let word = nodes.get_mut((node / BITS) as usize).ok_or(io::ErrorKind::InvalidInput)?;
    *word = 1 << (node % BITS);
    // One more than the bits that count: the kernel leaves the last one out.
    let bits = libc::c_ulong::from(NODES_MAX + 1);
    // SAFETY: the kernel reads `bits` - 1 bits of the array, which has as many.
    let outcome = unsafe { libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_PREFERRED, nodes.as_ptr(), bits) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_cannot_be_is_an_error() {
        assert!(prefer(NODES_MAX).is_err());
        assert!(prefer(NODES_MAX - 1).is_err());
    }
}
