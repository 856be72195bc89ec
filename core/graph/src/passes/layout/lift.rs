//! Transposes that undo each other from afar.

use crate::passes::view::{View, input, output};
use crate::passes::{Diagnostics, Pass, Patch, Wire, extents};
use crate::{Dim, Graph, Node, ValueId, ops};
use deepseek_tensor::Result;
use std::collections::HashMap;

/// Nodes between two transposes.
const MAX_DEPTH: usize = 24;

/// Removes a transpose of leading axes where what it reads is computed, position by position, from
/// the opposite transpose: `Tᵀ(f(T(x)))` is `f(x)` if `f` only works along the last axis. `f` may also
/// take its rows as a matrix in between.
pub struct LiftTransposes;

impl Pass for LiftTransposes {
    fn name(&self) -> &'static str {
        "lift"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let view = View::new(graph);
        let mut patches = Vec::new();
        for node in graph.nodes() {
            let Some(y) = output(node).filter(|y| !view.is_unread(*y)) else { continue };
            let Some(perm) = leading(node) else { continue };
            let Some(x) = input(node, 0) else { continue };
            let mut lift = Lift { view: &view, perm, plan: Vec::new(), made: HashMap::new() };
            let Some(_) = lift.moved(x, MAX_DEPTH) else { continue };
            if lift.plan.is_empty() {
                continue;
            }
            match lift.patch(y) {
                Ok(patch) => {
                    let n = lift.plan.len();
                    diagnostics.fired(self.name(), &node.name, || format!("{n} nodes before it"));
                    patches.push(patch);
                }
                Err(e) => diagnostics.missed(self.name(), &node.name, || e.message().to_owned()),
            }
        }
        Ok(patches)
    }
}

/// The permutation of a transpose that leaves the last axis where it is, and moves something.
fn leading(node: &Node) -> Option<Vec<usize>> {
    let op = node.op.downcast::<ops::Transpose>()?;
    let perm: Vec<usize> =
        op.perm.iter().map(|&p| usize::try_from(p)).collect::<Result<_, _>>().ok()?;
    let last = perm.len().checked_sub(1)?;
    (perm[last] == last && perm.iter().enumerate().any(|(i, &p)| i != p)).then_some(perm)
}

/// One new node: the old one whose operator and other inputs it takes, the input that moves.
enum Step<'g> {
    Same {
        node: &'g Node,
        moved: Vec<(usize, Source)>,
    },
    /// Reshape to these extents.
    Rows {
        from: Source,
        to: Vec<Dim>,
    },
}

#[derive(Clone, Copy)]
enum Source {
    Old(ValueId),
    /// Result of an earlier step.
    Step(usize),
}

struct Lift<'v, 'g> {
    view: &'v View<'g>,
    perm: Vec<usize>,
    plan: Vec<Step<'g>>,
    made: HashMap<ValueId, Source>,
}

