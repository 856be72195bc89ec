//! Which operators compute row by row.
//!
//! A value has rows if its leading axes count them. A node is row-wise if row `r` of each of its
//! outputs follows from row `r` of those inputs that have rows, and from the other inputs whole. To
//! cover another operator, add a line to [`RULES`].

use crate::ops::Region;
use crate::{Attr, Dim, Graph, Node, Operator, ValueId, build_op};
use deepseek_tensor::{Result, Tensor};
use std::sync::Arc;

/// What a node reads in a body.
#[derive(Clone, Debug)]
pub(super) enum Operand {
    /// Rows of a value.
    Rows(ValueId),
    /// A value as a whole.
    Whole(ValueId),
    /// A constant that only the body has.
    Constant(Tensor),
    /// An optional input that is absent.
    Absent,
}

/// A node over rows.
#[derive(Clone, Debug)]
pub(super) struct RowWise {
    /// The operator for values whose rows are counted by one axis.
    pub op: Arc<dyn Operator>,
    pub inputs: Vec<Operand>,
    /// Whether output 0 may take over the bytes of an input.
    pub in_place: bool,
    /// Whether output 0 has the bytes of input 0.
    pub view: bool,
}

/// A node, and how many leading axes of each value count rows.
pub(super) struct View<'a> {
    pub graph: &'a Graph,
    pub node: &'a Node,
    /// Leading axes that count the rows of a value; `None` if it has none.
    pub leading: &'a dyn Fn(ValueId) -> Option<usize>,
}

type Rule = fn(&View) -> Result<RowWise, String>;

/// Operators and when they are row-wise, in name order.
static RULES: &[(&str, Rule)] = &[
    ("Abs", elementwise),
    ("Add", elementwise),
    ("And", elementwise),
    ("Attention", attention),
    ("AveragePool", per_image),
    ("BatchNormalization", per_image),
    ("Cast", elementwise),
    ("Ceil", elementwise),
    ("Celu", elementwise),
    ("Clip", elementwise),
    ("Concat", concat),
    ("Conv", per_image),
    ("ConvTranspose", per_image),
    ("Cos", elementwise),
    ("Div", elementwise),
    ("DynamicQuantizeRows", quantised_rows),
    ("Elu", elementwise),
    ("Equal", elementwise),
    ("Erf", elementwise),
    ("Exp", elementwise),
    ("Flatten", view),
    ("Floor", elementwise),
    ("FusedConv", per_image),
    ("FusedMatMul", matmul),
    ("Gather", gather),
    ("Gelu", elementwise),
    ("Gemm", gemm),
    ("GlobalAveragePool", per_image),
    ("GlobalMaxPool", per_image),
    ("Greater", elementwise),
    ("GreaterOrEqual", elementwise),
    ("GroupNormalization", per_image),
    ("HardSigmoid", elementwise),
    ("HardSwish", elementwise),
    ("Hardmax", along_axis),
    ("Identity", elementwise),
    ("InstanceNormalization", per_image),
    ("LayerNormalization", along_axis),
    ("LeakyRelu", elementwise),
    ("Less", elementwise),
    ("LessOrEqual", elementwise),
    ("Log", elementwise),
    ("LogSoftmax", along_axis),
    ("LpNormalization", along_axis),
    ("MatMul", matmul),
    ("MatMulIntegerToFloat", integer_matmul),
    ("MatMulNBits", matmul_nbits),
    ("Max", elementwise),
    ("MaxPool", per_image),
    ("Mean", elementwise),
    ("Min", elementwise),
    ("Mish", elementwise),
    ("Mul", elementwise),
    ("Neg", elementwise),
    ("Not", elementwise),
    ("Or", elementwise),
    ("PRelu", elementwise),
    ("Pow", elementwise),
    ("RMSNormalization", along_axis),
    ("Reciprocal", elementwise),
    ("ReduceMax", reduce),
    ("ReduceMean", reduce),
    ("ReduceMin", reduce),
    ("ReduceSum", reduce),
    ("ReduceSumSquare", reduce),
    ("Region", region),
    ("Relu", elementwise),
    ("Reshape", view),
    ("RotaryEmbedding", rotary),
    ("Round", elementwise),
    ("Selu", elementwise),
    ("Sigmoid", elementwise),
    ("Sign", elementwise),
    ("Sin", elementwise),
    ("Slice", slice),
    ("Softmax", along_axis),
    ("Softplus", elementwise),
    ("Softsign", elementwise),
    ("Split", split),
    ("Sqrt", elementwise),
    ("Squeeze", view),
    ("Sub", elementwise),
    ("Sum", elementwise),
    ("SwiGLU", elementwise),
    ("Swish", elementwise),
    ("Tanh", elementwise),
    ("Transpose", transpose),
    ("Unsqueeze", view),
    ("Where", elementwise),
    ("Xor", elementwise),
];

