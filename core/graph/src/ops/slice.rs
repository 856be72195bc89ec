//! Strided ranges along axes.

use super::util::{list_i64, normalize_axes, through_views, with_contents};
use crate::{Bounds, Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{Result, bail, ensure};

op! {
    /// Elements `start, start + step, …` up to `end` (exclusive) along each of `axes`.
    /// Inputs: data, starts, ends, axes (default: the first ones), steps (default: 1),
    /// all `i64[n]` or `i32[n]`. Negative starts and ends count from the end; both are
    /// clamped to the axis. (ONNX Slice-13.)
    Slice {}
}

impl Operator for Slice {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 5)?;
        let dtype = args.dtype(0)?;
        let Some(s) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
        let (starts, ends) = (args.dims(1), args.dims(2));
        let count = [&starts, &ends].iter().find_map(|v| v.as_ref().map(Vec::len));
        let count = count.or_else(|| {
            [1, 2].iter().find_map(|&i| usize::try_from(args.shape(i)?.first()?.as_const()?).ok())
        });
        let axes = match (args.get(3), count) {
            (Some(_), _) => args.ints(3),
            (None, Some(n)) => Some((0..n as i64).collect()),
            (None, None) => None,
        };
        let mut out = s.to_vec();
        let Some(axes) = axes else {
            for (i, d) in out.iter_mut().enumerate() {
                *d = args.fresh(&format!("d{i}"));
            }
            return Ok(vec![Fact::tensor(dtype, out)]);
        };
        let axes = normalize_axes(&axes, s.len())?;
        let steps = match args.get(4) {
            Some(_) => args.ints(4),
            None => Some(vec![1; axes.len()]),
        };
        for (name, given) in [
            ("starts", starts.as_ref().map(Vec::len)),
            ("ends", ends.as_ref().map(Vec::len)),
            ("steps", steps.as_ref().map(Vec::len)),
        ] {
            let n = given.unwrap_or(axes.len());
            ensure!(n == axes.len(), ShapeMismatch, "{n} {name} for {} axes", axes.len());
        }
        for (i, &axis) in axes.iter().enumerate() {
            let range = match (&starts, &ends, &steps) {
                (Some(a), Some(b), Some(c)) => symbolic_count(&s[axis], &a[i], &b[i], c[i])?,
                _ => None,
            };
            out[axis] = range.unwrap_or_else(|| args.fresh(&format!("d{axis}")));
        }
        let contents = match (args.dims(0), args.ints(1), args.ints(2), &steps) {
            (Some(c), Some(a), Some(b), Some(steps)) if s.len() == 1 && axes == [0] => {
                let (start, n) = range(c.len(), a[0], b[0], steps[0])?;
                let at = |i: usize| c[(start as i64 + i as i64 * steps[0]) as usize].clone();
                Some((0..n).map(at).collect())
            }
            _ => None,
        };
        Ok(vec![with_contents(Fact::tensor(dtype, out), contents)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let starts = list_i64(args.tensor(1)?, "starts")?;
        let ends = list_i64(args.tensor(2)?, "ends")?;
        let axes = match args.opt(3)? {
            Some(t) => list_i64(t, "axes")?,
            None => (0..starts.len() as i64).collect(),
        };
        let steps = match args.opt(4)? {
            Some(t) => list_i64(t, "steps")?,
            None => vec![1; starts.len()],
        };
        ensure!(
            [ends.len(), axes.len(), steps.len()] == [starts.len(); 3],
            ShapeMismatch,
            "{} starts, {} ends, {} axes and {} steps; give one of each per axis",
            starts.len(),
            ends.len(),
            axes.len(),
            steps.len()
        );
        let axes = normalize_axes(&axes, x.rank())?;
        let y = through_views(x, |x| {
            let mut y = x.clone();
            for (i, &axis) in axes.iter().enumerate() {
                let (start, n) = range(x.shape()[axis], starts[i], ends[i], steps[i])?;
                let step = if n > 1 { steps[i] as isize } else { 1 };
                y = y.slice_axis(axis, start, step, n)?;
            }
            Ok(y)
        })?;
        Ok(vec![y.into()])
    }
}

/// First position and number of elements of a range of an axis.
fn range(extent: usize, start: i64, end: i64, step: i64) -> Result<(usize, usize)> {
    ensure!(step != 0, InvalidArgument, "a slice cannot step by 0");
    let n = extent as i64;
    let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let at = |x: i64, low| (if x < 0 { x.saturating_add(n) } else { x }).clamp(low, high.max(low));
    let (start, end) = (at(start, low.max(0)), at(end, low));
    let span = if step > 0 { end - start } else { start - end };
    if n == 0 || span <= 0 {
        return Ok((0, 0));
    }
    let count = (span as u64).div_ceil(step.unsigned_abs());
    Ok((start as usize, count as usize))
}

/// Starts and ends at least this large mean "to the end of the axis": exporters write
/// the greatest 32- or 64-bit integer.
const FAR: i64 = i32::MAX as i64;

/// A start or end, as a place on the axis before clamping.
enum Place {
    /// At or past the last element.
    End,
    /// Before the first element.
    Begin,
    At(Dim),
}

/// Where `x` lies; `None` if it cannot be told whether it counts from the end.
fn place(x: &Dim, extent: &Dim) -> Option<Place> {
    if let Some(c) = x.as_const() {
        return Some(match c {
            FAR.. => Place::End,
            c if c <= -FAR => Place::Begin,
            0.. => Place::At(x.clone()),
            _ => Place::At(extent + x),
        });
    }
    if x == extent {
        return Some(Place::End);
    }
    let range = x.range(&Bounds::default());
    match (range.min, range.max) {
        (0.., _) => Some(Place::At(x.clone())),
        (_, Some(..0)) => Some(Place::At(extent + x)),
        // `n - 1` is -1 for an empty axis only, where both readings are empty.
        _ if *x == extent - 1 => Some(Place::At(x.clone())),
        _ => None,
    }
}

/// Number of elements of the range as a formula, or `None` where a sign is unknown.
fn symbolic_count(extent: &Dim, start: &Dim, end: &Dim, step: i64) -> Result<Option<Dim>> {
    if step == 0 {
        bail!(InvalidArgument, "a slice cannot step by 0");
    }
    if let (Some(n), Some(a), Some(b)) = (extent.as_const(), start.as_const(), end.as_const())
        && let Ok(n) = usize::try_from(n)
    {
        return Ok(Some(Dim::from(range(n, a, b, step)?.1)));
    }
    let (Some(start), Some(end)) = (place(start, extent), place(end, extent)) else {
        return Ok(None);
    };
    let zero = Dim::from(0i64);
    let span = if step > 0 {
        let at = |p| match p {
            Place::End => extent.clone(),
            Place::Begin => zero.clone(),
            Place::At(x) => x.max(&zero).min(extent),
        };
        match (start, end) {
            (Place::Begin, end) => at(end),
            (Place::At(x), end) if x == zero => at(end),
            (start, end) => (at(end) - at(start)).max(&zero),
        }
    } else {
        let last = extent - 1;
        // Number of elements from the first one to the start, and to the end exclusive.
        let head = match start {
            Place::End => extent.clone(),
            Place::At(x) if x == last => extent.clone(),
            Place::Begin => zero.max(&Dim::from(1i64)).min(extent),
            Place::At(x) => (x.max(&zero) + 1).min(extent),
        };
        let skipped = match end {
            Place::End => extent.clone(),
            Place::Begin => zero.clone(),
            Place::At(x) => (x + 1).max(&zero).min(extent),
        };
        (head - skipped).max(&zero)
    };
    Ok(Some(span.ceil_div(&Dim::from(step.checked_abs().unwrap_or(i64::MAX)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_clamp_as_numpy_does() {
        struct Case(usize, [i64; 3], (usize, usize));
        for Case(n, [a, b, c], want) in [
            Case(10, [0, i64::MAX, 1], (0, 10)),
            Case(10, [-1, i64::MIN, -1], (9, 10)),
            Case(10, [20, -20, -3], (9, 4)),
            Case(10, [-3, -1, 1], (7, 2)),
            Case(10, [5, 2, 1], (0, 0)),
            Case(10, [20, 0, -4], (9, 3)),
            Case(10, [-100, i64::MIN, -1], (0, 1)),
            Case(0, [-1, i64::MIN, -1], (0, 0)),
            Case(1, [0, 1, i64::MIN], (0, 0)),
            Case(3, [2, -9, i64::MIN], (2, 1)),
        ] {
            assert_eq!(range(n, a, b, c).unwrap(), want, "{n}: {a}..{b} by {c}");
        }
    }

    #[test]
    fn formulas_agree_with_numbers_at_every_extent() {
        let n = Dim::sym("n");
        let ends = [i64::MIN, -7, -3, -1, 0, 1, 2, 5, i64::MAX];
        for (a, b) in ends.iter().flat_map(|&a| ends.map(|b| (a, b))) {
            for step in [1, 2, 3, -1, -2] {
                let count = symbolic_count(&n, &Dim::from(a), &Dim::from(b), step).unwrap();
                let count = count.expect("constants have a sign");
                for extent in 0..9 {
                    let mut at = crate::Bindings::default();
                    at.unify(&n, extent).unwrap();
                    let want = range(extent as usize, a, b, step).unwrap().1;
                    assert_eq!(
                        count.eval(&at),
                        Ok(want as i64),
                        "{count}: {a}..{b} by {step} of {extent}"
                    );
                }
            }
        }
        let count = |a: &str, b: &str| {
            let (a, b) = (Dim::parse(a).unwrap(), Dim::parse(b).unwrap());
            symbolic_count(&n, &a, &b, 1).unwrap().map(|d| d.to_string())
        };
        assert_eq!(count("0", "n").unwrap(), "n");
        assert_eq!(count("0", "s").unwrap(), "min(n,s)");
        assert_eq!(count("0", "n-8"), None);
    }
}
