//! Fourier transforms of whole signals and of windowed frames.

use super::conv::expect_floats;
use super::util::{Fft, cast_from_f64, filled, normalize_axis, to_f64, to_i64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{Result, Tensor, ensure, num_elements};

op! {
    /// `y[k] = Σ_j x[j] · e^(∓2πi·jk/n)` along an axis (− forward, + with `inverse`, which also
    /// divides by n). Inputs: x `[…, 1]` (real) or `[…, 2]` (complex), the length n (optional;
    /// x is cut or padded with zeros to it) and the axis (optional, −2). y is `[…, 2]`. With
    /// `onesided`, forward keeps only the first `n/2 + 1` values of a real x, and inverse
    /// takes those and gives a real y `[…, 1]`. (ONNX DFT-20.)
    DFT { inverse: bool = false, onesided: bool = false }
}

op! {
    /// Transforms of the frames of a signal that start every `frame_step` elements. Inputs:
    /// the signal `[N, L, 1]` (real) or `[N, L, 2]` (complex), the frame step, a window `[n]`
    /// that multiplies each frame (optional), the frame length n (optional: that of the
    /// window, else L). y is `[N, (L − n) / frame_step + 1, n/2 + 1, 2]`, with n values instead
    /// of `n/2 + 1` unless `onesided`, which needs a real signal. (ONNX STFT-17.)
    STFT { onesided: bool = true }
}

impl Operator for DFT {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 3)?;
        let dtype = expect_floats(args, &[0])?;
        let Some(x) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
        let mut shape = x.to_vec();
        let last = shape.len().saturating_sub(1);
        let real = self.inverse && self.onesided;
        let axis = match args.get(2) {
            None => Some(-2),
            Some(_) => args.ints(2).and_then(|a| a.first().copied()),
        };
        match axis {
            Some(axis) => {
                let axis = signal_axis(axis, x.len())?;
                let length = match (args.get(1), args.dims(1)) {
                    (None, _) if real => (&x[axis] - 1) * 2,
                    (None, _) => x[axis].clone(),
                    (Some(_), Some(n)) if n.len() == 1 => n[0].clone(),
                    _ => args.fresh("length"),
                };
                shape[axis] = match self.onesided && !self.inverse {
                    true => length.floor_div(&Dim::from(2i64)) + 1,
                    false => length,
                };
            }
            // The axis may be any but the last.
            None => (0..last).for_each(|i| shape[i] = args.fresh(&format!("extent{i}"))),
        }
        ensure!(!shape.is_empty(), ShapeMismatch, "a scalar is not a signal");
        shape[last] = Dim::from(if real { 1i64 } else { 2 });
        Ok(vec![Fact::tensor(dtype, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let axis = match args.opt(2)? {
            Some(t) => scalar(t, "the axis")?,
            None => -2,
        };
        let axis = signal_axis(axis, x.rank())?;
        let parts = complex_parts(x)?;
        ensure!(
            parts == 1 || !self.onesided || self.inverse,
            ShapeMismatch,
            "a onesided transform takes a real signal […, 1], got {:?}",
            x.shape()
        );
        let (real, extent) = (self.inverse && self.onesided, x.shape()[axis]);
        let n = match args.opt(1)? {
            Some(t) => length(scalar(t, "the length")?)?,
            None if real => 2 * extent.saturating_sub(1),
            None => extent,
        };
        let fft = Fft::new(n)?;
        let kept = if self.onesided && !self.inverse { n / 2 + 1 } else { n };
        let outer = num_elements(&x.shape()[..axis])?;
        let inner = num_elements(&x.shape()[axis + 1..x.rank() - 1])?;
        let mut shape = x.shape().to_vec();
        let out_parts = if real { 1 } else { 2 };
        (shape[axis], shape[x.rank() - 1]) = (kept, out_parts);
        let mut y = filled(num_elements(&shape)?, 0.0)?;
        let data = to_f64(x)?;
        let mut signal = filled(n, (0.0, 0.0))?;
        // A real result is known from half of its spectrum.
        let used = if real { n / 2 + 1 } else { n }.min(extent);
        for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            signal.fill((0.0, 0.0));
            for (j, v) in signal[..used].iter_mut().enumerate() {
                let at = ((o * extent + j) * inner + i) * parts;
                *v = (data[at], if parts == 2 { data[at + 1] } else { 0.0 });
            }
            if real {
                for k in 1..n.div_ceil(2) {
                    signal[n - k] = (signal[k].0, -signal[k].1);
                }
            }
            if self.inverse {
                fft.inverse(&mut signal)?;
            } else {
                fft.forward(&mut signal)?;
            }
            for (k, v) in signal[..kept].iter().enumerate() {
                let at = ((o * kept + k) * inner + i) * out_parts;
                y[at] = v.0;
                if !real {
                    y[at + 1] = v.1;
                }
            }
        }
        Ok(vec![cast_from_f64(x.dtype(), &shape, &y)?.into()])
    }
}

impl Operator for STFT {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 4)?;
        let dtype = expect_floats(args, &[0, 2])?;
        let (batch, signal) = match args.shape(0) {
            Some([n, l, _]) => (n.clone(), Some(l)),
            None => (args.fresh("batch"), None),
            Some(x) => deepseek_tensor::bail!(
                ShapeMismatch,
                "expected a signal [batch, length, 1 or 2], got {x:?}"
            ),
        };
        let n = match (args.dims(3), args.shape(2), args.get(3)) {
            (Some(n), _, _) if n.len() == 1 => Some(n[0].clone()),
            (_, Some([n]), _) => Some(n.clone()),
            (_, None, None) if args.get(2).is_none() => signal.cloned(),
            _ => None,
        };
        let frames = match (args.ints(1).as_deref(), signal, &n) {
            (Some(&[step]), Some(l), Some(n)) if step > 0 => {
                (l - n).floor_div(&Dim::from(step)) + 1
            }
            _ => args.fresh("frames"),
        };
        let bins = match n {
            Some(n) if self.onesided => n.floor_div(&Dim::from(2i64)) + 1,
            Some(n) => n,
            None => args.fresh("bins"),
        };
        Ok(vec![Fact::tensor(dtype, [batch, frames, bins, Dim::from(2i64)])])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        ensure!(
            x.rank() == 3,
            ShapeMismatch,
            "expected a signal [batch, length, 1 or 2], got {:?}",
            x.shape()
        );
        let parts = complex_parts(x)?;
        ensure!(
            parts == 1 || !self.onesided,
            ShapeMismatch,
            "a onesided transform takes a real signal […, 1], got {:?}",
            x.shape()
        );
        let (batch, extent) = (x.shape()[0], x.shape()[1]);
        let step = length(scalar(args.tensor(1)?, "the frame step")?)?;
        let window = args.opt(2)?;
        let n = match (args.opt(3)?, window) {
            (Some(t), _) => length(scalar(t, "the frame length")?)?,
            (None, Some(w)) => w.len(),
            (None, None) => extent,
        };
        ensure!(
            step > 0 && (1..=extent).contains(&n),
            InvalidArgument,
            "frames of {n} every {step} elements do not fit a signal of {extent}"
        );
        let window = match window {
            Some(w) => {
                ensure!(
                    w.shape() == [n],
                    ShapeMismatch,
                    "a window of shape {:?} does not fit frames of {n}",
                    w.shape()
                );
                to_f64(w)?
            }
            None => filled(n, 1.0)?,
        };
        let frames = (extent - n) / step + 1;
        let kept = if self.onesided { n / 2 + 1 } else { n };
        let shape = [batch, frames, kept, 2];
        let mut y = Vec::new();
        y.try_reserve_exact(num_elements(&shape)?).map_err(|_| {
            deepseek_tensor::err!(OutOfMemory, "cannot allocate a spectrum of shape {shape:?}")
        })?;
        let fft = Fft::new(n)?;
        let data = to_f64(x)?;
        let mut frame = filled(n, (0.0, 0.0))?;
        for b in 0..batch {
            for f in 0..frames {
                let first = (b * extent + f * step) * parts;
                let values = data[first..].chunks_exact(parts);
                for ((v, x), w) in frame.iter_mut().zip(values).zip(&window) {
                    *v = (x[0] * w, if parts == 2 { x[1] * w } else { 0.0 });
                }
                fft.forward(&mut frame)?;
                y.extend(frame[..kept].iter().flat_map(|v| [v.0, v.1]));
            }
        }
        Ok(vec![cast_from_f64(x.dtype(), &shape, &y)?.into()])
    }
}

