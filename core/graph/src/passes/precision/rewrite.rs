//! From an assignment to the graph that keeps it.

use super::flow::{Flow, Role};
use super::output;
use super::weights::{symmetric, unsigned};
use super::{Assignment, Kind, Layer, Precision};
use crate::ops::{
    DequantizeLinear, DynamicQuantizeRows, MatMulIntegerToFloat, Mul, QuantizeLinear, ReduceMean,
    Sub,
};
use crate::{Graph, Node, ValueId};
use deepseek_tensor::{DType, Result, Tensor, ensure, err};
use std::collections::HashMap;
use std::sync::Arc;

/// Zero point of rows that are quantised as they come: the middle of `u8`.
pub(super) const MIDDLE: u8 = 128;

/// Biases in units of sums stay below this, so that a sum with its bias is an `i32`.
const MOST_BIAS: f32 = (1 << 30) as f32;

/// `graph` with its nodes in the precisions of `assignment`. Names of nodes, inputs, outputs and of the
/// values in `f32` stay.
///
/// # Errors
/// `NotFound` for a node that the graph does not have, `InvalidArgument` for one that is no
/// candidate, `Unsupported` for bf16 and f16, which [`narrow_products`](super::super::narrow_products) gives, `InvalidArgument` if a vector
/// of the assignment has another length than the channels that it is for.
pub fn assign(graph: &Graph, assignment: &Assignment) -> Result<Graph> {
    let mut rewrite = Rewrite::new(graph, assignment, false)?;
    rewrite.nodes()?;
    for (name, id) in graph.outputs() {
        let id = rewrite.read(*id, false)?;
        rewrite.out.add_output(name, id)?;
    }
    Ok(rewrite.out)
}

/// What one node loses by itself: the names of outputs of a graph from [`probe`].
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// The node.
    pub node: String,
    /// Output with the mean square of its result in `f32`.
    pub signal: String,
    /// Output with the mean square of what `int8` changes in the result.
    pub noise: String,
    /// Output with what has to be added to each channel of a convolution on bytes, so that its mean
    /// is that in `f32`; empty for a product.
    pub shift: String,
}

/// The graph in `f32` with a twin on bytes beside each of `nodes`, which reads the same value, and
/// outputs that compare the two.
///
/// # Errors
/// As [`assign`].
pub fn probe(
    graph: &Graph,
    assignment: &Assignment,
    nodes: &[String],
) -> Result<(Graph, Vec<Probe>)> {
    let mut assignment = assignment.clone();
    assignment.nodes = nodes.iter().map(|n| (n.clone(), Precision::Int8)).collect();
    assignment.corrections.clear();
    let mut rewrite = Rewrite::new(graph, &assignment, true)?;
    rewrite.nodes()?;
    let mut probes = Vec::new();
    for (node, [plain, twin], is_conv) in std::mem::take(&mut rewrite.twins) {
        probes.push(rewrite.compare(node, plain, twin, is_conv)?);
    }
    Ok((rewrite.out, probes))
}

fn check(graph: &Graph, assignment: &Assignment) -> Result<()> {
    for (name, &precision) in &assignment.nodes {
        let node = graph.nodes().iter().find(|n| n.name == *name).ok_or_else(|| {
            err!(NotFound, "the assignment names the node '{name}', which the graph does not have")
        })?;
        ensure!(
            precision == Precision::F32 || Layer::of(graph, node).is_some(),
            InvalidArgument,
            "node '{name}' ({}) cannot be {precision}: it is no convolution or product in f32 \
             with a constant operand",
            node.op.name()
        );
        ensure!(
            matches!(precision, Precision::F32 | Precision::Int8),
            Unsupported,
            "node '{name}' cannot be assigned {precision}; assign f32 or int8, and give prepared graphs \
             weights in bf16 or f16 with narrow_products"
        );
    }
    Ok(())
}

/// An operator and what it reads.
type Made = (Arc<dyn crate::Operator>, Vec<Option<ValueId>>);

struct Rewrite<'g> {
    graph: &'g Graph,
    assignment: &'g Assignment,
    flow: Flow<'g>,
    out: Graph,
    /// Values of the graph in the new one.
    plain: HashMap<ValueId, ValueId>,
    /// Values on bytes, dequantised.
    dequantised: HashMap<ValueId, ValueId>,
    /// Values whose rows are quantised: bytes and scales.
    rows: HashMap<ValueId, [ValueId; 2]>,
    /// Whether nodes on bytes stand beside those in `f32`, which all others read.
    probing: bool,
    /// Nodes that were named, with both results, and whether they are convolutions.
    twins: Vec<(String, [ValueId; 2], bool)>,
}

