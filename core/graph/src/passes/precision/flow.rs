//! Which values of a graph are on bytes, and with what scale.

use super::{Assignment, Kind, Layer, Precision, Range};
use crate::ops::{Add, MaxPool, Relu};
use crate::passes::fuse;
use crate::passes::view::{View, input, output};
use crate::{Graph, Node, ValueId};

/// What a node does with bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Role {
    /// A convolution whose operands are bytes.
    Conv,
    /// A product whose left operand is quantised row by row.
    Rows,
    /// A sum of two values on bytes, or an operator that moves bytes.
    Between,
}

/// The values that are quantised once for all who read them on bytes.
pub(super) struct Flow<'g> {
    view: View<'g>,
    roles: Vec<Option<Role>>,
    /// Whether a value is on bytes.
    bytes: Vec<bool>,
    /// Values that share scale and zero point, as a forest: the parent of each.
    parents: Vec<usize>,
    ranges: Vec<Option<Range>>,
}

impl<'g> Flow<'g> {
    /// The flow of bytes that `assignment` asks for. With `observing`, ranges count as known.
    pub fn new(graph: &'g Graph, assignment: &Assignment, observing: bool) -> Self {
        let n = graph.values().len();
        let known = |v: &crate::ValueDef| assignment.ranges.get(&v.name).copied();
        let mut flow = Flow {
            view: View::new(graph),
            roles: vec![None; graph.nodes().len()],
            bytes: vec![false; n],
            parents: (0..n).collect(),
            ranges: graph.values().iter().map(known).collect(),
        };
        for (i, node) in graph.nodes().iter().enumerate() {
            let layer = Layer::of(graph, node).filter(|_| assignment.is(node, Precision::Int8));
            flow.roles[i] = layer.map(|l| match l.kind {
                Kind::Conv => Role::Conv,
                _ => Role::Rows,
            });
        }
        // Readers come before what they read.
        for (i, node) in graph.nodes().iter().enumerate().rev() {
            match flow.roles[i] {
                Some(Role::Conv) => {
                    let x = input(node, 0).expect("a layer has an input");
                    if observing || flow.ranges[x.index()].is_some() {
                        flow.bytes[x.index()] = true;
                    } else {
                        flow.roles[i] = None;
                    }
                }
                None => flow.between(i, node, observing),
                Some(_) => {}
            }
        }
        flow
    }

    /// Lets a sum or a pool between nodes on bytes be on bytes too.
    fn between(&mut self, i: usize, node: &Node, observing: bool) {
        let Some(y) = output(node) else { return };
        let known = |flow: &Self, v: ValueId| observing || flow.ranges[v.index()].is_some();
        if node.op.downcast::<Add>().is_some() {
            let (Some(a), Some(b)) = (input(node, 0), input(node, 1)) else { return };
            let fits = [a, b].into_iter().all(|v| {
                self.view.same_shape(v, y) && self.view.constant(v).is_none() && known(self, v)
            });
            let makes = |v: ValueId| self.bytes[v.index()] || self.makes_bytes(v);
            if fits && self.bytes[self.end(y).index()] && (makes(a) || makes(b)) {
                self.roles[i] = Some(Role::Between);
                self.bytes[a.index()] = true;
                self.bytes[b.index()] = true;
            }
            return;
        }
        let moves = node.op.downcast::<MaxPool>().is_some() && node.outputs.len() == 1;
        if moves && self.bytes[y.index()] {
            let Some(x) = input(node, 0) else { return };
            if !known(self, x) || self.view.constant(x).is_some() {
                return;
            }
            self.roles[i] = Some(Role::Between);
            self.bytes[x.index()] = true;
            let (from, to) = (self.root(y), self.root(x));
            self.parents[from] = to;
        }
    }

    /// Whether a convolution on bytes makes `v`, perhaps with an activation.
    fn makes_bytes(&self, v: ValueId) -> bool {
        let from = |v: ValueId| {
            let (_, i) = self.writer(v)?;
            self.roles[i].filter(|r| *r != Role::Rows)
        };
        if from(v).is_some() {
            return true;
        }
        let Some((node, _)) = self.writer(v) else { return false };
        let x = input(node, 0).filter(|x| fuse::activation(self.view.graph, node, *x).is_some());
        x.is_some_and(|x| self.view.read_once(x) && from(x).is_some())
    }

    /// The result of the activation that alone reads `y`, or `y`.
    fn end(&self, y: ValueId) -> ValueId {
        let next = self.view.readers(y).next().filter(|_| self.view.read_once(y));
        let relu = |n: &&Node| n.op.downcast::<Relu>().is_some();
        next.filter(relu).and_then(output).unwrap_or(y)
    }

    fn writer(&self, v: ValueId) -> Option<(&'g Node, usize)> {
        let i = self.view.writer_index(v)?;
        Some((&self.view.graph.nodes()[i], i))
    }

    fn root(&self, v: ValueId) -> usize {
        let mut at = v.index();
        while self.parents[at] != at {
            at = self.parents[at];
        }
        at
    }

    /// Whether value number `i` is on bytes.
    pub fn on_bytes(&self, i: usize) -> bool {
        self.bytes[i]
    }

    /// What node number `i` does with bytes.
    pub fn role(&self, i: usize) -> Option<Role> {
        self.roles[i]
    }

    /// Whether those who read `v` in `f32` read it dequantised, because it is made on bytes.
    pub fn is_made_on_bytes(&self, v: ValueId) -> bool {
        self.bytes[v.index()] && self.makes_bytes(v)
    }

    /// The range in which `v` is quantised: that of all values that share its scale.
    pub fn range(&self, v: ValueId) -> Option<Range> {
        let root = self.root(v);
        let alike = (0..self.parents.len()).filter(|&i| {
            self.bytes[i] && {
                let mut at = i;
                while self.parents[at] != at {
                    at = self.parents[at];
                }
                at == root
            }
        });
        alike.filter_map(|i| self.ranges[i]).reduce(Range::union)
    }
}
