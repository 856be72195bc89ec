//! Foreign formats in, graphs and mapped weights out.
//!
//! Everything here reads bytes that somebody else wrote, and distrusts them: sizes
//! are checked before memory is allocated, paths stay inside the model's directory,
//! nesting and expansion are bounded, and whatever is wrong is an [`Error`] that
//! names the tensor, node or field. Nothing of a format leaves this crate: an ONNX
//! file becomes a [`Graph`], a safetensors file named [`Tensor`]s.
//!
//! - [`hf`]: encoders as Hugging Face directories, with their pooling.
//! - [`onnx`]: ONNX models, with old operator sets rewritten to the newest.
//! - [`package`]: `.deepseek` files, a graph and its weights in one.
//! - [`safetensors`]: weights, single files and sharded ones.
//!
//! [`Error`]: deepseek_tensor::Error
//! [`Graph`]: deepseek_graph::Graph
//! [`Tensor`]: deepseek_tensor::Tensor

pub mod hf;
mod mapped;
pub mod onnx;
pub mod package;
pub mod safetensors;

pub use mapped::MappedFile;
