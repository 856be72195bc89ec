//! Sliding windows: the arithmetic that convolutions and poolings share.
//!
//! Along one spatial axis, output `o` and kernel tap `k` meet input
//!
//! ```text
//! i = o·stride + k·dilation − pad_begin        (a tap with i outside 0..input reads padding)
//! ```
//!
//! Everything here follows from that line. [`Window`] holds the attributes as a
//! model states them; [`Window::output_dims`] gives output extents for symbolic
//! inputs, [`Window::resolve`] turns concrete extents into one [`WindowAxis`] per
//! spatial axis, with padding decided, from which references and kernels alike take
//! their bounds. A transposed convolution walks the window of the convolution it
//! transposes, so [`TransposedWindow`] resolves to the same [`WindowAxis`], with
//! `input` and `output` in that convolution's sense.

use crate::{Dim, attr_enum};
use deepseek_tensor::{Result, bail, ensure, err};
use std::ops::Range;

attr_enum! {
    /// Who decides the padding of a window.
    AutoPad {
        /// The `pads` attribute.
        NotSet = "NOTSET",
        /// `output = ceil(input / stride)`; an odd rest of padding goes to the end.
        SameUpper = "SAME_UPPER",
        /// `output = ceil(input / stride)`; an odd rest of padding goes to the beginning.
        SameLower = "SAME_LOWER",
        /// No padding.
        Valid = "VALID",
    }
}

/// Largest stride, dilation or pad, and largest span of a dilated kernel: far
/// beyond any model, and small enough that index arithmetic cannot overflow.
const ATTRIBUTE_LIMIT: i64 = i32::MAX as i64;
const SPAN_LIMIT: i128 = 1 << 40;

/// The window attributes of a convolution or pooling, as the model states them.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    /// Steps between outputs, one per spatial axis; empty is all 1.
    pub strides: &'a [i64],
    /// Steps between taps, one per spatial axis; empty is all 1.
    pub dilations: &'a [i64],
    /// `[begin of each axis…, end of each axis…]`; empty is all 0. Read only with
    /// [`AutoPad::NotSet`].
    pub pads: &'a [i64],
    /// Who decides the padding.
    pub auto_pad: AutoPad,
    /// Whether a last window that overhangs the padded input counts, provided that
    /// it starts before the end padding.
    pub ceil_mode: bool,
}

/// One spatial axis with concrete extents and decided padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowAxis {
    /// Extent of the input.
    pub input: usize,
    /// Extent of the output.
    pub output: usize,
    /// Number of taps.
    pub kernel: usize,
    /// Input steps between neighbouring outputs.
    pub stride: usize,
    /// Input steps between neighbouring taps.
    pub dilation: usize,
    /// Padding before the input.
    pub pad_begin: usize,
    /// Padding after the input.
    pub pad_end: usize,
}

impl WindowAxis {
    /// The input that tap `k` reads for output `o`; `None` in padding.
    pub fn source(&self, o: usize, k: usize) -> Option<usize> {
        (o * self.stride + k * self.dilation)
            .checked_sub(self.pad_begin)
            .filter(|&i| i < self.input)
    }

    /// The outputs for which tap `k` reads the input rather than padding.
    pub fn outputs(&self, k: usize) -> Range<usize> {
        let at = k * self.dilation;
        let first = self.pad_begin.saturating_sub(at).div_ceil(self.stride);
        let end = (self.pad_begin + self.input).saturating_sub(at).div_ceil(self.stride);
        first..end.min(self.output).max(first)
    }

    /// The taps that read the input rather than padding for output `o`.
    pub fn taps(&self, o: usize) -> Range<usize> {
        let at = o * self.stride;
        let first = self.pad_begin.saturating_sub(at).div_ceil(self.dilation).min(self.kernel);
        let end = (self.pad_begin + self.input).saturating_sub(at).div_ceil(self.dilation);
        first..end.min(self.kernel).max(first)
    }

