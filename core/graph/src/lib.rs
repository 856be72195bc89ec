//! The intermediate representation: one graph that every model format imports into.
//!
//! A BERT from ONNX, a Llama built from its configuration, a detection head, a
//! backward pass and an optimiser step are all a [`Graph`]: typed values, nodes in
//! topological order, constants, and named dimensions ([`Dim`]) with bounds. This
//! crate owns what an operator *means*: its attributes, its shape rule over
//! symbolic extents and its scalar reference. It executes nothing but that
//! reference and knows no device.
//!
//! ```
//! use deepseek_graph::{Dim, Graph, Type, interpret, ops};
//! use deepseek_tensor::{DType, Tensor};
//!
//! let mut g = Graph::new("affine");
//! let x = g.add_input("x", Type::tensor(DType::F32, [Dim::sym("batch"), Dim::from(2i64)]))?;
//! let w = g.add_constant("w", Tensor::from_slice(&[2, 1], &[3.0f32, 4.0])?)?;
//! let y = g.add("y", ops::MatMul::default(), &[x, w])?;
//! g.add_output("y", y)?;
//! assert_eq!(g.fact(y).to_string(), "f32[batch, 1]");
//!
//! let out = interpret::run(&g, vec![Tensor::from_slice(&[1, 2], &[1.0f32, 1.0])?.into()])?;
//! assert_eq!(out[0].tensor()?.to_vec::<f32>()?, [7.0]);
//! # Ok::<(), deepseek_tensor::Error>(())
//! ```

mod attr;
pub mod dim;
mod graph;
pub mod interpret;
mod op;
pub mod ops;
pub mod passes;
pub mod text;
mod value;

pub use attr::{Attr, AttrValue, Attrs, same_tensor};
pub use dim::{Bindings, Bounds, CompiledDim, Dim, DimError, Symbol};
pub use graph::{Graph, Node, ValueDef, ValueId};
pub use interpret::NoSubgraphs;
pub use op::{Env, EvalArgs, FromAttrs, InferArgs, OpDef, OpInfo, Operator, build_op};
pub use ops::util::Num;
pub use value::{Fact, Known, Type, Value};
