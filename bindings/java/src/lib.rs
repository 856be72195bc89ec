//! Java over the façade.
//!
//! Java holds an object of this library as a number (see `handle`); a native method
//! looks the number up, makes a counted reference to the object and works on that, so
//! `close` on one thread never pulls an object from under a call on another. Text
//! crosses as UTF-8 in byte arrays (see `wire`), and a failure is thrown as
//! `ai.deepseek.DeepseekException` (see `error`). Nothing here computes, and nothing
//! is validated that the core validates.
//!
//! Native methods stand in the module named as the Java class that declares them.

mod embedder;
mod error;
mod graph;
mod handle;
#[cfg(feature = "test-hooks")]
mod hooks;
mod library;
mod model;
mod run;
mod tensor;
mod wire;
