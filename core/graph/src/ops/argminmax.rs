//! Index of the greatest or least element along an axis.

use super::util::{axes_last, filled, normalize_axis};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor, ensure, num_elements};

macro_rules! searches {
    ($($(#[$doc:meta])* $name:ident: $max:literal;)*) => {$(
        op! {
            $(#[$doc])*
            /// The first such index, or the last with `select_last_index`; not-a-number before all
            /// others. The output is `i64`; `keepdims` leaves the axis in place with extent 1.
            $name { axis: i64 = 0, keepdims: bool = true, select_last_index: bool = false }
        }
        impl Operator for $name {
            fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
                infer(args, self.axis, self.keepdims)
            }
            fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
                let x = args.tensor(0)?;
                let axis = normalize_axis(self.axis, x.rank())?;
                let last = self.select_last_index;
                Ok(vec![search(x, axis, self.keepdims, $max, last)?.into()])
            }
        }
    )*};
}

searches! {
    /// Index of the greatest element along `axis`. (ONNX ArgMax-13.)
    ArgMax: true;
    /// Index of the least element along `axis`. (ONNX ArgMin-13.)
    ArgMin: false;
}

fn infer(args: &InferArgs, axis: i64, keepdims: bool) -> Result<Vec<Fact>> {
    args.expect_inputs(1, 1)?;
    args.dtype(0)?;
    let Some(shape) = args.shape(0) else { return Ok(vec![Fact::unranked(DType::I64)]) };
    let axis = normalize_axis(axis, shape.len())?;
    ensure!(
        shape[axis].as_const() != Some(0),
        ShapeMismatch,
        "axis {axis} is empty, so no element of it is the greatest or least"
    );
    let mut out = shape.to_vec();
    if keepdims {
        out[axis] = Dim::from(1);
    } else {
        out.remove(axis);
    }
    Ok(vec![Fact::tensor(DType::I64, out)])
}

fn search(x: &Tensor, axis: usize, keepdims: bool, max: bool, last: bool) -> Result<Tensor> {
    let (view, _) = axes_last(x, &[axis])?;
    let mut shape = x.shape().to_vec();
    let len = std::mem::replace(&mut shape[axis], 1);
    if !keepdims {
        shape.remove(axis);
    }
    let rows = num_elements(&shape)?;
    ensure!(
        len > 0 || rows == 0,
        ShapeMismatch,
        "axis {axis} of shape {:?} is empty, so no element of it is the greatest or least",
        x.shape()
    );
    let mut out = filled(rows, 0i64)?;
    for_dtype!(x.dtype(), T in numeric => {
        let data = view.to_vec::<T>()?;
        for (o, row) in out.iter_mut().zip(data.chunks_exact(len.max(1))) {
            *o = best(row, max, last) as i64;
        }
    });
    Tensor::from_vec(&shape, out)
}

/// Index of the extreme element of a row that is not empty.
fn best<T: Num>(row: &[T], max: bool, last: bool) -> usize {
    let nan = |x: T| x.partial_cmp(&x).is_none();
    let mut at = 0;
    for (i, &x) in row.iter().enumerate().skip(1) {
        let b = row[at];
        let better = if max { x > b } else { x < b } || (nan(x) && !nan(b));
        let equal = x == b || (nan(x) && nan(b));
        if better || (last && equal) {
            at = i;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_and_nan() {
        let nan = f32::NAN;
        for (row, max, last, want) in [
            (&[1.0, 3.0, 3.0][..], true, false, 1),
            (&[1.0, 3.0, 3.0], true, true, 2),
            (&[1.0, 3.0, 1.0], false, false, 0),
            (&[1.0, 3.0, 1.0], false, true, 2),
            (&[1.0, nan, 3.0, nan], true, false, 1),
            (&[1.0, nan, 3.0, nan], false, true, 3),
        ] {
            assert_eq!(best(row, max, last), want, "{row:?} {max} {last}");
        }
    }
}