impl<'g> Rewrite<'g> {
    fn new(graph: &'g Graph, assignment: &'g Assignment, probing: bool) -> Result<Self> {
        check(graph, assignment)?;
        let mut out = Graph::new(&graph.name);
        out.copy_bounds(graph);
        Ok(Rewrite {
            graph,
            assignment,
            flow: Flow::new(graph, assignment, false),
            out,
            plain: HashMap::new(),
            dequantised: HashMap::new(),
            rows: HashMap::new(),
            probing,
            twins: Vec::new(),
        })
    }

    fn nodes(&mut self) -> Result<()> {
        for id in self.graph.inputs() {
            let value = self.graph.value(*id);
            let new = self.out.add_input(&value.name, value.fact.ty.clone())?;
            self.plain.insert(*id, new);
            self.quantise(*id)?;
        }
        for (i, node) in self.graph.nodes().iter().enumerate() {
            self.node(i, node).map_err(|e| e.at_node(&node.name))?;
        }
        Ok(())
    }

    /// Adds what compares a node with its twin, as outputs.
    fn compare(
        &mut self,
        node: String,
        plain: ValueId,
        twin: ValueId,
        is_conv: bool,
    ) -> Result<Probe> {
        let rank = self.out.fact(plain).rank().unwrap_or(0) as i64;
        let all =
            self.constant(&node, "axes", Tensor::from_vec(&[rank as usize], (0..rank).collect())?)?;
        let off = self.make(&format!("{node}.off"), Sub::default(), &[plain, twin])?;
        let out = |p: &mut Self, what: &str, id: ValueId| -> Result<String> {
            let name = format!("{node}.{what}");
            p.out.add_output(&name, id)?;
            Ok(name)
        };
        let square = |p: &mut Self, what: &str, v: ValueId| -> Result<String> {
            let name = format!("{node}.{what}");
            let v = p.make(&format!("{name}.square"), Mul::default(), &[v, v])?;
            let mean = p.make(&name, ReduceMean::default(), &[v, all])?;
            out(p, what, mean)
        };
        let signal = square(self, "signal", plain)?;
        let noise = square(self, "noise", off)?;
        let mut shift = String::new();
        if is_conv {
            let others: Vec<i64> = (0..rank).filter(|&a| a != 1).collect();
            let others = Tensor::from_vec(&[others.len()], others)?;
            let others = self.constant(&node, "others", others)?;
            let mean = ReduceMean { keepdims: false, ..ReduceMean::default() };
            let mean = self.make(&format!("{node}.shift"), mean, &[off, others])?;
            shift = out(self, "shift", mean)?;
        }
        Ok(Probe { node, signal, noise, shift })
    }

    fn node(&mut self, i: usize, node: &Node) -> Result<()> {
        let made = match self.flow.role(i) {
            Some(Role::Conv) => Some(self.convolution(node)?),
            Some(Role::Rows) => Some(self.product(node)?),
            _ => None,
        };
        match made {
            Some((op, inputs)) if !self.probing => self.add(node, op, &inputs)?,
            made => {
                let on_bytes = self.flow.role(i) == Some(Role::Between);
                let inputs = node.inputs.iter();
                let inputs = inputs.map(|v| v.map(|v| self.read(v, on_bytes)).transpose());
                let inputs = inputs.collect::<Result<Vec<_>>>()?;
                self.add(node, node.op.clone(), &inputs)?;
                if let Some((op, inputs)) = made {
                    let name = self.fresh(&format!("{}.twin", node.name));
                    let twin = self.out.add_node(&name, op, &inputs, &[Some(&name)])?[0];
                    let twin = twin.expect("the output was asked for");
                    let y = output(node).expect("a layer has an output");
                    let is_conv = self.flow.role(i) == Some(Role::Conv);
                    self.twins.push((node.name.clone(), [self.plain[&y], twin], is_conv));
                }
            }
        }
        node.outputs.iter().flatten().try_for_each(|v| self.quantise(*v))
    }

    /// The new form of a value for a reader.
    fn read(&mut self, v: ValueId, on_bytes: bool) -> Result<ValueId> {
        if !self.probing
            && (on_bytes || self.flow.is_made_on_bytes(v))
            && let Some(id) = self.dequantised.get(&v)
        {
            return Ok(*id);
        }
        if let Some(id) = self.plain.get(&v) {
            return Ok(*id);
        }
        let missing = || err!(Internal, "'{}' is read before it exists", self.graph.value(v).name);
        let tensor = self.graph.constant(v).ok_or_else(missing)?.clone();
        let new = self.out.add_constant(&self.graph.value(v).name, tensor)?;
        self.plain.insert(v, new);
        Ok(new)
    }

