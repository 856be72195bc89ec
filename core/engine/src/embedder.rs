//! Text in, vectors out.

use crate::{RunOptions, Runtime};
use deepseek_tensor::Result;
use std::path::Path;
use std::sync::Arc;

/// A sentence encoder with its tokenizer, from a Hugging Face directory or a `.deepseek` file.
/// Shared: clones refer to the same encoder, and any thread may use it.
#[derive(Clone)]
pub struct Embedder(Arc<deepseek_llm::Embedder>);

impl Embedder {
    /// Opens a directory with `config.json`, safetensors weights and `tokenizer.json`, or a
    /// `.deepseek` file made of one.
    ///
    /// # Errors
    /// `Io`, `InvalidFile`, `Unsupported` naming the file and field.
    pub fn open(path: impl AsRef<Path>, runtime: &Runtime) -> Result<Self> {
        Ok(Embedder(Arc::new(deepseek_llm::Embedder::open(path, runtime)?)))
    }

    /// Length of a vector.
    pub fn dim(&self) -> usize {
        self.0.dim()
    }

    /// Most tokens of a text that are looked at; longer texts are truncated.
    pub fn max_tokens(&self) -> usize {
        self.0.max_tokens()
    }

    /// One vector for each text, row-major `[texts, dim]`, in order. The vector of a
    /// text has the same bits whatever else is in the call.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`, `BudgetExceeded`, `OutOfMemory`.
    pub fn embed(&self, texts: &[&str], options: &RunOptions) -> Result<Vec<f32>> {
        self.0.embed(texts, &options.cancel())
    }

    /// Token ids of a text, special tokens included, truncated to [`Embedder::max_tokens`].
    ///
    /// # Errors
    /// `InvalidFile` if the tokenizer cannot encode it.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        self.0.tokenizer().encode(text)
    }
}
