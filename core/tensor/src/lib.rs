//! Tensors: bytes with an element type, a shape and strides.
//!
//! This crate knows nothing of operators, graphs or devices. It owns four things
//! that every other room of the library shares: the element types ([`DType`]),
//! the strided view over counted storage ([`Tensor`]), the narrow float formats
//! ([`narrow`]) and the error type ([`Error`]).
//!
//! ```
//! use deepseek_tensor::Tensor;
//!
//! let t = Tensor::from_slice(&[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
//! let column = t.slice_axis(1, 1, 1, 1)?; // a view: no bytes move
//! assert_eq!(column.shape(), &[2, 1]);
//! assert_eq!(column.to_vec::<f32>()?, vec![2.0, 5.0]);
//! # Ok::<(), deepseek_tensor::Error>(())
//! ```

mod buffer;
mod dtype;
mod error;
pub mod narrow;
mod tensor;

pub use buffer::{ALIGNMENT, Buffer, heap_bytes};
pub use dtype::{DType, Element};
pub use error::{Code, Error, Result};
pub use tensor::{
    Dims, MAX_RANK, Strides, Tensor, broadcast_shapes, contiguous_strides, num_elements,
};
