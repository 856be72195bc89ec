//! Matrix products of quantised operands.

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
        let centred = |t: &Tensor, zero: Option<&Tensor>, rows: bool| -> Result<Tensor> {
            let mut data = to_i64(t)?;
            if let Some(zero) = zero {
                let zero = to_i64(&per_lane(zero, t, rows)?)?;
                data.iter_mut().zip(zero).for_each(|(x, z)| *x -= z);
            }
            cast_from_i64(DType::I32, t.shape(), &data)
        };
        let a = centred(args.tensor(0)?, args.opt(2)?, true)?;
        let b = centred(args.tensor(1)?, args.opt(3)?, false)?;
        Ok(vec![matmul(&a, &b)?.into()])
    }
}

op! {
    /// `y = saturate(round(Σ_k (a − a_zero)·a_scale · (b − b_zero)·b_scale / y_scale) + y_zero)`,
    /// ties to even, accumulated exactly. Inputs: `a`, `a_scale`, `a_zero`, `b`, `b_scale`,
    /// `b_zero`, `y_scale`, `y_zero`; `a`, `b` and the output (the type of `y_zero`) are `i8`,
    /// `u8` or 8-bit floats, which do not round to integers. Scales and zero points are scalars,
    /// vectors (one per row of `a` and `y`, per column of `b`) or have extent 1 along the other
    /// matrix axis. (ONNX QLinearMatMul-21.)
    QLinearMatMul {}
}

impl Operator for QLinearMatMul {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(8, 8)?;
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
        let y = matmul(&dequantised(0, true)?, &dequantised(3, false)?)?;
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
