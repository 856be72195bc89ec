//! Kernels on bytes besides matrix products: convolution, pooling and sums of `[N, …, C]` tensors.
//!
//! With channels last, the window of an output position is a few runs of bytes, so a convolution is a
//! [product](crate::gemm::gemm_i8) whose rows are copied together, or, for windows of one tap, lie
//! there already. Each vector holds neighbouring channels.

mod add;
mod conv;
mod pool;

pub use add::{Quantised, add_i8};
pub use conv::{ConvI8Weights, conv_i8, conv_i8_scratch};
pub use pool::max_pool_i8;
