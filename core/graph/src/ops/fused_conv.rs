//! A convolution and what follows it, in one pass over the result.

use super::fused_matmul::{expect_unary, finish};
use super::util::{AutoPad, expect_weights, widened};
use super::{Conv, Pointwise};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{Result, ensure};

op! {
    /// `y = activation(conv(x, w) + bias + residual)` on floats: inputs x, w and bias (optional)
    /// and the attributes are those of [`Conv`]; the optional residual has the shape of y. The
    /// result is rounded after the convolution with its bias and after each further step.
    ///
    /// Where x is `f32`, w may be `bf16`, by which x rounded to bf16 is multiplied, or `f16`, which
    /// is widened; everything else stays `f32`.
    FusedConv {
        activation: Option<Pointwise> = None,
        auto_pad: AutoPad = AutoPad::NotSet,
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
}

impl FusedConv {
    /// A convolution with an activation.
    pub fn new(conv: &Conv, activation: Option<Pointwise>) -> Self {
        let Conv { auto_pad, dilations, group, kernel_shape, pads, strides } = conv.clone();
        FusedConv { activation, auto_pad, dilations, group, kernel_shape, pads, strides }
    }

    /// The convolution alone.
    pub fn conv(&self) -> Conv {
        let FusedConv { auto_pad, dilations, group, kernel_shape, pads, strides, .. } =
            self.clone();
        Conv { auto_pad, dilations, group, kernel_shape, pads, strides }
    }
}

impl Operator for FusedConv {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 4)?;
        expect_unary(self.activation.as_ref())?;
        let (_, w) = expect_weights(args)?;
        let inputs = [args.get(0), Some(&w), args.get(2)];
        let conv = InferArgs { inputs: &inputs, ..*args };
        let y = self.conv().infer(&conv)?;
        if args.get(3).is_some() {
            args.expect_same_dtype(0, 3)?;
        }
        if let (Some(shape), Some(residual)) = (y[0].shape(), args.shape(3)) {
            let differ = |(a, b): (&Dim, &Dim)| matches!((a.as_const(), b.as_const()), (Some(a), Some(b)) if a != b);
            ensure!(
                residual.len() == shape.len() && !residual.iter().zip(shape).any(differ),
                ShapeMismatch,
                "the residual of shape {residual:?} and the convolution {} must have one shape",
                y[0]
            );
        }
        Ok(y)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, w) = widened(args.tensor(0)?, args.tensor(1)?)?;
        let inputs = [Some(x.into()), Some(w.into()), args.inputs.get(2).cloned().flatten()];
        let conv = EvalArgs { inputs: &inputs, ..*args };
        let y = self.conv().eval(&conv)?[0].tensor()?.clone();
        Ok(vec![finish(y, args.opt(3)?, self.activation.as_ref())?.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;
    use deepseek_tensor::Tensor;

    #[test]
    fn the_residual_is_added_before_the_activation() {
        let t = |shape: &[usize], data: &[f32]| {
            Some(Value::from(Tensor::from_slice(shape, data).unwrap()))
        };
        let op = FusedConv {
            activation: Some(Pointwise::new("Clip", &[0.0, 6.0]).unwrap()),
            pads: vec![1, 0],
            ..FusedConv::default()
        };
        // [_ 1 2 3] with weights -1, 2: 2, 3, 4; bias 1; residual.
        let inputs = [
            t(&[1, 1, 3], &[1.0, 2.0, 3.0]),
            t(&[1, 1, 2], &[-1.0, 2.0]),
            t(&[1], &[1.0]),
            t(&[1, 1, 3], &[-9.0, 0.5, 9.0]),
        ];
        let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
        let y = op.eval(&args).unwrap()[0].tensor().unwrap().to_vec::<f32>().unwrap();
        assert_eq!(y, [0.0, 4.5, 6.0]);
        let inputs = [inputs[0].clone(), inputs[1].clone(), None, t(&[1, 1, 1], &[0.0])];
        assert!(op.eval(&EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs }).is_err());
        let facts = [&inputs[0], &inputs[1], &inputs[3]]
            .map(|v| Fact { ty: v.as_ref().unwrap().ty(), known: None });
        let inputs = [Some(&facts[0]), Some(&facts[1]), None, Some(&facts[2])];
        assert!(op.infer(&InferArgs { node: "t", inputs: &inputs, outputs: 1 }).is_err());
    }
}
