//! Joining tensors along an axis, and cutting them apart again.

use super::util::{Sink, Source, around, list_i64, normalize_axis, through_views, with_contents};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{Dims, Result, Tensor, bail, ensure, err};

op! {
    /// The inputs one after the other along `axis`; other extents are equal.
    /// (ONNX Concat-13.)
    Concat {
        /// Axis that grows.
        axis: i64 = 0
    }
}

impl Operator for Concat {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        ensure!(!args.is_empty(), InvalidGraph, "Concat needs at least one input");
        for i in 1..args.len() {
            args.expect_same_dtype(0, i)?;
        }
        let dtype = args.dtype(0)?;
        let shapes: Vec<_> = (0..args.len()).map(|i| args.shape(i)).collect();
        let Some(first) = shapes.iter().flatten().next() else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        let axis = normalize_axis(self.axis, first.len())?;
        let mut out = first.to_vec();
        for s in shapes.iter().flatten() {
            ensure!(
                s.len() == out.len(),
                ShapeMismatch,
                "cannot concatenate tensors of rank {} and {}",
                out.len(),
                s.len()
            );
            for (a, (o, d)) in out.iter_mut().zip(*s).enumerate().filter(|(a, _)| *a != axis) {
                match (o.as_const(), d.as_const()) {
                    (Some(x), Some(y)) => ensure!(
                        x == y,
                        ShapeMismatch,
                        "cannot concatenate along axis {axis}: axis {a} has {x} against {y}"
                    ),
                    (None, Some(_)) => *o = d.clone(),
                    _ => {}
                }
            }
        }
        out[axis] = if shapes.iter().all(Option::is_some) {
            Dim::sum(shapes.iter().flatten().map(|s| &s[axis]))
        } else {
            args.fresh("extent")
        };
        let parts: Option<Vec<_>> = (0..args.len()).map(|i| args.dims(i)).collect();
        let contents = if out.len() == 1 { parts.map(|p| p.concat()) } else { None };
        Ok(vec![with_contents(Fact::tensor(dtype, out), contents)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let parts = (0..args.len()).map(|i| args.tensor(i)).collect::<Result<Vec<_>>>()?;
        Ok(vec![concat(&parts, self.axis)?.into()])
    }
}

/// The tensors one after the other along `axis`.
///
/// # Errors
/// `InvalidGraph` for no tensors, `DTypeMismatch` or `ShapeMismatch` if they differ.
pub(crate) fn concat(parts: &[&Tensor], axis: i64) -> Result<Tensor> {
    let [first, rest @ ..] = parts else {
        bail!(InvalidGraph, "there is nothing to concatenate");
    };
    let axis = normalize_axis(axis, first.rank())?;
    let mut shape = Dims::from_slice(first.shape());
    for part in rest {
        let mut other = Dims::from_slice(part.shape());
        ensure!(
            other.len() == shape.len() && {
                other[axis] = shape[axis];
                other == shape
            },
            ShapeMismatch,
            "cannot concatenate {:?} and {:?} along axis {axis}",
            first.shape(),
            part.shape()
        );
        shape[axis] = shape[axis]
            .checked_add(part.shape()[axis])
            .ok_or_else(|| err!(ShapeMismatch, "the joined axis overflows"))?;
    }
    let mut sink = Sink::zeros(first.dtype(), &shape)?;
    let (outer, extent, inner) = around(&shape, axis);
    let mut start = 0;
    for part in parts {
        let source = Source::of(part)?;
        let run = part.shape()[axis] * inner;
        for o in 0..outer {
            sink.copy((o * extent + start) * inner, &source, o * run, run)?;
        }
        start += part.shape()[axis];
    }
    sink.finish()
}

op! {
    /// Parts of input 0 along `axis`, as long as input 1 (`i64[outputs]`) says; without
    /// it, `num_outputs` parts of equal length, the last one shorter if need be.
    /// (ONNX Split-18.)
    Split {
        /// Axis that is cut.
        axis: i64 = 0,
        /// Number of parts where no lengths are given; the node's outputs if absent.
        num_outputs: Option<i64> = None
    }
}

impl Split {
    /// Number of parts that the node makes.
    fn parts(&self, outputs: usize) -> Result<usize> {
        let n = self.num_outputs.unwrap_or(outputs as i64);
        ensure!(
            n == outputs as i64 && n > 0,
            InvalidGraph,
            "num_outputs is {n}, the node has {outputs} outputs"
        );
        Ok(outputs)
    }
}

/// Lengths of `n` parts of `extent`: all `⌈extent / n⌉` but the last.
fn equal_parts(extent: usize, n: usize) -> Result<Vec<i64>> {
    let each = extent.div_ceil(n);
    let last = (n - 1).checked_mul(each).and_then(|used| extent.checked_sub(used));
    let last = last.ok_or_else(|| {
        err!(ShapeMismatch, "an axis of {extent} does not split into {n} parts of {each}")
    })?;
    Ok((0..n).map(|i| if i + 1 < n { each } else { last } as i64).collect())
}

impl Operator for Split {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 2)?;
        let dtype = args.dtype(0)?;
        let Some(s) = args.shape(0) else {
            return Ok(vec![Fact::unranked(dtype); args.outputs]);
        };
        let axis = normalize_axis(self.axis, s.len())?;
        let lengths: Vec<Dim> = if args.get(1).is_some() {
            match args.dims(1) {
                Some(lengths) => lengths,
                None => (0..args.outputs).map(|i| args.fresh(&format!("part{i}"))).collect(),
            }
        } else {
            let n = self.parts(args.outputs)?;
            match s[axis].as_const().and_then(|d| usize::try_from(d).ok()) {
                Some(d) => equal_parts(d, n)?.into_iter().map(Dim::from).collect(),
                None => {
                    let each = s[axis].ceil_div(&Dim::from(n));
                    let last = &s[axis] - &each * (n as i64 - 1);
                    (0..n).map(|i| if i + 1 < n { each.clone() } else { last.clone() }).collect()
                }
            }
        };
        ensure!(
            lengths.len() >= args.outputs,
            InvalidGraph,
            "{} lengths for {} outputs",
            lengths.len(),
            args.outputs
        );
        if let (Some(sum), Some(d)) = (Dim::sum(&lengths).as_const(), s[axis].as_const()) {
            ensure!(
                sum == d,
                ShapeMismatch,
                "the lengths add up to {sum}, axis {axis} has extent {d}"
            );
        }
        let contents = args.dims(0).filter(|_| s.len() == 1);
        let mut start = 0usize;
        let mut facts = Vec::with_capacity(lengths.len());
        for length in lengths {
            let run = length.as_const().and_then(|n| usize::try_from(n).ok());
            let part = contents.as_ref().zip(run).and_then(|(c, n)| {
                let end = start.checked_add(n)?;
                Some(c.get(start..end)?.to_vec())
            });
            start = start.saturating_add(run.unwrap_or(usize::MAX));
            let mut shape = s.to_vec();
            shape[axis] = length;
            facts.push(with_contents(Fact::tensor(dtype, shape), part));
        }
        Ok(facts)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let axis = normalize_axis(self.axis, x.rank())?;
        let lengths = match args.opt(1)? {
            Some(t) => list_i64(t, "the lengths")?,
            None => equal_parts(x.shape()[axis], self.parts(args.outputs)?)?,
        };
        Ok(split(x, axis, &lengths)?.into_iter().map(Value::from).collect())
    }
}

/// Consecutive parts of `x` along `axis`.
///
/// # Errors
/// `InvalidArgument` for a negative length; `ShapeMismatch` if they do not add up.
pub(crate) fn split(x: &Tensor, axis: usize, lengths: &[i64]) -> Result<Vec<Tensor>> {
    let extent = x.shape()[axis];
    let mut start = 0usize;
    let mut parts = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let n = usize::try_from(length)
            .map_err(|_| err!(InvalidArgument, "length {length} of a part is negative"))?;
        ensure!(
            start.checked_add(n).is_some_and(|end| end <= extent),
            ShapeMismatch,
            "lengths {lengths:?} exceed axis {axis} of extent {extent}"
        );
        parts.push(through_views(x, |x| x.slice_axis(axis, start, 1, n))?);
        start += n;
    }
    ensure!(
        start == extent,
        ShapeMismatch,
        "lengths {lengths:?} add up to {start}, axis {axis} has extent {extent}"
    );
    Ok(parts)
}
