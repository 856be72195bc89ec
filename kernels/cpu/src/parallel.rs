//! Who runs the tasks of a kernel.
//!
//! Kernels cut their work into tasks by the shape of the problem alone and never ask how many
//! threads there are for anything that could change a result; so any implementation of
//! [`Parallel`], in any order, gives the same numbers.

use std::sync::atomic::{AtomicBool, Ordering};

/// Runs independent tasks, possibly at the same time.
///
/// # Safety
///
/// Each task of a kernel writes memory of its own through pointers. An implementation promises what
/// [`run`](Parallel::run) says: each index exactly once, none beyond `tasks`, and no call still
/// running when `run` returns or unwinds.
pub unsafe trait Parallel: Sync {
    /// An upper bound of how many bodies run at the same time, at least 1. Sizes scratch.
    fn threads(&self) -> usize;

    /// Calls `body(i)` exactly once for every `i` in `0..tasks`, in any order and on any thread,
    /// and returns after the last call has returned. At most [`threads`](Parallel::threads) calls
    /// run at the same time. Neighbouring tasks share what they read: best give a thread neighbours,
    /// and the same part of the tasks at each call.
    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync));
}

/// The calling thread alone.
#[derive(Copy, Clone, Debug, Default)]
pub struct Serial;

// SAFETY: a loop over `0..tasks` on the calling thread.
unsafe impl Parallel for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) {
        for i in 0..tasks {
            body(i);
        }
    }
}

/// A pointer that tasks may share because each writes its own part of what it points to.
pub(crate) struct Shared<T>(*mut T);

impl<T> Copy for Shared<T> {}
impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

// SAFETY: the pointer itself is a plain value; every dereference is an `unsafe` block that argues
// which part of the memory its task owns.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Shared(slice.as_mut_ptr())
    }

    /// A pointer tasks only read from.
    pub(crate) fn read(slice: &[T]) -> Self {
        Shared(slice.as_ptr().cast_mut())
    }

    pub(crate) fn of(ptr: *mut T) -> Self {
        Shared(ptr)
    }

    #[inline(always)]
    pub(crate) fn ptr(self) -> *mut T {
        self.0
    }

    /// The part `start..start + len` as a slice.
    ///
    /// # Safety
    ///
    /// The caller proves that the range lies in the slice this was made of, that the slice outlives
    /// the result, and that no other task touches the range meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn part<'a>(self, start: usize, len: usize) -> &'a mut [T] {
        // SAFETY: passed on to the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// The most tasks of one kernel that can hold workspace at the same time.
pub(crate) const MAX_SLOTS: usize = 256;

/// Lends equal parts of one scratch slice to running tasks; there is one part for each thread.
pub(crate) struct Slots<'a> {
    base: Shared<f32>,
    each: usize,
    free: [AtomicBool; MAX_SLOTS],
    count: usize,
    _scratch: std::marker::PhantomData<&'a mut [f32]>,
}

impl<'a> Slots<'a> {
    /// How many parts a run on `par` needs.
    pub(crate) fn count(par: &dyn Parallel) -> usize {
        par.threads().clamp(1, MAX_SLOTS)
    }

    /// Divides `scratch` into parts of `each` floats.
    pub(crate) fn new(par: &dyn Parallel, scratch: &'a mut [f32], each: usize) -> Self {
        let count = Self::count(par);
        assert!(
            scratch.len() >= count * each,
            "scratch holds {} floats, {count} threads need {}: size it with the matching *_scratch function",
            scratch.len(),
            count * each
        );
        Slots {
            base: Shared::new(scratch),
            each,
            free: [const { AtomicBool::new(true) }; MAX_SLOTS],
            count,
            _scratch: std::marker::PhantomData,
        }
    }

    /// Runs `f` with a part that no other task holds.
    #[inline]
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut [f32]) -> R) -> R {
        self.with_index(|_, part| f(part))
    }

    /// As [`with`](Slots::with); `f` also gets the number of the part.
    #[inline]
    pub(crate) fn with_index<R>(&self, f: impl FnOnce(usize, &mut [f32]) -> R) -> R {
        let guard = self.acquire();
        // SAFETY: the slot index is below `count`, so the part lies in the scratch slice; the
        // guard holds the slot's flag, so no other task has the part until it is dropped.
        f(guard.index, unsafe { self.base.part(guard.index * self.each, self.each) })
    }

    fn acquire(&self) -> SlotGuard<'_> {
        loop {
            for (index, flag) in self.free[..self.count].iter().enumerate() {
                if flag.compare_exchange(true, false, Ordering::Acquire, Ordering::Relaxed).is_ok()
                {
                    return SlotGuard { flag, index };
                }
            }
            // `Parallel` promises that this does not happen; wait rather than share a part.
            std::thread::yield_now();
        }
    }
}

struct SlotGuard<'a> {
    flag: &'a AtomicBool,
    index: usize,
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        self.flag.store(true, Ordering::Release);
    }
}

/// Cuts `len` elements into tasks of `step` and runs `body(start, len)` for each part.
pub(crate) fn split(
    par: &dyn Parallel,
    len: usize,
    step: usize,
    body: &(dyn Fn(usize, usize) + Sync),
) {
    let step = step.max(1);
    let tasks = len.div_ceil(step);
    match tasks {
        0 => {}
        1 => body(0, len),
        _ => par.run(tasks, &|t| {
            let start = t * step;
            body(start, step.min(len - start));
        }),
    }
}
