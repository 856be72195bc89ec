//! A matrix product and what follows it, in one pass over the result.

use super::matmul::matmul;
use super::util::{cast_from_f64, expect_weights, to_f64, widened};
use super::{Add, MatMul, Pointwise};
use crate::{EvalArgs, Fact, InferArgs, NoSubgraphs, Operator, Value, op};
use deepseek_tensor::{Result, Tensor, ensure};

op! {
    /// `y = activation(alpha · a · b' + bias + residual)` on floats. The product is that of
    /// [`MatMul`] with operands of rank 2 and more: a is `[…, m, k]`, b' is b `[…, k, n]` or, with
    /// `trans_b`, the transpose of b `[…, n, k]`. The optional bias is `[n]`, the optional
    /// residual has the shape of y. The result is rounded after each step, from left to right.
    ///
    /// Where a is `f32`, b may be `bf16`, by which a rounded to bf16 is multiplied, or `f16`, which
    /// is widened; everything else stays `f32`.
    FusedMatMul { alpha: f32 = 1.0, trans_b: bool = false, activation: Option<Pointwise> = None }
}

impl Operator for FusedMatMul {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 4)?;
        let (dtype, b) = expect_weights(args)?;
        ensure!(dtype.is_float(), DTypeMismatch, "expected floats, got {dtype}; insert a Cast");
        expect_unary(self.activation.as_ref())?;
        for i in (2..4).filter(|&i| args.get(i).is_some()) {
            args.expect_same_dtype(0, i)?;
        }
        let swapped = match (self.trans_b, b.shape()) {
            (true, Some(s)) if s.len() >= 2 => {
                let mut s = s.to_vec();
                let rank = s.len();
                s.swap(rank - 2, rank - 1);
                Fact::tensor(dtype, s)
            }
            _ => b,
        };
        for i in 0..2 {
            if let Some(shape) = args.shape(i) {
                ensure!(
                    shape.len() >= 2,
                    ShapeMismatch,
                    "operand {i} has rank {}, expected a matrix; use MatMul",
                    shape.len()
                );
            }
        }
        let operands = [args.get(0), Some(&swapped)];
        let product = InferArgs { node: args.node, inputs: &operands, outputs: 1 };
        let y = MatMul::default().infer(&product)?;
        let Some(shape) = y[0].shape() else { return Ok(y) };
        let differ = |a: &crate::Dim, b: &crate::Dim| matches!((a.as_const(), b.as_const()), (Some(a), Some(b)) if a != b);
        if let Some(bias) = args.shape(2) {
            ensure!(
                bias.len() == 1 && !differ(&bias[0], &shape[shape.len() - 1]),
                ShapeMismatch,
                "the bias of shape {bias:?} does not fit the product {}: expected one number for each column",
                y[0]
            );
        }
        if let Some(residual) = args.shape(3) {
            ensure!(
                residual.len() == shape.len()
                    && !residual.iter().zip(shape).any(|(a, b)| differ(a, b)),
                ShapeMismatch,
                "the residual of shape {residual:?} and the product {} must have one shape",
                y[0]
            );
        }
        Ok(y)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = (args.tensor(0)?, args.tensor(1)?);
        ensure!(
            a.rank() >= 2 && b.rank() >= 2,
            ShapeMismatch,
            "operands of rank {} and {}, expected matrices; use MatMul",
            a.rank(),
            b.rank()
        );
        let b = if self.trans_b {
            let mut axes: Vec<usize> = (0..b.rank()).collect();
            axes.swap(b.rank() - 2, b.rank() - 1);
            b.permute(&axes)?
        } else {
            b.clone()
        };
        let (a, b) = widened(a, &b)?;
        let mut y = matmul(&a, &b)?;
        if self.alpha != 1.0 {
            let alpha = f64::from(self.alpha);
            let scaled: Vec<f64> = to_f64(&y)?.iter().map(|v| v * alpha).collect();
            y = cast_from_f64(y.dtype(), y.shape(), &scaled)?;
        }
        if let Some(bias) = args.opt(2)? {
            let n = y.shape()[y.rank() - 1];
            ensure!(
                bias.shape() == [n],
                ShapeMismatch,
                "a bias of shape {:?} for {n} columns",
                bias.shape()
            );
            y = add(&y, bias)?;
        }
        Ok(vec![finish(y, args.opt(3)?, self.activation.as_ref())?.into()])
    }
}

/// Fails if the activation takes more than one element.
///
/// # Errors
/// `InvalidGraph`.
pub(super) fn expect_unary(activation: Option<&Pointwise>) -> Result<()> {
    if let Some(f) = activation {
        ensure!(
            f.arity() == 1,
            InvalidGraph,
            "the activation {f} takes {} elements, expected one",
            f.arity()
        );
    }
    Ok(())
}

