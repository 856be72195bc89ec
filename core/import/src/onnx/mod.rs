//! ONNX models as graphs.
//!
//! The library's operators are those of the newest ONNX operator set. Importing is
//! therefore mostly naming: a node becomes the operator of its name. What remains is
//! everything that a file may say differently, and each has its module:
//!
//! | module | turns … | into … |
//! |---|---|---|
//! | `proto` | bytes | messages, within a budget |
//! | `tensor` | raw, typed, external and sparse elements | tensors, mapped where aligned |
//! | `types` | element type numbers, extents with names | types over symbols |
//! | `order` | nodes in any order | a stable topological order, or the cycle |
//! | `body` | subgraphs that read outer values | closed graphs and a list of captures |
//! | `function` | calls of functions in the file | the function's nodes, in place |
//! | `registry` | operator, domain, opset | the importer of that version |
//! | `compose` | operators of old opsets and other domains | newest operators |
//!
//! An initializer is a constant even where a graph input has the same name (a
//! default that a caller could override, as of format version 4): constants can be
//! folded and packed, and no exporter in use relies on overriding them.

mod attrs;
mod body;
mod call;
mod compose;
mod function;
mod import;
mod order;
mod proto;
mod registry;
mod tensor;
mod types;

use crate::mapped::MappedFile;
use bytes::Bytes;
use deepseek_graph::{Graph, Type, Value};
use deepseek_tensor::{Result, Tensor};
use std::path::Path;

pub use tensor::MAX_DENSE_BYTES;
pub use types::dtype_from_onnx;

/// Newest operator set of the `ai.onnx` domain that is known here.
pub const NEWEST_OPSET: i64 = 28;

/// Newest version of the file format that is known here.
pub const NEWEST_IR_VERSION: i64 = 14;

/// Loads the model at `path`. The file is mapped, and so is external data, which
/// must lie in the same directory or below it.
///
/// # Errors
/// `NotFound`, `Io`; `InvalidFile` if the file is malformed, `InvalidGraph` if it
/// breaks a rule of graphs, `Unsupported` naming the node, operator, domain and opset.
pub fn load(path: impl AsRef<Path>) -> Result<Graph> {
    let path = path.as_ref();
    let file = MappedFile::open(path)?;
    let base = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    import::model(file.bytes(), Some(base)).map_err(|e| e.context(path.display()))
}

/// Loads a model from memory. External data is looked up in `base_dir`; without
/// one, a model that has external data is refused.
///
/// # Errors
/// As [`load`].
pub fn load_bytes(bytes: &[u8], base_dir: Option<&Path>) -> Result<Graph> {
    import::model(Bytes::copy_from_slice(bytes), base_dir)
}

/// Decodes a stored `TensorProto`.
///
/// # Errors
/// `InvalidFile`, `Unsupported`.
pub fn tensor_from_bytes(bytes: &[u8]) -> Result<Tensor> {
    let proto = proto::decode(Bytes::copy_from_slice(bytes), proto::Kind::Tensor)?;
    tensor::tensor(&proto, &tensor::ExternalFiles::default())
}

/// Decodes a stored value of type `ty`: a `TensorProto`, `SequenceProto` or
/// `OptionalProto`, as test data keeps them.
///
/// # Errors
/// `InvalidFile`, `Unsupported`.
pub fn value_from_bytes(bytes: &[u8], ty: &Type) -> Result<Value> {
    tensor::value(Bytes::copy_from_slice(bytes), ty)
}