    /// Adds a node that stands for one of the graph.
    fn add(
        &mut self,
        node: &Node,
        op: Arc<dyn crate::Operator>,
        inputs: &[Option<ValueId>],
    ) -> Result<()> {
        let names = node.outputs.iter().map(|o| o.map(|o| self.graph.value(o).name.as_str()));
        let new = self.out.add_node(&node.name, op, inputs, &names.collect::<Vec<_>>())?;
        for (old, new) in node.outputs.iter().zip(new) {
            if let (Some(old), Some(new)) = (old, new) {
                self.out.refine_type(new, self.graph.fact(*old).ty.clone());
                self.plain.insert(*old, new);
            }
        }
        Ok(())
    }

    fn constant(&mut self, base: &str, what: &str, tensor: Tensor) -> Result<ValueId> {
        let name = self.fresh(&format!("{base}.{what}"));
        self.out.add_constant(&name, tensor)
    }

    /// A name that neither graph has.
    fn fresh(&self, base: &str) -> String {
        let mut name = self.out.unique_name(base);
        while self.graph.find(&name).is_some() {
            name = self.out.unique_name(&format!("{name}~"));
        }
        name
    }

    /// Adds a node with one output that the graph does not have.
    fn make(
        &mut self,
        name: &str,
        op: impl crate::Operator,
        inputs: &[ValueId],
    ) -> Result<ValueId> {
        let name = self.fresh(name);
        self.out.add(&name, op, inputs)
    }

    /// Quantises `v` where it is made, if it is on bytes.
    fn quantise(&mut self, v: ValueId) -> Result<()> {
        let Some(range) = self.flow.range(v).filter(|_| self.flow.on_bytes(v.index())) else {
            return Ok(());
        };
        let name = &self.graph.value(v).name;
        let (scale, zero) = unsigned(range);
        let scale = self.constant(name, "scale", Tensor::scalar(scale)?)?;
        let zero = self.constant(name, "zero", Tensor::scalar(zero)?)?;
        let x = self.plain[&v];
        let q = self.make(&format!("{name}.q"), QuantizeLinear::default(), &[x, scale, zero])?;
        let inputs = [q, scale, zero];
        let x = self.make(&format!("{name}.dq"), DequantizeLinear::default(), &inputs)?;
        self.dequantised.insert(v, x);
        Ok(())
    }

    /// The convolution of dequantised operands.
    fn convolution(&mut self, node: &Node) -> Result<Made> {
        let layer = self.layer(node)?;
        let x = self.dequantised[&layer.x];
        let w = self.graph.constant(layer.w).expect("a layer has constant weights");
        let channels = w.shape()[0];
        let bias = match layer.bias {
            Some(b) => self.numbers(b)?,
            None => Vec::new(),
        };
        let correction = self.assignment.corrections.get(&node.name);
        let bias = add_vectors(channels, &bias, correction)?;
        let range = self.flow.range(layer.x).expect("it is on bytes");
        let x_scale = unsigned(range).0;
        let least = |j: usize| {
            let most = bias.get(j).map_or(0.0, |b| b.abs());
            most / MOST_BIAS / x_scale
        };
        let form = symmetric(w, 0, least)?;
        let scales = form.scales;
        let bias: Vec<i32> = bias
            .iter()
            .zip(&scales)
            .map(|(b, s)| (f64::from(*b) / (f64::from(x_scale) * f64::from(*s))).round() as i32)
            .collect();
        let units: Vec<f32> = scales.iter().map(|s| s * x_scale).collect();
        let vector = |v: Vec<f32>| Tensor::from_vec(&[channels], v);
        let along = || DequantizeLinear { axis: 0, ..DequantizeLinear::default() };
        let name = &node.name;
        let q = self.constant(name, "weights", form.q)?;
        let scale = self.constant(name, "weights.scale", vector(scales)?)?;
        let zero = self.constant(name, "weights.zero", Tensor::zeros(DType::I8, &[channels])?)?;
        let w = self.make(&format!("{name}.weights.dq"), along(), &[q, scale, zero])?;
        let mut inputs = vec![Some(x), Some(w)];
        if !bias.is_empty() {
            let q = self.constant(name, "bias", Tensor::from_vec(&[channels], bias)?)?;
            let scale = self.constant(name, "bias.scale", vector(units)?)?;
            inputs.push(Some(self.make(&format!("{name}.bias.dq"), along(), &[q, scale])?));
        }
        Ok((node.op.clone(), inputs))
    }

