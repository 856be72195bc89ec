//! How a call ends: the one gate between Rust and C++.
//!
//! A panic that reached the bridge would abort the process, so every call that can fail
//! runs inside [`guard`], which reports errors and panics alike in a [`Status`].

use crate::ffi::Status;
use deepseek::{Code, Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `call` yields; `fallback`, and the reason in `status`, if it fails or panics.
pub(crate) fn guard<T>(status: &mut Status, fallback: T, call: impl FnOnce() -> Result<T>) -> T {
    caught(call).unwrap_or_else(|e| {
        *status = report(&e);
        fallback
    })
}

/// As [`guard`], the value in a box that C++ takes over; null if the call fails.
pub(crate) fn give<T>(status: &mut Status, call: impl FnOnce() -> Result<T>) -> *mut T {
    guard(status, std::ptr::null_mut(), || Ok(Box::into_raw(Box::new(call()?))))
}

/// Runs `call`; a panic becomes an error.
pub(crate) fn caught<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|p| Err(Error::from_panic(&*p)))
}

/// An error as C++ sees it.
pub(crate) fn report(error: &Error) -> Status {
    Status {
        code: error.code().as_i32(),
        message: error.message().to_owned(),
        node: error.node().unwrap_or_default().to_owned(),
    }
}

/// The status of a call that succeeded.
pub(crate) fn success() -> Status {
    Status { code: 0, message: String::new(), node: String::new() }
}

pub(crate) fn code_numbers() -> Vec<i32> {
    Code::ALL.into_iter().map(Code::as_i32).collect()
}

pub(crate) fn code_name(number: i32) -> &'static str {
    Code::ALL.into_iter().find(|c| c.as_i32() == number).map_or("UNKNOWN", Code::name)
}