/// The node over rows, or why it is not row-wise.
pub(super) fn row_wise(view: &View) -> Result<RowWise, String> {
    let name = view.node.op.name();
    let Ok(i) = RULES.binary_search_by(|(n, _)| n.cmp(&name)) else {
        return Err(format!("{name} does not compute row by row"));
    };
    for id in view.node.outputs.iter().flatten() {
        if (view.leading)(*id).is_none() {
            return Err(format!("'{}' has no rows", view.graph.value(*id).name));
        }
    }
    let found = (RULES[i].1)(view)?;
    let rows = found.inputs.iter().any(|i| matches!(i, Operand::Rows(_)));
    if rows { Ok(found) } else { Err("no input has rows".to_owned()) }
}

impl View<'_> {
    fn input(&self, i: usize) -> Option<ValueId> {
        self.node.inputs.get(i).copied().flatten()
    }

    fn shape(&self, i: usize) -> Result<&[Dim], String> {
        let id = self.input(i).ok_or_else(|| format!("input {i} is missing"))?;
        self.graph.fact(id).shape().ok_or_else(|| format!("the rank of input {i} is unknown"))
    }

    fn output(&self) -> Result<(&[Dim], usize), String> {
        let id = self.node.outputs.first().copied().flatten().ok_or("output 0 is not wanted")?;
        let shape = self.graph.fact(id).shape().ok_or("the rank of the output is unknown")?;
        Ok((shape, (self.leading)(id).ok_or("the output has no rows")?))
    }

    /// Leading extents of input `i`, if it has rows.
    fn leading(&self, i: usize) -> Option<&[Dim]> {
        let id = self.input(i)?;
        Some(&self.graph.fact(id).shape()?[..(self.leading)(id)?])
    }

    /// Input `i`, whose rows must be those of the output.
    fn rows(&self, i: usize) -> Result<Operand, String> {
        let (shape, k) = self.output()?;
        match (self.input(i), self.leading(i)) {
            (Some(id), Some(lead)) if *lead == shape[..k] => Ok(Operand::Rows(id)),
            _ => Err(format!("input {i} has other rows than the output")),
        }
    }

    fn whole(&self, i: usize) -> Operand {
        self.input(i).map_or(Operand::Absent, Operand::Whole)
    }

    fn constants(&self, from: usize) -> impl Iterator<Item = Operand> {
        (from..self.node.inputs.len()).map(|i| self.whole(i))
    }

    fn ints(&self, i: usize) -> Option<Vec<i64>> {
        self.graph.fact(self.input(i)?).as_dims()?.iter().map(Dim::as_const).collect()
    }

    fn int(&self, name: &str) -> Option<i64> {
        match self.node.op.attrs().get(name) {
            Some(Attr::Int(n)) => Some(*n),
            Some(Attr::Bool(b)) => Some(i64::from(*b)),
            _ => None,
        }
    }

    /// The operator with one attribute replaced.
    fn with(&self, name: &str, attr: Attr) -> Result<Arc<dyn Operator>, String> {
        let mut attrs = self.node.op.attrs();
        attrs.insert(name, attr);
        build_op(self.node.op.name(), attrs).map_err(|e| e.message().to_owned())
    }

    /// Attribute `axis`, counted from the end of `rank` axes, which must lie behind the rows.
    fn axis_from_end(&self, rank: usize, leading: usize) -> Result<i64, String> {
        let axis = self.int("axis").ok_or("the axis is not an attribute")?;
        behind(axis, rank, leading)
    }

    fn same_op(&self, inputs: Vec<Operand>, in_place: bool) -> RowWise {
        RowWise { op: self.node.op.clone(), inputs, in_place, view: false }
    }
}

/// `axis` counted from the end, if it lies behind the rows.
fn behind(axis: i64, rank: usize, leading: usize) -> Result<i64, String> {
    let at = if axis < 0 { axis + rank as i64 } else { axis };
    if at >= leading as i64 && at < rank as i64 {
        Ok(at - rank as i64)
    } else {
        Err(format!("axis {axis} is one of those that count rows"))
    }
}

