//! Bytes that the library hands over.

use crate::call::{Call, guard_value};
use std::ffi::c_char;

/// Text or bytes of any length that the library made. Owned by the caller, immutable.
pub struct deepseek_buffer {
    /// The content and a NUL.
    bytes: Vec<u8>,
}

impl deepseek_buffer {
    pub(crate) fn new(text: String) -> Self {
        let mut bytes = text.into_bytes();
        bytes.push(0);
        deepseek_buffer { bytes }
    }
}

/// The bytes of a buffer. A NUL, not counted in the length, follows them. Empty for NULL.
/// Valid until the buffer is freed. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_buffer_data(buffer: *const deepseek_buffer) -> *const c_char {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, c"".as_ptr(), |call| {
        call.peek(buffer).map_or(c"".as_ptr(), |b| b.bytes.as_ptr().cast())
    })
}

/// Number of bytes of a buffer; 0 for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_buffer_len(buffer: *const deepseek_buffer) -> usize {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, 0, |call| {
        call.peek(buffer).map_or(0, |b| b.bytes.len() - 1)
    })
}

/// Frees a buffer. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_buffer_free(buffer: *mut deepseek_buffer) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| drop(call.take(buffer)))
}
