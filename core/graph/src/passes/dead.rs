//! Removing what no output needs.

use super::{Diagnostics, Pass, Patch};
use crate::Graph;
use deepseek_tensor::Result;

/// Removes nodes and constants that no graph output depends on.
pub struct DeadCode;

impl Pass for DeadCode {
    fn name(&self) -> &'static str {
        "dead"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let mut live = vec![false; graph.values().len()];
        for (_, id) in graph.outputs() {
            live[id.index()] = true;
        }
        let mut patch = Patch::new(graph);
        for (i, node) in graph.nodes().iter().enumerate().rev() {
            if node.outputs.iter().flatten().any(|v| live[v.index()]) {
                node.inputs.iter().flatten().for_each(|v| live[v.index()] = true);
            } else {
                patch.remove_node(i);
                diagnostics.fired(self.name(), &node.name, || "removed, nothing reads it".into());
            }
        }
        for &id in graph.constants().keys().filter(|id| !live[id.index()]) {
            patch.remove_constant(id);
        }
        Ok(if patch.is_empty() { Vec::new() } else { vec![patch] })
    }
}
