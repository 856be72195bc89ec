//! Numbers as bytes.

use super::Range;
use deepseek_tensor::{Result, Tensor};

/// Scale and zero point of `u8` for a range, which is stretched to hold 0.
pub(super) fn unsigned(range: Range) -> (f32, u8) {
    let (min, max) = (range.min.min(0.0), range.max.max(0.0));
    let scale = (max - min) / 255.0;
    if !scale.is_finite() || scale < f32::MIN_POSITIVE {
        return (1.0, 0);
    }
    (scale, (-min / scale).round_ties_even().clamp(0.0, 255.0) as u8)
}

/// A constant as `i8` without zero points.
pub(super) struct Symmetric {
    /// Of the shape of the constant.
    pub q: Tensor,
    /// One for each index of the axis.
    pub scales: Vec<f32>,
}

/// The `i8` form of `w` with one scale for each index of `axis`: the greatest magnitude is 127. No
/// scale is less than `least(index)`.
///
/// # Errors
/// If `w` is not `f32`.
pub(super) fn symmetric(
    w: &Tensor,
    axis: usize,
    least: impl Fn(usize) -> f32,
) -> Result<Symmetric> {
    let data = w.to_vec::<f32>()?;
    let n = w.shape()[axis];
    let inner: usize = w.shape()[axis + 1..].iter().product();
    let at = |i: usize| i / inner % n;
    let mut scales = vec![0f32; n];
    for (i, x) in data.iter().enumerate() {
        let s = &mut scales[at(i)];
        *s = s.max(x.abs());
    }
    for (j, s) in scales.iter_mut().enumerate() {
        *s = (*s / 127.0).max(least(j));
        if !s.is_finite() || *s < f32::MIN_POSITIVE {
            *s = 1.0;
        }
    }
    let q = data.iter().enumerate();
    let q: Vec<i8> = q.map(|(i, x)| (x / scales[at(i)]).round_ties_even() as i8).collect();
    Ok(Symmetric { q: Tensor::from_vec(w.shape(), q)?, scales })
}
