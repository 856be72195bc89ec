//! From raw pointers to references, and from panics to codes.
//!
//! An export is `guard(unsafe { Call::new(err) }, |call| { … })` and nothing else. The
//! [`Call`] stands for the caller's promise about the pointers it passes; its methods
//! check what can be checked (NULL, alignment, lengths, UTF-8) and are safe because
//! the promise covers the rest. [`guard`] is a function rather than a macro, so the
//! formatter and the debugger see the bodies.

use crate::error::{DEEPSEEK_STATUS_OK, deepseek_error, deepseek_status};
use deepseek::{Code, Error, Result};
use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;

/// The proof that the caller of an export vouches for its pointers, and where it
/// wants the error.
pub(crate) struct Call {
    err: *mut *mut deepseek_error,
}

impl Call {
    /// A call whose error, if any, goes to `err` (NULL: nowhere).
    ///
    /// # Safety
    /// Until the export returns, each pointer that it was given is NULL or points to
    /// what the header says: a live handle that came from this library, a string that
    /// ends in NUL, an array of as many elements as the count beside it says. Nobody
    /// writes to inputs, and nobody touches outputs, meanwhile.
    pub(crate) unsafe fn new(err: *mut *mut deepseek_error) -> Call {
        Call { err }
    }

    /// As [`Call::new`] for exports that report no error object.
    ///
    /// # Safety
    /// As [`Call::new`].
    pub(crate) unsafe fn plain() -> Call {
        Call { err: std::ptr::null_mut() }
    }

    /// The object behind a pointer. `what` is the parameter's name.
    pub(crate) fn get<T>(&self, ptr: *const T, what: &str) -> Result<&T> {
        let ptr = present(ptr, what)?;
        // SAFETY: not NULL and aligned, as just checked; live and not written to, as
        // the caller promised to `Call::new`.
        Ok(unsafe { ptr.as_ref() })
    }

    /// As [`Call::get`], with `None` for NULL and for a misaligned pointer: for exports
    /// that answer without a status.
    pub(crate) fn peek<T>(&self, ptr: *const T) -> Option<&T> {
        self.get(ptr, "").ok()
    }

    /// `len` elements at `ptr`, which may be NULL if there are none.
    pub(crate) fn slice<T>(&self, ptr: *const T, len: usize, what: &str) -> Result<&[T]> {
        if len == 0 {
            return Ok(&[]);
        }
        let ptr = present(ptr, what)?;
        fits::<T>(len, what)?;
        // SAFETY: not NULL, aligned and of representable length; `len` elements are
        // there and not written to, as the caller promised to `Call::new`.
        Ok(unsafe { std::slice::from_raw_parts(ptr.as_ptr(), len) })
    }

    /// `len` bytes at `ptr`, which may be NULL if there are none.
    pub(crate) fn bytes(&self, ptr: *const c_void, len: usize, what: &str) -> Result<&[u8]> {
        self.slice(ptr.cast(), len, what)
    }

    /// The text of a NUL-terminated string.
    pub(crate) fn text(&self, ptr: *const c_char, what: &str) -> Result<&str> {
        let ptr = present(ptr, what)?;
        // SAFETY: not NULL; terminated and not written to, as the caller promised.
        let text = unsafe { CStr::from_ptr(ptr.as_ptr()) };
        utf8(text.to_bytes(), what)
    }

    /// As [`Call::text`], with an empty text for NULL.
    pub(crate) fn text_or_empty(&self, ptr: *const c_char, what: &str) -> Result<&str> {
        if ptr.is_null() { Ok("") } else { self.text(ptr, what) }
    }

    /// `count` NUL-terminated strings.
    pub(crate) fn texts(
        &self,
        ptr: *const *const c_char,
        count: usize,
        what: &str,
    ) -> Result<Vec<&str>> {
        let entries = self.slice(ptr, count, what)?.iter().enumerate();
        entries.map(|(i, &p)| self.text(p, &format!("{what}[{i}]"))).collect()
    }

    /// Text of `len` bytes, which may contain NUL.
    pub(crate) fn content(&self, ptr: *const c_char, len: usize, what: &str) -> Result<&str> {
        utf8(self.bytes(ptr.cast(), len, what)?, what)
    }

    /// `count` texts with their lengths; without lengths, NUL-terminated ones.
    pub(crate) fn contents(
        &self,
        ptr: *const *const c_char,
        lengths: *const usize,
        count: usize,
        what: &str,
    ) -> Result<Vec<&str>> {
        if lengths.is_null() {
            return self.texts(ptr, count, what);
        }
        let lengths = self.slice(lengths, count, "lengths")?;
        let entries = self.slice(ptr, count, what)?.iter().zip(lengths).enumerate();
        entries.map(|(i, (&p, &len))| self.content(p, len, &format!("{what}[{i}]"))).collect()
    }

