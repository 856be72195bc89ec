//! Where the channels of an image are: `[N, C, …]` or, with channels last, `[N, …, C]`.

use deepseek_tensor::{Result, Tensor};

/// `[N, …, C]` as `[N, C, …]`, if `last`.
pub fn channels_second<T: Clone>(shape: &[T], last: bool) -> Vec<T> {
    let mut shape = shape.to_vec();
    if last && shape.len() > 2 {
        shape[1..].rotate_right(1);
    }
    shape
}

/// `[N, C, …]` as `[N, …, C]`, if `last`.
pub fn channels_to_back<T>(mut shape: Vec<T>, last: bool) -> Vec<T> {
    if last && shape.len() > 2 {
        shape[1..].rotate_left(1);
    }
    shape
}

/// The tensor, with channels last if `last`, as `[N, C, …]`.
///
/// # Errors
/// `OutOfMemory`.
pub fn channels_as_planes(x: &Tensor, last: bool) -> Result<Tensor> {
    let axes: Vec<usize> = (0..x.rank()).collect();
    x.permute(&channels_second(&axes, last))?.to_contiguous()
}

/// A tensor `[N, C, …]`, with channels last if `last`.
///
/// # Errors
/// `OutOfMemory`.
pub fn planes_as_channels(y: Tensor, last: bool) -> Result<Tensor> {
    let axes: Vec<usize> = (0..y.rank()).collect();
    y.permute(&channels_to_back(axes, last))?.to_contiguous()
}