    /// Number of taps that read the input or its padding, but nothing beyond, for
    /// output `o`: less than the kernel only where `ceil_mode` made it overhang.
    pub fn padded_taps(&self, o: usize) -> usize {
        let end = self.pad_begin + self.input + self.pad_end;
        end.saturating_sub(o * self.stride).div_ceil(self.dilation).min(self.kernel)
    }

    /// The taps that read the input for any output at all, ascending.
    pub fn live_taps(&self) -> Vec<usize> {
        // Later outputs start at earlier taps, so what is new to one output is a range.
        let (mut taps, mut next) = (Vec::new(), 0);
        for o in (0..self.output).rev() {
            let range = self.taps(o);
            taps.extend(range.start.max(next)..range.end);
            next = next.max(range.end);
        }
        taps
    }

    /// Whether every output is the input at its own place.
    pub fn is_identity(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.pad_begin == 0 && self.pad_end == 0
    }
}

impl Window<'_> {
    /// Output extents for an input and a kernel of the given spatial extents.
    ///
    /// # Errors
    /// `InvalidGraph` for attributes of a wrong length or outside their range,
    /// `ShapeMismatch` if a constant window does not fit a constant input.
    pub fn output_dims(&self, input: &[Dim], kernel: &[Dim]) -> Result<Vec<Dim>> {
        self.check(input.len(), kernel.len())?;
        let rank = input.len();
        (0..rank)
            .map(|i| {
                if let Some((n, k)) = constants(&input[i], &kernel[i])? {
                    return Ok(Dim::from(self.axis(i, rank, n, k)?.output));
                }
                let stride = Dim::from(self.stride(i));
                let n = &input[i];
                let (begin, end) = match self.auto_pad {
                    AutoPad::SameUpper | AutoPad::SameLower => return Ok(n.ceil_div(&stride)),
                    AutoPad::NotSet => self.pads(i, rank),
                    AutoPad::Valid => (0, 0),
                };
                let room = n + (begin + end) - self.span_dim(i, &kernel[i]);
                Ok(if self.ceil_mode && self.auto_pad == AutoPad::NotSet {
                    (room.ceil_div(&stride) + 1).min(&(n + begin).ceil_div(&stride))
                } else {
                    room.floor_div(&stride) + 1
                })
            })
            .collect()
    }

    /// The window over concrete extents, one entry per spatial axis.
    ///
    /// # Errors
    /// As [`Window::output_dims`].
    pub fn resolve(&self, input: &[usize], kernel: &[usize]) -> Result<Vec<WindowAxis>> {
        self.check(input.len(), kernel.len())?;
        (0..input.len()).map(|i| self.axis(i, input.len(), input[i], kernel[i])).collect()
    }

    fn axis(&self, i: usize, rank: usize, input: usize, kernel: usize) -> Result<WindowAxis> {
        let (n, stride) = (input as i128, self.stride(i) as i128);
        let span = self.span(i, kernel)?;
        let (begin, end, output) = match self.auto_pad {
            AutoPad::SameUpper | AutoPad::SameLower => {
                let output = ceil_div(n, stride);
                let total = ((output - 1) * stride + span - n).max(0);
                let (begin, end) = split(total, self.auto_pad == AutoPad::SameUpper);
                (begin, end, output)
            }
            AutoPad::NotSet | AutoPad::Valid => {
                let (begin, end) = match self.auto_pad {
                    AutoPad::NotSet => self.pads(i, rank),
                    _ => (0, 0),
                };
                let (begin, end) = (begin as i128, end as i128);
                let room = n + begin + end - span;
                let output = if self.ceil_mode && self.auto_pad == AutoPad::NotSet {
                    (ceil_div(room, stride) + 1).min(ceil_div(n + begin, stride))
                } else {
                    room.div_euclid(stride) + 1
                };
                (begin, end, output)
            }
        };
        ensure!(
            output > 0 || input == 0,
            ShapeMismatch,
            "spatial axis {i}: a window spanning {span} does not fit an input of {input} with padding {begin} and {end}"
        );
        Ok(WindowAxis {
            input,
            output: size(output.max(0))?,
            kernel,
            stride: size(stride)?,
            dilation: size(self.dilation(i) as i128)?,
            pad_begin: size(begin)?,
            pad_end: size(end)?,
        })
    }

    fn check(&self, rank: usize, kernel: usize) -> Result<()> {
        ensure!(
            rank == kernel,
            ShapeMismatch,
            "a kernel of {kernel} spatial axes does not fit an input of {rank}"
        );
        for (name, values, count, least) in [
            ("strides", self.strides, rank, 1),
            ("dilations", self.dilations, rank, 1),
            ("pads", self.pads, 2 * rank, 0),
        ] {
            let unread = name == "pads" && self.auto_pad != AutoPad::NotSet;
            check_list(name, values, count, least, unread)?;
        }
        Ok(())
    }

    fn stride(&self, i: usize) -> i64 {
        self.strides.get(i).copied().unwrap_or(1)
    }

    fn dilation(&self, i: usize) -> i64 {
        self.dilations.get(i).copied().unwrap_or(1)
    }

    fn pads(&self, i: usize, rank: usize) -> (i64, i64) {
        let at = |i: usize| self.pads.get(i).copied().unwrap_or(0);
        (at(i), at(rank + i))
    }

    /// Extent of the dilated kernel along axis `i`.
    fn span(&self, i: usize, kernel: usize) -> Result<i128> {
        ensure!(kernel > 0, ShapeMismatch, "spatial axis {i}: the kernel has extent 0");
        let span = (kernel as i128 - 1) * self.dilation(i) as i128 + 1;
        ensure!(
            span <= SPAN_LIMIT,
            Unsupported,
            "spatial axis {i}: a kernel of {kernel} with dilation {} spans more than 2^40",
            self.dilation(i)
        );
        Ok(span)
    }

    fn span_dim(&self, i: usize, kernel: &Dim) -> Dim {
        (kernel - 1) * self.dilation(i) + 1
    }
}

