//! Payload memory that a node shares with its workers.
//!
//! One sealed memfd holds slots in a few size classes. The node allocates and frees; its book-keeping is private memory,
//! so a worker that writes where it should not can spoil payloads, never the allocator. A slot is freed by dropping its
//! handle, and only then can it be given out again: the type system, not a convention, says what is out.

mod memory;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use memory::SharedMemory;

/// One size class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlabClass {
    /// Bytes of one slot, a multiple of 4096.
    pub slot_bytes: u64,
    pub slots: u32,
}

/// The size classes of a slab, smallest first. Default: 4 KiB × 4096, 64 KiB × 512, 1 MiB × 96, 8 MiB × 24, 32 MiB × 4
/// (464 MiB of address space; memory is taken when first touched).
#[must_use]
pub fn default_classes() -> Vec<SlabClass> {
    [(4 << 10, 4096), (64 << 10, 512), (1 << 20, 96), (8 << 20, 24), (32 << 20, 4)]
        .map(|(slot_bytes, slots)| SlabClass { slot_bytes, slots })
        .to_vec()
}

/// Why there is no slot.
#[derive(Debug, Error)]
pub enum SlabError {
    #[error("shared memory of {bytes} bytes: {source}")]
    Create { bytes: u64, source: std::io::Error },
    #[error("size classes must rise and be multiples of 4096 bytes, with at least one slot each")]
    Classes,
    #[error("no slot of {bytes} bytes is free")]
    Exhausted { bytes: u64 },
    #[error("{bytes} bytes are more than the largest slot, {largest} bytes")]
    TooLarge { bytes: u64, largest: u64 },
}

struct Class {
    slot_bytes: u64,
    base: u64,
    slots: u32,
    /// Indices of free slots; the last freed is the next given out, while it is warm in the caches.
    free: Mutex<Vec<u32>>,
}

/// The node's side: memory and allocator.
pub struct Slab {
    memory: SharedMemory,
    classes: Vec<Class>,
    bytes_out: AtomicU64,
}

impl Slab {
    /// Creates the memory and touches the slots of up to 64 KiB, so that the first jobs do not pay for page faults.
    ///
    /// # Errors
    /// When the classes are not in order or the system gives no memory.
    pub fn create(classes: &[SlabClass]) -> Result<Arc<Self>, SlabError> {
        Self::create_on(classes, &[])
    }

    /// The same on these NUMA nodes, as far as the system allows: of one as long as it has memory, of several in turn.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_on(classes: &[SlabClass], numa_nodes: &[u32]) -> Result<Arc<Self>, SlabError> {
        let rising = classes.windows(2).all(|pair| pair[0].slot_bytes < pair[1].slot_bytes);
        let fit = classes.iter().all(|class| class.slot_bytes > 0 && class.slot_bytes % 4096 == 0 && class.slots > 0);
        if classes.is_empty() || !rising || !fit {
            return Err(SlabError::Classes);
        }
        let mut base = 0;
        let mut touched = 0;
        let mut built = Vec::with_capacity(classes.len());
        for class in classes {
            // The free list is reversed so that the first slot is given out first.
            let free = Mutex::new((0..class.slots).rev().collect());
            built.push(Class { slot_bytes: class.slot_bytes, base, slots: class.slots, free });
            base += class.slot_bytes * u64::from(class.slots);
            if class.slot_bytes <= 64 << 10 {
                touched = base;
            }
        }
        let memory = SharedMemory::create(base).map_err(|source| SlabError::Create { bytes: base, source })?;
        if let Err(error) = memory.place(numa_nodes) {
            tracing::debug!(?numa_nodes, %error, "payload memory comes from any NUMA node");
        }
        memory.populate(touched);
        Ok(Arc::new(Self { memory, classes: built, bytes_out: AtomicU64::new(0) }))
    }

    /// A slot of at least `bytes`, from the smallest class that fits; when that is exhausted, from the next one up, and
    /// no further: small jobs must not eat the large slots.
    ///
    /// # Errors
    /// [`SlabError::Exhausted`] when nothing is free, [`SlabError::TooLarge`] when nothing could ever fit.
    pub fn allocate(self: &Arc<Self>, bytes: u64) -> Result<Slot, SlabError> {
        let Some(first) = self.classes.iter().position(|class| class.slot_bytes >= bytes) else {
            let largest = self.classes.last().map_or(0, |class| class.slot_bytes);
            return Err(SlabError::TooLarge { bytes, largest });
        };
        for (number, class) in self.classes.iter().enumerate().skip(first).take(2) {
            if let Some(index) = class.free.lock().pop() {
                self.bytes_out.fetch_add(class.slot_bytes, Ordering::Relaxed);
                let offset = class.base + u64::from(index) * class.slot_bytes;
                return Ok(Slot { slab: Arc::clone(self), class: number, index, offset, bytes: class.slot_bytes });
            }
        }
        Err(SlabError::Exhausted { bytes })
    }

    /// The memory's descriptor, for a worker to map.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory.len()
    }

    /// Bytes of all slots that are out.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// Per class: bytes of a slot, how many there are, how many are out.
    #[must_use]
    pub fn usage(&self) -> Vec<(u64, u32, u32)> {
        let out = |class: &Class| class.slots - u32::try_from(class.free.lock().len()).unwrap_or(class.slots);
        self.classes.iter().map(|class| (class.slot_bytes, class.slots, out(class))).collect()
    }
}

