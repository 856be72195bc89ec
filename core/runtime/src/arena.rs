//! Working memory: one span of bytes that a plan lays its values out in.

use deepseek_tensor::{Buffer, DType, Result, Tensor, ensure};
use std::ptr::NonNull;
use std::sync::Arc;

/// Working memory of one run at a time. Large ones are pages of their own, which go back
/// to the system with the arena and the last tensor over it.
pub(crate) struct Arena {
    base: NonNull<u8>,
    len: usize,
    buffer: Arc<Memory>,
}

/// Owns the bytes; the tensors over the arena share it.
struct Memory {
    #[expect(dead_code, reason = "kept for its drop; the bytes are reached through `Arena::base`")]
    buffer: std::cell::UnsafeCell<Buffer>,
}

// SAFETY: the bytes are reached only through the arena's base pointer: a kernel writes a
// block while no tensor over it is read (the plan gives overlapping lifetimes different
// bytes), and one run uses the arena at a time.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}
// SAFETY: `base` points into `buffer`, which moves along and is `Send`.
unsafe impl Send for Arena {}

impl Arena {
    /// `len` bytes.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(len: usize) -> Result<Self> {
        let mut buffer = Buffer::returning(len)?;
        let base = buffer.as_bytes_mut().expect("memory of our own is writable").as_mut_ptr();
        Ok(Arena {
            base: NonNull::new(base).expect("an allocation is not null"),
            len,
            buffer: Arc::new(Memory { buffer: buffer.into() }),
        })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether `ptr` points into the arena.
    pub fn contains(&self, ptr: *const u8) -> bool {
        let at = ptr.addr().wrapping_sub(self.base.as_ptr().addr());
        at < self.len
    }

    /// The `len` bytes at `offset` as an arena of their own.
    ///
    /// # Panics
    /// If they leave the arena.
    pub fn part(&self, offset: usize, len: usize) -> Arena {
        assert!(offset + len <= self.len, "a part leaves the arena");
        // SAFETY: offset is within the allocation, as just checked.
        let base = unsafe { self.base.add(offset) };
        Arena { base, len, buffer: self.buffer.clone() }
    }

    /// A tensor over part of the arena.
    ///
    /// # Errors
    /// `Internal` if it would leave the arena.
    pub fn tensor(&self, dtype: DType, shape: &[usize], offset: usize) -> Result<Tensor> {
        let bytes = dtype.bytes_for(deepseek_tensor::num_elements(shape)?)?;
        ensure!(
            offset.checked_add(bytes).is_some_and(|end| end <= self.len),
            Internal,
            "a value of {bytes} bytes at {offset} leaves the arena of {}",
            self.len
        );
        // SAFETY: offset is within the allocation, as just checked.
        let ptr = unsafe { self.base.add(offset) };
        // SAFETY: the memory lives as long as the shared owner. It is written again only after
        // the plan has dropped the tensors over this block.
        let buffer = unsafe { Buffer::foreign(ptr, bytes, Box::new(self.buffer.clone()), false) };
        // SAFETY: the range is the whole buffer; blocks are aligned; a value is read only after
        // its node has written it.
        unsafe { Tensor::from_buffer_unchecked(dtype, shape, Arc::new(buffer), 0) }
    }

    /// `bytes` bytes at `offset` as floats.
    ///
    /// # Safety
    /// `offset` is a multiple of four, and nobody else uses these bytes while the slice lives,
    /// nor does it outlive the arena.
    pub unsafe fn floats<'s>(&self, offset: usize, bytes: usize) -> &'s mut [f32] {
        assert!(offset + bytes <= self.len, "scratch leaves the arena");
        // SAFETY: the range is inside the allocation, whose bytes are all initialised; the rest
        // is the caller's promise.
        unsafe {
            let ptr = self.base.add(offset);
            std::slice::from_raw_parts_mut(ptr.as_ptr().cast(), bytes / size_of::<f32>())
        }
    }
}
