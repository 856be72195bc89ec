//! Matrix product with numpy's rules for batches and vectors.

use super::util::{broadcast_dims, cast_from_f64, to_f64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{Dims, Result, Tensor, broadcast_shapes, ensure};

op! {
    /// `y[…, m, n] = Σ_k a[…, m, k] · b[…, k, n]`; leading axes broadcast, a vector
    /// operand is a row (left) or a column (right) whose axis is dropped again.
    /// Floats accumulate in double precision, integers wrap. (ONNX MatMul-13.)
    MatMul {}
}

impl Operator for MatMul {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let dtype = args.expect_same_dtype(0, 1)?;
        let (Some(a), Some(b)) = (args.shape(0), args.shape(1)) else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        ensure!(
            !a.is_empty() && !b.is_empty(),
            ShapeMismatch,
            "a scalar has no rows or columns; use Mul"
        );
        let (ka, kb) = (&a[a.len() - 1], &b[b.len().saturating_sub(2)]);
        if let (Some(x), Some(y)) = (ka.as_const(), kb.as_const()) {
            ensure!(x == y, ShapeMismatch, "inner extents differ: {x} columns against {y} rows");
        }
        let batch = |s: &'_ [Dim]| s[..s.len().saturating_sub(2)].to_vec();
        let mut out = broadcast_dims(&batch(a), &batch(b))?;
        if a.len() > 1 {
            out.push(a[a.len() - 2].clone());
        }
        if b.len() > 1 {
            out.push(b[b.len() - 1].clone());
        }
        Ok(vec![Fact::tensor(dtype, out)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        Ok(vec![matmul(args.tensor(0)?, args.tensor(1)?)?.into()])
    }
}

/// The product of [`MatMul`].
///
/// # Errors
/// `ShapeMismatch` naming both shapes.
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    ensure!(
        a.rank() > 0 && b.rank() > 0,
        ShapeMismatch,
        "a scalar has no rows or columns; use Mul"
    );
    let (drop_m, drop_n) = (a.rank() == 1, b.rank() == 1);
    let a = if drop_m { a.reshape(&[1, a.len()])? } else { a.clone() };
    let b = if drop_n { b.reshape(&[b.len(), 1])? } else { b.clone() };
    let (m, k) = (a.shape()[a.rank() - 2], a.shape()[a.rank() - 1]);
    let (kb, n) = (b.shape()[b.rank() - 2], b.shape()[b.rank() - 1]);
    ensure!(
        k == kb,
        ShapeMismatch,
        "cannot multiply {:?} by {:?}: {k} columns against {kb} rows",
        a.shape(),
        b.shape()
    );
    let batch = broadcast_shapes(&a.shape()[..a.rank() - 2], &b.shape()[..b.rank() - 2])?;
    let with = |r: usize, c: usize| -> Dims { batch.iter().copied().chain([r, c]).collect() };
    let (a, b) = (a.broadcast_to(&with(m, k))?, b.broadcast_to(&with(k, n))?);
    let mut shape = batch.clone();
    if !drop_m {
        shape.push(m);
    }
    if !drop_n {
        shape.push(n);
    }
    let count: usize = batch.iter().product();
    if a.dtype().is_float() {
        let (x, y) = (to_f64(&a)?, to_f64(&b)?);
        let mut out = vec![0.0; count * m * n];
        product(&x, &y, &mut out, [count, m, k, n], |acc, p, q| acc + p * q);
        return cast_from_f64(a.dtype(), &shape, &out);
    }
    for_dtype!(a.dtype(), T in int => {
        let (x, y) = (a.to_vec::<T>()?, b.to_vec::<T>()?);
        let mut out = vec![T::ZERO; count * m * n];
        product(&x, &y, &mut out, [count, m, k, n], |acc, p, q| acc.add(p.mul(q)));
        Tensor::from_vec(&shape, out)
    })
}

/// `out[b, m, n] = fma over k of x[b, m, k], y[b, k, n]`, `k` ascending.
pub(crate) fn product<T: Copy>(
    x: &[T],
    y: &[T],
    out: &mut [T],
    [count, m, k, n]: [usize; 4],
    fma: impl Fn(T, T, T) -> T,
) {
    for b in 0..count {
        for i in 0..m {
            let row = &mut out[(b * m + i) * n..][..n];
            for p in 0..k {
                let s = x[(b * m + i) * k + p];
                for (o, &t) in row.iter_mut().zip(&y[(b * k + p) * n..][..n]) {
                    *o = fma(*o, s, t);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    fn run(a: Tensor, b: Tensor) -> Result<Tensor> {
        let inputs = [Some(a.into()), Some(b.into())];
        let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
        MatMul::default().eval(&args)?[0].tensor().cloned()
    }

    fn iota(shape: &[usize]) -> Tensor {
        Tensor::from_vec(shape, (0..shape.iter().product::<usize>() as i32).collect()).unwrap()
    }

    #[test]
    fn batches_broadcast_and_vectors_lose_their_axis() {
        struct Case(&'static [usize], &'static [usize], &'static [usize], &'static [i32]);
        for Case(a, b, shape, want) in [
            Case(&[2, 2], &[2, 1], &[2, 1], &[1, 3]),
            Case(&[3], &[3], &[], &[5]),
            Case(&[2, 1, 2], &[2], &[2, 1], &[1, 3]),
            Case(&[2], &[2, 2, 1], &[2, 1], &[1, 3]),
            Case(&[0, 2], &[2, 3], &[0, 3], &[]),
            Case(&[1, 0], &[0, 2], &[1, 2], &[0, 0]),
        ] {
            let got = run(iota(a), iota(b)).unwrap();
            assert_eq!(
                (got.shape(), &got.to_vec::<i32>().unwrap()[..]),
                (shape, want),
                "{a:?} {b:?}"
            );
        }
    }

    #[test]
    fn mismatches_name_both_sides() {
        let e = run(iota(&[2, 3]), iota(&[2, 3])).unwrap_err();
        assert!(e.message().contains("3 columns against 2 rows"), "{e}");
    }
}
