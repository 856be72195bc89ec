//! Convolution of floats and its transpose.
//!
//! Both walk the window tap by tap: for one weight, every output row that reads the
//! input gets `row += weight · input row`, a contiguous loop where the stride is 1.
//! No patch matrix is built, so memory is inputs plus outputs in double precision.

use super::util::{
    AutoPad, Row, TransposedWindow, Window, WindowAxis, cast_from_f64, filled, for_each_row,
    kernel_dims, live_taps, to_dims, to_f64,
};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, ensure, num_elements};

op! {
    /// `y[n, m, o…] = b[m] + Σ_{c, k…} x[n, g·C/group + c, o·stride + k·dilation − pad] · w[m, c, k…]`,
    /// where `g` is the group of output channel `m`; x is `[N, C, D1…]`, w is
    /// `[M, C/group, K1…]`, b (optional) is `[M]`, y is `[N, M, O1…]`. Floats;
    /// accumulates in double precision. (ONNX Conv-22.)
    Conv {
        auto_pad: AutoPad = AutoPad::NotSet,
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
}

op! {
    /// The transpose of [`Conv`]: every input adds `x · w` to the outputs that a
    /// convolution would have read for it. x is `[N, C, D1…]`, w is
    /// `[C, M/group, K1…]`, b (optional) is `[M]`, y is `[N, M, O1…]` with
    /// `O = stride·(D − 1) + output_padding + dilation·(K − 1) + 1 − pads`, or as
    /// `output_shape` says. (ONNX ConvTranspose-22.)
    ConvTranspose {
        auto_pad: AutoPad = AutoPad::NotSet,
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        kernel_shape: Vec<i64> = vec![],
        output_padding: Vec<i64> = vec![],
        output_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
}

impl Conv {
    /// The window of this convolution.
    pub fn window(&self) -> Window<'_> {
        Window {
            strides: &self.strides,
            dilations: &self.dilations,
            pads: &self.pads,
            auto_pad: self.auto_pad,
            ceil_mode: false,
        }
    }
}

impl ConvTranspose {
    /// The window of this transposed convolution.
    pub fn window(&self) -> TransposedWindow<'_> {
        TransposedWindow {
            window: Window {
                strides: &self.strides,
                dilations: &self.dilations,
                pads: &self.pads,
                auto_pad: self.auto_pad,
                ceil_mode: false,
            },
            output_padding: &self.output_padding,
            output_shape: &self.output_shape,
        }
    }
}

impl Operator for Conv {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 3)?;
        let dtype = expect_floats(args, &[0, 1, 2])?;
        let (Some(x), Some(w)) = (args.shape(0), args.shape(1)) else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        check_bias(args.shape(2), &w[0])?;
        let shape = conv_dims(&self.window(), &self.kernel_shape, self.group, x, w)?;
        Ok(vec![Fact::tensor(dtype, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, w) = (args.tensor(0)?, args.tensor(1)?);
        let geometry =
            Geometry::new(&self.window(), &self.kernel_shape, self.group, x.shape(), w.shape())?;
        let mut out = geometry.filled_with_bias(args.opt(2)?)?;
        geometry.convolve(&to_f64(x)?, &to_f64(w)?, &mut out, |acc, a, b| acc + a * b);
        Ok(vec![cast_from_f64(x.dtype(), &geometry.shape, &out)?.into()])
    }
}

impl Operator for ConvTranspose {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 3)?;
        let dtype = expect_floats(args, &[0, 1, 2])?;
        let (Some(x), Some(w)) = (args.shape(0), args.shape(1)) else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        let shape = self.dims(x, w)?;
        check_bias(args.shape(2), &shape[1])?;
        Ok(vec![Fact::tensor(dtype, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, w) = (args.tensor(0)?, args.tensor(1)?);
        self.dims(&to_dims(x.shape()), &to_dims(w.shape()))?;
        let group = self.group as usize;
        let axes = self.window().resolve(&x.shape()[2..], &w.shape()[2..])?;
        // Output channels; an overflow fails as the output is allocated.
        let channels = w.shape()[1].saturating_mul(group);
        let shape: Vec<usize> =
            [x.shape()[0], channels].into_iter().chain(axes.iter().map(|a| a.input)).collect();
        let geometry =
            Geometry { group, channels: x.shape()[1], shape, axes: merge_identity_axes(&axes) };
        let mut out = geometry.filled_with_bias(args.opt(2)?)?;
        geometry.convolve_transposed(&to_f64(x)?, &to_f64(w)?, &mut out);
        Ok(vec![cast_from_f64(x.dtype(), &geometry.shape, &out)?.into()])
    }
}

