//! Elementwise nodes become regions.

use super::fuse::{Readers, output, same_shape, scalar};
use super::{Diagnostics, Pass, Patch, Wire};
use crate::ops::util::broadcast_all;
use crate::ops::{Operand, Region, RegionStep, StepFunction};
use crate::{Graph, Node, ValueId};
use deepseek_tensor::Result;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most inputs of a region.
const INPUTS: usize = 8;
/// Most steps of a region.
const STEPS: usize = 32;
/// Most outputs of a region.
const OUTPUTS: usize = 4;
/// Extents of the rows that are folded within a region: shorter ones are no rows, and longer ones do
/// not stay in the cache between steps.
const FOLDED: std::ops::RangeInclusive<i64> = 2..=8192;
/// Most nodes that the search for a cycle visits; a union that needs more is not made.
const VISITS: usize = 20_000;

/// Makes one [`Region`] of elementwise nodes in `f32` and truth values that read each other and have
/// one output shape: chains and small graphs, as large as the limits on inputs, steps and outputs
/// allow. Sums, means and maxima over the last axis of a region's results are part of it. A value that
/// is read outside too becomes one more output. What broadcasts to the shape of a region stays an
/// input. Every bit of the results stays. A choice, comparison or function of truth values is a
/// region when it is alone, too: it has no kernel of its own.
pub struct Regions;

impl Pass for Regions {
    fn name(&self) -> &'static str {
        "region"
    }

    fn is_late(&self) -> bool {
        true
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let mut search = Search::new(graph);
        for node in 0..graph.nodes().len() {
            if search.functions[node].is_none() {
                continue;
            }
            if let Some(why) = search.place(node) {
                diagnostics.missed(self.name(), &graph.nodes()[node].name, || {
                    format!("joined with what it reads: {why}")
                });
            }
        }
        let mut patches = Vec::new();
        for members in search.groups.iter().filter(|g| search.is_worth_it(g)) {
            let last = *members.iter().next_back().expect("it has members");
            let name = &graph.nodes()[last].name;
            let mut patch = Patch::new(graph);
            search.write(members, &mut patch)?;
            diagnostics.fired(self.name(), name, || format!("a region of {} nodes", members.len()));
            patches.push(patch);
        }
        Ok(patches)
    }
}

struct Search<'g> {
    graph: &'g Graph,
    readers: Readers,
    /// What each node computes, if it can be a step.
    functions: Vec<Option<StepFunction>>,
    producer: Vec<Option<usize>>,
    /// Number of the group of each node; members of each group. Groups that were joined to another
    /// are empty.
    group_of: Vec<Option<usize>>,
    groups: Vec<BTreeSet<usize>>,
}

impl<'g> Search<'g> {
    fn new(graph: &'g Graph) -> Self {
        let mut producer = vec![None; graph.values().len()];
        for (i, node) in graph.nodes().iter().enumerate() {
            for id in node.outputs.iter().flatten() {
                producer[id.index()] = Some(i);
            }
        }
        let function = |node: &Node| {
            let f = StepFunction::of(graph, node)?;
            graph.fact(output(node)?).rank()?;
            if f.folds() {
                let row = graph.fact(node.inputs[0]?).shape()?.last()?.as_const()?;
                return FOLDED.contains(&row).then_some(f);
            }
            Some(f)
        };
        Search {
            graph,
            readers: Readers::new(graph),
            functions: graph.nodes().iter().map(function).collect(),
            producer,
            group_of: vec![None; graph.nodes().len()],
            groups: Vec::new(),
        }
    }

