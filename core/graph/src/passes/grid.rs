//! Gathers by every index in order, which only rename axes.

use super::layout::{Rules, trace};
use super::view::{View, input, output};
use super::{Diagnostics, Pass, Patch, extents};
use crate::ops::util::{normalize_axis, to_f64};
use crate::{Dim, Graph, Node, ValueId, ops};
use deepseek_tensor::Result;

/// Replaces a gather whose indices count through a matrix by a Reshape. Models that build a mask
/// from functions of batch, head, query and key look a `[batch, keys]` mask up so: by
/// GatherND of index pairs, or by Gather of `batch·keys + key` from the flattened mask.
pub struct PlainGathers;

impl Pass for PlainGathers {
    fn name(&self) -> &'static str {
        "grid"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let view = View::new(graph);
        let mut patches = Vec::new();
        for node in graph.nodes() {
            let Some(y) = output(node).filter(|y| !view.is_unread(*y)) else { continue };
            let data = match node.op.name() {
                "GatherND" => pairs(&view, node, y),
                "Gather" => flat(&view, node, y),
                _ => continue,
            };
            let Some(data) = data else { continue };
            let (Some(from), Some(to)) = (view.shape(data), view.shape(y)) else { continue };
            let Some(parts) = extents::reshape(&view, data, from, to) else {
                diagnostics.missed(self.name(), &node.name, || {
                    format!("a reshape: an extent of {to:?} cannot be read")
                });
                continue;
            };
            let mut patch = Patch::new(graph);
            let shape = extents::add(&mut patch, &format!("{}.shape", node.name), &parts)?;
            let new = patch.add(&node.name, ops::Reshape::default(), &[data.into(), shape])?;
            match patch.redirect(y, new) {
                Ok(()) => {
                    diagnostics.fired(self.name(), &node.name, || "a reshape".to_owned());
                    patches.push(patch);
                }
                Err(e) => diagnostics.missed(self.name(), &node.name, || e.message().to_owned()),
            }
        }
        Ok(patches)
    }
}

/// The axis along which `v` counts from 0, the same along all others, and how far.
pub(super) fn counts(view: &View, v: ValueId) -> Option<(usize, Dim)> {
    let rules = Rules { repeats: true, ..Rules::default() };
    let layout = trace(view, v, rules)?;
    let [own] = &layout.order[..] else { return None };
    let axis = layout.axes.iter().position(|axis| !own.is_empty() && axis == own)?;
    let from_zero = if let Some(t) = view.constant(layout.root) {
        to_f64(&t).is_ok_and(|d| d.iter().enumerate().all(|(i, x)| *x == i as f64))
    } else {
        let (_, node) = view.made_by::<ops::Range>(layout.root)?;
        let number = |i: usize| input(node, i).and_then(|x| view.ints(x));
        number(0)? == [0] && number(2)? == [1]
    };
    from_zero.then(|| (axis, layout.extent(own)))
}

/// Whether rows and columns of a matrix `[rows, cols]` are counted along axes of `shape` in this
/// order, all other extents being 1.
fn whole(
    view: &View,
    shape: &[Dim],
    (row_axis, rows): (usize, &Dim),
    (col_axis, cols): (usize, &Dim),
    matrix: &[Dim],
) -> bool {
    let others = shape.iter().enumerate().filter(|(i, _)| *i != row_axis && *i != col_axis);
    row_axis < col_axis
        && matrix.len() == 2
        && view.same(rows, &matrix[0])
        && view.same(cols, &matrix[1])
        && view.same(rows, &shape[row_axis])
        && view.same(cols, &shape[col_axis])
        && others.into_iter().all(|(_, d)| d.as_const() == Some(1))
}

/// The matrix that GatherND reads at `(row, column)` in order.
fn pairs(view: &View, node: &Node, y: ValueId) -> Option<ValueId> {
    let op = node.op.downcast::<ops::GatherND>()?;
    let (data, indices) = (input(node, 0)?, input(node, 1)?);
    let rank = view.rank(indices)?;
    let (concat, parts) = view.made_by::<ops::Concat>(indices)?;
    let [Some(rows), Some(cols)] = *parts.inputs else { return None };
    if op.batch_dims != 0 || normalize_axis(concat.axis, rank).ok()? + 1 != rank {
        return None;
    }
    let ((row_axis, n), (col_axis, m)) = (counts(view, rows)?, counts(view, cols)?);
    let (shape, matrix) = (view.shape(y)?, view.shape(data)?);
    let fits = shape.len() + 1 == rank
        && view.shape(rows)?.last()?.as_const() == Some(1)
        && row_axis.max(col_axis) < shape.len()
        && whole(view, shape, (row_axis, &n), (col_axis, &m), matrix);
    fits.then_some(data)
}

/// The matrix that Gather reads, flattened, at `row·columns + column` in order.
fn flat(view: &View, node: &Node, y: ValueId) -> Option<ValueId> {
    let op = node.op.downcast::<ops::Gather>()?;
    let (rows_of, indices) = (input(node, 0)?, input(node, 1)?);
    let flat = view.shape(rows_of)?;
    let single = flat.len() == 1 || flat.len() == 2 && flat[1].as_const() == Some(1);
    let (flatten, _) = view.writer(rows_of)?;
    if op.axis != 0 || !single || !matches!(flatten.op.name(), "Flatten" | "Reshape") {
        return None;
    }
    let data = input(flatten, 0)?;
    let (shape, matrix) = (view.shape(y)?, view.shape(data)?);
    let rank = view.rank(indices)?;
    view.either::<ops::Add>(indices).find_map(|(cols, scaled)| {
        let (col_axis, m) = place(view, cols, rank)?;
        view.either::<ops::Mul>(scaled).find_map(|(rows, stride)| {
            let (row_axis, n) = place(view, rows, rank)?;
            let [stride] = &view.fact(stride).as_dims()?[..] else { return None };
            let fits =
                view.same(stride, &m) && whole(view, shape, (row_axis, &n), (col_axis, &m), matrix);
            fits.then_some(data)
        })
    })
}

/// As [`counts`], with axes counted in a value of rank `rank` that `v` broadcasts to.
fn place(view: &View, v: ValueId, rank: usize) -> Option<(usize, Dim)> {
    let (axis, n) = counts(view, v)?;
    Some((axis + rank.checked_sub(view.rank(v)?)?, n))
}