impl ConvTranspose {
    fn dims(&self, x: &[Dim], w: &[Dim]) -> Result<Vec<Dim>> {
        check_ranks(x, w)?;
        ensure!(self.group >= 1, InvalidGraph, "group must be at least 1, got {}", self.group);
        if let (Some(c), Some(wc)) = (x[1].as_const(), w[0].as_const()) {
            ensure!(
                c == wc && c % self.group == 0,
                ShapeMismatch,
                "an input of {c} channels in {} groups does not fit weights for {wc} channels",
                self.group
            );
        }
        let kernel = kernel_dims(&self.kernel_shape, &w[2..])?;
        let mut out = vec![x[0].clone(), &w[1] * self.group];
        out.extend(self.window().output_dims(&x[2..], &kernel)?);
        Ok(out)
    }
}

/// The element type of the inputs numbered `which` that are present: one float type.
///
/// # Errors
/// `DTypeMismatch`.
pub(super) fn expect_floats(args: &InferArgs, which: &[usize]) -> Result<DType> {
    let dtype = args.dtype(which[0])?;
    ensure!(dtype.is_float(), DTypeMismatch, "expected floats, got {dtype}; insert a Cast");
    for &i in &which[1..] {
        if args.get(i).is_some() {
            args.expect_same_dtype(which[0], i)?;
        }
    }
    Ok(dtype)
}

fn check_ranks(x: &[Dim], w: &[Dim]) -> Result<()> {
    ensure!(
        x.len() >= 3 && w.len() == x.len(),
        ShapeMismatch,
        "an input of rank {} and weights of rank {} do not fit; both are [batch or channels, channels, spatial axes…]",
        x.len(),
        w.len()
    );
    Ok(())
}

fn check_bias(bias: Option<&[Dim]>, channels: &Dim) -> Result<()> {
    let Some(b) = bias else { return Ok(()) };
    let fits = b.len() == 1
        && match (b[0].as_const(), channels.as_const()) {
            (Some(b), Some(c)) => b == c,
            _ => true,
        };
    ensure!(fits, ShapeMismatch, "a bias of shape {b:?} does not fit {channels} output channels");
    Ok(())
}

/// Output extents of a convolution of `x` with `w`.
///
/// # Errors
/// `ShapeMismatch` or `InvalidGraph` naming what does not fit.
pub(super) fn conv_dims(
    window: &Window,
    kernel_shape: &[i64],
    group: i64,
    x: &[Dim],
    w: &[Dim],
) -> Result<Vec<Dim>> {
    check_ranks(x, w)?;
    ensure!(group >= 1, InvalidGraph, "group must be at least 1, got {group}");
    if let (Some(c), Some(wc)) = (x[1].as_const(), w[1].as_const()) {
        ensure!(
            wc.checked_mul(group) == Some(c),
            ShapeMismatch,
            "an input of {c} channels in {group} groups does not fit weights for {wc} channels per group"
        );
    }
    if let Some(m) = w[0].as_const() {
        ensure!(
            m % group == 0,
            ShapeMismatch,
            "{m} output channels do not divide into {group} groups"
        );
    }
    let kernel = kernel_dims(kernel_shape, &w[2..])?;
    let mut out = vec![x[0].clone(), w[0].clone()];
    out.extend(window.output_dims(&x[2..], &kernel)?);
    Ok(out)
}

/// Most rows to list at once, about 2 MiB.
const ROWS_AT_ONCE: usize = 1 << 16;

/// The concrete extents of a convolution.
pub(super) struct Geometry {
    /// Number of groups.
    pub group: usize,
    /// Input channels of all groups.
    pub channels: usize,
    /// Shape of the output.
    pub shape: Vec<usize>,
    /// The window; trailing axes that it leaves alone are one.
    pub axes: Vec<WindowAxis>,
}

