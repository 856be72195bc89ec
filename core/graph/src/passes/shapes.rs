//! Shapes that are computed at length, in their plainest form.

use super::extents::{self, Part};
use super::view::{View, input, output};
use super::{Diagnostics, Pass, Patch};
use crate::{Dim, Graph, Node, ValueId, ops};
use deepseek_tensor::{DType, Result};

/// Gives Reshape and Expand a constant shape where one says it, and reads other extents that are
/// known as formulas from the inputs of the graph: what exporters write as chains of Shape, Gather,
/// Mul and Concat over values inside the graph goes away with it.
pub struct PlainShapes;

impl Pass for PlainShapes {
    fn name(&self) -> &'static str {
        "shapes"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let view = View::new(graph);
        let mut patches = Vec::new();
        for node in graph.nodes() {
            let Some(y) = output(node).filter(|y| !view.is_unread(*y)) else { continue };
            let patch = match target(&view, node, y)? {
                Some(patch) => Some(patch),
                None => extent_list(&view, node, y)?,
            };
            if let Some(patch) = patch {
                diagnostics.fired(self.name(), &node.name, || "a plain shape".to_owned());
                patches.push(patch);
            }
        }
        Ok(patches)
    }
}

/// A Reshape or Expand with a constant shape in place of a computed one.
fn target<'g>(view: &View<'g>, node: &Node, y: ValueId) -> Result<Option<Patch<'g>>> {
    let (Some(x), Some(shape)) = (input(node, 0), input(node, 1)) else { return Ok(None) };
    let (Some(from), Some(to)) = (view.shape(x), view.shape(y)) else { return Ok(None) };
    let parts = match node.op.name() {
        _ if view.constant(shape).is_some() => None,
        "Reshape" => extents::reshape(view, x, from, to),
        "Expand" => extents::expand(view, x, from, to),
        _ => None,
    };
    let Some(parts) = parts.filter(|p| extents::is_constant(p)) else { return Ok(None) };
    let mut patch = Patch::new(view.graph);
    let shape = extents::add(&mut patch, &format!("{}.shape", node.name), &parts)?;
    let inputs = [x.into(), shape];
    let new = match node.op.name() {
        "Reshape" => patch.add(&node.name, ops::Reshape::default(), &inputs)?,
        _ => patch.add(&node.name, ops::Expand {}, &inputs)?,
    };
    Ok(patch.redirect(y, new).is_ok().then_some(patch))
}

/// A list of extents that are all extents of graph inputs or numbers.
fn extent_list<'g>(view: &View<'g>, node: &Node, y: ValueId) -> Result<Option<Patch<'g>>> {
    let fact = view.fact(y);
    let rank = fact.rank().filter(|&r| r <= 1 && view.dtype(y) == Some(DType::I64));
    let Some(rank) = rank.filter(|_| view.constant(y).is_none()) else { return Ok(None) };
    let Some(dims) = fact.as_dims().filter(|d| d.len() <= 8) else { return Ok(None) };
    // Inside a chain of shape arithmetic only the end counts.
    let ends = view.is_output(y)
        || view.readers(y).any(|n| output(n).is_none_or(|o| view.fact(o).as_dims().is_none()));
    if !ends || is_plain(view, node) {
        return Ok(None);
    }
    let source =
        |dim: &Dim| match dim.as_const() {
            Some(n) => Some(Part::Number(n)),
            None => view.graph.inputs().iter().find_map(|&v| {
                Some(Part::Extent(v, view.shape(v)?.iter().position(|d| d == dim)?))
            }),
        };
    let Some(parts) = dims.iter().map(source).collect::<Option<Vec<_>>>() else { return Ok(None) };
    let mut patch = Patch::new(view.graph);
    let mut new = extents::add(&mut patch, &node.name, &parts)?;
    if rank == 0 {
        new = patch.add(&node.name, ops::Squeeze {}, &[new])?;
    }
    Ok(patch.redirect(y, new).is_ok().then_some(patch))
}

/// Whether a node reads extents of graph inputs, or strings such together.
fn is_plain(view: &View, node: &Node) -> bool {
    let of_input = |node: &Node| {
        node.op.name() == "Shape"
            && input(node, 0).is_some_and(|x| view.graph.inputs().contains(&x))
    };
    let part = |v: &Option<ValueId>| {
        v.is_some_and(|v| {
            view.constant(v).is_some() || view.writer(v).is_some_and(|(n, _)| of_input(n))
        })
    };
    of_input(node) || matches!(node.op.name(), "Concat" | "Squeeze") && node.inputs.iter().all(part)
}
