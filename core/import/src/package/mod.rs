//! The `.deepseek` file: a graph with its weights and small files, as one safetensors file.
//!
//! Any safetensors reader lists the weights. What makes them a model is in `__metadata__`:
//!
//! | key | value |
//! |---|---|
//! | `deepseek` | the manifest, JSON |
//! | `deepseek.sha256` | digest of the manifest, in hexadecimal |
//!
//! The manifest:
//!
//! | field | value |
//! |---|---|
//! | `version` | of the format: 1 |
//! | `producer` | who wrote the file |
//! | `source` | format that the graph was imported from |
//! | `graphs` | text forms by name ([`deepseek_graph::text`]); `main` is the model |
//! | `types` | `dtype` and `shape` of tensors whose elements safetensors has no name for (4-bit integers, strings); these are stored as `U8` |
//! | `sha256` | digest of each tensor's bytes |
//! | `pipeline` | what surrounds the model when images go in, where it is part of a vision pipeline |
//! | `labels` | names of the classes |
//! | `encoder` | limits and settings of a sentence encoder, where the model is one |
//! | `packed_for` | the machine that the tensors `packed/NAME` are for, where there are any |
//!
//! Constants that the graph text names are tensors of that name; a small file rides as the `U8` tensor
//! `files/NAME`, a constant as kernels of one machine pack it as `packed/NAME`. Data begins at a multiple of 64 bytes and tensors are ordered so that each is aligned for its
//! elements, and to 64 bytes where its size is a multiple of that: they are used where they are mapped. The same package always gives the
//! same bytes. Fields and metadata that are not known are skipped; a newer version is refused.
//!
//! A file appears under its name when it is complete, by renaming; whoever reads the older one keeps it.

mod read;
mod write;

pub use read::{from_bytes, load, verify};
pub use write::{save, to_bytes};

use crate::MappedFile;
use crate::hf::{self, EncoderConfig, HfModel, SentenceConfig};
use crate::onnx;
use bytes::Bytes;
use deepseek_graph::Graph;
use deepseek_tensor::{Result, Tensor, bail, err};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Extension of the file's name.
pub const EXTENSION: &str = "deepseek";

/// Version of the format that is written, and the newest that is read.
pub const VERSION: u64 = 1;

/// The tokenizer's file, and the one beside it.
pub const TOKENIZER: &str = "tokenizer.json";
/// See [`TOKENIZER`].
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

const MANIFEST: &str = "deepseek";
const MANIFEST_SHA256: &str = "deepseek.sha256";
const MAIN: &str = "main";
const FILES: &str = "files/";
const PACKED: &str = "packed/";

/// What a `.deepseek` file holds.
#[derive(Clone, Debug)]
pub struct Package {
    /// The model.
    pub graph: Graph,
    /// Format that the graph was imported from, e.g. `onnx`.
    pub source: String,
    /// Small files by name, such as `tokenizer.json`.
    pub files: BTreeMap<String, Bytes>,
    /// What surrounds the model in a vision pipeline, as that keeps it.
    pub pipeline: Option<serde_json::Value>,
    /// Names of the classes.
    pub labels: Vec<String>,
    /// What an embedder has to know, where the model is a sentence encoder.
    pub encoder: Option<SentenceEncoder>,
    /// Why its layers have the precisions that they have, as one JSON object, where it was compiled for
    /// less than `f32`.
    pub precision: Option<String>,
    /// Constants as kernels of one machine pack them.
    pub packed: Option<PackedConstants>,
}

/// Constants in forms of one machine; the graph's constants are beside them, so other machines lack nothing.
#[derive(Clone, Debug)]
pub struct PackedConstants {
    /// Which machine, as the runtime names it.
    pub machine: String,
    /// Forms by the runtime's name for each.
    pub constants: BTreeMap<String, Tensor>,
}

/// A sentence encoder's limits and settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SentenceEncoder {
    /// Sizes and choices of the encoder.
    pub encoder: EncoderConfig,
    /// What happens before and after it when texts are embedded.
    pub sentence: SentenceConfig,
}

/// Opens a model of any format that is known here: an `.onnx` file, a `.deepseek` file, or a
/// Hugging Face directory.
///
/// # Errors
/// `NotFound`, `Io`; `InvalidFile`, `InvalidGraph` if the file is not what it claims to be;
/// `Unsupported` naming the format, operator or field.
pub fn open(path: impl AsRef<Path>) -> Result<Package> {
    let path = path.as_ref();
    let meta = std::fs::metadata(path).map_err(|e| {
        err!(Io, "cannot open '{}': {e}; check the path and its permissions", path.display())
    })?;
    if meta.is_dir() {
        return from_directory(path);
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        EXTENSION => load(path),
        "onnx" => Ok(Package {
            graph: onnx::load(path)?,
            source: "onnx".to_owned(),
            files: BTreeMap::new(),
            pipeline: None,
            labels: Vec::new(),
            encoder: None,
            precision: None,
            packed: None,
        }),
        "gguf" => bail!(
            Unsupported,
            "'{}': .gguf files are not supported yet; use .onnx, .deepseek or a Hugging Face directory",
            path.display()
        ),
        _ => bail!(
            Unsupported,
            "'{}' is not a known model format; use an .onnx or .deepseek file or a Hugging Face directory",
            path.display()
        ),
    }
}

/// An encoder with the files of its tokenizer, where it has them.
fn from_directory(path: &Path) -> Result<Package> {
    let HfModel { graph, encoder, sentence, tokenizer_dir } = hf::load(path)?;
    let mut files = BTreeMap::new();
    for name in [TOKENIZER, TOKENIZER_CONFIG] {
        let file = tokenizer_dir.join(name);
        if file.is_file() {
            files.insert(name.to_owned(), MappedFile::open(file)?.bytes());
        }
    }
    let encoder = Some(SentenceEncoder { encoder, sentence });
    let source = "huggingface".to_owned();
    let (pipeline, labels, precision, packed) = (None, Vec::new(), None, None);
    Ok(Package { graph, source, files, pipeline, labels, encoder, precision, packed })
}