impl Geometry {
    /// Checks shapes and attributes of a convolution.
    ///
    /// # Errors
    /// As [`conv_dims`].
    pub(super) fn new(
        window: &Window,
        kernel_shape: &[i64],
        group: i64,
        x: &[usize],
        w: &[usize],
    ) -> Result<Self> {
        conv_dims(window, kernel_shape, group, &to_dims(x), &to_dims(w))?;
        let axes = window.resolve(&x[2..], &w[2..])?;
        let shape = [x[0], w[0]].into_iter().chain(axes.iter().map(|a| a.output)).collect();
        Ok(Geometry {
            group: group as usize,
            channels: x[1],
            shape,
            axes: merge_identity_axes(&axes),
        })
    }

    /// An output whose channels start at the bias, or at zero.
    fn filled_with_bias(&self, bias: Option<&Tensor>) -> Result<Vec<f64>> {
        let mut out = filled(num_elements(&self.shape)?, 0.0)?;
        let Some(bias) = bias else { return Ok(out) };
        ensure!(
            bias.shape() == [self.shape[1]],
            ShapeMismatch,
            "a bias of shape {:?} does not fit {} output channels",
            bias.shape(),
            self.shape[1]
        );
        let bias = to_f64(bias)?;
        let plane = num_elements(&self.shape[2..])?;
        if plane > 0 {
            for (i, plane) in out.chunks_exact_mut(plane).enumerate() {
                plane.fill(bias[i % bias.len()]);
            }
        }
        Ok(out)
    }

    /// Adds the convolution of `x` with `w` to `out`, which holds the bias.
    pub(super) fn convolve<T: Copy>(
        &self,
        x: &[T],
        w: &[T],
        out: &mut [T],
        fma: impl Fn(T, T, T) -> T,
    ) {
        let (kernel, x_plane, y_plane) = self.volumes();
        let (filters, channels) = (self.shape[1] / self.group, self.channels / self.group);
        if x_plane == 0 || out.is_empty() || channels == 0 {
            return;
        }
        for taps in self.rows() {
            for (i, out) in out.chunks_exact_mut(y_plane).enumerate() {
                let (n, m) = (i / self.shape[1], i % self.shape[1]);
                let first = n * self.channels + m / filters * channels;
                for c in 0..channels {
                    let x = &x[(first + c) * x_plane..][..x_plane];
                    let w = &w[(m * channels + c) * kernel..][..kernel];
                    for (flat, rows) in &taps {
                        rows.iter().for_each(|r| r.accumulate(out, x, |o, v| fma(o, v, w[*flat])));
                    }
                }
            }
        }
    }

    /// Adds the transposed convolution of `x` with `w` to `out`, which holds the
    /// bias. The axes are those of the convolution being transposed.
    fn convolve_transposed(&self, x: &[f64], w: &[f64], out: &mut [f64]) {
        let (kernel, y_plane, x_plane) = self.volumes();
        let (filters, channels) = (self.shape[1] / self.group, self.channels / self.group);
        if x_plane == 0 || out.is_empty() || channels == 0 {
            return;
        }
        for taps in self.rows() {
            for (i, out) in out.chunks_exact_mut(y_plane).enumerate() {
                let (n, m) = (i / self.shape[1], i % self.shape[1]);
                let (group, filter) = (m / filters, m % filters);
                for c in group * channels..(group + 1) * channels {
                    let x = &x[(n * self.channels + c) * x_plane..][..x_plane];
                    let w = &w[(c * filters + filter) * kernel..][..kernel];
                    for (flat, rows) in &taps {
                        for r in rows {
                            let x = &x[r.output..][..r.len];
                            for (o, &v) in out[r.input..].iter_mut().step_by(r.step).zip(x) {
                                *o += v * w[*flat];
                            }
                        }
                    }
                }
            }
        }
    }