/// The axis of the signal, which the last, of real and imaginary parts, cannot be.
fn signal_axis(axis: i64, rank: usize) -> Result<usize> {
    let axis = normalize_axis(axis, rank)?;
    ensure!(
        axis + 1 < rank,
        InvalidArgument,
        "axis {axis} of rank {rank} holds real and imaginary parts; choose another"
    );
    Ok(axis)
}

/// 1 for a real signal, 2 for a complex one.
fn complex_parts(x: &Tensor) -> Result<usize> {
    match x.shape().last() {
        Some(&parts @ (1 | 2)) => Ok(parts),
        _ => deepseek_tensor::bail!(
            ShapeMismatch,
            "a signal has the last extent 1 (real) or 2 (complex), got {:?}",
            x.shape()
        ),
    }
}

/// The integer in a tensor of one element.
pub(super) fn scalar(t: &Tensor, what: &str) -> Result<i64> {
    ensure!(t.len() == 1, ShapeMismatch, "{what} must be one number, got {:?}", t.shape());
    Ok(to_i64(t)?[0])
}

/// A length that a model or data gives.
pub(super) fn length(v: i64) -> Result<usize> {
    match usize::try_from(v) {
        Ok(v) => Ok(v),
        Err(_) => deepseek_tensor::bail!(InvalidArgument, "a length cannot be {v}"),
    }
}