/// The window attributes of a transposed convolution.
#[derive(Clone, Copy, Debug)]
pub struct TransposedWindow<'a> {
    /// Strides, dilations, pads and `auto_pad` of the convolution being transposed;
    /// its `ceil_mode` is not read.
    pub window: Window<'a>,
    /// Extent added at the end of each spatial axis; empty is all 0.
    pub output_padding: &'a [i64],
    /// Output extents that determine the padding; empty if the padding determines
    /// the extents.
    pub output_shape: &'a [i64],
}

impl TransposedWindow<'_> {
    /// Output extents for an input and a kernel of the given spatial extents.
    ///
    /// # Errors
    /// `InvalidGraph` for attributes of a wrong length or outside their range,
    /// `ShapeMismatch` if a constant output extent would be negative.
    pub fn output_dims(&self, input: &[Dim], kernel: &[Dim]) -> Result<Vec<Dim>> {
        self.check(input.len(), kernel.len())?;
        let rank = input.len();
        (0..rank)
            .map(|i| {
                if let Some((n, k)) = constants(&input[i], &kernel[i])? {
                    return Ok(Dim::from(self.axis(i, rank, n, k)?.input));
                }
                if let Some(&extent) = self.output_shape.get(i) {
                    return Ok(Dim::from(extent));
                }
                let stride = self.window.stride(i);
                let (begin, end) = match self.window.auto_pad {
                    AutoPad::SameUpper | AutoPad::SameLower => return Ok(&input[i] * stride),
                    AutoPad::NotSet => self.window.pads(i, rank),
                    AutoPad::Valid => (0, 0),
                };
                let span = self.window.span_dim(i, &kernel[i]);
                Ok((&input[i] - 1) * stride + span + (self.rest(i) - begin - end))
            })
            .collect()
    }

    /// The window of the convolution being transposed: `input` is the extent this
    /// operator produces, `output` the extent it reads.
    ///
    /// # Errors
    /// As [`TransposedWindow::output_dims`].
    pub fn resolve(&self, input: &[usize], kernel: &[usize]) -> Result<Vec<WindowAxis>> {
        self.check(input.len(), kernel.len())?;
        (0..input.len()).map(|i| self.axis(i, input.len(), input[i], kernel[i])).collect()
    }

    fn axis(&self, i: usize, rank: usize, input: usize, kernel: usize) -> Result<WindowAxis> {
        let (n, stride) = (input as i128, self.window.stride(i) as i128);
        let full = (n - 1) * stride + self.window.span(i, kernel)? + self.rest(i) as i128;
        let same = matches!(self.window.auto_pad, AutoPad::SameUpper | AutoPad::SameLower);
        let wanted = match self.output_shape.get(i) {
            Some(&extent) => Some(extent as i128),
            None if same => Some(n * stride),
            None => None,
        };
        let (extent, (begin, end)) = match wanted {
            // Padding cannot be negative: an extent beyond the full one gets zeros at its end.
            Some(extent) => {
                let upper = self.window.auto_pad == AutoPad::SameUpper;
                (extent, split((full - extent).max(0), upper))
            }
            None => {
                let (begin, end) = match self.window.auto_pad {
                    AutoPad::NotSet => self.window.pads(i, rank),
                    _ => (0, 0),
                };
                let (begin, end) = (begin as i128, end as i128);
                (full - begin - end, (begin, end))
            }
        };
        ensure!(
            extent >= 0 || input == 0,
            ShapeMismatch,
            "spatial axis {i}: padding {begin} and {end} exceeds the {full} outputs of an input of {input}"
        );
        Ok(WindowAxis {
            input: size(extent.max(0))?,
            output: input,
            kernel,
            stride: size(stride)?,
            dilation: size(self.window.dilation(i) as i128)?,
            pad_begin: size(begin)?,
            pad_end: size(end)?,
        })
    }

    fn check(&self, rank: usize, kernel: usize) -> Result<()> {
        self.window.check(rank, kernel)?;
        check_list("output_padding", self.output_padding, rank, 0, false)?;
        check_list("output_shape", self.output_shape, rank, 0, false)
    }

    fn rest(&self, i: usize) -> i64 {
        self.output_padding.get(i).copied().unwrap_or(0)
    }
}

