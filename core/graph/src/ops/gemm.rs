//! Matrix product with scaling, transposition and a bias.

use super::matmul::product;
use super::util::{cast_from_f64, filled, to_f64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{Result, Tensor, ensure, num_elements};

op! {
    /// `y = alpha · a' · b' + beta · c`, where `a'` is `a` `[m, k]` or, with `transA`, the
    /// transpose of `a` `[k, m]`, `b'` likewise `[k, n]`, and the optional `c` broadcasts to
    /// `[m, n]`. Floats accumulate in double precision; integers wrap, unless `alpha` or `beta` is
    /// not 1: then the result is computed in double precision and truncated. (ONNX Gemm-13.)
    #[expect(non_snake_case, reason = "fields carry the attribute names of ONNX")]
    Gemm { alpha: f32 = 1.0, beta: f32 = 1.0, transA: bool = false, transB: bool = false }
}

impl Operator for Gemm {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 3)?;
        let dtype = args.expect_same_dtype(0, 1)?;
        if args.get(2).is_some() {
            args.expect_same_dtype(0, 2)?;
        }
        let (m, ka) = matrix(args, 0, self.transA)?;
        let (kb, n) = matrix(args, 1, self.transB)?;
        if let (Some(x), Some(y)) = (ka.as_const(), kb.as_const()) {
            ensure!(x == y, ShapeMismatch, "inner extents differ: {x} columns against {y} rows");
        }
        if let Some(c) = args.shape(2) {
            let fits = |c: Option<&Dim>, y: &Dim| match (c.and_then(Dim::as_const), y.as_const()) {
                (Some(c), Some(y)) => c == y || c == 1,
                _ => true,
            };
            ensure!(
                c.len() <= 2 && fits(c.iter().nth_back(0), &n) && fits(c.iter().nth_back(1), &m),
                ShapeMismatch,
                "the bias of shape {c:?} does not broadcast to the product of shape [{m}, {n}]"
            );
        }
        Ok(vec![Fact::tensor(dtype, [m, n])])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let a = oriented(args.tensor(0)?, self.transA)?;
        let b = oriented(args.tensor(1)?, self.transB)?;
        let ([m, k], [kb, n]) = ([a.shape()[0], a.shape()[1]], [b.shape()[0], b.shape()[1]]);
        ensure!(
            k == kb,
            ShapeMismatch,
            "cannot multiply {:?} by {:?}: {k} columns against {kb} rows",
            a.shape(),
            b.shape()
        );
        let c = args.opt(2)?.map(|c| c.broadcast_to(&[m, n])).transpose()?;
        let size = num_elements(&[m, n])?;
        let scaled = self.alpha != 1.0 || (self.beta != 1.0 && c.is_some());
        let y = if a.dtype().is_float() || scaled {
            let mut y = filled(size, 0.0)?;
            product(&to_f64(&a)?, &to_f64(&b)?, &mut y, [1, m, k, n], |acc, p, q| acc + p * q);
            let (alpha, beta) = (f64::from(self.alpha), f64::from(self.beta));
            y.iter_mut().for_each(|y| *y *= alpha);
            // With beta 0 the bias is not read: it may hold anything.
            if let Some(c) = c.filter(|_| beta != 0.0) {
                y.iter_mut().zip(to_f64(&c)?).for_each(|(y, c)| *y += beta * c);
            }
            cast_from_f64(a.dtype(), &[m, n], &y)?
        } else {
            for_dtype!(a.dtype(), T in int => {
                let (x, z) = (a.to_vec::<T>()?, b.to_vec::<T>()?);
                let mut y = match &c {
                    Some(c) => c.to_vec::<T>()?,
                    None => filled(size, T::ZERO)?,
                };
                product(&x, &z, &mut y, [1, m, k, n], |acc, p, q| acc.add(p.mul(q)));
                Tensor::from_vec(&[m, n], y)?
            })
        };
        Ok(vec![y.into()])
    }
}

/// Rows and columns of input `i` after transposition.
fn matrix(args: &InferArgs, i: usize, transposed: bool) -> Result<(Dim, Dim)> {
    match args.shape(i) {
        None => {
            let (r, c) = if i == 0 { ("m", "k") } else { ("k", "n") };
            Ok((args.fresh(r), args.fresh(c)))
        }
        Some([r, c]) if transposed => Ok((c.clone(), r.clone())),
        Some([r, c]) => Ok((r.clone(), c.clone())),
        Some(shape) => Err(not_a_matrix(shape.len())),
    }
}

fn oriented(t: &Tensor, transposed: bool) -> Result<Tensor> {
    ensure!(t.rank() == 2, ShapeMismatch, "{}", not_a_matrix(t.rank()).message());
    if transposed { t.permute(&[1, 0]) } else { Ok(t.clone()) }
}

fn not_a_matrix(rank: usize) -> deepseek_tensor::Error {
    deepseek_tensor::err!(ShapeMismatch, "expected a matrix, got rank {rank}; use MatMul")
}
