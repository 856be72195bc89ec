//! Shorter chains of reshapes, transposes and slices.

use super::emit::weight;
use super::{Rules, trace};
use crate::passes::view::{View, input, output};
use crate::passes::{Diagnostics, Pass, Patch};
use crate::{Graph, Node, ValueId};
use deepseek_tensor::Result;

/// Replaces a chain of Reshape, Squeeze, Unsqueeze, Flatten, Transpose and slices of equal parts by
/// the shortest chain with the same result: pairs that undo each other vanish, transposes compose,
/// one that only moves axes of extent 1 becomes a Reshape.
pub struct LayoutMotion;

impl Pass for LayoutMotion {
    fn name(&self) -> &'static str {
        "layout"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let view = View::new(graph);
        let mut patches = Vec::new();
        for node in graph.nodes() {
            let Some(v) = output(node).filter(|v| !view.is_unread(*v)) else { continue };
            if weigh(node).is_none() {
                continue;
            }
            let rules = Rules { picks: true, ..Rules::default() };
            let Some(layout) = trace(&view, v, rules).filter(|l| l.steps > 0) else { continue };
            let Some(plan) = layout.plan(&view, &layout.axes) else { continue };
            let (now, saved) = (plan.weight(), saved(&view, v, layout.steps));
            if now >= saved {
                continue;
            }
            let mut patch = Patch::new(graph);
            let new = plan.add(&mut patch, &node.name, layout.root.into())?;
            match patch.redirect(v, new) {
                Ok(()) => {
                    let root = &graph.value(layout.root).name;
                    let steps = layout.steps;
                    diagnostics.fired(self.name(), &node.name, || {
                        format!("{steps} steps from '{root}' of weight {saved} now weigh {now}")
                    });
                    patches.push(patch);
                }
                Err(e) => diagnostics.missed(self.name(), &node.name, || e.message().to_owned()),
            }
        }
        Ok(patches)
    }
}

/// What a node that moves elements costs; `None` if it is of another kind.
fn weigh(node: &Node) -> Option<u32> {
    match node.op.name() {
        "Transpose" => Some(weight::TRANSPOSE),
        "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => Some(weight::RESHAPE),
        "Gather" | "Slice" => Some(weight::SLICE),
        // One node with many results: it goes only when all of them do.
        "Split" => Some(0),
        _ => None,
    }
}

/// Weight of the nodes of the chain that nothing reads any more once `v` is made otherwise.
fn saved(view: &View, v: ValueId, steps: usize) -> u32 {
    let mut sum = 0;
    let mut at = v;
    for i in 0..steps {
        let Some((node, _)) = view.writer(at) else { break };
        if i > 0 && !view.read_once(at) {
            break;
        }
        sum += weigh(node).unwrap_or(0);
        let Some(next) = input(node, 0) else { break };
        at = next;
    }
    sum
}
