//! Node.js over the façade: typed arrays in and out, promises for everything that takes
//! long. Nothing here computes, or validates what the core validates.
//!
//! Every argument arrives as `Unknown` and is converted inside a guard, so that a wrong
//! type, like every other failure, is a `DeepseekError` that names the argument; a call
//! that returns a promise rejects it and never throws.
//!
//! - `state`: what each JavaScript environment has of its own, and its end.
//! - `background`, `signal`: promises, deadlines, `AbortSignal`.
//! - `tensor`: values in and out.
//! - `runtime`, `model`, `session`, `graph`, `embedder`: the classes.

mod background;
mod embedder;
mod error;
mod graph;
mod model;
mod runtime;
mod session;
mod signal;
mod state;
mod tensor;

use napi::bindgen_prelude::*;
use napi_derive::napi;
use std::collections::BTreeMap;

/// Version of the library, `major.minor.patch`.
#[napi]
pub fn version() -> &'static str {
    deepseek::VERSION
}

/// Every status by name, with its number: what `status` and `code` of a `DeepseekError`
/// can be.
#[napi(ts_return_type = "Record<StatusName, number>")]
pub fn status_codes() -> BTreeMap<String, i32> {
    deepseek::Code::ALL.into_iter().map(|c| (c.name().to_owned(), c.as_i32())).collect()
}

/// Every element type.
#[napi(ts_return_type = "DType[]")]
pub fn dtypes() -> Vec<&'static str> {
    deepseek::DType::ALL.into_iter().map(deepseek::DType::name).collect()
}

/// Bytes that tensors of this process hold on the library's heap right now, outputs that
/// JavaScript still holds among them.
#[napi]
pub fn heap_bytes() -> f64 {
    deepseek::heap_bytes() as f64
}

/// Takes the class that failures are thrown as, from the loader.
#[napi(skip_typescript)]
pub fn set_error_class(env: &Env, class: error::ErrorClass) -> napi::Result<()> {
    state::state(env)?.error_class = Some(class);
    Ok(())
}
