//! Bytes with an owner.
//!
//! A [`Buffer`] is either memory that the library allocated (64-byte aligned,
//! zeroed) or memory that somebody else owns: a mapped file, an arena, a caller's
//! array with a release callback. Whoever the owner is, it lives until the last
//! tensor over it is gone.

use crate::{Element, Result, err};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Alignment, in bytes, of memory that the library allocates: one cache line,
/// and the widest vector register.
pub const ALIGNMENT: usize = 64;

/// Spans of at least this many bytes get pages of their own in [`Buffer::returning`].
#[cfg(unix)]
const PAGES_FROM: usize = 256 * 1024;

/// A span of bytes and what keeps it alive.
pub struct Buffer {
    ptr: NonNull<u8>,
    len: usize,
    owner: Owner,
}

enum Owner {
    Heap(Layout),
    /// Pages of an anonymous mapping of this many bytes.
    #[cfg(unix)]
    Pages(usize),
    Foreign {
        _keep: Box<dyn Any + Send + Sync>,
        writable: bool,
    },
}

// SAFETY: a buffer is a span of plain bytes; mutation needs `&mut Buffer`, and a
// foreign owner is itself `Send + Sync`.
unsafe impl Send for Buffer {}
// SAFETY: as above: `&Buffer` only reads.
unsafe impl Sync for Buffer {}

static HEAP_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Bytes that tensors and working memory of this process hold right now. Mapped files and caller-owned memory do not count.
pub fn heap_bytes() -> usize {
    HEAP_BYTES.load(Ordering::Relaxed)
}

impl Buffer {
    /// Allocates `len` zeroed bytes, aligned to [`ALIGNMENT`].
    ///
    /// # Errors
    /// `OutOfMemory` when the allocator refuses.
    pub fn zeroed(len: usize) -> Result<Self> {
        let layout = Layout::from_size_align(len.max(1), ALIGNMENT)
            .map_err(|_| err!(OutOfMemory, "{len} bytes exceed the address space"))?;
        // SAFETY: the layout has a non-zero size.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(|| {
            err!(OutOfMemory, "cannot allocate {len} bytes; free memory or lower the batch size")
        })?;
        HEAP_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        Ok(Buffer { ptr, len, owner: Owner::Heap(layout) })
    }

    /// `len` zeroed bytes that go back to the system when the buffer is dropped. Large
    /// spans are pages of their own, which no allocator keeps; small ones, and all on
    /// systems without `mmap`, are [`Buffer::zeroed`].
    ///
    /// # Errors
    /// `OutOfMemory` when the system refuses.
    pub fn returning(len: usize) -> Result<Self> {
        #[cfg(unix)]
        if len >= PAGES_FROM {
            return Buffer::pages(len);
        }
        Buffer::zeroed(len)
    }

    #[cfg(unix)]
    fn pages(len: usize) -> Result<Self> {
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping at an address of the system's choice.
        let ptr = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
        let ptr =
            NonNull::new(ptr.cast()).filter(|_| ptr != libc::MAP_FAILED).ok_or_else(|| {
                err!(OutOfMemory, "cannot map {len} bytes; free memory or lower the batch size")
            })?;
        HEAP_BYTES.fetch_add(len, Ordering::Relaxed);
        Ok(Buffer { ptr, len, owner: Owner::Pages(len) })
    }

    /// Takes over the memory of a vector without copying it.
    pub fn from_vec<T: Element>(vec: Vec<T>) -> Result<Self> {
        if vec.capacity() == 0 {
            return Buffer::zeroed(0);
        }
        let mut vec = ManuallyDrop::new(vec);
        let layout = Layout::array::<T>(vec.capacity()).expect("a vector of this capacity exists");
        let len = size_of::<T>() * vec.len();
        HEAP_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        let ptr = NonNull::new(vec.as_mut_ptr().cast()).expect("a vector's pointer is not null");
        Ok(Buffer { ptr, len, owner: Owner::Heap(layout) })
    }

    /// Wraps `len` bytes at `ptr` that `keep` owns; `keep` is dropped, once, with
    /// the buffer.
    ///
    /// # Safety
    /// The bytes must stay valid and at the same address until `keep` is dropped,
    /// and must not be written by anyone while a tensor reads them. With
    /// `writable`, nobody else may access them while the buffer lives.
    pub unsafe fn foreign(
        ptr: NonNull<u8>,
        len: usize,
        keep: Box<dyn Any + Send + Sync>,
        writable: bool,
    ) -> Self {
        Buffer { ptr, len, owner: Owner::Foreign { _keep: keep, writable } }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for `len` bytes as long as the owner lives, which
        // is as long as `self`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// The bytes for writing, or `None` where the memory is read-only.
    pub fn as_bytes_mut(&mut self) -> Option<&mut [u8]> {
        if matches!(self.owner, Owner::Foreign { writable: false, .. }) {
            return None;
        }
        // SAFETY: as in `as_bytes`, and `&mut self` is exclusive.
        Some(unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) })
    }

    /// Address of the first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer holds no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match self.owner {
            Owner::Heap(layout) => {
                HEAP_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
                // SAFETY: `ptr` was allocated by the global allocator with this layout, in
                // `zeroed` or by the vector that `from_vec` took over.
                unsafe { dealloc(self.ptr.as_ptr(), layout) }
            }
            #[cfg(unix)]
            Owner::Pages(len) => {
                HEAP_BYTES.fetch_sub(len, Ordering::Relaxed);
                // SAFETY: `ptr` and `len` are those of a whole mapping that `pages` made, which
                // nothing points into any more.
                let done = unsafe { libc::munmap(self.ptr.as_ptr().cast(), len) };
                debug_assert_eq!(done, 0, "a mapping of our own can be unmapped");
            }
            Owner::Foreign { .. } => {}
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}
