//! Softmax by its formula.

use crate::passes::view::{View, input, output};
use crate::passes::{Diagnostics, Pass, Patch};
use crate::{Graph, ValueId, ops};
use deepseek_tensor::Result;

/// Finds `eˣ / Σ eˣ`, with or without the greatest element subtracted before.
pub struct FuseSoftmax;

impl Pass for FuseSoftmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let view = View::new(graph);
        let mut patches = Vec::new();
        for node in graph.nodes() {
            let Some(y) = output(node).filter(|y| !view.is_unread(*y)) else { continue };
            let Some((x, axis)) = softmax(&view, y) else { continue };
            let mut patch = Patch::new(graph);
            let new = patch.add(&node.name, ops::Softmax { axis }, &[x.into()])?;
            match patch.redirect(y, new) {
                Ok(()) => {
                    diagnostics
                        .fired(self.name(), &node.name, || format!("Softmax of axis {axis}"));
                    patches.push(patch);
                }
                Err(e) => diagnostics.missed(self.name(), &node.name, || e.message().to_owned()),
            }
        }
        Ok(patches)
    }
}

/// What `y` is the softmax of, and along which axis.
fn softmax(view: &View, y: ValueId) -> Option<(ValueId, i64)> {
    let (e, sum) = view.binary::<ops::Div>(y)?;
    let (op, node) = view.made_by::<ops::ReduceSum>(sum)?;
    let rank = view.rank(e)?;
    if input(node, 0) != Some(e) || !op.keepdims {
        return None;
    }
    let [axis] = *view.reduced_axes(node, op.noop_with_empty_axes, rank)? else { return None };
    let arg = view.unary::<ops::Exp>(e)?;
    let centred = view.binary::<ops::Sub>(arg).and_then(|(x, max)| {
        let (op, node) = view.made_by::<ops::ReduceMax>(max)?;
        let axes = view.reduced_axes(node, op.noop_with_empty_axes, rank)?;
        (input(node, 0) == Some(x) && op.keepdims && axes == [axis]).then_some(x)
    });
    let x = centred.unwrap_or(arg);
    view.same_shape(x, y).then_some((x, axis as i64))
}
