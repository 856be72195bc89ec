//! Language models and what surrounds them: tokenizers and sentence embedding.
//!
//! This room turns text into token ids, runs a graph on them and turns numbers into
//! what was asked for. It calls no kernel and knows no device: a model is a plan of
//! `deepseek-runtime`, built from a directory by `deepseek-import`.
//!
//! ```no_run
//! use deepseek_llm::Embedder;
//! use deepseek_runtime::{Cancel, Runtime};
//!
//! let runtime = Runtime::new(&Default::default())?;
//! let embedder = Embedder::open("all-MiniLM-L6-v2", &runtime)?;
//! let vectors = embedder.embed(&["A cat sleeps.", "Ein Hund bellt."], &Cancel::new())?;
//! assert_eq!(vectors.len(), 2 * embedder.dim());
//! # Ok::<(), deepseek_tensor::Error>(())
//! ```

mod embedder;
mod tokenizer;

pub use embedder::Embedder;
pub use tokenizer::{Encoding, Tokenizer};
