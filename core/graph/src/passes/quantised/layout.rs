//! Channels last, where kernels on bytes want them.

use super::products::is_planes;
use crate::ops::{ConvInteger, ConvIntegerToFloat, MaxPool, QLinearAdd, QLinearConv, Transpose};
use crate::passes::view::{View, input, output};
use crate::passes::{Diagnostics, Pass, Patch, Wire};
use crate::{Graph, Node, Operator, ValueId};
use deepseek_tensor::Result;
use std::sync::Arc;

/// Lets convolutions with constant weights and pooling of bytes run with channels last, between
/// transposes, and moves the transpose after them behind sums. What is left of the transposes between
/// two such operators undoes itself.
pub struct ChannelsLast;

impl Pass for ChannelsLast {
    fn name(&self) -> &'static str {
        "channels last"
    }

    fn is_late(&self) -> bool {
        true
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let view = View::new(graph);
        let mut patches = Vec::new();
        for node in graph.nodes() {
            let Some(y) = output(node).filter(|y| !view.is_unread(*y)) else { continue };
            let patch = match channels_last(&view, node) {
                Some(op) => Some(between(&view, node, y, op)?),
                None => behind_sum(&view, node, y)?,
            };
            if let Some(patch) = patch {
                diagnostics.fired(self.name(), &node.name, || node.op.name().to_owned());
                patches.push(patch);
            }
        }
        Ok(patches)
    }
}

/// The operator with channels last, if it does not have them there.
fn channels_last(view: &View, node: &Node) -> Option<Arc<dyn Operator>> {
    if !is_planes(view, input(node, 0)?) {
        return None;
    }
    if let Some(op) = node.op.downcast::<QLinearConv>().filter(|op| !op.channels_last) {
        view.graph.constant(input(node, 3)?)?;
        return Some(Arc::new(QLinearConv { channels_last: true, ..op.clone() }));
    }
    if let Some(op) = node.op.downcast::<ConvInteger>().filter(|op| !op.channels_last) {
        view.graph.constant(input(node, 1)?)?;
        return Some(Arc::new(ConvInteger { channels_last: true, ..op.clone() }));
    }
    if let Some(op) = node.op.downcast::<ConvIntegerToFloat>().filter(|op| !op.channels_last) {
        view.graph.constant(input(node, 1)?)?;
        return Some(Arc::new(ConvIntegerToFloat { channels_last: true, ..op.clone() }));
    }
    let op = node.op.downcast::<MaxPool>().filter(|op| !op.channels_last)?;
    (node.outputs.len() == 1)
        .then(|| Arc::new(MaxPool { channels_last: true, ..op.clone() }) as Arc<dyn Operator>)
}

/// `[N, C, …]` to `[N, …, C]`.
fn to_last(rank: usize) -> Transpose {
    let perm = std::iter::once(0).chain(2..rank as i64).chain([1]).collect();
    Transpose { perm }
}

/// `[N, …, C]` to `[N, C, …]`.
fn to_second(rank: usize) -> Transpose {
    let last = rank as i64 - 1;
    Transpose { perm: [0, last].into_iter().chain(1..last).collect() }
}

fn between<'g>(
    view: &View<'g>,
    node: &'g Node,
    y: ValueId,
    op: Arc<dyn Operator>,
) -> Result<Patch<'g>> {
    let mut patch = Patch::new(view.graph);
    let x = input(node, 0).expect("`channels_last` looked at it");
    let rank = view.rank(x).expect("`channels_last` looked at it");
    let name = &node.name;
    let x = patch.add(&format!("{name}.last"), to_last(rank), &[x.into()])?;
    let mut inputs: Vec<_> = node.inputs.iter().map(|i| i.map(Wire::Old)).collect();
    inputs[0] = Some(x);
    let z = patch.add_node(name, op, &inputs, &[true])?[0];
    let z = z.expect("the output was asked for");
    let new = patch.add(&format!("{name}.second"), to_second(rank), &[z])?;
    patch.redirect(y, new)?;
    Ok(patch)
}

/// A sum of two values that are transposed alike is the transpose of their sum.
fn behind_sum<'g>(view: &View<'g>, node: &'g Node, y: ValueId) -> Result<Option<Patch<'g>>> {
    if node.op.downcast::<QLinearAdd>().is_none() {
        return Ok(None);
    }
    let source = |i: usize| {
        let v = input(node, i)?;
        let rank = view.rank(v).filter(|r| (3..=5).contains(r))?;
        let (op, maker) = view.made_by::<Transpose>(v)?;
        (op.perm == to_second(rank).perm).then_some((input(maker, 0)?, rank))
    };
    let (Some((a, rank)), Some((b, _))) = (source(0), source(3)) else { return Ok(None) };
    let mut patch = Patch::new(view.graph);
    let mut inputs: Vec<_> = node.inputs.iter().map(|i| i.map(Wire::Old)).collect();
    (inputs[0], inputs[3]) = (Some(a.into()), Some(b.into()));
    let z = patch.add_node(&node.name, node.op.clone(), &inputs, &[true])?[0];
    let z = z.expect("the output was asked for");
    let new = patch.add(&format!("{}.second", node.name), to_second(rank), &[z])?;
    patch.redirect(y, new)?;
    Ok(Some(patch))
}
