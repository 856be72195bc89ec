//! `libdeepseek.so` and `libdeepseek.a`: the exports of `deepseek-ffi` and nothing else.
//! Other Rust crates depend on `deepseek-ffi` or on the façade, never on this one.

pub use deepseek_ffi::*;