    /// Puts `node` into a group: its own, joined with those of its producers one by one where that
    /// is allowed. Returns why one was not.
    fn place(&mut self, node: usize) -> Option<&'static str> {
        let mut missed = None;
        let mut mine = BTreeSet::from([node]);
        let mut joined = Vec::new();
        for id in self.operands(node) {
            let Some(group) = self.producer[id.index()].and_then(|p| self.group_of[p]) else {
                continue;
            };
            let like = self.like(node);
            if joined.contains(&group) || !like.is_some_and(|v| same_shape(self.graph, id, v)) {
                continue;
            }
            let mut union = mine.clone();
            union.extend(&self.groups[group]);
            match self.refuse(&union) {
                None => {
                    mine = union;
                    joined.push(group);
                }
                Some(why) => missed = Some(why),
            }
        }
        joined.iter().for_each(|&g| self.groups[g].clear());
        let number = self.groups.len();
        mine.iter().for_each(|&i| self.group_of[i] = Some(number));
        self.groups.push(mine);
        missed
    }

    /// A value of the shape that a node computes over.
    fn like(&self, node: usize) -> Option<ValueId> {
        let def = &self.graph.nodes()[node];
        if self.functions[node].is_some_and(|f| f.folds()) { def.inputs[0] } else { output(def) }
    }

    /// Whether members are more than one, or one that has no kernel of its own.
    fn is_worth_it(&self, members: &BTreeSet<usize>) -> bool {
        let Some(&first) = members.first() else { return false };
        let alone = members.len() == 1;
        let other = matches!(self.functions[first], Some(StepFunction::Other(_)));
        let folds = self.functions[first].is_some_and(|f| f.folds());
        let inputs = self.inputs(members);
        !alone || (other && !folds && inputs.len() <= INPUTS && self.covers(&inputs, members))
    }

    /// The values that a node computes with.
    fn operands(&self, node: usize) -> Vec<ValueId> {
        let arity = self.functions[node].map_or(0, |f| f.arity());
        self.graph.nodes()[node].inputs[..arity].iter().flatten().copied().collect()
    }

    /// Why `members` cannot be one region.
    fn refuse(&self, members: &BTreeSet<usize>) -> Option<&'static str> {
        if members.len() > STEPS {
            return Some("too many steps");
        }
        if self.reads_a_fold(members) {
            return Some("it reads what a row was folded to");
        }
        let inputs = self.inputs(members);
        if inputs.len() > INPUTS {
            return Some("too many inputs");
        }
        if !self.covers(&inputs, members) {
            return Some("its inputs do not show its shape");
        }
        if self.outputs(members).len() > OUTPUTS {
            return Some("too many outputs");
        }
        self.reaches_itself(members)
    }

    /// Whether a member computes with what another folds rows to.
    fn reads_a_fold(&self, members: &BTreeSet<usize>) -> bool {
        let folds = |id: ValueId| {
            let producer = self.producer[id.index()].filter(|p| members.contains(p));
            producer.and_then(|p| self.functions[p]).is_some_and(|f| f.folds())
        };
        members.iter().any(|&m| self.operands(m).into_iter().any(folds))
    }

    /// Whether the inputs broadcast to the shape that all members have.
    fn covers(&self, inputs: &[ValueId], members: &BTreeSet<usize>) -> bool {
        let shapes = inputs.iter().map(|&id| self.graph.fact(id).shape());
        let out = members.iter().next_back().and_then(|&m| self.like(m));
        let want = out.and_then(|id| self.graph.fact(id).shape());
        match (broadcast_all(shapes), want) {
            (Ok(Some(got)), Some(want)) => {
                let bounds = self.graph.bounds();
                got.len() == want.len() && got.iter().zip(want).all(|(a, b)| a.always_eq(b, bounds))
            }
            _ => false,
        }
    }

    /// Values from outside that are no numbers, in order of their first reading.
    fn inputs(&self, members: &BTreeSet<usize>) -> Vec<ValueId> {
        let mut out = Vec::new();
        for &node in members {
            for id in self.operands(node) {
                let inside = self.producer[id.index()].is_some_and(|p| members.contains(&p));
                if !inside && self.literal(node, id).is_none() && !out.contains(&id) {
                    out.push(id);
                }
            }
        }
        out
    }

    /// The number that `id` is to `node`.
    fn literal(&self, node: usize, id: ValueId) -> Option<f32> {
        let like = self.like(node)?;
        scalar(self.graph, id, like).filter(|v| !v.is_nan())
    }

    /// Members whose results are read outside.
    fn outputs(&self, members: &BTreeSet<usize>) -> Vec<usize> {
        let nodes = self.graph.nodes();
        let read_inside = |id: ValueId| -> usize {
            members
                .iter()
                .map(|&m| nodes[m].inputs.iter().filter(|i| **i == Some(id)).count())
                .sum()
        };
        let read_outside = |&m: &usize| {
            output(&nodes[m]).is_some_and(|id| self.readers.count(id) > read_inside(id))
        };
        members.iter().copied().filter(read_outside).collect()
    }

    /// Whether a result of the members comes back to them through a node outside, all groups taken
    /// as one node each.
    fn reaches_itself(&self, members: &BTreeSet<usize>) -> Option<&'static str> {
        let nodes = self.graph.nodes();
        let mut seen = vec![false; nodes.len()];
        let mut stack: Vec<usize> = Vec::new();
        let push_producers = |node: usize, stack: &mut Vec<usize>| {
            let producers = nodes[node].inputs.iter().flatten();
            stack.extend(producers.filter_map(|id| self.producer[id.index()]));
        };
        for &node in members {
            seen[node] = true;
            push_producers(node, &mut stack);
        }
        // Producers inside are no way out; everything else is followed upwards.
        stack.retain(|p| !members.contains(p));
        let mut visits = 0;
        while let Some(node) = stack.pop() {
            if members.contains(&node) {
                return Some("a value between them is computed elsewhere");
            }
            if std::mem::replace(&mut seen[node], true) {
                continue;
            }
            visits += 1;
            if visits > VISITS {
                return Some("the graph before it is too large to rule out a cycle");
            }
            match self.group_of[node] {
                Some(group) => {
                    for &other in &self.groups[group] {
                        seen[other] = true;
                        push_producers(other, &mut stack);
                    }
                    stack.retain(|p| self.group_of[*p] != Some(group));
                }
                None => push_producers(node, &mut stack),
            }
        }
        None
    }

    /// Adds the region of `members` to the patch in place of them.
    fn write(&self, members: &BTreeSet<usize>, patch: &mut Patch<'g>) -> Result<()> {
        let nodes = self.graph.nodes();
        let inputs = self.inputs(members);
        let order: Vec<usize> = members.iter().copied().collect();
        let operand = |node: usize, id: ValueId| {
            let inside = self.producer[id.index()].and_then(|p| order.binary_search(&p).ok());
            match (inside, self.literal(node, id)) {
                (Some(step), _) => Operand::Step(step),
                (None, Some(v)) => Operand::Literal(v),
                (None, None) => {
                    let at = inputs.iter().position(|i| *i == id);
                    Operand::Input(at.expect("what is read from outside is an input"))
                }
            }
        };
        let steps = order.iter().map(|&node| RegionStep {
            function: self.functions[node].expect("members are functions"),
            operands: self.operands(node).into_iter().map(|id| operand(node, id)).collect(),
        });
        let results = self.outputs(members);
        let position = |node: &usize| order.binary_search(node).expect("outputs are members");
        let outputs: Vec<i64> = results.iter().map(|n| position(n) as i64).collect();
        let only_last = outputs[..] == [order.len() as i64 - 1];
        let op =
            Region { steps: steps.collect(), outputs: if only_last { vec![] } else { outputs } };
        let last = &nodes[*order.last().expect("it has members")];
        let wires: Vec<_> = inputs.iter().map(|&id| Some(Wire::Old(id))).collect();
        let made = patch.add_node(&last.name, Arc::new(op), &wires, &vec![true; results.len()])?;
        for (node, new) in results.iter().zip(made) {
            if let (Some(old), Some(new)) = (output(&nodes[*node]), new) {
                patch.redirect(old, new)?;
            }
        }
        Ok(())
    }
}
