//! A graph as matchers read it: from a value up to what makes it.

use crate::ops::util::{normalize_axis, to_f64, to_i64};
use crate::{Dim, Fact, Graph, Node, Operator, ValueId, ops};
use deepseek_tensor::{DType, Tensor};

/// Constants with more elements are not scanned.
const SCAN_LIMIT: usize = 1 << 16;

/// Who writes and who reads each value of a graph.
pub(super) struct View<'g> {
    pub graph: &'g Graph,
    /// Node and slot that write a value.
    writers: Vec<Option<(u32, u32)>>,
    /// Nodes that read a value, once for each input.
    readers: Vec<Vec<u32>>,
    /// Whether a value is an output of the graph.
    shown: Vec<bool>,
}

impl<'g> View<'g> {
    pub fn new(graph: &'g Graph) -> Self {
        let n = graph.values().len();
        let (mut writers, mut readers) = (vec![None; n], vec![Vec::new(); n]);
        for (i, node) in graph.nodes().iter().enumerate() {
            for id in node.inputs.iter().flatten() {
                readers[id.index()].push(i as u32);
            }
            for (slot, id) in node.outputs.iter().enumerate() {
                if let Some(id) = id {
                    writers[id.index()] = Some((i as u32, slot as u32));
                }
            }
        }
        let mut shown = vec![false; n];
        graph.outputs().iter().for_each(|(_, id)| shown[id.index()] = true);
        View { graph, writers, readers, shown }
    }

