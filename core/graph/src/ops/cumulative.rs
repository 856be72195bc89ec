//! Running sums and products.

use super::util::{around, cast_from_f64, normalize_axis, scalar_i64, to_f64};
use crate::{EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{Result, Tensor};

macro_rules! cumulative {
    ($(#[$doc:meta])* $name:ident, $start:literal, $f:expr, $method:ident, $one:ident) => {
        op! {
            $(#[$doc])*
            $name {
                /// Whether the element itself is left out.
                exclusive: bool = false,
                /// Whether to run from the end.
                reverse: bool = false
            }
        }

        impl Operator for $name {
            fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
                args.expect_inputs(2, 2)?;
                args.dtype(0)?;
                if let (Some(s), Some([axis])) = (args.shape(0), args.ints(1).as_deref()) {
                    normalize_axis(*axis, s.len())?;
                }
                Ok(vec![Fact { ty: args.fact(0)?.ty.clone(), known: None }])
            }

            fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
                let x = args.tensor(0)?;
                let axis = normalize_axis(scalar_i64(args.tensor(1)?, "axis")?, x.rank())?;
                if x.dtype().is_float() {
                    let mut v = to_f64(x)?;
                    self.run(&mut v, x, axis, $start, $f);
                    return Ok(vec![cast_from_f64(x.dtype(), x.shape(), &v)?.into()]);
                }
                for_dtype!(x.dtype(), T in int => {
                    let mut v = x.to_vec::<T>()?;
                    self.run(&mut v, x, axis, T::$one, T::$method);
                    Ok(vec![Tensor::from_vec(x.shape(), v)?.into()])
                })
            }
        }

        impl $name {
            fn run<T: Copy>(
                &self,
                v: &mut [T],
                x: &Tensor,
                axis: usize,
                start: T,
                f: impl Fn(T, T) -> T,
            ) {
                let (outer, extent, inner) = around(x.shape(), axis);
                for lane in 0..outer * inner {
                    let first = lane / inner * extent * inner + lane % inner;
                    let mut total = start;
                    for i in 0..extent {
                        let i = if self.reverse { extent - 1 - i } else { i };
                        let place = &mut v[first + i * inner];
                        let next = f(total, *place);
                        *place = if self.exclusive { total } else { next };
                        total = next;
                    }
                }
            }
        }
    };
}

cumulative! {
    /// Running sums along the axis that input 1, one integer, names. Floats accumulate
    /// in double precision, integers wrap. (ONNX CumSum-14.)
    CumSum, 0.0, |a, b| a + b, add, ZERO
}

cumulative! {
    /// Running products along the axis that input 1, one integer, names. Floats
    /// accumulate in double precision, integers wrap. (ONNX CumProd-26.)
    CumProd, 1.0, |a, b| a * b, mul, ONE
}