/// The extents of a kernel: from the attribute `kernel_shape`, or from the weights
/// where that is absent.
///
/// # Errors
/// `ShapeMismatch` if both are there and differ.
pub fn kernel_dims(kernel_shape: &[i64], weights: &[Dim]) -> Result<Vec<Dim>> {
    if kernel_shape.is_empty() {
        return Ok(weights.to_vec());
    }
    let agree = kernel_shape.len() == weights.len()
        && kernel_shape.iter().zip(weights).all(|(&k, w)| w.as_const().is_none_or(|w| w == k));
    ensure!(
        agree,
        ShapeMismatch,
        "kernel_shape is {kernel_shape:?}, the weights have the spatial extents {weights:?}"
    );
    Ok(kernel_shape.iter().map(|&k| Dim::from(k)).collect())
}

/// The extents of a pooling kernel.
///
/// # Errors
/// `InvalidGraph` if there is none or one is not positive.
pub fn pool_kernel(kernel_shape: &[i64]) -> Result<Vec<usize>> {
    ensure!(!kernel_shape.is_empty(), InvalidGraph, "the attribute kernel_shape is missing");
    check_list("kernel_shape", kernel_shape, kernel_shape.len(), 1, false)?;
    kernel_shape.iter().map(|&k| size(k as i128)).collect()
}

fn check_list(name: &str, values: &[i64], count: usize, least: i64, unread: bool) -> Result<()> {
    if unread || values.is_empty() {
        return Ok(());
    }
    ensure!(
        values.len() == count,
        InvalidGraph,
        "{name} {values:?} has {} entries, the spatial axes need {count}",
        values.len()
    );
    ensure!(
        values.iter().all(|v| (least..=ATTRIBUTE_LIMIT).contains(v)),
        InvalidGraph,
        "{name} {values:?} must lie between {least} and {ATTRIBUTE_LIMIT}"
    );
    Ok(())
}

