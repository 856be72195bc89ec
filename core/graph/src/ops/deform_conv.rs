//! Convolution that samples beside its window, where the data says.

use super::conv::{conv_dims, expect_floats};
use super::util::{AutoPad, Window, WindowAxis, cast_from_f64, filled, to_dims, to_f64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{Result, Tensor, ensure, num_elements};

op! {
    /// [`Conv`](super::Conv) whose tap `k` of output `o` reads x, by linear interpolation,
    /// at `o·stride + k·dilation − pad + offset[n, g, k, o]`, times `mask[n, g, k, o]`; `g` is
    /// the offset group of the channel. Inputs: x `[N, C, D1…Dr]`, w `[M, C/group, K1…Kr]`,
    /// offset `[N, offset_group · K1⋯Kr · r, O1…Or]`, b `[M]` (optional), mask
    /// `[N, offset_group · K1⋯Kr, O1…Or]` (optional). Outside of x is zero. (ONNX
    /// DeformConv-22; Dai et al., "Deformable Convolutional Networks", 2017.)
    DeformConv {
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        kernel_shape: Vec<i64> = vec![],
        offset_group: i64 = 1,
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
}

impl DeformConv {
    /// The window that the offsets are relative to.
    pub fn window(&self) -> Window<'_> {
        Window {
            strides: &self.strides,
            dilations: &self.dilations,
            pads: &self.pads,
            auto_pad: AutoPad::NotSet,
            ceil_mode: false,
        }
    }

    fn dims(&self, x: &[Dim], w: &[Dim]) -> Result<Vec<Dim>> {
        ensure!(
            x.len() <= 8,
            Unsupported,
            "a deformable convolution in {} spatial axes; at most 6 are supported",
            x.len() - 2
        );
        let shape = conv_dims(&self.window(), &self.kernel_shape, self.group, x, w)?;
        ensure!(
            self.offset_group >= 1 && x[1].as_const().is_none_or(|c| c % self.offset_group == 0),
            ShapeMismatch,
            "{} channels do not divide into {} offset groups",
            x[1],
            self.offset_group
        );
        Ok(shape)
    }
}

impl Operator for DeformConv {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 5)?;
        let dtype = expect_floats(args, &[0, 1, 2, 3, 4])?;
        let (Some(x), Some(w)) = (args.shape(0), args.shape(1)) else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        Ok(vec![Fact::tensor(dtype, self.dims(x, w)?)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, w) = (args.tensor(0)?, args.tensor(1)?);
        self.dims(&to_dims(x.shape()), &to_dims(w.shape()))?;
        let (batch, channels) = (x.shape()[0], x.shape()[1]);
        let (input, kernel) = (&x.shape()[2..], &w.shape()[2..]);
        let axes = self.window().resolve(input, kernel)?;
        let rank = axes.len();
        let output: Vec<usize> = axes.iter().map(|a| a.output).collect();
        let shape: Vec<usize> = [batch, w.shape()[0]].into_iter().chain(output.clone()).collect();
        let (plane, places, taps) =
            (num_elements(input)?, num_elements(&output)?, num_elements(kernel)?);
        let (group, offset_groups) = (self.group as usize, self.offset_group as usize);
        let side = |t: &Tensor, per_tap: usize| {
            let rows = offset_groups.saturating_mul(taps).saturating_mul(per_tap);
            let want: Vec<usize> = [batch, rows].into_iter().chain(output.clone()).collect();
            ensure!(
                t.shape() == want,
                ShapeMismatch,
                "offsets or mask have the shape {:?}, this window needs {want:?}",
                t.shape()
            );
            to_f64(t)
        };
        let offset = side(args.tensor(2)?, rank)?;
        let mask = args.opt(4)?.map(|m| side(m, 1)).transpose()?;
        let (x_data, w_data) = (to_f64(x)?, to_f64(w)?);
        let filters = shape[1];
        let mut y = filled(num_elements(&shape)?, 0.0)?;
        if let Some(b) = args.opt(3)? {
            ensure!(
                b.shape() == [filters],
                ShapeMismatch,
                "a bias of shape {:?} does not fit {filters} output channels",
                b.shape()
            );
            let b = to_f64(b)?;
            y.iter_mut().enumerate().for_each(|(i, y)| *y = b[i / places % filters]);
        }
        // The sampled image of one channel and tap, shared by all filters of the group.
        let mut sample = filled(places, 0.0)?;
        let (per_group, per_filter) = (channels / group, filters / group);
        for n in 0..batch {
            args.env.check()?;
            for c in 0..channels {
                let x = &x_data[(n * channels + c) * plane..][..plane];
                let og = c / (channels / offset_groups);
                for k in 0..taps {
                    let row = (n * offset_groups + og) * taps + k;
                    let offset = &offset[row * rank * places..][..rank * places];
                    for (o, s) in sample.iter_mut().enumerate() {
                        let at = |a| offset[a * places + o];
                        *s = linear(x, &axes, o, k, &at);
                    }
                    if let Some(mask) = &mask {
                        let mask = &mask[row * places..][..places];
                        sample.iter_mut().zip(mask).for_each(|(s, m)| *s *= m);
                    }
                    let g = c / per_group;
                    for m in g * per_filter..(g + 1) * per_filter {
                        let weight = w_data[(m * per_group + c % per_group) * taps + k];
                        let y = &mut y[(n * filters + m) * places..][..places];
                        y.iter_mut().zip(&sample).for_each(|(y, s)| *y += weight * s);
                    }
                }
            }
        }
        Ok(vec![cast_from_f64(x.dtype(), &shape, &y)?.into()])
    }
}

/// The plane `x` by linear interpolation at the place of tap `k` of output `o` (both
/// row-major indices), moved by `offset` of each axis.
fn linear(
    x: &[f64],
    axes: &[WindowAxis],
    mut o: usize,
    mut k: usize,
    offset: &dyn Fn(usize) -> f64,
) -> f64 {
    // Flat index and weight of the corners; a corner outside of x is dropped.
    let mut corners = vec![(0usize, 1.0f64)];
    let mut step = 1;
    for (a, axis) in axes.iter().enumerate().rev() {
        let (i, t) = (o % axis.output, k % axis.kernel);
        (o, k) = (o / axis.output, k / axis.kernel);
        let base = (i * axis.stride + t * axis.dilation) as f64 - axis.pad_begin as f64;
        let at = (base + offset(a)).clamp(-2.0, axis.input as f64 + 1.0);
        let low = at.floor();
        let near = [(low as i64, 1.0 - (at - low)), (low as i64 + 1, at - low)];
        corners = corners
            .iter()
            .flat_map(|&(index, weight)| {
                near.iter()
                    .filter(|(j, _)| (0..axis.input as i64).contains(j))
                    .map(move |&(j, w)| (index + j as usize * step, weight * w))
            })
            .collect();
        step *= axis.input;
    }
    corners.iter().map(|&(i, w)| w * x[i]).sum()
}
