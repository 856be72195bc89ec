//! Which images have blocked channels, and where they change their layout.
//!
//! The graph is walked once, front to back. A convolution that has a kernel for blocked channels
//! makes a blocked value; what follows takes blocked values as they are where it can: pooling,
//! elementwise functions, joining and cutting along channels, repeated pixels. A value changes its
//! layout only where a node needs the other one, once however many do. The number of lanes is the
//! machine's, so this belongs to lowering; what it makes is a graph like any other, with operators
//! of its own for what the layout changes ([`ops`]), and memory is planned as for any other.

pub(crate) mod ops;

use crate::kernels::function;
use deepseek_graph::ops::util::normalize_axis;
use deepseek_graph::ops::{
    AveragePool, Concat, Conv, FusedConv, GlobalAveragePool, MaxPool, Mul, Pointwise, ReduceMean,
    Region, Resize, Slice, Split,
};
use deepseek_graph::passes::{DeadCode, Diagnostics, Level, Patch, Pipeline, Wire, apply};
use deepseek_graph::{Dim, Graph, Node, ValueId};
use deepseek_kernels_cpu::conv::{ConvShape, Reads};
use deepseek_kernels_cpu::{Isa, blocked::lanes};
use deepseek_tensor::{DType, Result, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The graph with blocked channels where that pays.
///
/// # Errors
/// What a shape rule reports.
pub(crate) fn block(graph: Graph, isa: Isa) -> Result<Graph> {
    let mut blocking = Blocking {
        graph: &graph,
        lanes: lanes(isa),
        patch: Patch::new(&graph),
        blocked: BTreeMap::new(),
        copies: BTreeMap::new(),
        plain: BTreeMap::new(),
        replaced: BTreeSet::new(),
    };
    for (index, node) in graph.nodes().iter().enumerate() {
        if blocking.rewrite(node)? {
            blocking.replaced.insert(index);
        }
    }
    if blocking.replaced.is_empty() {
        return Ok(graph);
    }
    let patch = blocking.finish()?;
    let graph = apply(&graph, &[patch])?;
    let clean = Pipeline::new(Vec::new()).with(DeadCode);
    Ok(clean.run(&graph, &mut Diagnostics::new(Level::Off))?.graph)
}

struct Blocking<'g> {
    graph: &'g Graph,
    lanes: usize,
    patch: Patch<'g>,
    /// Values that are made blocked.
    blocked: BTreeMap<ValueId, Wire>,
    /// Blocked copies of other values.
    copies: BTreeMap<ValueId, Wire>,
    /// What stands for a value that a replaced node made, not blocked.
    plain: BTreeMap<ValueId, Wire>,
    /// Nodes that others stand for.
    replaced: BTreeSet<usize>,
}

impl<'g> Blocking<'g> {
    /// Whether new nodes stand for `node`.
    fn rewrite(&mut self, node: &Node) -> Result<bool> {
        if node.outputs.iter().flatten().count() == 0 {
            return Ok(false);
        }
        let op = &node.op;
        if let Some(op) = op.downcast::<FusedConv>() {
            return self.conv(node, &op.conv(), op.activation);
        }
        if let Some(op) = op.downcast::<Conv>() {
            return self.conv(node, op, None);
        }
        // What follows takes blocked values and makes none of others.
        if !node.inputs.iter().flatten().any(|id| self.blocked.contains_key(id)) {
            return Ok(false);
        }
        if let Some(op) = op.downcast::<MaxPool>() {
            let wanted = node.outputs.iter().flatten().count() == 1 && node.outputs[0].is_some();
            let pool = ops::BlockedPool::max(op);
            return if wanted { self.same(node, Arc::new(pool)) } else { Ok(false) };
        }
        if let Some(op) = op.downcast::<AveragePool>() {
            return self.same(node, Arc::new(ops::BlockedPool::average(op)));
        }
        if op.downcast::<GlobalAveragePool>().is_some() {
            return self.mean(node);
        }
        if let Some(op) = op.downcast::<ReduceMean>() {
            let axes = input(node, 1).and_then(|id| self.ints(id));
            let plane = axes.is_some_and(|mut axes| {
                axes.iter_mut().for_each(|a| *a = a.rem_euclid(4));
                axes.sort_unstable();
                axes == [2, 3]
            });
            return if plane && op.keepdims { self.mean(node) } else { Ok(false) };
        }
        if let Some(op) = op.downcast::<Concat>() {
            return self.concat(node, op);
        }
        if let Some(op) = op.downcast::<Split>() {
            return self.split(node, op);
        }
        if op.downcast::<Slice>().is_some() {
            return self.slice(node);
        }
        if let Some(op) = op.downcast::<Resize>() {
            return self.resize(node, op);
        }
        let floats = |id: &ValueId| self.graph.fact(*id).dtype().is_ok_and(|d| d == DType::F32);
        let region = op.downcast::<Region>().is_some_and(|r| !r.folds())
            && node.inputs.iter().chain(&node.outputs).flatten().all(floats);
        if region || Pointwise::of(self.graph, node).is_some() {
            return self.elementwise(node);
        }
        Ok(false)
    }

