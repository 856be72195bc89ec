//! A packed graph that runs some sequences at a time.

use super::{InputKind, OutputKind, Packed};
use crate::ops::{Counts, RaggedBlocks};
use crate::{Graph, ValueId};
use deepseek_tensor::{Result, ensure};
use std::sync::Arc;

impl Packed {
    /// The graph whose one node runs `body`, this graph or what passes made of it, over blocks of
    /// sequences: as many as have at most `rows` rows together, at least one. `None` if an output
    /// has rows of neither tokens nor sequences, or is no tensor of known rank.
    ///
    /// # Errors
    /// `InvalidGraph` if `body` does not have the inputs and outputs of this graph.
    pub fn in_blocks(&self, body: &Graph, rows: usize) -> Result<Option<Graph>> {
        let inputs = self.inputs.iter().filter_map(|input| match input.kind {
            InputKind::Mask { .. } => None,
            InputKind::Rows { .. } => Some(Counts::Rows),
            InputKind::PerSequence => Some(Counts::Sequences),
            InputKind::Whole => Some(Counts::Nothing),
        });
        let outputs = self.outputs.iter().map(|output| match output.kind {
            OutputKind::Rows { .. } => Some(Counts::Rows.code()),
            OutputKind::PerSequence { .. } => Some(Counts::Sequences.code()),
            OutputKind::Whole => None,
        });
        let Some(outputs) = outputs.collect::<Option<Vec<i64>>>() else { return Ok(None) };
        ensure!(
            body.inputs().len() == self.graph.inputs().len()
                && body.outputs().len() == self.graph.outputs().len(),
            InvalidGraph,
            "body '{}' does not have the inputs and outputs of the packed graph",
            body.name
        );
        let mut graph = Graph::new(body.name.clone());
        graph.copy_bounds(body);
        let mut ids: Vec<Option<ValueId>> = Vec::with_capacity(body.inputs().len());
        for id in body.inputs() {
            let def = body.value(*id);
            ids.push(Some(graph.add_input(&def.name, def.fact.ty.clone())?));
        }
        let op = RaggedBlocks {
            body: Arc::new(body.clone()),
            rows: i64::try_from(rows).unwrap_or(i64::MAX),
            inputs: inputs.map(Counts::code).collect(),
            outputs,
        };
        let names: Vec<String> =
            body.outputs().iter().map(|(name, _)| graph.unique_name(name)).collect();
        let wanted: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_str())).collect();
        let made = graph.add_node("blocks", Arc::new(op), &ids, &wanted)?;
        for ((name, was), is) in body.outputs().iter().zip(made.into_iter().flatten()) {
            if graph.fact(is).ty != body.fact(*was).ty {
                return Ok(None);
            }
            graph.add_output(name, is)?;
        }
        Ok(Some(graph))
    }
}
