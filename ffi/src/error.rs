//! Status codes and the error object.

use crate::call::{Call, guard_value};
use deepseek::{Code, DType, Error};
use std::ffi::{CString, c_char};

/// What became of a call: `DEEPSEEK_STATUS_OK` or the code of an error.
pub type deepseek_status = i32;

pub(crate) const DEEPSEEK_STATUS_OK: deepseek_status = 0;

/// What went wrong, in words. Owned by the caller.
pub struct deepseek_error {
    pub(crate) code: i32,
    pub(crate) message: CString,
    pub(crate) node: Option<CString>,
}

impl deepseek_error {
    pub(crate) fn new(error: Error) -> Self {
        deepseek_error {
            code: error.code().as_i32(),
            message: c_string(error.message()),
            node: error.node().map(c_string),
        }
    }
}

/// `text` for C. A NUL, which a name in a hostile file may contain, becomes a space.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).expect("every NUL was replaced")
}

/// Code of an error, as the failed call returned it; `DEEPSEEK_STATUS_OK` for NULL.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_error_code(error: *const deepseek_error) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, DEEPSEEK_STATUS_OK, |call| {
        call.peek(error).map_or(DEEPSEEK_STATUS_OK, |e| e.code)
    })
}

/// Message of an error: one line of UTF-8. Empty for NULL. Valid until the error is
/// freed. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_error_message(error: *const deepseek_error) -> *const c_char {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, c"".as_ptr(), |call| {
        call.peek(error).map_or(c"".as_ptr(), |e| e.message.as_ptr())
    })
}

/// Node of the graph that an error arose in, nested ones from the outside in
/// (`/encoder/loop > add`). NULL if it arose in none, and for NULL. Valid until the
/// error is freed. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_error_node(error: *const deepseek_error) -> *const c_char {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, std::ptr::null(), |call| {
        call.peek(error)
            .and_then(|e| e.node.as_ref())
            .map_or(std::ptr::null(), |node| node.as_ptr())
    })
}

/// Frees an error. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_error_free(error: *mut deepseek_error) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| drop(call.take(error)))
}

/// Name of a status, e.g. `SHAPE_MISMATCH`; `UNKNOWN` for a number that is none. Static.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_status_name(status: deepseek_status) -> *const c_char {
    // SAFETY: there is no pointer to vouch for.
    guard_value(unsafe { Call::plain() }, c"UNKNOWN".as_ptr(), |_| match status {
        DEEPSEEK_STATUS_OK => c"OK".as_ptr(),
        _ => Code::ALL
            .into_iter()
            .find(|code| code.as_i32() == status)
            .map_or(c"UNKNOWN", code_name)
            .as_ptr(),
    })
}

fn code_name(code: Code) -> &'static std::ffi::CStr {
    static NAMES: std::sync::LazyLock<Vec<CString>> =
        std::sync::LazyLock::new(|| Code::ALL.map(|c| c_string(c.name())).into());
    let at = Code::ALL.iter().position(|c| *c == code);
    at.map_or(c"UNKNOWN", |i| NAMES[i].as_c_str())
}

/// Element type of a tensor: one of `DEEPSEEK_DTYPE_…`.
pub type deepseek_dtype = i32;

/// Short name of an element type, e.g. `f32`; NULL for a number that is none. Static.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_dtype_name(dtype: deepseek_dtype) -> *const c_char {
    // SAFETY: there is no pointer to vouch for.
    guard_value(unsafe { Call::plain() }, std::ptr::null(), |_| {
        static NAMES: std::sync::LazyLock<Vec<CString>> =
            std::sync::LazyLock::new(|| DType::ALL.map(|d| c_string(d.name())).into());
        DType::ALL
            .iter()
            .position(|d| *d as i32 == dtype)
            .map_or(std::ptr::null(), |i| NAMES[i].as_ptr())
    })
}
