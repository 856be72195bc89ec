//! Local response normalisation.

use super::util::{cast_from_f64, filled, to_f64};
use crate::{EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{Result, ensure, num_elements};

op! {
    /// `y[n, c, …] = x[n, c, …] / (bias + alpha/size · Σ x[n, i, …]²)^beta`, where `i` runs over
    /// the `size` channels around `c`, one more above than below if `size` is even. x is
    /// `[N, C, D1…]`. Floats. (ONNX LRN-13; Krizhevsky et al., "ImageNet Classification with
    /// Deep Convolutional Neural Networks", 2012.)
    LRN { alpha: f32 = 1e-4, beta: f32 = 0.75, bias: f32 = 1.0, size: i64 = 0 }
}

impl Operator for LRN {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = super::conv::expect_floats(args, &[0])?;
        self.check(args.shape(0).map_or(2, <[_]>::len))?;
        Ok(vec![Fact::maybe_ranked(dtype, args.shape(0).map(<[_]>::to_vec))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        self.check(x.rank())?;
        let channels = x.shape()[1];
        let plane = num_elements(&x.shape()[2..])?;
        let mut data = to_f64(x)?;
        let size = self.size as usize;
        let (below, above) = ((size - 1) / 2, size / 2);
        let factor = f64::from(self.alpha) / self.size as f64;
        let (bias, beta) = (f64::from(self.bias), f64::from(self.beta));
        let mut squares = filled(channels, 0.0)?;
        let image = num_elements(&x.shape()[1..])?;
        for first in (0..data.len()).step_by(image.max(1)) {
            for at in first..first + plane {
                for c in 0..channels {
                    squares[c] = data[at + c * plane] * data[at + c * plane];
                }
                for c in 0..channels {
                    let from = c.saturating_sub(below);
                    let to = c.saturating_add(above).saturating_add(1).min(channels);
                    let sum: f64 = squares[from..to].iter().sum();
                    data[at + c * plane] /= (bias + factor * sum).powf(beta);
                }
            }
        }
        Ok(vec![cast_from_f64(x.dtype(), x.shape(), &data)?.into()])
    }
}

impl LRN {
    fn check(&self, rank: usize) -> Result<()> {
        ensure!(self.size >= 1, InvalidGraph, "size must be at least 1, got {}", self.size);
        ensure!(
            rank >= 2,
            ShapeMismatch,
            "expected [batch, channels, spatial axes…], got rank {rank}"
        );
        Ok(())
    }
}