impl<'g> Lift<'_, 'g> {
    /// Where the transpose of `v` is to be had.
    fn moved(&mut self, v: ValueId, depth: usize) -> Option<Source> {
        if let Some(done) = self.made.get(&v) {
            return Some(*done);
        }
        let depth = depth.checked_sub(1)?;
        let view = self.view;
        let (node, 0) = view.writer(v)? else { return None };
        let x = input(node, 0)?;
        if let Some(inner) = leading(node) {
            let undone = inner.len() == self.perm.len()
                && self.perm.iter().enumerate().all(|(i, &p)| inner[p] == i);
            return undone.then_some(Source::Old(x));
        }
        if !self.may_move(v) {
            return None;
        }
        let source = if node.op.name() == "Reshape" {
            self.split_rows(v, x, depth)?
        } else {
            let inputs = self.along_last_axis(node, v)?;
            let mut moved = Vec::new();
            for i in inputs {
                moved.push((i, self.moved(input(node, i)?, depth)?));
            }
            self.push(Step::Same { node, moved })
        };
        self.made.insert(v, source);
        Some(source)
    }

    /// `v` is rows `x` under leading axes: the rows are those of a transposed value.
    fn split_rows(&mut self, v: ValueId, x: ValueId, depth: usize) -> Option<Source> {
        let view = self.view;
        let shape = view.shape(v)?;
        let rows = self.rows(x, &shape[..shape.len() - 1], depth)?;
        let to: Vec<Dim> = self.perm.iter().map(|&p| shape[p].clone()).collect();
        Some(self.push(Step::Rows { from: rows, to }))
    }

    /// Rows `v` `[n, width]` of a value with the leading axes `lead`, in the order of its transpose.
    fn rows(&mut self, v: ValueId, lead: &[Dim], depth: usize) -> Option<Source> {
        if let Some(done) = self.made.get(&v) {
            return Some(*done);
        }
        let depth = depth.checked_sub(1)?;
        let view = self.view;
        let (node, 0) = view.writer(v)? else { return None };
        let x = input(node, 0)?;
        if !self.may_move(v) || view.rank(v)? != 2 {
            return None;
        }
        let source = if node.op.name() == "Reshape" {
            let (from, to) = (view.shape(x)?, view.shape(v)?);
            if from.len() != lead.len() + 1
                || !view.same_dims(&from[..lead.len()], lead)
                || !view.same(&from[lead.len()], &to[1])
            {
                return None;
            }
            let moved = self.moved(x, depth)?;
            self.push(Step::Rows { from: moved, to: to.to_vec() })
        } else {
            let mut moved = Vec::new();
            for i in self.along_last_axis(node, v)? {
                moved.push((i, self.rows(input(node, i)?, lead, depth)?));
            }
            self.push(Step::Same { node, moved })
        };
        self.made.insert(v, source);
        Some(source)
    }

    fn push(&mut self, step: Step<'g>) -> Source {
        self.plan.push(step);
        Source::Step(self.plan.len() - 1)
    }

    /// Whether all readers of `v` will read its transpose, so that nothing is computed twice.
    fn may_move(&self, v: ValueId) -> bool {
        let view = self.view;
        if view.read_once(v) {
            return true;
        }
        let transposes = |n: &Node| leading(n).is_some_and(|p| p == self.perm);
        let leads_there = |n: &Node| {
            transposes(n)
                || n.op.name() == "Slice"
                    && output(n)
                        .is_some_and(|o| !view.is_output(o) && view.readers(o).all(transposes))
        };
        !view.is_output(v) && view.readers(v).all(leads_there)
    }

    /// The inputs of a node that must move with it, if the node works along the last axis alone.
    fn along_last_axis(&self, node: &Node, v: ValueId) -> Option<Vec<usize>> {
        let view = self.view;
        let shape = view.shape(v)?;
        let small = |v: ValueId| {
            view.shape(v).is_some_and(|s| {
                s.len() <= 1 || s[..s.len() - 1].iter().all(|d| d.as_const() == Some(1))
            })
        };
        match node.op.name() {
            "MatMul" => {
                let weight = input(node, 1)?;
                (view.rank(weight) == Some(2)).then(|| vec![0])
            }
            "Gemm" => {
                let op = node.op.downcast::<ops::Gemm>()?;
                let bias = input(node, 2).is_none_or(small);
                (!op.transA && bias).then(|| vec![0])
            }
            "Slice" => {
                let axes = view.ints(input(node, 3)?)?;
                let last = shape.len() as i64 - 1;
                axes.iter().all(|&a| a == last || a == -1).then(|| vec![0])
            }
            "LayerNormalization" | "RMSNormalization" => {
                let axis = match node.op.downcast::<ops::LayerNormalization>() {
                    Some(op) => op.axis,
                    None => node.op.downcast::<ops::RMSNormalization>()?.axis,
                };
                let last = axis == -1 || axis == shape.len() as i64 - 1;
                let parameters = node.inputs[1..].iter().flatten().all(|&p| small(p));
                (last && parameters && node.outputs.len() == 1).then(|| vec![0])
            }
            "Relu" | "Gelu" | "Tanh" | "Sigmoid" | "Swish" | "Erf" => Some(vec![0]),
            "Add" | "Sub" | "Mul" | "Div" => {
                let (a, b) = (input(node, 0)?, input(node, 1)?);
                match (view.same_shape(a, v), view.same_shape(b, v)) {
                    (true, true) => Some(vec![0, 1]),
                    (true, false) if small(b) => Some(vec![0]),
                    (false, true) if small(a) => Some(vec![1]),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn patch(&self, y: ValueId) -> Result<Patch<'g>> {
        let graph = self.view.graph;
        let mut patch = Patch::new(graph);
        let mut wires: Vec<Wire> = Vec::new();
        for step in &self.plan {
            let wire = |s: &Source| match s {
                Source::Old(v) => Wire::Old(*v),
                Source::Step(i) => wires[*i],
            };
            let new = match step {
                Step::Same { node, moved } => {
                    let mut inputs: Vec<_> = node.inputs.iter().map(|v| v.map(Wire::Old)).collect();
                    moved.iter().for_each(|(i, s)| inputs[*i] = Some(wire(s)));
                    let out = patch.add_node(&node.name, node.op.clone(), &inputs, &[true])?;
                    out[0].expect("the output was asked for")
                }
                Step::Rows { from, to } => {
                    let from = wire(from);
                    let have = patch.fact(from)?.shape().unwrap_or_default().to_vec();
                    let name = &graph.value(y).name;
                    let parts = extents::reshape(self.view, y, &have, to).ok_or_else(|| {
                        deepseek_tensor::err!(Unsupported, "an extent of {to:?} cannot be read")
                    })?;
                    let shape = extents::add(&mut patch, &format!("{name}.shape"), &parts)?;
                    patch.add(name, ops::Reshape::default(), &[from, shape])?
                }
            };
            wires.push(new);
        }
        patch.redirect(y, *wires.last().expect("the plan is not empty"))?;
        Ok(patch)
    }
}