/// Functions of elements that broadcast: an operand has the same rows, or none.
fn elementwise(v: &View) -> Result<RowWise, String> {
    let (out, k) = v.output()?;
    let inputs = (0..v.node.inputs.len()).map(|i| {
        let Some(id) = v.input(i) else { return Ok(Operand::Absent) };
        let shape = v.shape(i)?;
        if shape.len() == out.len() && shape[..k] == out[..k] {
            return Ok(Operand::Rows(id));
        }
        let aligned = out.len() - shape.len().min(out.len());
        let ones = k.saturating_sub(aligned).min(shape.len());
        if shape[..ones].iter().any(|d| d.as_const() != Some(1)) {
            return Err(format!("input {i} of shape {shape:?} differs from row to row"));
        }
        // One axis counts rows in the body, so of these only one may stay.
        let surplus = (shape.len() + k).saturating_sub(out.len() + 1).min(ones);
        match (surplus, v.graph.constant(id)) {
            (0, _) => Ok(Operand::Whole(id)),
            (_, Some(t)) => t
                .reshape(&t.shape()[surplus..])
                .map(Operand::Constant)
                .map_err(|e| e.message().to_owned()),
            (_, None) => Err(format!("input {i} of shape {shape:?} has leading ones")),
        }
    });
    let inputs = inputs.collect::<Result<_, _>>()?;
    Ok(v.same_op(inputs, true))
}

/// A region, whose folded rows lie behind those of the cut.
fn region(v: &View) -> Result<RowWise, String> {
    let folds = v.node.op.downcast::<Region>().is_some_and(Region::folds);
    let (out, k) = v.output()?;
    if folds && k >= out.len() {
        return Err("it folds along an axis that counts rows".to_owned());
    }
    Ok(RowWise { in_place: !folds, ..elementwise(v)? })
}

/// `[rows…, k] · [k, n]` with weights, or products of matrices that rows hold.
fn matmul(v: &View) -> Result<RowWise, String> {
    let (out, k) = v.output()?;
    let (a, b) = (v.shape(0)?, v.shape(1)?);
    if a.len() != out.len() {
        return Err("the product has another rank than its left operand".to_owned());
    }
    let product = if v.leading(1).is_some_and(|lead| *lead == out[..k]) && b.len() == a.len() {
        if k + 2 > a.len() {
            return Err("rows of a matrix are not rows of its product with another".to_owned());
        }
        v.rows(1)?
    } else if b.len() == 2 && k < a.len() || b.len() + k <= a.len() {
        v.whole(1)
    } else {
        return Err("the right operand differs from row to row".to_owned());
    };
    let residual = if v.input(3).is_some() { v.rows(3)? } else { Operand::Absent };
    let mut inputs = vec![v.rows(0)?, product, v.whole(2), residual];
    inputs.truncate(v.node.inputs.len());
    Ok(v.same_op(inputs, false))
}

/// Rows of bytes by constant bytes, with one scale for all rows or one for each.
fn integer_matmul(v: &View) -> Result<RowWise, String> {
    let (out, k) = v.output()?;
    if v.shape(0)?.len() != out.len() || k >= out.len() || v.shape(1)?.len() != 2 {
        return Err("the right operand differs from row to row".to_owned());
    }
    let one = |i: usize| v.shape(i).is_ok_and(|s| s.iter().all(|d| d.as_const() == Some(1)));
    let mut inputs = vec![v.rows(0)?];
    inputs.extend(v.constants(1));
    if !one(2) {
        inputs[2] = v.rows(2)?;
    }
    if v.input(4).is_some() && !one(4) {
        return Err("rows have zero points of their own".to_owned());
    }
    Ok(v.same_op(inputs, false))
}

/// Each row by itself, along the last axis.
fn quantised_rows(v: &View) -> Result<RowWise, String> {
    let (out, k) = v.output()?;
    if k >= out.len() {
        return Err("the axis that it quantises counts rows".to_owned());
    }
    let mut inputs = vec![v.rows(0)?];
    inputs.extend(v.constants(1));
    Ok(v.same_op(inputs, false))
}

/// Rows by weights that are the same for all.
fn matmul_nbits(v: &View) -> Result<RowWise, String> {
    let (_, k) = v.output()?;
    if k >= v.shape(0)?.len() {
        return Err("the sum runs along a row".to_owned());
    }
    let mut inputs = vec![v.rows(0)?];
    inputs.extend((1..v.node.inputs.len()).map(|i| v.whole(i)));
    Ok(v.same_op(inputs, false))
}

