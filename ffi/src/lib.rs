//! The C ABI: pointers become Rust values, errors and panics become status codes.
//!
//! This crate decides nothing. Each export checks what only C can get wrong (NULL,
//! misaligned, not UTF-8, an options struct of another version), calls the façade,
//! and hands the result over as a handle. What a value *means* is validated below,
//! so that every language has the same rules.
//!
//! The vocabulary:
//! - A **handle** is a pointer to an opaque struct of this crate. *Shared* handles
//!   are counted (`_ref`, `_free`) and immutable; *exclusive* ones serve one thread
//!   at a time. The modules are one per handle.
//! - `Call` is the proof that the caller vouches for its pointers. It is
//!   made by the one `unsafe` expression in each export, and is the only way from a
//!   raw pointer to a reference.
//! - `guard` runs the body of an export: no panic leaves it, outputs
//!   are written last, and the error object is filled where the caller wants one.
//!
//! `include/deepseek/deepseek.h` is generated from this crate; its preface states
//! the conventions for C programmers. Bindings for other languages do not stand on
//! this crate but beside it, on the façade.

#![expect(non_camel_case_types, reason = "these are the names that C sees")]
#![expect(
    clippy::missing_safety_doc,
    reason = "the duties of a caller are the same for every export; the header's preface and \
              `Call::new` state them once"
)]

mod buffer;
mod call;
mod cancel;
mod embedder;
mod error;
mod graph;
#[cfg(feature = "test-hooks")]
mod hooks;
mod model;
mod options;
mod outputs;
mod profile;
mod run;
mod runtime;
mod session;
mod tensor;
mod version;

pub use buffer::*;
pub use cancel::*;
pub use embedder::*;
pub use error::*;
pub use graph::*;
#[cfg(feature = "test-hooks")]
pub use hooks::*;
pub use model::*;
pub use options::*;
pub use outputs::*;
pub use profile::*;
pub use run::*;
pub use runtime::*;
pub use session::*;
pub use tensor::*;
pub use version::*;
