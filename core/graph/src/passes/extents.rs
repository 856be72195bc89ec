//! Shape tensors for new nodes, in their plainest form.
//!
//! A target shape is a list of formulas. What can be said by constants is: numbers, 0 for an
//! extent that stays where it is, −1 for the one that follows from the others. What cannot is read
//! from a value that has this extent, an input of the graph where possible, so that all shapes of
//! a graph hang on its inputs and not on what happens to be computed.

use super::view::View;
use super::{Patch, Wire};
use crate::{Dim, ValueId, ops};
use deepseek_tensor::{Result, Tensor};

/// One element of a shape tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Number(i64),
    /// The extent of an axis of a value.
    Extent(ValueId, usize),
}

/// How to say to a Reshape that a tensor of extents `from` becomes `to`, which has as many
/// elements. Extents may also be read from `near`. `None` if some extent is nowhere to be read.
pub(super) fn reshape(view: &View, near: ValueId, from: &[Dim], to: &[Dim]) -> Option<Vec<Part>> {
    let mut parts = Vec::with_capacity(to.len());
    for (i, dim) in to.iter().enumerate() {
        parts.push(match dim.as_const() {
            Some(0) => return None,
            Some(n) => Some(Part::Number(n)),
            None if from.get(i).is_some_and(|f| view.same(f, dim)) => Some(Part::Number(0)),
            None => None,
        });
    }
    let mut open = parts.iter().filter(|p| p.is_none()).count();
    if open > 1 {
        for (part, dim) in parts.iter_mut().zip(to).filter(|(p, _)| p.is_none()) {
            *part = source(view, near, dim);
            open -= usize::from(part.is_some());
        }
    }
    if open > 1 {
        return None;
    }
    Some(parts.into_iter().map(|p| p.unwrap_or(Part::Number(-1))).collect())
}

/// How to say to an Expand that `from` becomes `to`: 1 where an extent stays.
pub(super) fn expand(view: &View, near: ValueId, from: &[Dim], to: &[Dim]) -> Option<Vec<Part>> {
    let lead = to.len().checked_sub(from.len())?;
    let part = |(i, dim): (usize, &Dim)| match dim.as_const() {
        Some(n) => Some(Part::Number(n)),
        None if i >= lead && view.same(&from[i - lead], dim) => Some(Part::Number(1)),
        None => source(view, near, dim),
    };
    to.iter().enumerate().map(part).collect()
}

/// Where an extent can be read.
fn source(view: &View, near: ValueId, dim: &Dim) -> Option<Part> {
    let inputs = view.graph.inputs().iter().copied();
    inputs.chain([near]).find_map(|v| {
        let axis = view.shape(v)?.iter().position(|d| d == dim)?;
        Some(Part::Extent(v, axis))
    })
}

/// Whether a shape made of `parts` is a constant.
pub(super) fn is_constant(parts: &[Part]) -> bool {
    parts.iter().all(|p| matches!(p, Part::Number(_)))
}

/// Adds the shape tensor.
pub(super) fn add(patch: &mut Patch, name: &str, parts: &[Part]) -> Result<Wire> {
    let mut pieces = Vec::new();
    let mut rest = parts;
    while let Some(&first) = rest.first() {
        let piece = match first {
            Part::Number(_) => {
                let numbers: Vec<i64> = rest
                    .iter()
                    .map_while(|p| match p {
                        Part::Number(n) => Some(*n),
                        Part::Extent(..) => None,
                    })
                    .collect();
                rest = &rest[numbers.len()..];
                patch.constant(
                    &format!("{name}.extents"),
                    Tensor::from_vec(&[numbers.len()], numbers)?,
                )
            }
            Part::Extent(v, start) => {
                let run = rest.iter().zip(start..);
                let n = run.take_while(|(p, axis)| **p == Part::Extent(v, *axis)).count();
                rest = &rest[n..];
                let op = ops::Shape { start: start as i64, end: Some((start + n) as i64) };
                patch.add(&format!("{name}.extents"), op, &[v.into()])?
            }
        };
        pieces.push(piece);
    }
    match *pieces {
        [only] => Ok(only),
        [] => Ok(patch.constant(name, Tensor::from_slice(&[0], &[0i64; 0])?)),
        _ => patch.add(name, ops::Concat { axis: 0 }, &pieces),
    }
}
