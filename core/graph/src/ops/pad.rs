//! Growing and shrinking tensors at their edges.

use super::util::{
    FILL, Sink, Source, list_i64, normalize_axes, take_axis, through_views, usize_dims,
};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, op};
use deepseek_tensor::{Dims, Result, Tensor, ensure, err, num_elements};

attr_enum! {
    /// What the new elements are.
    PadMode {
        /// A given value, zero by default.
        Constant = "constant",
        /// Mirrored at the edge element, which is not repeated.
        Reflect = "reflect",
        /// The edge element.
        Edge = "edge",
        /// The elements of the other end.
        Wrap = "wrap"
    }
}

op! {
    /// The data with `pads[i]` elements added before and `pads[n + i]` after it along
    /// axis `i` of the `n` axes; negative numbers remove elements. Inputs: data, pads
    /// (`i64[2n]`), value (a scalar), axes (`i64[n]`, all where absent). (ONNX Pad-25.)
    Pad {
        /// What the new elements are.
        mode: PadMode = PadMode::Constant
    }
}

impl Operator for Pad {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 4)?;
        let dtype = args.dtype(0)?;
        if args.get(2).is_some() {
            args.expect_same_dtype(0, 2)?;
        }
        let Some(s) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
        let axes = match args.get(3) {
            Some(_) => args.ints(3).map(|a| normalize_axes(&a, s.len())).transpose()?,
            None => Some((0..s.len()).collect()),
        };
        let mut out = s.to_vec();
        match (axes, args.dims(1)) {
            (Some(axes), Some(pads)) => {
                expect_pairs(pads.len(), axes.len())?;
                for (i, &axis) in axes.iter().enumerate() {
                    out[axis] = Dim::sum([&s[axis], &pads[i], &pads[axes.len() + i]]);
                    if let Some(n) = out[axis].as_const() {
                        ensure!(n >= 0, ShapeMismatch, "axis {axis} shrinks to extent {n}");
                    }
                }
            }
            (axes, _) => {
                for axis in axes.unwrap_or_else(|| (0..s.len()).collect()) {
                    out[axis] = args.fresh(&format!("d{axis}"));
                }
            }
        }
        Ok(vec![Fact::tensor(dtype, out)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let pads = list_i64(args.tensor(1)?, "pads")?;
        let axes = match args.opt(3)? {
            Some(t) => normalize_axes(&list_i64(t, "axes")?, x.rank())?,
            None => (0..x.rank()).collect(),
        };
        expect_pairs(pads.len(), axes.len())?;
        let fill = match args.opt(2)? {
            Some(t) => {
                ensure!(
                    t.len() == 1,
                    ShapeMismatch,
                    "the pad value must be one element, got shape {:?}",
                    t.shape()
                );
                Some(Source::of(t)?)
            }
            None => None,
        };
        let n = axes.len();
        let margins: Vec<_> =
            axes.iter().enumerate().map(|(i, &a)| (a, pads[i], pads[n + i])).collect();
        Ok(vec![pad(x, &margins, self.mode, fill.as_ref())?.into()])
    }
}

fn expect_pairs(pads: usize, axes: usize) -> Result<()> {
    ensure!(
        pads == 2 * axes,
        ShapeMismatch,
        "{pads} pads for {axes} axes; give one before and one after each"
    );
    Ok(())
}

/// `x` with `(axis, before, after)` elements added, or removed where negative.
///
/// # Errors
/// `ShapeMismatch` if an axis would get a negative extent, or there is nothing to
/// repeat; `OutOfMemory`.
pub(crate) fn pad(
    x: &Tensor,
    margins: &[(usize, i64, i64)],
    mode: PadMode,
    fill: Option<&Source>,
) -> Result<Tensor> {
    // Removing first keeps every intermediate within the larger of input and output.
    let mut cut = x.clone();
    for &(axis, before, after) in margins {
        let n = cut.shape()[axis] as i64;
        let (front, back) = (before.min(0).saturating_neg(), after.min(0).saturating_neg());
        let left = n.saturating_sub(front).saturating_sub(back);
        let total = grown(n, before, after)?;
        ensure!(
            total >= 0,
            ShapeMismatch,
            "pads {before} and {after} shrink axis {axis} of extent {n} to {total}"
        );
        if left < n {
            let (front, left) = (front.min(n), left.max(0));
            let start = if left == 0 { 0 } else { front as usize };
            cut = through_views(&cut, |t| t.slice_axis(axis, start, 1, left as usize))?;
        }
    }
    let mut shape = Dims::from_slice(x.shape());
    for &(axis, before, after) in margins {
        shape[axis] = grown(x.shape()[axis] as i64, before, after)? as usize;
    }
    if num_elements(&shape)? == 0 {
        return Tensor::zeros(x.dtype(), &shape);
    }
    // An absurd size fails here, before an index map of that length is made.
    drop(Sink::zeros(x.dtype(), &shape)?);
    let mut y = cut;
    for &(axis, before, after) in margins {
        if before > 0 || after > 0 {
            let n = y.shape()[axis];
            // What is not added here was removed above.
            let front = before.max(0);
            let map = (0..shape[axis] as i64)
                .map(|i| source_of(i - front, n, mode))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| {
                    err!(ShapeMismatch, "axis {axis} is empty, so there is nothing to repeat")
                })?;
            y = take_axis(&y, axis, &map, fill)?;
        }
    }
    Ok(y)
}

