//! Text in, vectors out.

use crate::ffi::Status;
use crate::model::Runtime;
use crate::session::Cancel;
use crate::status::{give, guard};

/// A sentence encoder with its tokenizer.
pub(crate) struct Embedder(deepseek::Embedder);

pub(crate) fn embedder_open(
    runtime: &Runtime,
    directory: &str,
    status: &mut Status,
) -> *mut Embedder {
    give(status, || Ok(Embedder(deepseek::Embedder::open(directory, &runtime.0)?)))
}

impl Embedder {
    pub(crate) fn dim(&self) -> usize {
        self.0.dim()
    }

    pub(crate) fn max_tokens(&self) -> usize {
        self.0.max_tokens()
    }

    pub(crate) fn embed(
        &self,
        texts: &[&str],
        timeout_ns: i64,
        cancel: &Cancel,
        status: &mut Status,
    ) -> Vec<f32> {
        guard(status, Vec::new(), || self.0.embed(texts, &cancel.options(timeout_ns, false)))
    }

    pub(crate) fn tokenize(&self, text: &str, status: &mut Status) -> Vec<u32> {
        guard(status, Vec::new(), || self.0.tokenize(text))
    }
}