    /// `count` handles, none of them NULL.
    pub(crate) fn handles<T>(
        &self,
        ptr: *const *const T,
        count: usize,
        what: &str,
    ) -> Result<Vec<&T>> {
        let entries = self.slice(ptr, count, what)?.iter().enumerate();
        entries.map(|(i, &p)| self.get(p, &format!("{what}[{i}]"))).collect()
    }

    /// Where a result goes. Taken before the work, written after it, so that a failed
    /// call leaves the output as it was.
    pub(crate) fn out<T>(&self, ptr: *mut T, what: &str) -> Result<Out<'_, T>> {
        let ptr = present(ptr, what)?;
        // SAFETY: `ptr` is checked, not NULL, writable and not touched by others, as
        // the caller promised to `Call::new`.
        Ok(unsafe { Out::new(ptr, 1) })
    }

    /// As [`Call::out`], with `None` for NULL.
    pub(crate) fn out_if_wanted<T>(&self, ptr: *mut T, what: &str) -> Result<Option<Out<'_, T>>> {
        if ptr.is_null() { Ok(None) } else { self.out(ptr, what).map(Some) }
    }

    /// Room for `len` results; `ptr` may be NULL if `len` is 0.
    pub(crate) fn out_slice<T>(&self, ptr: *mut T, len: usize, what: &str) -> Result<Out<'_, T>> {
        let ptr = if len == 0 { NonNull::dangling() } else { present(ptr, what)? };
        fits::<T>(len, what)?;
        // SAFETY: as in `out`, for `len` elements.
        Ok(unsafe { Out::new(ptr, len) })
    }

    /// Takes a handle back that [`Out::give`] gave away. `None` for NULL.
    pub(crate) fn take<T>(&self, ptr: *mut T) -> Option<Box<T>> {
        let ptr = present(ptr.cast_const(), "").ok()?;
        // SAFETY: exclusive handles come from `Out::give`, which makes them with
        // `Box::into_raw`; the caller promised that this one is live and that nobody
        // uses it meanwhile, so it is taken back once.
        Some(unsafe { Box::from_raw(ptr.as_ptr()) })
    }

    /// Takes one count of a shared handle back. `None` for NULL.
    pub(crate) fn take_shared<T>(&self, ptr: *mut T) -> Option<Arc<T>> {
        let ptr = present(ptr.cast_const(), "").ok()?;
        // SAFETY: shared handles come from `Out::give_shared` or `Call::share`, which
        // leave one count each to the caller, who gives it back here.
        Some(unsafe { Arc::from_raw(ptr.as_ptr().cast_const()) })
    }

    /// Adds one to the count of a shared handle and returns it. NULL for NULL.
    pub(crate) fn share<T>(&self, ptr: *const T) -> *mut T {
        let Ok(ptr) = present(ptr, "") else { return std::ptr::null_mut() };
        // SAFETY: the handle came from `Arc::into_raw` and holds at least one count,
        // as the caller promised to `Call::new`.
        unsafe { Arc::increment_strong_count(ptr.as_ptr().cast_const()) };
        ptr.as_ptr()
    }

    /// Where the error goes.
    fn slot(&self) -> Result<Option<Out<'_, *mut deepseek_error>>> {
        let Some(slot) = self.out_if_wanted(self.err, "err")? else { return Ok(None) };
        if !self.get(self.err, "err")?.is_null() {
            return Err(invalid(
                "err points to an error already; free it and set it to NULL before the call",
            ));
        }
        Ok(Some(slot))
    }
}

/// Memory of the caller that waits for `len` results.
pub(crate) struct Out<'a, T> {
    ptr: NonNull<T>,
    len: usize,
    _call: PhantomData<&'a mut T>,
}

impl<T> Out<'_, T> {
    /// # Safety
    /// `ptr` is aligned, and valid for writing `len` elements that nobody else touches
    /// during the call.
    unsafe fn new(ptr: NonNull<T>, len: usize) -> Self {
        Out { ptr, len, _call: PhantomData }
    }

    /// Writes the result.
    pub(crate) fn set(self, value: T) {
        debug_assert!(self.len >= 1);
        // SAFETY: `Out::new` was promised room for it.
        unsafe { self.ptr.as_ptr().write(value) }
    }

    /// Number of results there is room for.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes the first results.
    ///
    /// # Errors
    /// `BufferTooSmall`, with nothing written, if there are more than [`Out::len`].
    pub(crate) fn set_all(self, values: &[T]) -> Result<()>
    where
        T: Copy,
    {
        if values.len() > self.len {
            return Err(too_small(values.len(), self.len));
        }
        // SAFETY: `Out::new` was promised room for `len` elements, which is enough;
        // `values` is Rust's own memory, so the two do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(values.as_ptr(), self.ptr.as_ptr(), values.len());
        }
        Ok(())
    }
}