    /// The rows that each tap reads, with the tap's row-major index, a block of taps at
    /// a time: all channels share them, and a huge window does not fill the memory.
    fn rows(&self) -> impl Iterator<Item = Vec<(usize, Vec<Row>)>> {
        let outer = self.axes.iter().rev().skip(1).map(|a| a.output).fold(1, usize::saturating_mul);
        let block = (ROWS_AT_ONCE / outer.max(1)).max(1);
        let mut taps = live_taps(&self.axes).into_iter();
        std::iter::from_fn(move || {
            let rows = |(tap, flat): (Vec<usize>, usize)| {
                let mut rows = vec![];
                for_each_row(&self.axes, &tap, &mut |r| rows.push(r));
                (flat, rows)
            };
            let block: Vec<_> = taps.by_ref().take(block).map(rows).collect();
            (!block.is_empty()).then_some(block)
        })
    }

    /// Elements of the kernel, of a plane the window reads and of a plane it writes.
    fn volumes(&self) -> (usize, usize, usize) {
        // A saturated volume belongs to a tensor that another extent makes empty.
        let product =
            |f: fn(&WindowAxis) -> usize| self.axes.iter().map(f).fold(1, usize::saturating_mul);
        (product(|a| a.kernel), product(|a| a.input), product(|a| a.output))
    }
}

/// Makes one axis of trailing axes that the window leaves alone, for long rows.
fn merge_identity_axes(axes: &[WindowAxis]) -> Vec<WindowAxis> {
    let mut axes = axes.to_vec();
    while let [.., a, b] = axes[..]
        && a.is_identity()
        && b.is_identity()
        && a.input == a.output
        && b.input == b.output
    {
        let extent = a.input.saturating_mul(b.input);
        axes.truncate(axes.len() - 2);
        axes.push(WindowAxis { input: extent, output: extent, ..a });
    }
    axes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    fn run(op: &dyn Operator, shapes: &[&[usize]]) -> Result<Tensor> {
        let inputs: Vec<_> = shapes
            .iter()
            .map(|s| {
                let data = (0..s.iter().product::<usize>()).map(|i| i as f32).collect();
                Some(Tensor::from_vec(s, data).unwrap().into())
            })
            .collect();
        op.eval(&EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs })?[0].tensor().cloned()
    }

    #[test]
    fn groups_strides_and_bias() {
        let op = Conv { group: 2, strides: vec![2], pads: vec![1, 0], ..Conv::default() };
        let got = run(&op, &[&[1, 2, 4], &[2, 1, 2], &[2]]).unwrap();
        assert_eq!(got.shape(), [1, 2, 2]);
        // Channel 0: [_ 0 1 2 3] with weights 0, 1 and bias 0; channel 1: [_ 4 5 6 7], 2, 3, bias 1.
        assert_eq!(got.to_vec::<f32>().unwrap(), [0.0, 2.0, 13.0, 29.0]);
    }

    #[test]
    fn pointwise_convolution_merges_axes_and_stays_right() {
        let got = run(&Conv::default(), &[&[2, 2, 2, 2], &[1, 2, 1, 1]]).unwrap();
        assert_eq!(got.shape(), [2, 1, 2, 2]);
        assert_eq!(got.to_vec::<f32>().unwrap(), [4.0, 5.0, 6.0, 7.0, 12.0, 13.0, 14.0, 15.0]);
    }

    #[test]
    fn transpose_pads_at_the_end_beyond_its_full_extent() {
        let op = ConvTranspose { strides: vec![2], output_shape: vec![6], ..Default::default() };
        let got = run(&op, &[&[1, 1, 2], &[1, 1, 3]]).unwrap();
        assert_eq!(got.to_vec::<f32>().unwrap(), [0.0, 0.0, 0.0, 1.0, 2.0, 0.0]);
    }

    #[test]
    fn zero_extents_and_misfits() {
        let conv = Conv::default();
        assert_eq!(run(&conv, &[&[0, 1, 4], &[1, 1, 2]]).unwrap().shape(), [0, 1, 3]);
        assert_eq!(run(&conv, &[&[1, 0, 4], &[1, 0, 2], &[1]]).unwrap().shape(), [1, 1, 3]);
        for (shapes, want) in [
            ([&[1usize, 3, 4][..], &[2, 2, 2]], "3 channels in 1 groups"),
            ([&[1, 2, 1], &[2, 2, 2]], "spanning 2 does not fit"),
            ([&[1, 2], &[2, 2]], "rank 2"),
        ] {
            let e = run(&conv, &shapes).unwrap_err();
            assert!(e.message().contains(want), "{e}");
        }
    }
}