    /// Gives values that are still read as they were what stands for them, and takes away the
    /// nodes that made them.
    fn finish(mut self) -> Result<Patch<'g>> {
        let graph = self.graph;
        let mut read: BTreeSet<ValueId> = graph.outputs().iter().map(|(_, id)| *id).collect();
        for (index, node) in graph.nodes().iter().enumerate() {
            if !self.replaced.contains(&index) {
                read.extend(node.inputs.iter().flatten());
            }
        }
        let blocked: Vec<ValueId> = self.blocked.keys().copied().collect();
        for id in blocked.into_iter().filter(|id| read.contains(id)) {
            self.plain(id)?;
        }
        for (from, to) in &self.plain {
            self.patch.redirect(*from, *to)?;
        }
        self.replaced.iter().for_each(|&index| self.patch.remove_node(index));
        Ok(self.patch)
    }

    /// A value as it was.
    fn plain(&mut self, id: ValueId) -> Result<Wire> {
        if let Some(wire) = self.plain.get(&id) {
            return Ok(*wire);
        }
        let Some(&wire) = self.blocked.get(&id) else { return Ok(id.into()) };
        let channels = self.channels(id).unwrap_or(0);
        let name = format!("{}.plain", self.graph.value(id).name);
        let wire =
            self.patch.add(&name, ops::FromBlocked { channels: channels as i64 }, &[wire])?;
        self.plain.insert(id, wire);
        Ok(wire)
    }

    /// A value with blocked channels.
    fn blocked(&mut self, id: ValueId) -> Result<Wire> {
        if let Some(wire) = self.blocked.get(&id).or(self.copies.get(&id)) {
            return Ok(*wire);
        }
        let name = format!("{}.blocked", self.graph.value(id).name);
        let from = self.plain(id)?;
        let wire = self.patch.add(&name, ops::ToBlocked { lanes: self.lanes as i64 }, &[from])?;
        self.copies.insert(id, wire);
        Ok(wire)
    }

    /// Extents of an image in `f32`.
    fn image(&self, id: ValueId) -> Option<&'g [Dim; 4]> {
        let fact = self.graph.fact(id);
        if !fact.dtype().is_ok_and(|d| d == DType::F32) {
            return None;
        }
        fact.shape()?.try_into().ok()
    }

    /// Channels of an image in `f32`.
    fn channels(&self, id: ValueId) -> Option<usize> {
        usize::try_from(self.image(id)?[1].as_const()?).ok().filter(|&c| c > 0)
    }

    /// A constant of integers.
    fn ints(&self, id: ValueId) -> Option<Vec<i64>> {
        self.graph.fact(id).as_dims()?.iter().map(Dim::as_const).collect()
    }

    /// Adds the node that makes `node`'s outputs, blocked.
    fn add(
        &mut self,
        node: &Node,
        op: Arc<dyn deepseek_graph::Operator>,
        inputs: &[Option<Wire>],
    ) -> Result<bool> {
        let wanted: Vec<bool> = node.outputs.iter().map(Option::is_some).collect();
        let made = self.patch.add_node(&node.name, op, inputs, &wanted)?;
        for (id, wire) in node.outputs.iter().zip(made) {
            if let (Some(id), Some(wire)) = (id, wire) {
                self.blocked.insert(*id, wire);
            }
        }
        Ok(true)
    }

    /// `op` on the only input, if it is blocked.
    fn same(&mut self, node: &Node, op: Arc<dyn deepseek_graph::Operator>) -> Result<bool> {
        let Some(&x) = input(node, 0).and_then(|id| self.blocked.get(&id)) else {
            return Ok(false);
        };
        let mut one = node.clone();
        one.outputs.truncate(1);
        self.add(&one, op, &[Some(x)])
    }

    fn conv(&mut self, node: &Node, op: &Conv, activation: Option<Pointwise>) -> Result<bool> {
        let (Some(x), Some(w), Some(y)) = (input(node, 0), input(node, 1), node.outputs[0]) else {
            return Ok(false);
        };
        let (Some(channels), Some(image)) = (self.channels(x), self.image(y)) else {
            return Ok(false);
        };
        let Some(weights) = self.graph.constant(w).filter(|w| w.rank() == 4 && !w.is_empty())
        else {
            return Ok(false);
        };
        let Some(shape) = conv_shape(op, weights, channels) else { return Ok(false) };
        let made = self.blocked.contains_key(&x);
        // Few channels leave most of a block empty.
        let few = |n: usize| n < self.lanes.div_ceil(2);
        let planes = !made && few(channels);
        let pixel = image[2..].iter().all(|d| d.as_const() == Some(1));
        let takes = match shape.reads_blocked(planes) {
            None => false,
            Some(Reads::Depthwise) => made,
            Some(_) => !few(shape.out_channels) && !pixel,
        };
        if !takes || activation.is_some_and(|f| function(&f).is_none()) {
            return Ok(false);
        }
        let residual = match input(node, 3) {
            Some(id) if self.channels(id).is_none() => return Ok(false),
            Some(id) => Some(self.blocked(id)?),
            None => None,
        };
        let x = if planes { self.plain(x)? } else { self.blocked(x)? };
        let bias = input(node, 2).map(|id| self.plain(id)).transpose()?;
        let op = ops::BlockedConv::new(op, activation, self.lanes, planes);
        self.add(node, Arc::new(op), &[Some(x), Some(w.into()), bias, residual])
    }

    /// The mean of each plane, which is not blocked.
    fn mean(&mut self, node: &Node) -> Result<bool> {
        let (Some(x), Some(y)) = (input(node, 0), node.outputs[0]) else { return Ok(false) };
        let (Some(channels), Some(&wire)) = (self.channels(x), self.blocked.get(&x)) else {
            return Ok(false);
        };
        let op = ops::BlockedMean { channels: channels as i64 };
        let made = self.patch.add(&node.name, op, &[wire])?;
        self.plain.insert(y, made);
        Ok(true)
    }

    /// A function of elements keeps the layout of its operands, which have the shape of the result,
    /// one number for each channel, or one number.
    fn elementwise(&mut self, node: &Node) -> Result<bool> {
        let Some(shape) = node.outputs.iter().flatten().next().and_then(|id| self.image(*id))
        else {
            return Ok(false);
        };
        let Some(channels) = usize::try_from(shape[1].as_const().unwrap_or(0)).ok() else {
            return Ok(false);
        };
        let operands = node.inputs.iter().map(|id| match id {
            None => Some(Operand::Absent),
            Some(id) => self.operand(*id, shape, channels),
        });
        let Some(operands) = operands.collect::<Option<Vec<_>>>() else { return Ok(false) };
        let takes = |(id, o): (&Option<ValueId>, &Operand)| {
            matches!(o, Operand::Image) && id.is_some_and(|id| self.blocked.contains_key(&id))
        };
        if !node.inputs.iter().zip(&operands).any(takes) {
            return Ok(false);
        }
        if node.op.downcast::<Mul>().is_some()
            && let ([Some(a), Some(b)], [left, right]) = (&node.inputs[..], &operands[..])
        {
            let (x, scale) = match (left, right) {
                (Operand::Image, Operand::PerImage) => (Some(*a), *b),
                (Operand::PerImage, Operand::Image) => (Some(*b), *a),
                _ => (None, *a),
            };
            if let Some(x) = x {
                let inputs = [Some(self.blocked(x)?), Some(self.plain(scale)?)];
                return self.add(node, Arc::new(ops::BlockedScale {}), &inputs);
            }
        }
        let mut inputs = Vec::with_capacity(operands.len());
        for (id, operand) in node.inputs.iter().zip(operands) {
            inputs.push(match (id, operand) {
                (Some(id), Operand::Image | Operand::PerImage) => Some(self.blocked(*id)?),
                (Some(id), Operand::Number) => Some(self.plain(*id)?),
                (Some(id), Operand::PerChannel(t)) => {
                    let name = format!("{}.blocked", self.graph.value(*id).name);
                    Some(self.patch.constant(&name, t))
                }
                _ => None,
            });
        }
        self.add(node, node.op.clone(), &inputs)
    }

    /// How an operand of a function lies against the result.
    fn operand(&self, id: ValueId, shape: &[Dim; 4], channels: usize) -> Option<Operand> {
        let fact = self.graph.fact(id);
        let extents = fact.shape()?;
        if extents.len() > 4 {
            return None;
        }
        if extents.iter().all(|d| d.as_const() == Some(1)) {
            return Some(Operand::Number);
        }
        if let Some(image) = self.image(id) {
            let same = |(a, b): (&Dim, &Dim)| a.always_eq(b, self.graph.bounds());
            if image.iter().zip(shape).all(same) {
                return Some(Operand::Image);
            }
        }
        let along = extents.len().checked_sub(3)?;
        let others = extents.iter().enumerate().filter(|(i, _)| *i != along);
        if extents[along].as_const() != Some(channels as i64) {
            return None;
        }
        if let Some(t) = self.graph.constant(id) {
            let single = others.clone().all(|(_, d)| d.as_const() == Some(1));
            if !single || t.dtype() != DType::F32 {
                return None;
            }
            let t = t.to_contiguous().ok()?.reshape(&[1, channels, 1, 1]).ok()?;
            let t = ops::block(&t, self.lanes).ok()?;
            let blocks = channels.div_ceil(self.lanes);
            return Some(Operand::PerChannel(t.reshape(&[blocks, 1, 1, self.lanes]).ok()?));
        }
        let image = self.image(id)?;
        let pixel = image[2..].iter().all(|d| d.as_const() == Some(1));
        (pixel && image[0].always_eq(&shape[0], self.graph.bounds())).then_some(Operand::PerImage)
    }

    /// Whether parts of these channels, one after the other, begin and end between blocks.
    fn aligned(&self, parts: &[usize]) -> bool {
        let last = parts.len().saturating_sub(1);
        parts[..last].iter().all(|c| c.is_multiple_of(self.lanes))
    }

    fn concat(&mut self, node: &Node, op: &Concat) -> Result<bool> {
        let ids: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        let parts: Option<Vec<usize>> = ids.iter().map(|id| self.channels(*id)).collect();
        let (Ok(1), Some(parts)) = (normalize_axis(op.axis, 4), parts) else { return Ok(false) };
        if !self.aligned(&parts) || ids.len() != node.inputs.len() {
            return Ok(false);
        }
        let inputs = ids.into_iter().map(|id| self.blocked(id).map(Some));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        self.add(node, Arc::new(Concat { axis: 1 }), &inputs)
    }

    fn split(&mut self, node: &Node, op: &Split) -> Result<bool> {
        let parts: Option<Vec<usize>> =
            node.outputs.iter().map(|id| self.channels((*id)?)).collect();
        let (Ok(1), Some(parts), Some(x)) = (normalize_axis(op.axis, 4), parts, input(node, 0))
        else {
            return Ok(false);
        };
        let Some(&wire) = self.blocked.get(&x).filter(|_| self.aligned(&parts)) else {
            return Ok(false);
        };
        let lengths: Vec<i64> = parts.iter().map(|c| c.div_ceil(self.lanes) as i64).collect();
        let lengths = Tensor::from_slice(&[lengths.len()], &lengths)?;
        let lengths = self.patch.constant(&format!("{}.lengths", node.name), lengths);
        let op = Split { axis: 1, num_outputs: None };
        self.add(node, Arc::new(op), &[Some(wire), Some(lengths)])
    }

    fn slice(&mut self, node: &Node) -> Result<bool> {
        let ints = |i: usize| input(node, i).map(|id| self.ints(id));
        let (Some(Some(starts)), Some(Some(axes))) = (ints(1), ints(3)) else { return Ok(false) };
        let (Some(x), Some(y)) = (input(node, 0), node.outputs[0]) else { return Ok(false) };
        let (Some(channels), Some(taken)) = (self.channels(x), self.channels(y)) else {
            return Ok(false);
        };
        let Some(&wire) = self.blocked.get(&x) else { return Ok(false) };
        let ([start], [axis]) = (&starts[..], &axes[..]) else { return Ok(false) };
        let by_one = ints(4).is_none_or(|steps| steps == Some(vec![1]));
        let lanes = self.lanes as i64;
        let start = if *start < 0 { start + channels as i64 } else { *start };
        let end = start + taken as i64;
        let aligned = start % lanes == 0 && (end % lanes == 0 || end == channels as i64);
        if !matches!(normalize_axis(*axis, 4), Ok(1)) || !by_one || start < 0 || !aligned {
            return Ok(false);
        }
        let mut number = |what: &str, v: i64| -> Result<Option<Wire>> {
            let t = Tensor::from_slice(&[1], &[v])?;
            Ok(Some(self.patch.constant(&format!("{}.{what}", node.name), t)))
        };
        let (start, end) = (start / lanes, end / lanes + i64::from(end % lanes != 0));
        let inputs = [Some(wire), number("start", start)?, number("end", end)?, number("axis", 1)?];
        self.add(node, Arc::new(Slice {}), &inputs)
    }

    /// The nearest pixel, where that repeats each as often.
    fn resize(&mut self, node: &Node, op: &Resize) -> Result<bool> {
        let (Some(x), Some(y)) = (input(node, 0), node.outputs[0]) else { return Ok(false) };
        let (Some(from), Some(to), Some(&wire)) =
            (self.image(x), self.image(y), self.blocked.get(&x))
        else {
            return Ok(false);
        };
        let fixed = |d: &Dim| usize::try_from(d.as_const()?).ok().filter(|&n| n > 0);
        let (Some(h), Some(w), Some(c)) = (fixed(&from[2]), fixed(&from[3]), fixed(&from[1]))
        else {
            return Ok(false);
        };
        let constant = |i: usize| match input(node, i) {
            None => Some(None),
            Some(id) => self.graph.fact(id).as_constant().map(Some),
        };
        let (Some(roi), Some(scales), Some(sizes)) = (constant(1), constant(2), constant(3)) else {
            return Ok(false);
        };
        let same = (0..2).all(|i| from[i].always_eq(&to[i], self.graph.bounds()));
        if op.antialias || !same {
            return Ok(false);
        }
        // The batch is not resampled, whatever it is.
        let Ok(axes) = op.plan(&[1, c, h, w], roi.as_ref(), scales.as_ref(), sizes.as_ref()) else {
            return Ok(false);
        };
        let mut times = [1usize; 2];
        for axis in axes.iter().filter(|a| a.axis >= 2) {
            let table = op.table(axis)?;
            // The nearest has one tap.
            let n = axis.output / axis.input;
            let repeats =
                table.taps == 1 && table.index.iter().enumerate().all(|(o, &i)| i == o / n.max(1));
            if n == 0 || axis.output != n * axis.input || !repeats || !table.outside.is_empty() {
                return Ok(false);
            }
            times[axis.axis - 2] = n;
        }
        let times = times.iter().map(|&n| n as i64).collect();
        self.add(node, Arc::new(ops::BlockedRepeat { times }), &[Some(wire)])
    }
}

