//! Encoders as Hugging Face directories: `config.json`, safetensors, `modules.json`.
//!
//! A checkpoint holds weights and a few numbers, not a graph; [`load`] builds the
//! graph that the numbers stand for, from the same fused operators that an imported
//! ONNX model is brought to. BERT, DistilBERT, RoBERTa (XLM-RoBERTa, CamemBERT) and
//! MPNet are one builder with four descriptions.
//!
//! The graph has
//! - inputs `input_ids` and `attention_mask`, and for BERT `token_type_ids`, all
//!   `i64[batch, seq]`, with `seq` at most [`EncoderConfig::max_tokens`]. Positions are
//!   made in the graph. A mask value of 0 hides a token, any other shows it: what is
//!   hidden contributes exactly nothing to the rest, whatever its id;
//! - outputs `last_hidden_state f32[batch, seq, hidden]` and `sentence_embedding
//!   f32[batch, dim]`, by the stages of `modules.json`, else by the mean of the tokens.
//!
//! Heads on top of the encoder (a pooler, a language model) are left out.
//!
//! Everything is computed in f32. Weights in f32 are used from the mapped file as they
//! lie there; f16 and bf16 ones are widened at load.

mod config;
mod encoder;
mod json;
mod sentence;
mod weights;

pub use config::{Activation, EncoderConfig};
pub use json::Object;
pub use sentence::{Pooling, SentenceConfig};

use deepseek_graph::Graph;
use deepseek_tensor::Result;
use std::path::{Path, PathBuf};

/// An encoder as a graph, and what its directory says about using it.
#[derive(Clone, Debug)]
pub struct HfModel {
    /// The graph; see the [module](self) for its inputs and outputs.
    pub graph: Graph,
    /// Sizes and choices of the encoder.
    pub encoder: EncoderConfig,
    /// What happens before and after it when texts are embedded.
    pub sentence: SentenceConfig,
    /// Where `tokenizer.json` lies.
    pub tokenizer_dir: PathBuf,
}

/// Loads the encoder in the directory `dir`.
///
/// # Errors
/// `NotFound` and `Io` for files; `InvalidFile` naming the file and the field or
/// tensor that is missing, out of range or of another shape; `Unsupported` for a model
/// type, a setting or a module that is valid and not implemented.
pub fn load(dir: impl AsRef<Path>) -> Result<HfModel> {
    let dir = dir.as_ref();
    let stages = sentence::Stages::read(dir)?;
    let home = stages.transformer.clone();
    let file = Object::read(home.join("config.json"))?;
    let family = config::family(&file)?;
    let encoder = EncoderConfig::read(&file, family)?;
    let mut checkpoint = weights::Checkpoint::open(&home)?;
    let (mut net, hidden) = encoder::build(family, &encoder, &mut checkpoint)?;
    let (embedding, sentence) = stages.build(dir, &mut net, hidden, encoder.hidden_size)?;
    let mut graph = net.graph;
    graph.add_output("last_hidden_state", hidden)?;
    graph.add_output("sentence_embedding", embedding)?;
    Ok(HfModel { graph, encoder, sentence, tokenizer_dir: home })
}