fn gemm(v: &View) -> Result<RowWise, String> {
    let (out, k) = v.output()?;
    if v.int("transA") == Some(1) || k != 1 {
        return Err("the left operand is transposed".to_owned());
    }
    let mut inputs = vec![v.rows(0)?, v.whole(1)];
    if let Some(c) = v.input(2) {
        let shape = v.shape(2)?;
        let one_row = shape.len() < 2 || shape[0].as_const() == Some(1);
        inputs.push(match one_row {
            true => Operand::Whole(c),
            false if shape[0] == out[0] => Operand::Rows(c),
            false => return Err("input 2 has other rows than the output".to_owned()),
        });
    }
    Ok(v.same_op(inputs, false))
}

/// Functions along one axis, or all from one on.
fn along_axis(v: &View) -> Result<RowWise, String> {
    let (out, k) = v.output()?;
    let axis = v.axis_from_end(out.len(), k)?;
    let inputs = std::iter::once(v.rows(0)?).chain(v.constants(1)).collect();
    Ok(RowWise { op: v.with("axis", Attr::Int(axis))?, inputs, in_place: true, view: false })
}

/// Rows of a table, or a place in each row.
fn gather(v: &View) -> Result<RowWise, String> {
    let data = v.shape(0)?;
    let axis = v.int("axis").ok_or("the axis is not an attribute")?;
    if axis == 0 || axis == -(data.len() as i64) {
        return Ok(v.same_op(vec![v.whole(0), v.rows(1)?], false));
    }
    let (_, k) = v.output()?;
    let axis = v.axis_from_end(data.len(), k)?;
    let inputs = vec![v.rows(0)?, v.whole(1)];
    Ok(RowWise { op: v.with("axis", Attr::Int(axis))?, inputs, in_place: false, view: false })
}

fn concat(v: &View) -> Result<RowWise, String> {
    let (out, k) = v.output()?;
    let axis = v.axis_from_end(out.len(), k)?;
    let inputs = (0..v.node.inputs.len()).map(|i| v.rows(i)).collect::<Result<_, _>>()?;
    Ok(RowWise { op: v.with("axis", Attr::Int(axis))?, inputs, in_place: false, view: false })
}

fn split(v: &View) -> Result<RowWise, String> {
    let (out, k) = v.output()?;
    let axis = v.axis_from_end(out.len(), k)?;
    let inputs = std::iter::once(v.rows(0)?).chain(v.constants(1)).collect();
    Ok(RowWise { op: v.with("axis", Attr::Int(axis))?, inputs, in_place: false, view: false })
}

/// Axes that lie behind the rows, counted from the end, as an operand.
fn axes_behind(v: &View, i: usize, rank: usize, k: usize) -> Result<Operand, String> {
    let axes = v.ints(i).ok_or_else(|| format!("the axes in input {i} are not constant"))?;
    let axes = axes.iter().map(|&a| behind(a, rank, k)).collect::<Result<Vec<_>, _>>()?;
    let axes = Tensor::from_vec(&[axes.len()], axes).map_err(|e| e.message().to_owned())?;
    Ok(Operand::Constant(axes))
}

fn slice(v: &View) -> Result<RowWise, String> {
    let (out, k) = v.output()?;
    if v.input(3).is_none() {
        return Err("the first axes are sliced".to_owned());
    }
    let axes = axes_behind(v, 3, out.len(), k)?;
    let mut inputs = vec![v.rows(0)?, v.whole(1), v.whole(2), axes, v.whole(4)];
    inputs.truncate(v.node.inputs.len());
    Ok(v.same_op(inputs, false))
}

fn reduce(v: &View) -> Result<RowWise, String> {
    let (_, k) = v.output()?;
    if v.input(1).is_none() {
        return Err("all axes are reduced".to_owned());
    }
    let axes = axes_behind(v, 1, v.shape(0)?.len(), k)?;
    Ok(v.same_op(vec![v.rows(0)?, axes], false))
}

fn transpose(v: &View) -> Result<RowWise, String> {
    let (out, k) = v.output()?;
    let perm = match v.node.op.attrs().get("perm") {
        Some(Attr::Ints(perm)) if !perm.is_empty() => perm.clone(),
        _ => (0..out.len() as i64).rev().collect(),
    };
    let normal: Vec<i64> =
        perm.iter().map(|&p| if p < 0 { p + out.len() as i64 } else { p }).collect();
    if (0..k as i64).any(|i| normal[i as usize] != i) {
        return Err("axes that count rows are moved".to_owned());
    }
    let behind = normal[k..].iter().map(|p| p - k as i64 + 1);
    let perm = std::iter::once(0).chain(behind).collect();
    let op = v.with("perm", Attr::Ints(perm))?;
    Ok(RowWise { op, inputs: vec![v.rows(0)?], in_place: false, view: false })
}

