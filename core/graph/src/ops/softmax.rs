//! Softmax and its relatives along one axis.

use super::util::{map_rows, normalize_axis};
use crate::{EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{Result, ensure};

macro_rules! row_maps {
    ($($(#[$doc:meta])* $name:ident: $row:expr;)*) => {$(
        op! {
            $(#[$doc])*
            $name { axis: i64 = -1 }
        }
        impl Operator for $name {
            fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
                infer(args, self.axis)
            }
            fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
                let x = args.tensor(0)?;
                let axis = normalize_axis(self.axis, x.rank())?;
                Ok(vec![map_rows(x, &[axis], $row)?.into()])
            }
        }
    )*};
}

row_maps! {
    /// `eˣ / Σ eˣ` along `axis`, computed relative to the greatest element. (ONNX Softmax-13.)
    Softmax: |row| {
        let max = greatest(row);
        row.iter_mut().for_each(|x| *x = (*x - max).exp());
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= sum);
    };
    /// `x − ln Σ eˣ` along `axis`, computed relative to the greatest element.
    /// (ONNX LogSoftmax-13.)
    LogSoftmax: |row| {
        let max = greatest(row);
        let log = row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        row.iter_mut().for_each(|x| *x = *x - max - log);
    };
    /// 1 at the first greatest element along `axis`, 0 elsewhere. (ONNX Hardmax-13.)
    Hardmax: |row| {
        let mut at = 0;
        for (i, x) in row.iter().enumerate() {
            if *x > row[at] {
                at = i;
            }
        }
        row.fill(0.0);
        row[at] = 1.0;
    };
}

fn infer(args: &InferArgs, axis: i64) -> Result<Vec<Fact>> {
    args.expect_inputs(1, 1)?;
    let dtype = args.dtype(0)?;
    ensure!(dtype.is_float(), DTypeMismatch, "expected floats, got {dtype}; insert a Cast");
    if let Some(shape) = args.shape(0) {
        normalize_axis(axis, shape.len())?;
    }
    Ok(vec![Fact::maybe_ranked(dtype, args.shape(0).map(<[_]>::to_vec))])
}

fn greatest(row: &[f64]) -> f64 {
    row.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}
