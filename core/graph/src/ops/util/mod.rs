//! What shape rules and scalar references share.

mod channels;
mod elementwise;
mod fft;
mod lanes;
mod moving;
mod numeric;
mod random;
pub mod shape_math;
mod shapes;
mod small_ints;
pub mod special;
mod types;
mod weights;
mod window;

pub use channels::{channels_as_planes, channels_second, channels_to_back, planes_as_channels};
pub use elementwise::{Kind, map, map_float, shaped_like, vec_for, zip};
pub use fft::Fft;
pub use lanes::{axes_last, filled, map_rows};
pub(crate) use moving::{
    FILL, Sink, Source, around, each_index, take_axis, through_views, wrap_index,
};
pub use numeric::{Num, cast_from_f64, cast_from_i64, to_f64, to_i64};
pub use random::Philox;
pub use shapes::{
    broadcast_all, broadcast_dims, broadcast_shapes_all, concrete, normalize_axes, normalize_axis,
    to_dims, usize_dims,
};
pub(crate) use small_ints::{list_i64, order_keys, scalar_i64, with_contents};
pub(crate) use types::{
    VARIES, collect_symbols, erase_shape, join, join_elements, one_element, replace_extents,
};
pub(crate) use weights::{expect_weights, widened};
pub use window::{
    AutoPad, Row, TransposedWindow, Window, WindowAxis, for_each_row, kernel_dims, live_taps,
    pool_kernel,
};
