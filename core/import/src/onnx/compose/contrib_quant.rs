//! Quantised operators of the `com.microsoft` domain, in terms of operators on bytes, or of `f32` ones
//! between dequantisation and quantisation.

use crate::onnx::call::{Call, Outputs};
use deepseek_graph::{Attrs, ValueId};
use deepseek_tensor::{DType, Result, Tensor, bail};

fn none() -> Attrs {
    Attrs::new()
}

/// The `f32` form of input `i`, whose scale and zero point follow it.
fn dequantised(c: &mut Call, i: usize) -> Result<ValueId> {
    let inputs = [Some(c.input(i)?), Some(c.input(i + 1)?), c.opt(i + 2)];
    let present = if inputs[2].is_some() { 3 } else { 2 };
    Ok(c.emit("DequantizeLinear", none(), &inputs[..present], 1)?[0])
}

/// The node's output, from its `f32` form; its scale is input `i`, its zero point the next.
fn quantised(c: &mut Call, y: ValueId, i: usize) -> Result<Outputs> {
    let inputs = [y, c.input(i)?, zero(c, i + 1, 0)?];
    c.last_of("QuantizeLinear", none(), &inputs)
}

/// Input `i`, or a zero of the type of input `like`.
fn zero(c: &mut Call, i: usize, like: usize) -> Result<ValueId> {
    match c.opt(i) {
        Some(z) => Ok(z),
        None => {
            let dtype = c.dtype(c.input(like)?)?;
            c.scalar(dtype, 0.0)
        }
    }
}

/// QLinearAdd.
pub fn qlinear_add(c: &mut Call) -> Result<Outputs> {
    let (a, b) = (dequantised(c, 0)?, dequantised(c, 3)?);
    let y = c.one("Add", none(), &[a, b])?;
    quantised(c, y, 6)
}

/// QLinearMul.
pub fn qlinear_mul(c: &mut Call) -> Result<Outputs> {
    let (a, b) = (dequantised(c, 0)?, dequantised(c, 3)?);
    let y = c.one("Mul", none(), &[a, b])?;
    quantised(c, y, 6)
}

fn unary(c: &mut Call, op: &str, attrs: Attrs) -> Result<Outputs> {
    let x = dequantised(c, 0)?;
    let y = c.one(op, attrs, &[x])?;
    quantised(c, y, 3)
}

/// QLinearSigmoid.
pub fn qlinear_sigmoid(c: &mut Call) -> Result<Outputs> {
    unary(c, "Sigmoid", none())
}

/// QLinearLeakyRelu.
pub fn qlinear_leaky_relu(c: &mut Call) -> Result<Outputs> {
    let alpha = c.take("alpha")?.unwrap_or(0.01f32);
    unary(c, "LeakyRelu", none().with("alpha", alpha))
}

/// QLinearSoftmax, as of the operator set that it names.
pub fn qlinear_softmax(c: &mut Call) -> Result<Outputs> {
    let axis = c.take("axis")?.unwrap_or(-1i64);
    let opset: i64 = c.take("opset")?.unwrap_or(13);
    let rank = c.shape(c.input(0)?, "QLinearSoftmax")?.len() as i64;
    if opset < 13 && axis != -1 && axis != rank - 1 {
        bail!(Unsupported, "QLinearSoftmax of opset {opset} along axis {axis}; use the last axis");
    }
    unary(c, "Softmax", none().with("axis", axis))
}

fn planes(c: &mut Call) -> Result<()> {
    if c.take("channels_last")?.unwrap_or(false) {
        bail!(
            Unsupported,
            "{} with channels last; save the model at a lower optimisation level",
            c.node.op_type
        );
    }
    Ok(())
}

/// QLinearGlobalAveragePool of planes.
pub fn qlinear_global_average_pool(c: &mut Call) -> Result<Outputs> {
    planes(c)?;
    unary(c, "GlobalAveragePool", none())
}

/// QLinearAveragePool of planes.
pub fn qlinear_average_pool(c: &mut Call) -> Result<Outputs> {
    planes(c)?;
    let attrs = std::mem::take(&mut c.attrs);
    unary(c, "AveragePool", attrs)
}

