//! Operators that rename axes and keep every element in place.

use super::util::{list_i64, normalize_axes, normalize_axis, through_views, with_contents};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{Dims, MAX_RANK, Result, ensure, err, num_elements};

op! {
    /// The same elements under the shape that input 1 (`i64[rank]`) lists. −1, at most
    /// once, stands for what is left; 0 copies the input's extent at that position, or
    /// means an empty axis with `allowzero`. (ONNX Reshape-25.)
    Reshape {
        /// Whether 0 means an extent of 0.
        allowzero: bool = false
    }
}

impl Operator for Reshape {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let dtype = args.dtype(0)?;
        let Some(target) = args.dims(1) else {
            let rank = args.shape(1).and_then(|s| s.first()?.as_const());
            let rank = rank.filter(|&r| r <= MAX_RANK as i64);
            let shape = rank.map(|r| (0..r).map(|i| args.fresh(&format!("d{i}"))).collect());
            return Ok(vec![Fact::maybe_ranked(dtype, shape)]);
        };
        let shape = symbolic_target(self.allowzero, args, &target)?;
        let contents = if shape.len() <= 1 { args.dims(0) } else { None };
        Ok(vec![with_contents(Fact::tensor(dtype, shape), contents)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let target = list_i64(args.tensor(1)?, "the target shape")?;
        let shape = concrete_target(self.allowzero, x.shape(), &target)?;
        Ok(vec![x.reshape(&shape)?.into()])
    }
}

/// What a target entry asks for.
enum Entry {
    Copy,
    Rest,
    Size,
}

fn entry(value: Option<i64>, allowzero: bool) -> Result<Entry> {
    Ok(match value {
        Some(-1) => Entry::Rest,
        Some(0) if !allowzero => Entry::Copy,
        Some(n) => {
            ensure!(n >= 0, InvalidArgument, "extent {n} in the target shape is negative");
            Entry::Size
        }
        None => Entry::Size,
    })
}

/// The target shape with 0 and −1 resolved. The extent that −1 stands for is the
/// quotient of what is not copied, so copied symbols cancel exactly.
fn symbolic_target(allowzero: bool, args: &InferArgs, target: &[Dim]) -> Result<Vec<Dim>> {
    ensure!(
        target.len() <= MAX_RANK,
        Unsupported,
        "a target of {} axes exceeds the limit of {MAX_RANK}",
        target.len()
    );
    let input = args.shape(0);
    let (mut out, mut rest, mut copied) = (Vec::with_capacity(target.len()), None, vec![]);
    for (i, t) in target.iter().enumerate() {
        out.push(match entry(t.as_const(), allowzero)? {
            Entry::Size => t.clone(),
            Entry::Rest => {
                ensure!(
                    rest.replace(i).is_none(),
                    InvalidArgument,
                    "the target shape has -1 more than once"
                );
                Dim::from(1i64)
            }
            Entry::Copy => {
                copied.push(i);
                match input {
                    None => args.fresh(&format!("d{i}")),
                    Some(s) => s.get(i).cloned().ok_or_else(|| no_axis_to_copy(i, s.len()))?,
                }
            }
        });
    }
    let free = |s: &[Dim]| {
        Dim::product(s.iter().enumerate().filter(|(i, _)| !copied.contains(i)).map(|(_, d)| d))
    };
    match (input, rest) {
        (Some(s), Some(at)) => {
            let (have, want) = (free(s), free(&out));
            if let (Some(h), Some(w)) = (have.as_const(), want.as_const()) {
                ensure!(
                    w != 0 && h % w == 0,
                    ShapeMismatch,
                    "{h} elements do not divide into groups of {w}"
                );
            }
            out[at] = have.floor_div(&want);
        }
        (None, Some(at)) => out[at] = args.fresh(&format!("d{at}")),
        (Some(s), None) => {
            let (have, want) = (free(s), free(&out));
            if let (Some(h), Some(w)) = (have.as_const(), want.as_const()) {
                ensure!(h == w, ShapeMismatch, "cannot reshape {h} elements into {w}");
            }
        }
        (None, None) => {}
    }
    Ok(out)
}

fn no_axis_to_copy(axis: usize, rank: usize) -> deepseek_tensor::Error {
    err!(
        ShapeMismatch,
        "the target copies axis {axis} of an input of rank {rank}; set allowzero for an empty axis"
    )
}

/// As [`symbolic_target`], over numbers.
fn concrete_target(allowzero: bool, input: &[usize], target: &[i64]) -> Result<Dims> {
    let (mut out, mut rest) = (Dims::new(), None);
    let mut free: Dims = Dims::from_slice(input);
    let mut want: Dims = Dims::new();
    for (i, &t) in target.iter().enumerate() {
        match entry(Some(t), allowzero)? {
            Entry::Size => {
                out.push(t as usize);
                want.push(t as usize);
            }
            Entry::Rest => {
                ensure!(
                    rest.replace(i).is_none(),
                    InvalidArgument,
                    "the target shape {target:?} has -1 more than once"
                );
                out.push(1);
            }
            Entry::Copy => {
                out.push(*input.get(i).ok_or_else(|| no_axis_to_copy(i, input.len()))?);
                free[i] = 1;
            }
        }
    }
    if let Some(at) = rest {
        let (have, want) = (num_elements(&free)?, num_elements(&want)?);
        ensure!(
            want != 0 && have.is_multiple_of(want),
            ShapeMismatch,
            "shape {input:?} cannot become {target:?}: {have} elements do not divide by {want}"
        );
        out[at] = have / want;
    }
    Ok(out)
}

op! {
    /// `y[outer, inner]`: axes before `axis` folded into one, the others into another.
    /// (ONNX Flatten-25.)
    Flatten {
        /// First axis of the inner group, −rank to rank.
        axis: i64 = 1
    }
}

impl Flatten {
    fn split_at(&self, rank: usize) -> Result<usize> {
        if self.axis == rank as i64 { Ok(rank) } else { normalize_axis(self.axis, rank) }
    }
}

impl Operator for Flatten {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let shape = match args.shape(0) {
            Some(s) => {
                let at = self.split_at(s.len())?;
                vec![Dim::product(&s[..at]), Dim::product(&s[at..])]
            }
            None => vec![args.fresh("outer"), args.fresh("inner")],
        };
        Ok(vec![Fact::tensor(args.dtype(0)?, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let at = self.split_at(x.rank())?;
        let shape = [num_elements(&x.shape()[..at])?, num_elements(&x.shape()[at..])?];
        Ok(vec![x.reshape(&shape)?.into()])
    }
}

op! {
    /// Drops the axes that input 1 (`i64[n]`) lists, each of extent 1; without input 1
    /// all axes of extent 1. (ONNX Squeeze-25.)
    Squeeze {}
}

impl Operator for Squeeze {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 2)?;
        let dtype = args.dtype(0)?;
        let Some(s) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
        let shape: Option<Vec<Dim>> = if args.get(1).is_none() {
            let known = s.iter().all(Dim::is_const);
            known.then(|| s.iter().filter(|d| d.as_const() != Some(1)).cloned().collect())
        } else if let Some(axes) = args.ints(1) {
            let axes = normalize_axes(&axes, s.len())?;
            for &a in &axes {
                let n = s[a].as_const().unwrap_or(1);
                ensure!(n == 1, ShapeMismatch, "axis {a} has extent {n}; only 1 can be squeezed");
            }
            let kept = s.iter().enumerate().filter(|(i, _)| !axes.contains(i));
            Some(kept.map(|(_, d)| d.clone()).collect())
        } else {
            let n = args.shape(1).and_then(|a| a.first()?.as_const());
            let rank = n.and_then(|n| s.len().checked_sub(usize::try_from(n).ok()?));
            rank.map(|r| (0..r).map(|i| args.fresh(&format!("d{i}"))).collect())
        };
        let fact = Fact::maybe_ranked(dtype, shape);
        Ok(vec![with_contents(fact, args.dims(0))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let axes = match args.opt(1)? {
            Some(axes) => normalize_axes(&list_i64(axes, "axes")?, x.rank())?,
            None => (0..x.rank()).filter(|&a| x.shape()[a] == 1).collect(),
        };
        if let Some(a) = axes.iter().find(|&&a| x.shape()[a] != 1) {
            let n = x.shape()[*a];
            return Err(err!(
                ShapeMismatch,
                "axis {a} of shape {:?} has extent {n}; only 1 can be squeezed",
                x.shape()
            ));
        }
        let kept = x.shape().iter().enumerate().filter(|(i, _)| !axes.contains(i));
        let shape: Dims = kept.map(|(_, &d)| d).collect();
        Ok(vec![x.reshape(&shape)?.into()])
    }
}

op! {
    /// Inserts axes of extent 1 at the positions of the result that input 1 (`i64[n]`)
    /// lists. (ONNX Unsqueeze-25.)
    Unsqueeze {}
}

/// `shape` with `one` inserted at `axes` of the result.
fn unsqueezed<T: Clone>(shape: &[T], axes: &[i64], one: T) -> Result<Vec<T>> {
    let rank = shape.len() + axes.len();
    ensure!(rank <= MAX_RANK, Unsupported, "rank {rank} exceeds the limit of {MAX_RANK}");
    let axes = normalize_axes(axes, rank)?;
    let mut old = shape.iter();
    let at = |i| if axes.contains(&i) { Some(one.clone()) } else { old.next().cloned() };
    Ok((0..rank).filter_map(at).collect())
}

impl Operator for Unsqueeze {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let dtype = args.dtype(0)?;
        let Some(s) = args.shape(0) else { return Ok(vec![Fact::unranked(dtype)]) };
        let shape = match args.ints(1) {
            Some(axes) => Some(unsqueezed(s, &axes, Dim::from(1i64))?),
            None => {
                let n = args.shape(1).and_then(|a| usize::try_from(a.first()?.as_const()?).ok());
                let rank = n.and_then(|n| n.checked_add(s.len())).filter(|&r| r <= MAX_RANK);
                rank.map(|r| (0..r).map(|i| args.fresh(&format!("d{i}"))).collect())
            }
        };
        let fact = Fact::maybe_ranked(dtype, shape);
        Ok(vec![with_contents(fact, args.dims(0))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let axes = list_i64(args.tensor(1)?, "axes")?;
        Ok(vec![x.reshape(&unsqueezed(x.shape(), &axes, 1)?)?.into()])
    }
}

op! {
    /// Axis `i` of the result is axis `perm[i]` of the input. (ONNX Transpose-25.)
    Transpose {
        /// Sources of the axes; empty reverses them.
        perm: Vec<i64> = Vec::new()
    }
}

impl Transpose {
    fn axes(&self, rank: usize) -> Result<Vec<usize>> {
        if self.perm.is_empty() {
            return Ok((0..rank).rev().collect());
        }
        ensure!(
            self.perm.len() == rank,
            ShapeMismatch,
            "perm {:?} permutes {} axes, the input has {rank}",
            self.perm,
            self.perm.len()
        );
        normalize_axes(&self.perm, rank)
    }
}

impl Operator for Transpose {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = args.dtype(0)?;
        let shape = match args.shape(0) {
            Some(s) => {
                Some(self.axes(s.len())?.into_iter().map(|a| s[a].clone()).collect::<Vec<_>>())
            }
            None if self.perm.is_empty() || self.perm.len() > MAX_RANK => None,
            None => Some((0..self.perm.len()).map(|i| args.fresh(&format!("d{i}"))).collect()),
        };
        let fact = Fact::maybe_ranked(dtype, shape);
        Ok(vec![with_contents(fact, args.dims(0))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let axes = self.axes(x.rank())?;
        Ok(vec![through_views(x, |x| x.permute(&axes))?.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, Type, ops};
    use deepseek_tensor::{DType, Tensor};

    #[test]
    fn zero_and_minus_one_resolve_to_exact_formulas() {
        struct Case(&'static [&'static str], &'static [i64], &'static str);
        for Case(input, target, want) in [
            Case(&["b", "s", "384"], &[0, 0, 12, 32], "f32[b, s, 12, 32]"),
            Case(&["b", "s", "384"], &[0, 0, 12, -1], "f32[b, s, 12, 32]"),
            Case(&["b", "s", "384"], &[-1, 384], "f32[b*s, 384]"),
            Case(&["b", "s", "384"], &[0, -1], "f32[b, 384*s]"),
            Case(&["b", "2*s+2"], &[0, 2, -1], "f32[b, 2, s+1]"),
        ] {
            let mut g = Graph::new("g");
            let shape: Vec<Dim> = input.iter().map(|d| Dim::parse(d).unwrap()).collect();
            let x = g.add_input("x", Type::tensor(DType::F32, shape)).unwrap();
            let t = g.add_constant("t", Tensor::from_slice(&[target.len()], target).unwrap());
            let y = g.add("y", Reshape::default(), &[x, t.unwrap()]).unwrap();
            assert_eq!(g.fact(y).to_string(), want, "{input:?} by {target:?}");
        }
    }

    #[test]
    fn a_target_made_of_the_input_shape_stays_symbolic() {
        let mut g = Graph::new("g");
        let shape = [Dim::sym("b"), Dim::sym("s"), Dim::from(384i64)];
        let x = g.add_input("x", Type::tensor(DType::F32, shape)).unwrap();
        let lead = g.add("lead", ops::Shape { end: Some(2), ..Default::default() }, &[x]).unwrap();
        let heads = g.add_constant("heads", Tensor::from_slice(&[2], &[12i64, -1]).unwrap());
        let target = g.add("target", ops::Concat { axis: 0 }, &[lead, heads.unwrap()]).unwrap();
        let y = g.add("y", Reshape::default(), &[x, target]).unwrap();
        assert_eq!(g.fact(y).to_string(), "f32[b, s, 12, 32]");
    }

    #[test]
    fn a_zero_batch_keeps_its_other_extents() {
        struct Case(bool, &'static [usize], &'static [i64], Option<&'static [usize]>);
        for Case(allowzero, input, target, want) in [
            Case(false, &[0, 6], &[0, 2, -1], Some(&[0, 2, 3])),
            Case(true, &[0, 6], &[6, 0], Some(&[6, 0])),
            Case(true, &[0, 6], &[0, -1], None),
            Case(false, &[2], &[2, 0], None),
            Case(false, &[4], &[-1, -1], None),
            Case(false, &[4], &[-1, 3], None),
            Case(false, &[4], &[-2, 2], None),
        ] {
            let got = concrete_target(allowzero, input, target).ok();
            assert_eq!(got.as_deref(), want, "{input:?} by {target:?}");
        }
    }
}