/// One slot that is out. Dropping it gives it back.
pub struct Slot {
    slab: Arc<Slab>,
    class: usize,
    index: u32,
    offset: u64,
    bytes: u64,
}

impl Slot {
    /// Where it lies in the shared memory.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How much fits.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.bytes
    }

    /// Copies `data` to `at`; `false`, and nothing is written, when it does not fit.
    #[must_use]
    pub fn write(&mut self, at: u64, data: &[u8]) -> bool {
        match at.checked_add(data.len() as u64) {
            Some(end) if end <= self.bytes => self.slab.memory.write(self.offset + at, data),
            _ => false,
        }
    }

    /// The first `bytes` bytes, or all there are if fewer.
    #[must_use]
    pub fn read(&self, bytes: u64) -> &[u8] {
        self.slab.memory.read(self.offset, bytes.min(self.bytes)).unwrap_or(&[])
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let class = &self.slab.classes[self.class];
        self.slab.bytes_out.fetch_sub(class.slot_bytes, Ordering::Relaxed);
        class.free.lock().push(self.index);
    }
}

/// The leading bytes of a slot as an owner for zero-copy sends; the slot is given back when the last reference is gone.
pub struct SlotBytes {
    slot: Slot,
    bytes: u64,
}

impl SlotBytes {
    #[must_use]
    pub fn new(slot: Slot, bytes: u64) -> Self {
        Self { slot, bytes }
    }
}

impl AsRef<[u8]> for SlotBytes {
    fn as_ref(&self) -> &[u8] {
        self.slot.read(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Arc<Slab> {
        Slab::create(&[SlabClass { slot_bytes: 4096, slots: 2 }, SlabClass { slot_bytes: 65536, slots: 1 }]).unwrap()
    }

    #[test]
    fn a_slot_that_is_out_is_never_given_out_again() {
        let slab = small();
        let slots: Vec<_> = (0..3).map(|_| slab.allocate(100).unwrap()).collect();
        let mut spans: Vec<_> = slots.iter().map(|slot| (slot.offset(), slot.offset() + slot.capacity())).collect();
        spans.sort_unstable();
        assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{spans:?}");
        assert!(matches!(slab.allocate(1), Err(SlabError::Exhausted { .. })));
        assert_eq!(slab.bytes_out(), 4096 * 2 + 65536);
        drop(slots);
        assert_eq!(slab.bytes_out(), 0);
        assert!(slab.allocate(65536).is_ok());
        assert!(matches!(slab.allocate(65537), Err(SlabError::TooLarge { largest: 65536, .. })));
    }

    #[test]
    fn writes_stay_inside_the_slot() {
        let slab = small();
        let mut first = slab.allocate(4096).unwrap();
        let second = slab.allocate(4096).unwrap();
        assert!(first.write(4090, b"abcdef"));
        assert!(!first.write(4091, b"abcdef"));
        assert!(!first.write(u64::MAX, b"a"));
        assert_eq!(&first.read(4096)[4090..], b"abcdef");
        assert!(second.read(4096).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn many_threads_share_it_without_overlap() {
        let slab = Slab::create(&[SlabClass { slot_bytes: 4096, slots: 8 }]).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let slab = Arc::clone(&slab);
                scope.spawn(move || {
                    for _ in 0..5_000 {
                        let Ok(mut slot) = slab.allocate(64) else { continue };
                        assert!(slot.write(0, &[thread; 64]));
                        assert_eq!(slot.read(64), [thread; 64]);
                    }
                });
            }
        });
        assert_eq!(slab.bytes_out(), 0);
    }

    #[test]
    fn classes_out_of_order_are_refused() {
        let class = |slot_bytes| SlabClass { slot_bytes, slots: 1 };
        assert!(Slab::create(&[]).is_err());
        assert!(Slab::create(&[class(8192), class(4096)]).is_err());
        assert!(Slab::create(&[class(100)]).is_err());
    }
}
