//! Rearrangements that turn an operator over some axes into a loop over rows.

use super::{cast_from_f64, to_f64};
use deepseek_tensor::{Result, Tensor, err, num_elements};

/// `t` viewed with `axes` (distinct, counted from the front) behind all others, in ascending
/// order, and the permutation that moves every axis back.
///
/// # Errors
/// `InvalidArgument` if an axis is outside the tensor or named twice.
pub fn axes_last(t: &Tensor, axes: &[usize]) -> Result<(Tensor, Vec<usize>)> {
    let mut last = axes.to_vec();
    last.sort_unstable();
    let order: Vec<usize> = (0..t.rank()).filter(|a| !axes.contains(a)).chain(last).collect();
    let view = t.permute(&order)?;
    let mut back = vec![0; order.len()];
    for (i, &a) in order.iter().enumerate() {
        back[a] = i;
    }
    Ok((view, back))
}

/// A tensor of the shape and element type of `t`, computed row by row in double precision: a row
/// holds the elements that differ only along `axes`, the last of them fastest, and `row` rewrites
/// it in place. Each element is rounded once.
///
/// # Errors
/// As [`axes_last`]; `DTypeMismatch` for strings; `OutOfMemory`.
pub fn map_rows(t: &Tensor, axes: &[usize], row: impl FnMut(&mut [f64])) -> Result<Tensor> {
    let (view, back) = axes_last(t, axes)?;
    let mut data = to_f64(&view)?;
    let len = num_elements(&view.shape()[t.rank() - axes.len()..])?;
    if !data.is_empty() {
        data.chunks_exact_mut(len).for_each(row);
    }
    cast_from_f64(t.dtype(), view.shape(), &data)?.permute(&back)?.to_contiguous()
}

/// `n` copies of `value`, or an error instead of an abort where there is no memory for them.
///
/// # Errors
/// `OutOfMemory`.
pub fn filled<T: Clone>(n: usize, value: T) -> Result<Vec<T>> {
    let mut v = Vec::new();
    v.try_reserve_exact(n).map_err(|_| {
        err!(OutOfMemory, "cannot allocate {n} elements of {} bytes", size_of::<T>())
    })?;
    v.resize(n, value);
    Ok(v)
}
