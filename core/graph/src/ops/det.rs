//! Determinants.

use super::util::{cast_from_f64, filled, to_f64};
use crate::{EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{Result, ensure, num_elements};

op! {
    /// Determinants of the square matrices in the last two axes: `[…, n, n]` to `[…]`, by
    /// elimination with partial pivoting; that of an empty matrix is 1. Floats. (ONNX
    /// Det-22.)
    Det {}
}

impl Operator for Det {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = super::conv::expect_floats(args, &[0])?;
        let Some(x) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
        let square = match x {
            [.., a, b] => match (a.as_const(), b.as_const()) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            },
            _ => false,
        };
        ensure!(square, ShapeMismatch, "expected square matrices […, n, n], got {x:?}");
        Ok(vec![Fact::tensor(dtype, x[..x.len() - 2].to_vec())])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let [batch @ .., n, columns] = x.shape() else {
            deepseek_tensor::bail!(
                ShapeMismatch,
                "expected square matrices […, n, n], got {:?}",
                x.shape()
            );
        };
        ensure!(
            n == columns,
            ShapeMismatch,
            "expected square matrices […, n, n], got {:?}",
            x.shape()
        );
        let count = num_elements(batch)?;
        let mut data = to_f64(x)?;
        let mut dets = filled(count, 1.0)?;
        if !data.is_empty() {
            for (det, m) in dets.iter_mut().zip(data.chunks_exact_mut(n * n)) {
                *det = determinant(m, *n);
            }
        }
        Ok(vec![cast_from_f64(x.dtype(), batch, &dets)?.into()])
    }
}

/// The determinant of a row-major matrix, which is destroyed.
fn determinant(m: &mut [f64], n: usize) -> f64 {
    let mut det = 1.0;
    for c in 0..n {
        let pivot =
            (c..n).fold(c, |p, r| if m[r * n + c].abs() > m[p * n + c].abs() { r } else { p });
        if m[pivot * n + c] == 0.0 {
            return 0.0;
        }
        if pivot != c {
            (0..n).for_each(|j| m.swap(pivot * n + j, c * n + j));
            det = -det;
        }
        det *= m[c * n + c];
        let (top, below) = m.split_at_mut((c + 1) * n);
        let top = &top[c * n..];
        for row in below.chunks_exact_mut(n) {
            let factor = row[c] / top[c];
            row.iter_mut().zip(top).skip(c).for_each(|(r, t)| *r -= factor * t);
        }
    }
    det
}

#[cfg(test)]
mod tests {
    use super::determinant;

    #[test]
    fn pivoting_keeps_the_sign_and_singular_is_zero() {
        for (m, n, want) in [
            (vec![0.0, 1.0, 1.0, 0.0], 2, -1.0),
            (vec![1.0, 2.0, 2.0, 4.0], 2, 0.0),
            (vec![0.0, 2.0, 0.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0], 3, 24.0),
            (vec![], 0, 1.0),
        ] {
            assert_eq!(determinant(&mut m.clone(), n), want, "{m:?}");
        }
    }
}