    pub fn fact(&self, v: ValueId) -> &'g Fact {
        self.graph.fact(v)
    }

    pub fn shape(&self, v: ValueId) -> Option<&'g [Dim]> {
        self.fact(v).shape()
    }

    pub fn rank(&self, v: ValueId) -> Option<usize> {
        self.fact(v).rank()
    }

    pub fn dtype(&self, v: ValueId) -> Option<DType> {
        self.fact(v).dtype().ok()
    }

    /// The number of the node that writes `v`.
    pub fn writer_index(&self, v: ValueId) -> Option<usize> {
        self.writers[v.index()].map(|(node, _)| node as usize)
    }

    /// The node that writes `v` and the slot it writes to.
    pub fn writer(&self, v: ValueId) -> Option<(&'g Node, usize)> {
        let (node, slot) = self.writers[v.index()]?;
        Some((&self.graph.nodes()[node as usize], slot as usize))
    }

    /// The operator and the node that write `v` as their first output, if it is a `T`.
    pub fn made_by<T: Operator>(&self, v: ValueId) -> Option<(&'g T, &'g Node)> {
        let (node, slot) = self.writer(v)?;
        if slot == 0 { node.op.downcast::<T>().map(|op| (op, node)) } else { None }
    }

    /// The only input of the node of type `T` that writes `v`.
    pub fn unary<T: Operator>(&self, v: ValueId) -> Option<ValueId> {
        let (_, node) = self.made_by::<T>(v)?;
        input(node, 0)
    }

    /// Both inputs of the node of type `T` that writes `v`.
    pub fn binary<T: Operator>(&self, v: ValueId) -> Option<(ValueId, ValueId)> {
        let (_, node) = self.made_by::<T>(v)?;
        if node.inputs.len() == 2 { Some((input(node, 0)?, input(node, 1)?)) } else { None }
    }

    /// The inputs of the node of type `T` that writes `v`, in both orders.
    pub fn either<T: Operator>(&self, v: ValueId) -> impl Iterator<Item = (ValueId, ValueId)> {
        self.binary::<T>(v).into_iter().flat_map(|(a, b)| [(a, b), (b, a)])
    }

    /// The nodes that read `v`, once for each input.
    pub fn readers(&self, v: ValueId) -> impl Iterator<Item = &'g Node> {
        self.readers[v.index()].iter().map(|&i| &self.graph.nodes()[i as usize])
    }

    /// Whether one node input reads `v` and nothing else does.
    pub fn read_once(&self, v: ValueId) -> bool {
        self.readers[v.index()].len() == 1 && !self.shown[v.index()]
    }

    /// Whether nothing reads `v`.
    pub fn is_unread(&self, v: ValueId) -> bool {
        self.readers[v.index()].is_empty() && !self.shown[v.index()]
    }

    /// Whether `v` is an output of the graph.
    pub fn is_output(&self, v: ValueId) -> bool {
        self.shown[v.index()]
    }

    pub fn constant(&self, v: ValueId) -> Option<Tensor> {
        self.fact(v).as_constant()
    }

    /// The number that all elements of a constant float are equal to.
    pub fn number(&self, v: ValueId) -> Option<f64> {
        let t = self.constant(v)?;
        if t.is_empty() || t.len() > SCAN_LIMIT || !t.dtype().is_float() {
            return None;
        }
        let values = to_f64(&t).ok()?;
        values.iter().all(|x| *x == values[0]).then_some(values[0])
    }

    /// As [`View::number`], within a relative error that leaves room for a constant that was
    /// rounded to `f32` or computed in it.
    pub fn is_number(&self, v: ValueId, want: f64) -> bool {
        self.number(v).is_some_and(|x| close(x, want))
    }

    /// The integers of a constant.
    pub fn ints(&self, v: ValueId) -> Option<Vec<i64>> {
        let t = self.constant(v)?;
        if t.len() > SCAN_LIMIT { None } else { to_i64(&t).ok() }
    }

    /// Whether two extents are proven equal within the graph's bounds.
    pub fn same(&self, a: &Dim, b: &Dim) -> bool {
        a == b || a.always_eq(b, self.graph.bounds())
    }

    pub fn same_dims(&self, a: &[Dim], b: &[Dim]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.same(a, b))
    }

    pub fn same_shape(&self, a: ValueId, b: ValueId) -> bool {
        matches!((self.shape(a), self.shape(b)), (Some(a), Some(b)) if self.same_dims(a, b))
    }

    /// `x` and `c` if `v = x · c` or `x / (1/c)` with a constant number, of the shape of `x`.
    pub fn scaled(&self, v: ValueId) -> Option<(ValueId, f64)> {
        let found = match self.either::<ops::Mul>(v).find_map(|(x, c)| Some((x, self.number(c)?))) {
            Some(found) => Some(found),
            None => {
                let (x, c) = self.binary::<ops::Div>(v)?;
                Some((x, 1.0 / self.number(c)?))
            }
        };
        found.filter(|(x, c)| c.is_finite() && self.same_shape(*x, v))
    }

    /// `x` and `c` if `v = x + c` with a constant number, of the shape of `x`.
    pub fn shifted(&self, v: ValueId) -> Option<(ValueId, f64)> {
        let mut found = self.either::<ops::Add>(v);
        let found = found.find_map(|(x, c)| Some((x, self.number(c)?)));
        found.filter(|(x, _)| self.same_shape(*x, v))
    }

    /// The axes that a reduction reads from its attribute-like input, counted from the front.
    pub fn reduced_axes(&self, node: &Node, noop: bool, rank: usize) -> Option<Vec<usize>> {
        let axes = match input(node, 1) {
            Some(axes) => self.ints(axes)?,
            None => Vec::new(),
        };
        if axes.is_empty() {
            return (!noop).then(|| (0..rank).collect());
        }
        let mut axes =
            axes.iter().map(|&a| normalize_axis(a, rank).ok()).collect::<Option<Vec<_>>>()?;
        axes.sort_unstable();
        axes.dedup();
        Some(axes)
    }
}

/// Input `i` of a node, if present.
pub(super) fn input(node: &Node, i: usize) -> Option<ValueId> {
    node.inputs.get(i).copied().flatten()
}

/// The first output of a node.
pub(super) fn output(node: &Node) -> Option<ValueId> {
    node.outputs.first().copied().flatten()
}

/// Whether a constant is what a formula asks for: the rounding of `f32`, twice over.
pub(super) fn close(x: f64, want: f64) -> bool {
    (x - want).abs() <= 1e-6 * want.abs().max(f64::MIN_POSITIVE)
}
