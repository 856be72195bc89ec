//! CPU kernels: slices, strides and a capability token in, numbers out.
//!
//! # Idea
//!
//! Every kernel is written once, over a small vector vocabulary ([`simd`](crate) `Simd`: a vector of
//! `LANES` floats, its integer twin and its mask), and instantiated per instruction-set
//! [`Level`]. A caller holds an [`Isa`], a value that can only be made when the processor has the
//! instructions, and passes it to each kernel; so one machine can run, test and compare every level
//! it has.
//!
//! # Vocabulary
//!
//! * **level**: `scalar`, `avx2` (AVX2 + FMA + F16C) or `avx512` (F, BW, VL, DQ over those); `avxvnni`,
//!   `avx512vnni`, `avx512bf16` and `amx` add matrix instructions to one of these.
//! * **panel**: `NR` columns (of B) or `MR` rows (of A) of a matrix stored `[k][NR]` / `[k][MR]`,
//!   the order in which the micro-kernel reads them.
//! * **strides** are counted in elements, never bytes; sizes of scratch are counted in `f32`.
//! * **[`Parallel`]**: who runs the tasks of a kernel. A kernel splits its work by the shape of the
//!   problem alone and every output element is computed by one task, so results do not depend on
//!   the number of threads.
//!
//! # Where things are
//!
//! | module | kernels |
//! |---|---|
//! | [`gemm`] | matrix products: `f32`, bytes and bf16 with prepacking and epilogues, `f64` |
//! | [`conv`], [`pool`] | convolution, transposed convolution, pooling, one to three dimensions |
//! | [`blocked`] | blocked channels: to and from, pooling, what stands between convolutions |
//! | [`int8`] | convolution, pooling and sums of bytes with channels last |
//! | [`image`] | resampling images of bytes, pixels to floats |
//! | [`attention`] | tiled attention with masks, windows and grouped heads; packed sequences |
//! | [`elementwise`] | functions of one value (also the activations of epilogues) and of two |
//! | [`rotary`] | rotary position embedding |
//! | [`region`] | programs of elementwise functions, one pass over memory |
//! | [`reduce`], [`softmax`], [`norm`] | along rows or a strided axis |
//! | [`convert`], [`quant`] | 16-bit formats, strided copies, linear quantisation |
//!
//! # Promises
//!
//! * Within one level, results depend on the values only: not on the thread count, the position of
//!   an element in a slice, nor, for matrix products, on how many rows are computed together.
//!   Between levels, low bits may differ (different vector widths sum in different orders, and only
//!   levels above scalar fuse multiply and add).
//! * Nothing is allocated per call. Kernels that need workspace say how much (`*_scratch`) and take
//!   it as `&mut [f32]`. Prepacked weights ([`gemm::PackedA`], [`gemm::PackedB`]) own their memory, or
//!   share it with a mapped file, and are made once.
//! * Lengths are asserted on entry, before any pointer loop; a wrong length is a bug of the caller
//!   and panics with both sides of the mismatch.
//!
//! Kernel names in logs, benches and tests follow the grammar `{arch}-{dtypes}-{variant}`, for
//! example `avx2-f32-gemm6x16` (see [`Isa::kernel_name`]).
//!
//! ```
//! use deepseek_kernels_cpu::{Isa, Serial, elementwise::{Unary, unary}};
//! let x = [0.0, 1.0, -1.0];
//! let mut y = [0.0; 3];
//! unary(Isa::best(), &Serial, Unary::Exp, &x, &mut y);
//! assert_eq!(y[0], 1.0);
//! ```

mod isa;
mod parallel;
mod simd;

pub mod attention;
pub mod blocked;
pub mod conv;
pub mod convert;
pub mod elementwise;
pub mod gemm;
pub mod image;
pub mod int8;
mod math;
pub mod norm;
pub mod pool;
pub mod quant;
pub mod reduce;
pub mod region;
pub mod rotary;
pub mod softmax;

pub use isa::{Isa, Level};
pub use parallel::{Parallel, Serial};

/// Version of the orders in which constants are packed, which files may hold: it rises when one changes.
pub const PACKED_FORMAT: u32 = 1;
