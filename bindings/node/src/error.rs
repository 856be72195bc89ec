//! Failures of the library, thrown as `DeepseekError`.
//!
//! The class is JavaScript, handed over by the loader, so that `instanceof`, `name` and
//! the stack are what a caller expects. A panic is caught before it reaches Node.js and
//! thrown as `PANIC`; the process lives on.

use crate::state::state;
use deepseek::{Code, Error, Result};
use napi::bindgen_prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The constructor of `DeepseekError`: message, code, status, node.
pub(crate) type ErrorClass = FunctionRef<FnArgs<ErrorArgs>, Unknown<'static>>;
type ErrorArgs = (String, i32, String, Option<String>);

/// Runs `call`; a panic in it becomes `PANIC`.
pub(crate) fn caught<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    let result = catch_unwind(AssertUnwindSafe(call));
    result.unwrap_or_else(|panic| Err(Error::from_panic(&*panic)))
}

/// Runs `call`; its failure is what the surrounding JavaScript call throws.
pub(crate) fn guard<T>(env: &Env, call: impl FnOnce() -> Result<T>) -> napi::Result<T> {
    caught(call).map_err(|error| thrown(env, &error, None))
}

/// `error` as something to throw or to reject with.
pub(crate) fn thrown(env: &Env, error: &Error, cause: Option<Unknown>) -> napi::Error {
    let made = instance(env, error).and_then(|object| {
        if let Some(cause) = cause {
            let mut object = Object::from_raw(env.raw(), object.raw());
            object.set_named_property("cause", cause)?;
        }
        Ok(napi::Error::from(object))
    });
    made.unwrap_or_else(|failed| failed)
}

fn instance<'env>(env: &'env Env, error: &Error) -> napi::Result<Unknown<'env>> {
    let Some(class) = &state(env)?.error_class else {
        return Err(napi::Error::from_reason(error.to_string()));
    };
    let node = error.node().map(str::to_owned);
    let status = error.code().name().to_owned();
    let args = (error.message().to_owned(), error.code().as_i32(), status, node);
    class.borrow_back(env)?.new_instance(args.into())
}

/// An `INVALID_ARGUMENT`.
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, message)
}

/// A failure of Node.js itself, which no argument explains.
pub(crate) fn internal(error: napi::Error) -> Error {
    Error::new(Code::Internal, format!("Node.js refused a call: {}", error.reason))
}

/// The object behind a handle that `close` empties.
pub(crate) fn open<'a, T>(handle: &'a Option<T>, what: &str) -> Result<&'a T> {
    let closed = || Error::new(Code::InvalidState, format!("the {what} is closed"));
    handle.as_ref().ok_or_else(closed)
}