/// `n + before + after`.
fn grown(n: i64, before: i64, after: i64) -> Result<i64> {
    n.checked_add(before).and_then(|n| n.checked_add(after)).ok_or_else(|| {
        err!(ShapeMismatch, "pads {before} and {after} overflow an axis of extent {n}")
    })
}

/// Which of `n` elements stands at position `i` of an axis that goes on forever.
fn source_of(i: i64, n: usize, mode: PadMode) -> Option<usize> {
    let extent = n as i64;
    if (0..extent).contains(&i) {
        return Some(i as usize);
    }
    let at = match mode {
        PadMode::Constant => return Some(FILL),
        _ if n == 0 => return None,
        PadMode::Edge => i.clamp(0, extent - 1),
        PadMode::Wrap => i.rem_euclid(extent),
        PadMode::Reflect if n == 1 => 0,
        PadMode::Reflect => {
            let period = 2 * (extent - 1);
            let at = i.rem_euclid(period);
            at.min(period - at)
        }
    };
    Some(at as usize)
}

op! {
    /// The middle of the data cut, or its edges padded with zeros, to the extents that
    /// input 1 (`i64[n]`) lists for `axes`. An odd remainder goes to the end.
    /// (ONNX CenterCropPad-18.)
    CenterCropPad {
        /// Axes that change; all where absent.
        axes: Option<Vec<i64>> = None
    }
}

impl CenterCropPad {
    fn axes(&self, rank: usize, targets: Option<usize>) -> Result<Vec<usize>> {
        let axes = match &self.axes {
            Some(axes) => normalize_axes(axes, rank)?,
            None => (0..rank).collect(),
        };
        let n = targets.unwrap_or(axes.len());
        ensure!(n == axes.len(), ShapeMismatch, "{n} extents for {} axes", axes.len());
        Ok(axes)
    }
}

impl Operator for CenterCropPad {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let dtype = args.dtype(0)?;
        let Some(s) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
        let targets = args.dims(1);
        let axes = self.axes(s.len(), targets.as_ref().map(Vec::len))?;
        let mut out = s.to_vec();
        for (i, &axis) in axes.iter().enumerate() {
            out[axis] = match &targets {
                Some(t) => t[i].clone(),
                None => args.fresh(&format!("d{axis}")),
            };
        }
        Ok(vec![Fact::tensor(dtype, out)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let targets = usize_dims(&list_i64(args.tensor(1)?, "the target shape")?)?;
        let axes = self.axes(x.rank(), Some(targets.len()))?;
        let margin = |(&axis, &want): (&usize, &usize)| {
            let more = want as i64 - x.shape()[axis] as i64;
            // Rounded down when padding and, as a number of elements removed, when cropping.
            let before = more / 2;
            (axis, before, more - before)
        };
        let margins: Vec<_> = axes.iter().zip(&targets).map(margin).collect();
        Ok(vec![pad(x, &margins, PadMode::Constant, None)?.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_pads_and_crops() {
        use PadMode::*;
        struct Case(PadMode, (i64, i64), &'static [i32]);
        let x = Tensor::from_slice(&[4], &[1, 2, 3, 4]).unwrap();
        for Case(mode, (before, after), want) in [
            Case(Constant, (1, 2), &[0, 1, 2, 3, 4, 0, 0]),
            Case(Constant, (-1, 1), &[2, 3, 4, 0]),
            Case(Constant, (-3, -1), &[]),
            Case(Constant, (-5, 3), &[0, 0]),
            Case(Constant, (3, -5), &[0, 0]),
            Case(Reflect, (2, 1), &[3, 2, 1, 2, 3, 4, 3]),
            Case(Reflect, (7, 0), &[2, 1, 2, 3, 4, 3, 2, 1, 2, 3, 4]),
            Case(Edge, (2, 1), &[1, 1, 1, 2, 3, 4, 4]),
            Case(Wrap, (2, 5), &[3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1]),
            Case(Wrap, (-1, 2), &[2, 3, 4, 2, 3]),
        ] {
            let y = pad(&x, &[(0, before, after)], mode, None).unwrap();
            assert_eq!(y.to_vec::<i32>().unwrap(), want, "{mode:?} {before} {after}");
        }
        assert!(pad(&x, &[(0, -3, -2)], Constant, None).is_err());
        assert!(pad(&x, &[(0, i64::MAX, i64::MAX)], Constant, None).is_err());
        assert!(pad(&x, &[(0, 1 << 62, 0)], Constant, None).is_err());
        let empty = Tensor::zeros(deepseek_tensor::DType::F32, &[0]).unwrap();
        assert!(pad(&empty, &[(0, 1, 0)], Edge, None).is_err());
    }
}
