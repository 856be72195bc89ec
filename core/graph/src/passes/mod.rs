//! Rewriting a graph: rules propose patches, patches are checked, a driver applies them.
//!
//! A rule never changes a graph. It reads one and proposes [`Patch`]es: new nodes, and which
//! values they stand in for. [`apply`] builds a new graph from the old one and the patches, and
//! fails if a type would change, a cycle would arise or something would be read that is gone. So a
//! rule can be wrong about a value, but it cannot leave a broken graph behind, and the graph
//! before is still there to compare with.
//!
//! A [`Pipeline`] runs [`Pass`]es in order, again and again, until none proposes anything or the
//! rounds are used up. Graphs inside operators (branches, loop bodies) go through the same
//! pipeline first. What a graph promises stays: names, order and types of its inputs and outputs.
//! [`Diagnostics`] tell which rules fired where and, if asked, why others did not.
//!
//! The passes here are portable: they know no device, and their result is a graph like any other,
//! that prints, compares and runs in the interpreter.
//!
//! ```
//! use deepseek_graph::passes::{Diagnostics, Level, Pipeline};
//! use deepseek_graph::{Graph, Type, ops};
//! use deepseek_tensor::{DType, Tensor};
//!
//! let mut g = Graph::new("g");
//! let x = g.add_input("x", Type::tensor(DType::F32, [2.into(), 2.into()]))?;
//! let a = g.add_constant("a", Tensor::from_slice(&[2, 2], &[0.0f32, 1.0, 1.0, 0.0])?)?;
//! let aa = g.add("aa", ops::MatMul::default(), &[a, a])?;
//! let y = g.add("y", ops::MatMul::default(), &[x, aa])?;
//! g.add_output("y", y)?;
//!
//! let mut diagnostics = Diagnostics::new(Level::Fired);
//! let outcome = Pipeline::portable().run(&g, &mut diagnostics)?;
//! assert_eq!(outcome.graph.nodes().len(), 1);
//! assert_eq!(diagnostics.entries()[0].to_string(), "fold: aa: constant f32[2, 2]");
//! # Ok::<(), deepseek_tensor::Error>(())
//! ```

mod apply;
mod chunk;
mod cse;
mod dead;
mod diagnostics;
mod extents;
mod fold;
mod fuse;
mod fuse_conv;
mod fuse_matmul;
#[cfg(test)]
mod fuse_tests;
mod grid;
mod identity;
mod layout;
mod patch;
pub mod precision;
mod quantised;
pub mod ragged;
mod recognise;
mod region;
mod shapes;
#[cfg(test)]
mod tests;
mod view;

pub use apply::apply;
pub use chunk::CutRows;
pub use cse::CommonSubexpressions;
pub use dead::DeadCode;
pub use diagnostics::{Diagnostics, Entry, Level};
pub use fold::FoldConstants;
pub use fuse_conv::FuseConv;
pub use fuse_matmul::FuseMatMul;
pub use grid::PlainGathers;
pub use identity::RemoveIdentities;
pub use layout::{LayoutMotion, LiftTransposes};
pub use patch::{Patch, Wire};
pub use quantised::{ChannelsLast, FoldDequantised, FuseQuantised};
pub use recognise::{FuseActivations, FuseAttention, FuseNorms, FuseRotary, FuseSoftmax};
pub use region::Regions;
pub use shapes::PlainShapes;

use crate::{Attr, Graph, Node, Operator, build_op};
use deepseek_tensor::{Error, Result};
use std::sync::Arc;

/// A rule, or a family of rules, that improves a graph.
pub trait Pass: Send + Sync {
    /// Short name, for diagnostics.
    fn name(&self) -> &'static str;

    /// The patches that this pass proposes for `graph`; none if there is nothing left to do.
    /// Every patch must stand on its own: it may be applied without the others, or not at all and
    /// then be proposed again in the next round.
    ///
    /// # Errors
    /// What building a patch reports. Not finding a match is not an error.
    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>>;

    /// Whether the pass waits until those before it have nothing left to do: it makes nodes that
    /// they do not know.
    fn is_late(&self) -> bool {
        false
    }
}

/// Rounds that [`Pipeline::new`] allows.
const DEFAULT_ROUNDS: usize = 64;

/// Passes in order, run until nothing changes.
pub struct Pipeline {
    passes: Vec<Box<dyn Pass>>,
    max_rounds: usize,
}

/// What a [`Pipeline`] made of a graph.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The rewritten graph.
    pub graph: Graph,
    /// How many rounds over all passes changed it.
    pub rounds: usize,
    /// Whether the last round changed nothing; false if the rounds were used up.
    pub converged: bool,
}

impl Pipeline {
    /// The given passes, at most 64 rounds.
    pub fn new(passes: Vec<Box<dyn Pass>>) -> Self {
        Pipeline { passes, max_rounds: DEFAULT_ROUNDS }
    }