/// Both extents, if they are constants.
fn constants(input: &Dim, kernel: &Dim) -> Result<Option<(usize, usize)>> {
    match (input.as_const(), kernel.as_const()) {
        (Some(n), Some(k)) if n < 0 || k < 0 => {
            bail!(ShapeMismatch, "an extent is negative: input {n}, kernel {k}")
        }
        (Some(n), Some(k)) => Ok(Some((n as usize, k as usize))),
        _ => Ok(None),
    }
}

/// `total` as two halves; the odd one at the end if `upper`.
fn split(total: i128, upper: bool) -> (i128, i128) {
    let half = total / 2;
    if upper { (half, total - half) } else { (total - half, half) }
}

fn ceil_div(a: i128, b: i128) -> i128 {
    -(-a).div_euclid(b)
}

fn size(v: i128) -> Result<usize> {
    isize::try_from(v)
        .ok()
        .and_then(|v| usize::try_from(v).ok())
        .ok_or_else(|| err!(ShapeMismatch, "an extent of {v} overflows the address space"))
}

/// A run along the last spatial axis: output `output + j` meets input
/// `input + j·step`, for `j` below `len`. Offsets count elements of one plane.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// First output.
    pub output: usize,
    /// First input.
    pub input: usize,
    /// Number of outputs.
    pub len: usize,
    /// Input steps between neighbouring outputs.
    pub step: usize,
}

impl Row {
    /// Folds the elements of an input plane that the row reads into those of the
    /// output plane that it writes.
    pub(crate) fn accumulate<T: Copy>(
        &self,
        output: &mut [T],
        input: &[T],
        fold: impl Fn(T, T) -> T,
    ) {
        let output = output[self.output..][..self.len].iter_mut();
        if self.step == 1 {
            output.zip(&input[self.input..][..self.len]).for_each(|(o, &v)| *o = fold(*o, v));
        } else {
            let input = input[self.input..].iter().step_by(self.step);
            output.zip(input).for_each(|(o, &v)| *o = fold(*o, v));
        }
    }
}

/// Every tap that reads the input for some output, in row-major order, with its
/// row-major index among all taps.
pub fn live_taps(axes: &[WindowAxis]) -> Vec<(Vec<usize>, usize)> {
    let mut taps = vec![(Vec::with_capacity(axes.len()), 0)];
    for axis in axes {
        taps = taps
            .into_iter()
            .flat_map(|(tap, flat): (Vec<usize>, usize)| {
                axis.live_taps().into_iter().map(move |k| {
                    let mut tap = tap.clone();
                    tap.push(k);
                    (tap, flat * axis.kernel + k)
                })
            })
            .collect();
    }
    taps
}