impl<T> Out<'_, *mut T> {
    /// Hands an exclusive handle to the caller.
    pub(crate) fn give(self, value: T) {
        self.set(Box::into_raw(Box::new(value)));
    }

    /// Hands one count of a shared handle to the caller.
    pub(crate) fn give_shared(self, value: T) {
        self.set(Arc::into_raw(Arc::new(value)).cast_mut());
    }
}

/// Runs the body of an export that returns a status. A panic becomes `PANIC`.
pub(crate) fn guard(call: Call, body: impl FnOnce(&Call) -> Result<()>) -> deepseek_status {
    let slot = match call.slot() {
        Ok(slot) => slot,
        Err(e) => return e.code().as_i32(),
    };
    let error = match catch_unwind(AssertUnwindSafe(|| body(&call))) {
        Ok(Ok(())) => return DEEPSEEK_STATUS_OK,
        Ok(Err(error)) => error,
        Err(panic) => Error::from_panic(&*panic),
    };
    let code = error.code().as_i32();
    if let Some(slot) = slot {
        slot.give(deepseek_error::new(error));
    }
    code
}

/// Runs the body of an export that cannot fail, given valid handles. A panic becomes
/// `fallback`.
pub(crate) fn guard_value<R>(call: Call, fallback: R, body: impl FnOnce(&Call) -> R) -> R {
    catch_unwind(AssertUnwindSafe(|| body(&call))).unwrap_or(fallback)
}

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, message)
}

pub(crate) fn too_small(need: usize, have: usize) -> Error {
    Error::new(
        Code::BufferTooSmall,
        format!("the result has {need} elements, the buffer has room for {have}"),
    )
}

fn present<T>(ptr: *const T, what: &str) -> Result<NonNull<T>> {
    let present = NonNull::new(ptr.cast_mut()).ok_or_else(|| invalid(format!("{what} is NULL")))?;
    if !ptr.is_aligned() {
        return Err(invalid(format!(
            "{what} is not aligned to {} bytes",
            std::mem::align_of::<T>()
        )));
    }
    Ok(present)
}

fn fits<T>(len: usize, what: &str) -> Result<()> {
    match len.checked_mul(size_of::<T>()) {
        Some(bytes) if bytes <= isize::MAX as usize => Ok(()),
        _ => Err(invalid(format!("{what} has {len} elements, more than memory can hold"))),
    }
}

fn utf8<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|e| {
        invalid(format!("{what} is not UTF-8: the first wrong byte is at {}", e.valid_up_to()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        // SAFETY: the tests below pass pointers to locals that outlive the call.
        unsafe { Call::plain() }
    }

    #[test]
    fn wrong_pointers_are_errors_that_name_the_parameter() {
        let call = call();
        let words = [1u32, 2];
        let crooked = words.as_ptr().cast::<u8>().wrapping_add(1).cast::<u32>();
        let null = std::ptr::null::<u32>();
        for error in [
            call.get(null, "it").unwrap_err(),
            call.get(crooked, "it").unwrap_err(),
            call.slice(null, 1, "it").unwrap_err(),
            call.slice(words.as_ptr(), usize::MAX / 2, "it").unwrap_err(),
            call.out(crooked.cast_mut(), "it").map(|_| ()).unwrap_err(),
            call.text(c"\xff".as_ptr(), "it").unwrap_err(),
            call.texts([null.cast()].as_ptr(), 1, "it").unwrap_err(),
        ] {
            assert_eq!(error.code(), Code::InvalidArgument);
            assert!(error.message().starts_with("it"), "{error}");
        }
        assert!(call.slice(null, 0, "it").unwrap().is_empty());
        assert_eq!(call.slice(words.as_ptr(), 2, "it").unwrap(), words);
    }

    #[test]
    fn a_full_error_slot_is_refused_and_kept() {
        let mut slot: *mut deepseek_error = std::ptr::null_mut();
        let fail = |_: &Call| Err(invalid("first"));
        // SAFETY: `slot` is a live local.
        let status = guard(unsafe { Call::new(&raw mut slot) }, fail);
        assert_eq!(status, Code::InvalidArgument.as_i32());
        let first = slot;
        // SAFETY: as above.
        let again = guard(unsafe { Call::new(&raw mut slot) }, |_| panic!("must not run"));
        assert_eq!((again, slot), (Code::InvalidArgument.as_i32(), first));
        drop(call().take(slot));
    }

    #[test]
    fn a_panic_becomes_a_code_and_a_message() {
        let mut slot: *mut deepseek_error = std::ptr::null_mut();
        // SAFETY: `slot` is a live local.
        let status = guard(unsafe { Call::new(&raw mut slot) }, |_| panic!("oh {}", "dear"));
        assert_eq!(status, Code::Panic.as_i32());
        let error = call().take(slot).unwrap();
        assert!(error.message.to_str().unwrap().contains("oh dear"));
        assert_eq!(guard_value(call(), 7, |_| panic!("again")), 7);
    }
}