    /// What every model goes through: [`Pipeline::recognition`], and when that is done, quantised
    /// products, then fused products, convolutions and regions.
    pub fn portable() -> Self {
        Pipeline::recognition()
            .with(FuseQuantised)
            .with(ChannelsLast)
            .with(FoldDequantised)
            .with(FuseMatMul)
            .with(FuseConv)
            .with(Regions)
    }

    /// Clean-up, and the recognition of what exporters take apart.
    pub fn recognition() -> Self {
        Pipeline::cleanup()
            .with(FuseSoftmax)
            .with(FuseNorms)
            .with(FuseActivations)
            .with(FuseRotary)
            .with(FuseAttention)
            .with(PlainShapes)
            .with(PlainGathers)
            .with(LayoutMotion)
            .with(LiftTransposes)
    }

    /// Identities, constants, common subexpressions, dead nodes: what keeps every bit.
    pub fn cleanup() -> Self {
        Pipeline::new(vec![
            Box::new(RemoveIdentities),
            Box::new(FoldConstants::default()),
            Box::new(CommonSubexpressions),
            Box::new(DeadCode),
        ])
    }

    /// The same passes, followed by `pass`.
    pub fn with(mut self, pass: impl Pass + 'static) -> Self {
        self.passes.push(Box::new(pass));
        self
    }

    /// The same passes, at most `rounds` times.
    pub fn max_rounds(mut self, rounds: usize) -> Self {
        self.max_rounds = rounds;
        self
    }

    /// Rewrites `graph`, and the graphs inside its operators before it.
    ///
    /// # Errors
    /// What a pass reports, or [`apply`] about its patches, with the name of the pass.
    pub fn run(&self, graph: &Graph, diagnostics: &mut Diagnostics) -> Result<Outcome> {
        let mut outcome = Outcome { graph: graph.clone(), rounds: 0, converged: true };
        if let Some(graph) = self.rewrite_subgraphs(graph, &mut outcome, diagnostics)? {
            outcome.graph = graph;
        }
        let mut rounds = 0;
        loop {
            let mut changed = false;
            for pass in &self.passes {
                if changed && pass.is_late() {
                    continue;
                }
                let named = |e: Error| e.context(pass.name());
                let patches = pass.run(&outcome.graph, diagnostics).map_err(named)?;
                if !patches.is_empty() {
                    outcome.graph = apply(&outcome.graph, &patches).map_err(named)?;
                    changed = true;
                }
            }
            if !changed {
                break;
            }
            rounds += 1;
            if rounds >= self.max_rounds {
                outcome.converged = false;
                break;
            }
        }
        outcome.rounds = outcome.rounds.max(rounds);
        Ok(outcome)
    }

    /// The graph with rewritten subgraphs, if any of them changed.
    fn rewrite_subgraphs(
        &self,
        graph: &Graph,
        outcome: &mut Outcome,
        diagnostics: &mut Diagnostics,
    ) -> Result<Option<Graph>> {
        let mut patches = Vec::new();
        for node in graph.nodes().iter().filter(|n| !n.op.subgraphs().is_empty()) {
            let mut rewritten = Vec::new();
            for inner in node.op.subgraphs() {
                diagnostics.enter(&node.name);
                let result = self.run(inner, diagnostics).map_err(|e| e.at_node(&node.name));
                diagnostics.leave();
                let result = result?;
                outcome.converged &= result.converged;
                if result.rounds > 0 {
                    outcome.rounds = outcome.rounds.max(result.rounds);
                    rewritten.push((inner, Arc::new(result.graph)));
                }
            }
            if let Some(op) = with_subgraphs(node, &rewritten) {
                let mut patch = Patch::new(graph);
                patch.replace_op(node, op)?;
                patches.push(patch);
            }
        }
        if patches.is_empty() { Ok(None) } else { apply(graph, &patches).map(Some) }
    }
}

/// The operator of `node` with subgraphs replaced; `None` if there is nothing to replace or the
/// operator is not one of this crate's, whose attributes cannot be rebuilt.
fn with_subgraphs(
    node: &Node,
    rewritten: &[(&Arc<Graph>, Arc<Graph>)],
) -> Option<Arc<dyn Operator>> {
    if rewritten.is_empty() || crate::ops::find(node.op.name()).is_none() {
        return None;
    }
    let mut attrs = node.op.attrs();
    let changes: Vec<(String, Attr)> = attrs
        .iter()
        .filter_map(|(name, attr)| match attr {
            Attr::Graph(g) => {
                let (_, new) = rewritten.iter().find(|(old, _)| Arc::ptr_eq(old, g))?;
                Some((name.to_owned(), Attr::Graph(new.clone())))
            }
            _ => None,
        })
        .collect();
    for (name, attr) in changes {
        attrs.insert(name, attr);
    }
    build_op(node.op.name(), attrs).ok()
}

/// Whether equal inputs give equal outputs, in the operator and in every graph inside it.
fn is_pure(op: &dyn Operator) -> bool {
    op.is_pure() && op.subgraphs().iter().all(|g| g.nodes().iter().all(|node| is_pure(&*node.op)))
}
