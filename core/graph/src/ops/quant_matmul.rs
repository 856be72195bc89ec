//! Matrix products of quantised operands.

use super::Pointwise;
use super::fused_matmul::{expect_unary, finish};
use super::matmul::{MatMul, matmul};
use super::util::{cast_from_f64, cast_from_i64, to_f64, to_i64};
use crate::{EvalArgs, Fact, InferArgs, Operator, Type, Value, op};
use deepseek_tensor::{DType, Result, Tensor, ensure};

op! {
    /// `y[…, m, n] = Σ_k (a[…, m, k] − a_zero) · (b[…, k, n] − b_zero)` in `i32`, which wraps.
    /// Inputs: `a` and `b`, each `i8` or `u8`, and optional zero points of the same types: a
    /// scalar, a vector (one per row of `a`, per column of `b`), or with the rank of the operand
    /// and extent 1 along `k`. (ONNX MatMulInteger-10.)
    MatMulInteger {}
}

impl Operator for MatMulInteger {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 4)?;
        for i in 0..2 {
            let dtype = args.dtype(i)?;
            ensure!(
                matches!(dtype, DType::I8 | DType::U8),
                DTypeMismatch,
                "input {i} must be i8 or u8, got {dtype}"
            );
            if args.get(i + 2).is_some() {
                args.expect_same_dtype(i, i + 2)?;
            }
        }
        product_fact(args, 0, 1, DType::I32)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = ((args.tensor(0)?, args.opt(2)?), (args.tensor(1)?, args.opt(3)?));
        Ok(vec![sums(a, b)?.into()])
    }
}

/// The exact product of two operands with their zero points taken off, in `i32`, which wraps.
fn sums(a: (&Tensor, Option<&Tensor>), b: (&Tensor, Option<&Tensor>)) -> Result<Tensor> {
    let centred = |(t, zero): (&Tensor, Option<&Tensor>), rows: bool| -> Result<Tensor> {
        let mut data = to_i64(t)?;
        if let Some(zero) = zero {
            let zero = to_i64(&per_lane(zero, t, rows)?)?;
            data.iter_mut().zip(zero).for_each(|(x, z)| *x -= z);
        }
        cast_from_i64(DType::I32, t.shape(), &data)
    };
    matmul(&centred(a, true)?, &centred(b, false)?)
}

op! {
    /// [`MatMulInteger`] as `f32`: `activation(sum · (a_scale · b_scale) + bias)`, rounded after each
    /// step. Inputs: `a`, `b`, `a_scale`, `b_scale`, and optionally `a_zero`, `b_zero` and `bias`;
    /// `b_scale` is a scalar or has one number for each column, `a_scale` is a scalar or has one
    /// number for each row (`[…, m, 1]`), the bias is `[n]`. Operands and zero points are those of [`MatMulInteger`]. (ONNX Runtime
    /// MatMulIntegerToFloat, with an activation.)
    MatMulIntegerToFloat { activation: Option<Pointwise> = None }
}

impl Operator for MatMulIntegerToFloat {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(4, 7)?;
        expect_unary(self.activation.as_ref())?;
        for i in 0..2 {
            let dtype = args.dtype(i)?;
            ensure!(
                matches!(dtype, DType::I8 | DType::U8),
                DTypeMismatch,
                "input {i} must be i8 or u8, got {dtype}"
            );
            if args.get(i + 4).is_some() {
                args.expect_same_dtype(i, i + 4)?;
            }
        }
        for i in [2, 3, 6].into_iter().filter(|&i| i < 4 || args.get(i).is_some()) {
            let dtype = args.dtype(i)?;
            ensure!(dtype == DType::F32, DTypeMismatch, "input {i} must be f32, got {dtype}");
        }
        let y = product_fact(args, 0, 1, DType::F32)?;
        if let (Some(bias), Some(n)) = (args.shape(6), y[0].shape().and_then(<[_]>::last)) {
            let fits = bias.len() == 1
                && !matches!((bias[0].as_const(), n.as_const()), (Some(a), Some(b)) if a != b);
            ensure!(fits, ShapeMismatch, "a bias of shape {bias:?} for {n} columns");
        }
        Ok(y)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = ((args.tensor(0)?, args.opt(4)?), (args.tensor(1)?, args.opt(5)?));
        let y = sums(a, b)?;
        let a_scale = per_lane(args.tensor(2)?, &y, true)?.to_vec::<f32>()?;
        let b_scale = per_lane(args.tensor(3)?, &y, false)?.to_vec::<f32>()?;
        let bias = match args.opt(6)? {
            Some(bias) => Some(per_lane(bias, &y, false)?.to_vec::<f32>()?),
            None => None,
        };
        let scaled = y.iter::<i32>()?.zip(b_scale).enumerate().map(|(i, (sum, scale))| {
            let y = sum as f32 * (a_scale[i] * scale);
            bias.as_ref().map_or(y, |b| y + b[i])
        });
        let y = Tensor::from_vec(y.shape(), scaled.collect::<Vec<f32>>())?;
        Ok(vec![finish(y, None, self.activation.as_ref())?.into()])
    }
}

