//! Sums of quantised tensors.

use super::Add;
use super::quantize::{DequantizeLinear, QuantizeLinear};
use crate::{EvalArgs, Fact, InferArgs, NoSubgraphs, Operator, Value, op};
use deepseek_tensor::{DType, Result, ensure};

op! {
    /// `y = saturate(round(((a − a_zero) · a_scale + (b − b_zero) · b_scale) / y_scale) + y_zero)`,
    /// each step rounded to `f32`, ties to even, with a and b broadcast against each other. Inputs:
    /// `a`, `a_scale`, `a_zero`, `b`, `b_scale`, `b_zero`, `y_scale`, `y_zero`; all three tensors
    /// are `u8` or `i8`, scales and zero points are scalars. (ONNX Runtime QLinearAdd.)
    QLinearAdd {}
}

impl Operator for QLinearAdd {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(8, 8)?;
        for (i, zero) in [(0, 2), (3, 5), (7, 7)] {
            let dtype = args.expect_same_dtype(i, zero)?;
            ensure!(
                matches!(dtype, DType::I8 | DType::U8),
                DTypeMismatch,
                "input {i} must be i8 or u8, got {dtype}"
            );
        }
        for i in [1, 2, 4, 5, 6, 7] {
            if let Some(shape) = args.shape(i) {
                let one = shape.iter().all(|d| d.as_const().is_none_or(|d| d == 1));
                ensure!(one, ShapeMismatch, "input {i} has shape {shape:?}, expected one number");
            }
        }
        let plain = |i: usize| -> Result<Fact> {
            Ok(Fact::maybe_ranked(DType::F32, args.fact(i)?.shape().map(<[_]>::to_vec)))
        };
        let (a, b) = (plain(0)?, plain(3)?);
        let inputs = [Some(&a), Some(&b)];
        let y = Add::default().infer(&InferArgs { inputs: &inputs, ..*args })?;
        let shape = y[0].shape().map(<[_]>::to_vec);
        Ok(vec![Fact::maybe_ranked(args.dtype(7)?, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let run = |op: &dyn Operator, inputs: &[Option<Value>]| -> Result<Value> {
            let args = EvalArgs { inputs, outputs: 1, env: &NoSubgraphs };
            Ok(op.eval(&args)?.remove(0))
        };
        let input =
            |i: usize| -> Result<Option<Value>> { Ok(Some(args.tensor(i)?.clone().into())) };
        let dequantised = |i: usize| -> Result<Option<Value>> {
            let inputs = [input(i)?, input(i + 1)?, input(i + 2)?];
            run(&DequantizeLinear::default(), &inputs).map(Some)
        };
        let sum = run(&Add::default(), &[dequantised(0)?, dequantised(3)?])?;
        let y = run(&QuantizeLinear::default(), &[Some(sum), input(6)?, input(7)?])?;
        Ok(vec![y])
    }
}