/// Calls `f` for every run of outputs for which `tap` reads the input.
pub fn for_each_row(axes: &[WindowAxis], tap: &[usize], f: &mut impl FnMut(Row)) {
    fn walk(
        axes: &[WindowAxis],
        tap: &[usize],
        output: usize,
        input: usize,
        f: &mut impl FnMut(Row),
    ) {
        let (Some((axis, axes)), Some((&k, tap))) = (axes.split_first(), tap.split_first()) else {
            return f(Row { output, input, len: 1, step: 1 });
        };
        let outputs = axis.outputs(k);
        let source =
            |o: usize| input * axis.input + o * axis.stride + k * axis.dilation - axis.pad_begin;
        if !axes.is_empty() {
            for o in outputs {
                walk(axes, tap, output * axis.output + o, source(o), f);
            }
        } else if !outputs.is_empty() {
            f(Row {
                output: output * axis.output + outputs.start,
                input: source(outputs.start),
                len: outputs.len(),
                step: axis.stride,
            });
        }
    }
    walk(axes, tap, 0, 0, f);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window<'a>(
        strides: &'a [i64],
        dilations: &'a [i64],
        pads: &'a [i64],
        auto_pad: AutoPad,
        ceil_mode: bool,
    ) -> Window<'a> {
        Window { strides, dilations, pads, auto_pad, ceil_mode }
    }

    #[test]
    fn symbolic_extents_evaluate_to_the_concrete_ones() {
        let n = Dim::sym("n");
        for auto_pad in [AutoPad::NotSet, AutoPad::SameUpper, AutoPad::SameLower, AutoPad::Valid] {
            for stride in 1..4 {
                for dilation in 1..3 {
                    for pads in [[0, 0], [1, 0], [1, 2]] {
                        for ceil_mode in [false, true] {
                            let (s, d) = ([stride], [dilation]);
                            let w = window(&s, &d, &pads, auto_pad, ceil_mode);
                            let t = TransposedWindow {
                                window: w,
                                output_padding: &[1],
                                output_shape: &[],
                            };
                            let symbolic = w
                                .output_dims(std::slice::from_ref(&n), &[Dim::from(3i64)])
                                .unwrap();
                            let widened = t
                                .output_dims(std::slice::from_ref(&n), &[Dim::from(3i64)])
                                .unwrap();
                            for input in 5..20 {
                                let mut bound = crate::Bindings::new();
                                bound.bind("n", input).unwrap();
                                let axis = w.resolve(&[input as usize], &[3]).unwrap()[0];
                                assert_eq!(
                                    symbolic[0].eval(&bound).unwrap(),
                                    axis.output as i64,
                                    "{w:?} over {input}"
                                );
                                let axis = t.resolve(&[input as usize], &[3]).unwrap()[0];
                                assert_eq!(
                                    widened[0].eval(&bound).unwrap(),
                                    axis.input as i64,
                                    "{t:?} over {input}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn ranges_agree_with_the_formula() {
        for input in 1..7 {
            for kernel in 1..4 {
                for (s, d) in [(1, 1), (2, 1), (1, 2), (3, 2)] {
                    for pads in [[0, 0], [2, 1], [4, 4]] {
                        let (strides, dilations) = ([s], [d]);
                        let w = window(&strides, &dilations, &pads, AutoPad::NotSet, true);
                        let Ok(axes) = w.resolve(&[input], &[kernel]) else { continue };
                        let axis = axes[0];
                        let mut rows = vec![];
                        for (tap, _) in live_taps(&axes) {
                            for_each_row(&axes, &tap, &mut |r| {
                                for j in 0..r.len {
                                    rows.push((r.output + j, tap[0], r.input + j * r.step));
                                }
                            });
                        }
                        rows.sort_unstable();
                        let mut want = vec![];
                        for o in 0..axis.output {
                            for k in 0..kernel {
                                let hit = axis.source(o, k);
                                assert_eq!(axis.outputs(k).contains(&o), hit.is_some(), "{axis:?}");
                                assert_eq!(axis.taps(o).contains(&k), hit.is_some(), "{axis:?}");
                                want.extend(hit.map(|i| (o, k, i)));
                            }
                        }
                        assert_eq!(rows, want, "{axis:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn odd_padding_goes_where_the_mode_says() {
        for (mode, pads) in [(AutoPad::SameUpper, (0, 1)), (AutoPad::SameLower, (1, 0))] {
            let axis = window(&[2], &[], &[], mode, false).resolve(&[4], &[3]).unwrap()[0];
            assert_eq!((axis.output, (axis.pad_begin, axis.pad_end)), (2, pads), "{mode:?}");
        }
    }

    #[test]
    fn bad_attributes_are_errors_that_name_them() {
        for (w, want) in [
            (window(&[1, 1], &[], &[], AutoPad::NotSet, false), "strides [1, 1] has 2 entries"),
            (window(&[0], &[], &[], AutoPad::NotSet, false), "strides [0] must lie"),
            (window(&[], &[i64::MAX], &[], AutoPad::NotSet, false), "dilations"),
            (window(&[], &[], &[-1, 0], AutoPad::NotSet, false), "pads [-1, 0] must lie"),
            (
                window(&[], &[9], &[], AutoPad::NotSet, false),
                "spanning 19 does not fit an input of 4",
            ),
        ] {
            let e = w.resolve(&[4], &[3]).unwrap_err();
            assert!(e.message().contains(want), "{e}");
        }
    }
}