op! {
    /// `y = saturate(round(Σ_k (a − a_zero)·a_scale · (b − b_zero)·b_scale / y_scale) + y_zero)`,
    /// ties to even, accumulated exactly. Inputs: `a`, `a_scale`, `a_zero`, `b`, `b_scale`,
    /// `b_zero`, `y_scale`, `y_zero`; `a`, `b` and the output (the type of `y_zero`) are `i8`,
    /// `u8` or 8-bit floats, which do not round to integers. Scales and zero points are scalars,
    /// vectors (one per row of `a` and `y`, per column of `b`) or have extent 1 along the other
    /// matrix axis. An optional ninth input is an `i32` bias, one number for each column, in units
    /// of `a_scale · b_scale`. An activation is applied before the division by `y_scale`. (ONNX
    /// QLinearMatMul-21 with an activation; the bias is that of ONNX Runtime's QGemm.)
    QLinearMatMul { activation: Option<Pointwise> = None }
}

impl Operator for QLinearMatMul {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(8, 9)?;
        expect_unary(self.activation.as_ref())?;
        if args.get(8).is_some() {
            let dtype = args.dtype(8)?;
            ensure!(dtype == DType::I32, DTypeMismatch, "the bias must be i32, got {dtype}");
        }
        args.expect_same_dtype(0, 2)?;
        args.expect_same_dtype(3, 5)?;
        for i in [0, 3, 7] {
            let dtype = args.dtype(i)?;
            ensure!(
                matches!(dtype, DType::I8 | DType::U8)
                    || dtype.is_float8() && dtype != DType::F8E8M0,
                DTypeMismatch,
                "input {i} must be i8, u8 or an 8-bit float, got {dtype}"
            );
        }
        for i in [1, 4, 6] {
            let dtype = args.dtype(i)?;
            ensure!(dtype.is_float(), DTypeMismatch, "scale {i} must be a float, got {dtype}");
        }
        product_fact(args, 0, 3, args.dtype(7)?)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let dequantised = |i: usize, rows: bool| -> Result<Tensor> {
            let t = args.tensor(i)?;
            let zero = to_f64(&per_lane(args.tensor(i + 2)?, t, rows)?)?;
            let scale = to_f64(&per_lane(args.tensor(i + 1)?, t, rows)?)?;
            let data: Vec<f64> =
                to_f64(t)?.iter().zip(zero).zip(scale).map(|((x, z), s)| (x - z) * s).collect();
            Tensor::from_vec(t.shape(), data)
        };
        let mut y = matmul(&dequantised(0, true)?, &dequantised(3, false)?)?;
        if let Some(bias) = args.opt(8)? {
            let unit = to_f64(&per_lane(args.tensor(4)?, &y, false)?)?;
            let a_scale = to_f64(&per_lane(args.tensor(1)?, &y, true)?)?;
            let bias = to_f64(&per_lane(bias, &y, false)?)?;
            let sum = y.iter::<f64>()?.zip(bias).zip(unit).zip(a_scale);
            let sum: Vec<f64> = sum.map(|(((y, b), u), a)| y + b * u * a).collect();
            y = Tensor::from_vec(y.shape(), sum)?;
        }
        if self.activation.is_some() {
            let rounded = cast_from_f64(DType::F32, y.shape(), &to_f64(&y)?)?;
            let y32 = finish(rounded, None, self.activation.as_ref())?;
            y = Tensor::from_vec(y.shape(), to_f64(&y32)?)?;
        }
        let (scale, zero) = (args.tensor(6)?, args.tensor(7)?);
        let scale = to_f64(&per_lane(scale, &y, true)?)?;
        let dtype = zero.dtype();
        let zero = to_f64(&per_lane(zero, &y, true)?)?;
        let out: Vec<f64> = y
            .iter::<f64>()?
            .zip(scale)
            .zip(zero)
            .map(|((x, s), z)| {
                let q = x / s;
                if dtype.is_float() { q + z } else { q.round_ties_even() + z }
            })
            .collect();
        Ok(vec![cast_from_f64(dtype, y.shape(), &out)?.into()])
    }
}

/// A scale or zero point spread over the operand `t`: a vector of more than one element counts
/// rows (with `rows`) or columns.
fn per_lane(p: &Tensor, t: &Tensor, rows: bool) -> Result<Tensor> {
    let scalar = p.len() == 1 && p.rank() <= 1;
    let p = if scalar {
        p.reshape(&[])?
    } else if p.rank() == 1 && rows && t.rank() > 1 {
        p.reshape(&[p.len(), 1])?
    } else {
        p.clone()
    };
    p.broadcast_to(t.shape()).map_err(|e| {
        e.context(format_args!(
            "quantisation parameter for {}",
            if rows { "rows" } else { "columns" }
        ))
    })
}

/// The fact of the product of inputs `a` and `b`, with elements of type `dtype`.
fn product_fact(args: &InferArgs, a: usize, b: usize, dtype: DType) -> Result<Vec<Fact>> {
    let plain = |i: usize| -> Result<Fact> {
        Ok(Fact::maybe_ranked(DType::I32, args.fact(i)?.shape().map(<[_]>::to_vec)))
    };
    let (a, b) = (plain(a)?, plain(b)?);
    let inputs = [Some(&a), Some(&b)];
    let mut out = MatMul::default().infer(&InferArgs { inputs: &inputs, ..*args })?;
    for fact in &mut out {
        if let Type::Tensor(d, _) = &mut fact.ty {
            *d = dtype;
        }
    }
    Ok(out)
}