/// `activation(y + residual)`; the residual has y's shape.
///
/// # Errors
/// `ShapeMismatch` if it does not, `InvalidGraph` as [`expect_unary`].
pub(super) fn finish(
    y: Tensor,
    residual: Option<&Tensor>,
    activation: Option<&Pointwise>,
) -> Result<Tensor> {
    expect_unary(activation)?;
    let y = match residual {
        Some(r) => {
            ensure!(
                r.shape() == y.shape(),
                ShapeMismatch,
                "a residual of shape {:?} for a result of shape {:?}",
                r.shape(),
                y.shape()
            );
            add(&y, r)?
        }
        None => y,
    };
    match activation {
        Some(f) => f.eval(&[y]),
        None => Ok(y),
    }
}

fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let inputs = [Some(a.clone().into()), Some(b.clone().into())];
    let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
    Add::default().eval(&args)?[0].tensor().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dim, build_op};
    use deepseek_tensor::DType;

    fn t(shape: &[usize], data: &[f32]) -> Tensor {
        Tensor::from_slice(shape, data).unwrap()
    }

    fn run(op: &FusedMatMul, inputs: &[Option<Tensor>]) -> Result<Vec<f32>> {
        let inputs: Vec<_> = inputs.iter().map(|t| t.clone().map(Value::from)).collect();
        let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
        op.eval(&args)?[0].tensor()?.to_vec()
    }

    #[test]
    fn each_part_is_optional() {
        let a = t(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let b = t(&[2, 2], &[1.0, 0.0, -1.0, 1.0]);
        let bias = t(&[2], &[1.0, -10.0]);
        let residual = t(&[2, 2], &[0.5, 0.0, 0.0, 20.0]);
        let relu = || Some(Pointwise::new("Relu", &[]).unwrap());
        struct Case(FusedMatMul, bool, bool, [f32; 4]);
        let op = |alpha, trans_b, activation| FusedMatMul { alpha, trans_b, activation };
        for Case(op, with_bias, with_residual, want) in [
            Case(op(1.0, false, None), false, false, [-1.0, 2.0, -1.0, 4.0]),
            Case(op(2.0, true, None), false, false, [2.0, 2.0, 6.0, 2.0]),
            Case(op(2.0, true, None), true, false, [3.0, -8.0, 7.0, -8.0]),
            Case(op(1.0, false, relu()), true, false, [0.0, 0.0, 0.0, 0.0]),
            Case(op(1.0, false, relu()), true, true, [0.5, 0.0, 0.0, 14.0]),
            Case(op(1.0, false, None), false, true, [-0.5, 2.0, -1.0, 24.0]),
        ] {
            let inputs = [
                Some(a.clone()),
                Some(b.clone()),
                with_bias.then(|| bias.clone()),
                with_residual.then(|| residual.clone()),
            ];
            assert_eq!(run(&op, &inputs).unwrap(), want, "{op:?} {with_bias} {with_residual}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_rule_and_reference() {
        let op = FusedMatMul::default();
        let fact = |dims: &[i64]| {
            Fact::tensor(DType::F32, dims.iter().map(|&d| Dim::from(d)).collect::<Vec<_>>())
        };
        for shapes in [
            [&[2, 3][..], &[3, 4], &[3], &[2, 4]],
            [&[2, 3], &[3, 4], &[4], &[1, 4]],
            [&[2, 3], &[3, 4], &[1, 4], &[2, 4]],
            [&[2, 3], &[4, 3], &[4], &[2, 4]],
            [&[3], &[3, 4], &[4], &[4]],
        ] {
            let facts = shapes.map(fact);
            let inputs: Vec<_> = facts.iter().map(Some).collect();
            let args = InferArgs { node: "t", inputs: &inputs, outputs: 1 };
            assert!(op.infer(&args).is_err(), "{shapes:?}");
            let tensors = shapes.map(|s| {
                let s: Vec<usize> = s.iter().map(|&d| d as usize).collect();
                Some(Tensor::zeros(DType::F32, &s).unwrap())
            });
            assert!(run(&op, &tensors).is_err(), "{shapes:?}");
        }
        let attrs = crate::Attrs::new().with("activation", "Add".to_owned());
        let op = build_op("FusedMatMul", attrs).unwrap();
        let facts = [fact(&[2, 3]), fact(&[3, 4])];
        let inputs: Vec<_> = facts.iter().map(Some).collect();
        assert!(op.infer(&InferArgs { node: "t", inputs: &inputs, outputs: 1 }).is_err());
    }
}