/// How an operand of an elementwise function lies against a result of shape `[N, C, H, W]`.
enum Operand {
    Absent,
    /// Like the result.
    Image,
    /// One number.
    Number,
    /// A constant number for each channel, blocked.
    PerChannel(Tensor),
    /// `[N, C, 1, 1]`.
    PerImage,
}

fn input(node: &Node, i: usize) -> Option<ValueId> {
    node.inputs.get(i).copied().flatten()
}

/// The sizes of a two-dimensional convolution, without those of the image and its padding.
fn conv_shape(op: &Conv, w: &Tensor, channels: usize) -> Option<ConvShape> {
    let [out, each, kh, kw] = [0, 1, 2, 3].map(|i| w.shape()[i]);
    let groups = usize::try_from(op.group).ok().filter(|&g| g > 0)?;
    let pair = |v: &[i64]| -> Option<[usize; 3]> {
        match *v {
            [] => Some([1; 3]),
            [h, w] if h > 0 && w > 0 => {
                Some([1, usize::try_from(h).ok()?, usize::try_from(w).ok()?])
            }
            _ => None,
        }
    };
    let stored = matches!(w.dtype(), DType::F32 | DType::BF16 | DType::F16);
    let fits = stored && each * groups == channels && out % groups == 0;
    let shape = ConvShape {
        groups,
        stride: pair(&op.strides)?,
        dilation: pair(&op.dilations)?,
        ..ConvShape::d2(1, channels, out, [1, 1], [kh, kw])
    };
    fits.then_some(shape)
}