/// QLinearConcat: scale and zero point of the result come first, then each tensor with its own.
pub fn qlinear_concat(c: &mut Call) -> Result<Outputs> {
    let axis: i64 = c.need("axis")?;
    let parts = (2..c.inputs.len()).step_by(3).map(|i| dequantised(c, i));
    let parts: Vec<ValueId> = parts.collect::<Result<_>>()?;
    let y = c.one("Concat", none().with("axis", axis), &parts)?;
    let inputs = [y, c.input(0)?, c.input(1)?];
    c.last_of("QuantizeLinear", none(), &inputs)
}

/// MatMulIntegerToFloat: the same inputs.
pub fn matmul_integer_to_float(c: &mut Call) -> Result<Outputs> {
    let inputs = c.inputs.clone();
    c.last("MatMulIntegerToFloat", none(), &inputs)
}

/// MatMulNBits. How exact the products must be is at least what was asked for: they are those of `f32`.
pub fn matmul_nbits(c: &mut Call) -> Result<Outputs> {
    let (k, n): (i64, i64) = (c.need("K")?, c.need("N")?);
    let bits = c.take("bits")?.unwrap_or(4i64);
    let block_size: i64 = c.need("block_size")?;
    c.take::<i64>("accuracy_level")?;
    let prepacked: i64 = c.take("weight_prepacked")?.unwrap_or(0);
    if prepacked != 0 {
        bail!(Unsupported, "weights packed for one kernel (weight_prepacked = {prepacked})");
    }
    if c.opt(4).is_some() {
        bail!(Unsupported, "an order of groups (g_idx); export without it");
    }
    let q = c.input(1)?;
    let rows = c.shape(q, "the weights")?.first().and_then(deepseek_graph::Dim::as_const);
    if rows != Some(n) {
        bail!(ShapeMismatch, "N is {n}, but the weights have {rows:?} rows");
    }
    let attrs = none().with("bits", bits).with("block_size", block_size).with("k", k);
    let mut inputs = vec![Some(c.input(0)?), Some(q), Some(c.input(2)?), c.opt(3), c.opt(5)];
    while inputs.last().is_some_and(Option::is_none) {
        inputs.pop();
    }
    c.last("MatMulNBits", attrs, &inputs)
}

/// DynamicQuantizeMatMul: A is quantised on the way.
pub fn dynamic_quantize_matmul(c: &mut Call) -> Result<Outputs> {
    let a = c.emit("DynamicQuantizeLinear", none(), &[Some(c.input(0)?)], 3)?;
    let (b, b_scale) = (c.input(1)?, c.input(2)?);
    let inputs = [Some(a[0]), Some(b), Some(a[1]), Some(b_scale), Some(a[2]), c.opt(3), c.opt(4)];
    let present = inputs.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
    c.last("MatMulIntegerToFloat", none(), &inputs[..present])
}

/// QGemm: `alpha · A′ B′ + C` with C in units of `alpha · a_scale · b_scale`; without a scale of the
/// result that is `f32`.
pub fn qgemm(c: &mut Call) -> Result<Outputs> {
    let alpha = c.take("alpha")?.unwrap_or(1.0f32);
    let mut sides = [c.input(0)?, c.input(3)?];
    for (side, name) in sides.iter_mut().zip(["transA", "transB"]) {
        if c.take(name)?.unwrap_or(false) {
            *side = c.one("Transpose", none().with("perm", vec![1i64, 0]), &[*side])?;
        }
    }
    let [a, b] = sides;
    let mut a_scale = c.input(1)?;
    if alpha != 1.0 {
        let alpha = c.constant(Tensor::scalar(alpha)?)?;
        a_scale = c.one("Mul", none(), &[a_scale, alpha])?;
    }
    let (b_scale, bias) = (c.input(4)?, c.opt(6));
    let (a_zero, b_zero) = (zero(c, 2, 0)?, zero(c, 5, 3)?);
    if let Some(y_scale) = c.opt(7) {
        let y_zero = zero(c, 8, 0)?;
        let mut inputs = vec![a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero];
        inputs.extend(bias);
        return c.last_of("QLinearMatMul", none(), &inputs);
    }
    let inputs = [a, b, a_scale, b_scale, a_zero, b_zero];
    let Some(bias) = bias else { return c.last_of("MatMulIntegerToFloat", none(), &inputs) };
    let y = c.one("MatMulIntegerToFloat", none(), &inputs)?;
    let unit = c.one("Mul", none(), &[a_scale, b_scale])?;
    let bias = c.one("Cast", none().with("to", DType::F32), &[bias])?;
    let bias = c.one("Mul", none(), &[bias, unit])?;
    c.last_of("Add", none(), &[y, bias])
}