/// Other shapes of the same elements: rows stay rows, whatever the axes that count them.
fn view(v: &View) -> Result<RowWise, String> {
    let (out, k) = v.output()?;
    let id = v.input(0).ok_or("input 0 is missing")?;
    let from = v.shape(0)?;
    let lead = v.leading(0).ok_or("input 0 has no rows")?;
    if lead.len() != k && Dim::product(lead) != Dim::product(&out[..k]) {
        return Err("rows are taken apart or put together".to_owned());
    }
    let (from, to) = (&from[lead.len()..], &out[k..]);
    let identity = || build_op("Identity", crate::Attrs::new()).map_err(|e| e.message().to_owned());
    if from == to {
        return Ok(RowWise {
            op: identity()?,
            inputs: vec![Operand::Rows(id)],
            in_place: false,
            view: true,
        });
    }
    let mut shape = vec![0i64];
    let mut left = true;
    for (i, d) in to.iter().enumerate() {
        shape.push(match d.as_const() {
            Some(n) if n > 0 => n,
            _ if from.get(i) == Some(d) => 0,
            None if std::mem::take(&mut left) => -1,
            _ => return Err(format!("the extent {d} of the output is not known in the body")),
        });
    }
    let text = |e: deepseek_tensor::Error| e.message().to_owned();
    let shape = Tensor::from_vec(&[shape.len()], shape).map_err(text)?;
    let op = build_op("Reshape", crate::Attrs::new()).map_err(text)?;
    let inputs = vec![Operand::Rows(id), Operand::Constant(shape)];
    Ok(RowWise { op, inputs, in_place: false, view: true })
}

/// Input `i`: the same first extent as the output, or one for all.
fn rows_or_one(v: &View, i: usize) -> Result<Operand, String> {
    let (out, _) = v.output()?;
    let Some(id) = v.input(i) else { return Ok(Operand::Absent) };
    let shape = v.shape(i)?;
    match shape.first() {
        Some(d) if shape.len() == 4 && *d == out[0] => Ok(Operand::Rows(id)),
        Some(d) if shape.len() == 4 && d.as_const() != Some(1) => {
            Err(format!("input {i} has other rows than the output"))
        }
        _ => Ok(Operand::Whole(id)),
    }
}

/// Whole sequences of a batch.
fn attention(v: &View) -> Result<RowWise, String> {
    let (_, k) = v.output()?;
    if k != 1 {
        return Err("a row of queries reads all keys of its sequence".to_owned());
    }
    let mut inputs = vec![v.rows(0)?, v.rows(1)?, v.rows(2)?, rows_or_one(v, 3)?];
    for i in 4..v.node.inputs.len() {
        inputs.push(if v.input(i).is_some() { v.rows(i)? } else { Operand::Absent });
    }
    inputs.truncate(v.node.inputs.len());
    Ok(v.same_op(inputs, false))
}

fn rotary(v: &View) -> Result<RowWise, String> {
    let (_, k) = v.output()?;
    if k != 1 {
        return Err("a row is rotated by its place in the sequence".to_owned());
    }
    let inputs = match v.input(3) {
        Some(_) => vec![v.rows(0)?, v.whole(1), v.whole(2), v.rows(3)?],
        None => vec![v.rows(0)?, v.rows(1)?, v.rows(2)?],
    };
    Ok(v.same_op(inputs, false))
}

/// Images, one a row, and weights; a fourth input is added to the result.
fn per_image(v: &View) -> Result<RowWise, String> {
    let (_, k) = v.output()?;
    if k != 1 {
        return Err("a row of a batch of images is an image".to_owned());
    }
    if v.node.outputs.len() > 1 || v.int("training_mode") == Some(1) {
        return Err("further outputs speak of the whole batch".to_owned());
    }
    let residual = v.node.op.name() == "FusedConv";
    let rest = (1..v.node.inputs.len()).map(|i| match (residual, i, v.input(i)) {
        (true, 3, Some(_)) => v.rows(3),
        _ => Ok(v.whole(i)),
    });
    let inputs = std::iter::once(v.rows(0)).chain(rest).collect::<Result<_, _>>()?;
    Ok(v.same_op(inputs, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_it_can_be_searched() {
        assert!(RULES.windows(2).all(|w| w[0].0 < w[1].0));
    }
}
