//! Axes, broadcasting and the step between symbolic and concrete extents.

use crate::Dim;
use deepseek_tensor::{Dims, Result, bail, broadcast_shapes, ensure, err};

/// `axis` counted from the front, for a tensor of rank `rank`. Accepts −rank to rank − 1.
///
/// # Errors
/// `InvalidArgument` naming the axis and the rank.
pub fn normalize_axis(axis: i64, rank: usize) -> Result<usize> {
    let r = rank as i64;
    ensure!(
        (-r..r).contains(&axis),
        InvalidArgument,
        "axis {axis} is outside a tensor of rank {rank}; valid are {} to {}",
        -r,
        r - 1
    );
    Ok(if axis < 0 { axis + r } else { axis } as usize)
}

/// Several axes counted from the front, in the order given.
///
/// # Errors
/// As [`normalize_axis`], or `InvalidArgument` if an axis comes twice.
pub fn normalize_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>> {
    let out = axes.iter().map(|&a| normalize_axis(a, rank)).collect::<Result<Vec<_>>>()?;
    let mut sorted = out.clone();
    sorted.sort_unstable();
    ensure!(
        sorted.windows(2).all(|w| w[0] != w[1]),
        InvalidArgument,
        "axes {axes:?} name an axis twice"
    );
    Ok(out)
}

/// The symbolic shape that `a` and `b` broadcast to under numpy's rules.
///
/// # Errors
/// `ShapeMismatch` if two constant extents differ and neither is 1.
pub fn broadcast_dims(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let at = |s: &[Dim], i: usize| {
        if i + s.len() < rank { Dim::from(1i64) } else { s[i + s.len() - rank].clone() }
    };
    (0..rank)
        .map(|i| {
            let (x, y) = (at(a, i), at(b, i));
            match (x.as_const(), y.as_const()) {
                (Some(1), _) => Ok(y),
                (_, Some(1)) => Ok(x),
                (Some(p), Some(q)) if p != q => Err(err!(
                    ShapeMismatch,
                    "shapes [{}] and [{}] do not broadcast: axis {i} has {p} against {q}; one of them must be 1",
                    list(a),
                    list(b)
                )),
                _ => Ok(x.broadcast(&y)),
            }
        })
        .collect()
}

fn list(dims: &[Dim]) -> String {
    dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(", ")
}

/// The shape that all of `shapes` broadcast to; `None` if a rank is unknown.
///
/// # Errors
/// As [`broadcast_dims`].
pub fn broadcast_all<'a>(
    shapes: impl IntoIterator<Item = Option<&'a [Dim]>>,
) -> Result<Option<Vec<Dim>>> {
    let mut out = Vec::new();
    for shape in shapes {
        match shape {
            Some(s) => out = broadcast_dims(&out, s)?,
            None => return Ok(None),
        }
    }
    Ok(Some(out))
}

/// The concrete shape that all of `shapes` broadcast to.
///
/// # Errors
/// `ShapeMismatch` naming the pair that does not fit.
pub fn broadcast_shapes_all<'a>(shapes: impl IntoIterator<Item = &'a [usize]>) -> Result<Dims> {
    shapes.into_iter().try_fold(Dims::new(), |out, s| broadcast_shapes(&out, s))
}

/// Concrete extents as symbolic ones.
pub fn to_dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&d| Dim::from(d)).collect()
}

/// All extents as constants, if they are.
pub fn concrete(shape: &[Dim]) -> Option<Vec<i64>> {
    shape.iter().map(Dim::as_const).collect()
}

/// Integers from a model as extents.
///
/// # Errors
/// `InvalidArgument` naming a negative one.
pub fn usize_dims(values: &[i64]) -> Result<Vec<usize>> {
    values
        .iter()
        .map(|&v| match usize::try_from(v) {
            Ok(v) => Ok(v),
            Err(_) => bail!(InvalidArgument, "{values:?} is not a shape: {v} is negative"),
        })
        .collect()
}
