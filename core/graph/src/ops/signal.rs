//! Window functions and the mel filter bank.

use super::dft::{length, scalar};
use super::util::{cast_from_f64, filled, to_f64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, ensure, num_elements};
use std::f64::consts::{LN_10, TAU};

op! {
    /// `0.5 − 0.5·cos(2πi/n)` for each `i` below the size, a scalar; n is the size, or one
    /// less unless `periodic`. (ONNX HannWindow-17.)
    HannWindow { output_datatype: DType = DType::F32, periodic: bool = true }
}

op! {
    /// `25/46 − 21/46·cos(2πi/n)` for each `i` below the size, a scalar; n is the size, or
    /// one less unless `periodic`. (ONNX HammingWindow-17.)
    HammingWindow { output_datatype: DType = DType::F32, periodic: bool = true }
}

op! {
    /// `0.42 − 0.5·cos(2πi/n) + 0.08·cos(4πi/n)` for each `i` below the size, a scalar; n is
    /// the size, or one less unless `periodic`. (ONNX BlackmanWindow-17.)
    BlackmanWindow { output_datatype: DType = DType::F32, periodic: bool = true }
}

macro_rules! window_function {
    ($($op:ident [$a:expr, $b:expr, $c:expr]),* $(,)?) => {$(impl Operator for $op {
        fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
            args.expect_inputs(1, 1)?;
            let size = match args.dims(0).as_deref() {
                Some([n]) => n.clone(),
                _ => args.fresh("size"),
            };
            Ok(vec![Fact::tensor(self.output_datatype, [size])])
        }

        fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
            let size = length(scalar(args.tensor(0)?, "the size")?)?;
            let n = if self.periodic { size } else { size.saturating_sub(1) };
            let mut w = filled(size, 1.0)?;
            // A symmetric window of one element is that element's peak.
            if n > 0 {
                for (i, w) in w.iter_mut().enumerate() {
                    let angle = TAU * i as f64 / n as f64;
                    *w = $a - $b * angle.cos() + $c * (2.0 * angle).cos();
                }
            }
            Ok(vec![cast_from_f64(self.output_datatype, &[size], &w)?.into()])
        }
    })*};
}
window_function! {
    HannWindow[0.5, 0.5, 0.0],
    HammingWindow[25.0 / 46.0, 21.0 / 46.0, 0.0],
    BlackmanWindow[0.42, 0.5, 0.08],
}

op! {
    /// Triangular filters, `[dft_length/2 + 1, num_mel_bins]`, of peak 1 and spaced evenly on
    /// the mel scale `2595·log10(1 + f/700)`. Inputs, all scalars: num_mel_bins, dft_length,
    /// sample_rate, lower and upper edge in hertz. Edges fall on whole bins, rounded down.
    /// (ONNX MelWeightMatrix-17.)
    MelWeightMatrix { output_datatype: DType = DType::F32 }
}

impl Operator for MelWeightMatrix {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(5, 5)?;
        let one = |i, name| match args.dims(i).as_deref() {
            Some([n]) => n.clone(),
            _ => args.fresh(name),
        };
        let bins = match args.dims(1) {
            Some(_) => one(1, "length").floor_div(&Dim::from(2i64)) + 1,
            None => args.fresh("bins"),
        };
        Ok(vec![Fact::tensor(self.output_datatype, [bins, one(0, "mel_bins")])])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let count = length(scalar(args.tensor(0)?, "num_mel_bins")?)?;
        let dft_length = length(scalar(args.tensor(1)?, "dft_length")?)?;
        let rate = scalar(args.tensor(2)?, "sample_rate")?;
        ensure!(rate > 0, InvalidArgument, "sample_rate must be positive, got {rate}");
        let edge = |i: usize| -> Result<f64> {
            let t = args.tensor(i)?;
            ensure!(t.len() == 1, ShapeMismatch, "an edge must be one number, got {:?}", t.shape());
            Ok(2595.0 * (to_f64(t)?[0] / 700.0).ln_1p() / LN_10)
        };
        let (low, high) = (edge(3)?, edge(4)?);
        let shape = [dft_length / 2 + 1, count];
        let mut m = filled(num_elements(&shape)?, 0.0)?;
        let step = (high - low) / (count as f64 + 2.0);
        let bin = |i: usize| -> Result<usize> {
            let hertz = 700.0 * ((low + i as f64 * step) / 2595.0 * LN_10).exp_m1();
            let bin = ((dft_length as f64 + 1.0) * hertz / rate as f64).floor();
            ensure!(
                (0.0..shape[0] as f64).contains(&bin),
                InvalidArgument,
                "the edge at {hertz} Hz falls on bin {bin} of {} at {rate} Hz; narrow the edges",
                shape[0]
            );
            Ok(bin as usize)
        };
        for i in 0..count {
            let (left, peak, right) = (bin(i)?, bin(i + 1)?, bin(i + 2)?);
            ensure!(
                left <= peak && peak <= right,
                InvalidArgument,
                "the lower edge lies above the upper one"
            );
            m[peak * count + i] = 1.0;
            for j in left..peak {
                m[j * count + i] = (j - left) as f64 / (peak - left) as f64;
            }
            for j in peak..right {
                m[j * count + i] = (right - j) as f64 / (right - peak) as f64;
            }
        }
        Ok(vec![cast_from_f64(self.output_datatype, &shape, &m)?.into()])
    }
}