    /// The product of quantised rows and columns.
    fn product(&mut self, node: &Node) -> Result<Made> {
        let layer = self.layer(node)?;
        let [a, a_scale] = self.quantised_rows(layer.x)?;
        let mut w = self.graph.constant(layer.w).expect("a layer has constant weights").clone();
        if layer.kind == (Kind::Gemm { transposed: true }) {
            w = w.permute(&[1, 0])?.to_contiguous()?;
        }
        let (k, n) = (w.shape()[0], w.shape()[1]);
        if let Some(factors) = self.factors(layer.x)? {
            let divided = w.to_vec::<f32>()?;
            let divided = divided.iter().enumerate().map(|(i, x)| x / factors[i / n]);
            w = Tensor::from_vec(&[k, n], divided.collect::<Vec<f32>>())?;
        }
        let form = symmetric(&w, 1, |_| 0.0)?;
        let name = &node.name;
        let b = self.constant(name, "weights", form.q)?;
        let b_scale = self.constant(name, "scale", Tensor::from_vec(&[n], form.scales)?)?;
        let zero = self.constant(name, "zero", Tensor::scalar(MIDDLE)?)?;
        let mut inputs = [a, b, a_scale, b_scale, zero].map(Some).to_vec();
        if let Some(bias) = layer.bias {
            let bias = self.numbers(bias)?;
            let bias = self.constant(name, "bias", Tensor::from_vec(&[n], bias)?)?;
            inputs.extend([None, Some(bias)]);
        }
        Ok((Arc::new(MatMulIntegerToFloat::default()), inputs))
    }

    /// Bytes and scales of the rows of `v`, made once for all who read them.
    fn quantised_rows(&mut self, v: ValueId) -> Result<[ValueId; 2]> {
        if let Some(both) = self.rows.get(&v) {
            return Ok(*both);
        }
        let name = &self.graph.value(v).name;
        let mut inputs = vec![Some(self.read(v, false)?)];
        if let Some(factors) = self.factors(v)? {
            let factors = Tensor::from_vec(&[factors.len()], factors.to_vec())?;
            inputs.push(Some(self.constant(name, "factors", factors)?));
        }
        let names = ["q", "q.scale"].map(|s| self.fresh(&format!("{name}.{s}")));
        let made = self.out.add_node(
            &format!("{name}.q"),
            Arc::new(DynamicQuantizeRows::default()),
            &inputs,
            &[Some(&names[0]), Some(&names[1])],
        )?;
        let both = [made[0], made[1]].map(|v| v.expect("the output was asked for"));
        self.rows.insert(v, both);
        Ok(both)
    }

    /// The factors for the columns of `v`.
    fn factors(&self, v: ValueId) -> Result<Option<&[f32]>> {
        let name = &self.graph.value(v).name;
        let Some(factors) = self.assignment.factors.get(name) else { return Ok(None) };
        let k = self.graph.fact(v).shape().and_then(<[_]>::last).and_then(crate::Dim::as_const);
        ensure!(
            k.is_none_or(|k| k == factors.len() as i64)
                && factors.iter().all(|f| f.is_normal() && *f > 0.0),
            InvalidArgument,
            "the {} factors for '{name}' are not one positive number for each column",
            factors.len()
        );
        Ok(Some(factors))
    }

    fn layer(&self, node: &Node) -> Result<Layer> {
        Layer::of(self.graph, node).ok_or_else(|| err!(Internal, "the node is no layer"))
    }

    fn numbers(&self, v: ValueId) -> Result<Vec<f32>> {
        self.graph.constant(v).ok_or_else(|| err!(Internal, "a bias is not constant"))?.to_vec()
    }
}

/// The sum of two vectors of `n` numbers; an absent one counts as zeros.
fn add_vectors(n: usize, a: &[f32], b: Option<&Vec<f32>>) -> Result<Vec<f32>> {
    let Some(b) = b else { return Ok(a.to_vec()) };
    ensure!(
        b.len() == n && b.iter().all(|x| x.is_finite()),
        InvalidArgument,
        "a correction of {} numbers for {n} channels",
        b.len()
    );
    Ok((0..n).map(|i| b[i] + a.get(i).copied().unwrap_or(0.0)).collect())
}
