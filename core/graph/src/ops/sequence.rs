//! Lists of tensors.

use super::concat::{concat, split};
use super::util::{
    Sink, Source, VARIES, join_elements, normalize_axis, one_element, scalar_i64, through_views,
    to_i64,
};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Type, Value, op};
use deepseek_tensor::{DType, Dims, Result, Tensor, bail, ensure, err};
use std::sync::Arc;

fn sequence_fact(element: Type) -> Fact {
    Fact { ty: Type::Sequence(Box::new(element)), known: None }
}

fn element_type<'a>(args: &InferArgs<'a>, i: usize) -> Result<&'a Type> {
    match &args.fact(i)?.ty {
        Type::Sequence(element) => Ok(element),
        other => bail!(DTypeMismatch, "input {i} must be a sequence, got {other}"),
    }
}

/// The one position that input `i` holds, between 0 and `end` inclusive; negative ones count
/// from `length`.
fn position(args: &EvalArgs, i: usize, length: usize, end: usize) -> Result<Option<usize>> {
    let Some(t) = args.opt(i)? else { return Ok(None) };
    let p = scalar_i64(t, "the position")?;
    let at = if p < 0 { p.saturating_add(length as i64) } else { p };
    ensure!(
        (0..=end as i64).contains(&at) && (end < length || at <= length as i64) && length + 1 > end,
        InvalidArgument,
        "position {p} is outside a sequence of {length}"
    );
    Ok(Some(at as usize))
}

op! {
    /// The sequence of the inputs. (ONNX SequenceConstruct-11.)
    SequenceConstruct {}
}

impl Operator for SequenceConstruct {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        let first = args.fact(0)?.ty.clone();
        let element =
            (1..args.len()).try_fold(first, |ty, i| join_elements(&ty, &args.fact(i)?.ty))?;
        Ok(vec![sequence_fact(element)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let items = (0..args.len()).map(|i| args.value(i).cloned()).collect::<Result<Vec<_>>>()?;
        let first = args.value(0)?.ty();
        let element = items.iter().try_fold(first, |ty, v| join_elements(&ty, &v.ty()))?;
        Ok(vec![Value::Sequence(element, Arc::new(items))])
    }
}

op! {
    /// A sequence of tensors of type `dtype` that has no elements. (ONNX SequenceEmpty-11.)
    SequenceEmpty {
        /// Type of the elements that may be inserted.
        dtype: DType = DType::F32
    }
}

impl Operator for SequenceEmpty {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(0, 0)?;
        Ok(vec![sequence_fact(Type::Tensor(self.dtype, None))])
    }

    fn eval(&self, _: &EvalArgs) -> Result<Vec<Value>> {
        Ok(vec![Value::Sequence(Type::Tensor(self.dtype, None), Arc::default())])
    }
}

op! {
    /// Element number input 1 of the sequence, counted from the end if negative.
    /// (ONNX SequenceAt-11.)
    SequenceAt {}
}

impl Operator for SequenceAt {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        Ok(vec![Fact { ty: one_element(element_type(args, 0)?, args, "item"), known: None }])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let items = args.value(0)?.sequence()?;
        args.value(1)?;
        let end = items
            .len()
            .checked_sub(1)
            .ok_or_else(|| err!(InvalidArgument, "an empty sequence has no elements to take"))?;
        let at = position(args, 1, items.len(), end)?.unwrap_or(end);
        Ok(vec![items[at].clone()])
    }
}

op! {
    /// The sequence without element number input 1, by default the last one.
    /// (ONNX SequenceErase-11.)
    SequenceErase {}
}

impl Operator for SequenceErase {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 2)?;
        Ok(vec![sequence_fact(element_type(args, 0)?.clone())])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let Value::Sequence(element, items) = args.value(0)? else {
            bail!(DTypeMismatch, "input 0 must be a sequence");
        };
        let last = items
            .len()
            .checked_sub(1)
            .ok_or_else(|| err!(InvalidArgument, "an empty sequence has no elements to erase"))?;
        let at = position(args, 1, items.len(), last)?.unwrap_or(last);
        let kept = items.iter().enumerate().filter(|(i, _)| *i != at);
        let kept = kept.map(|(_, v)| v.clone()).collect();
        Ok(vec![Value::Sequence(element.clone(), Arc::new(kept))])
    }
}

op! {
    /// The sequence with input 1 before element number input 2, by default at the end.
    /// (ONNX SequenceInsert-11.)
    SequenceInsert {}
}

impl Operator for SequenceInsert {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 3)?;
        let element = join_elements(element_type(args, 0)?, &args.fact(1)?.ty)?;
        Ok(vec![sequence_fact(element)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let Value::Sequence(element, items) = args.value(0)? else {
            bail!(DTypeMismatch, "input 0 must be a sequence");
        };
        let new = args.value(1)?;
        let at = position(args, 2, items.len(), items.len())?.unwrap_or(items.len());
        let element = join_elements(element, &new.ty())?;
        let (front, back) = items.split_at(at);
        let items = front.iter().chain([new]).chain(back).cloned().collect();
        Ok(vec![Value::Sequence(element, Arc::new(items))])
    }
}

op! {
    /// Number of elements of the sequence, an `i64` scalar. (ONNX SequenceLength-11.)
    SequenceLength {}
}

impl Operator for SequenceLength {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        element_type(args, 0)?;
        Ok(vec![Fact::tensor(DType::I64, [])])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        Ok(vec![Tensor::scalar(args.value(0)?.sequence()?.len() as i64)?.into()])
    }
}

op! {
    /// Parts of the tensor along `axis`: all as long as input 1 if that is a scalar (the
    /// last one may be shorter), of the lengths it lists otherwise, slices where it is
    /// absent. (ONNX SplitToSequence-24.)
    SplitToSequence {
        /// Axis that is cut.
        axis: i64 = 0,
        /// Whether slices keep the axis; ignored where input 1 is given.
        keepdims: bool = true
    }
}

/// Most parts a tensor is split into: above, the lengths are taken for hostile.
const MAX_PARTS: usize = 1 << 24;

impl Operator for SplitToSequence {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 2)?;
        let dtype = args.dtype(0)?;
        let Some(s) = args.shape(0) else {
            return Ok(vec![sequence_fact(Type::Tensor(dtype, None))]);
        };
        let axis = normalize_axis(self.axis, s.len())?;
        let mut element = s.to_vec();
        match (args.get(1), args.ints(1)) {
            (None, _) if self.keepdims => element[axis] = Dim::from(1i64),
            (None, _) => {
                element.remove(axis);
            }
            (Some(f), Some(lengths)) => {
                let each = lengths.first().copied().unwrap_or(0);
                let even = match f.rank() {
                    Some(0) => s[axis].as_const().is_some_and(|n| each > 0 && n % each == 0),
                    _ => lengths.iter().all(|&n| n == each),
                };
                element[axis] = if even { Dim::from(each) } else { Dim::sym(VARIES) };
            }
            (Some(_), None) => element[axis] = Dim::sym(VARIES),
        }
        Ok(vec![sequence_fact(Type::tensor(dtype, element))])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let axis = normalize_axis(self.axis, x.rank())?;
        let extent = x.shape()[axis];
        let lengths: Vec<i64> = match args.opt(1)? {
            Some(t) if t.rank() == 1 => to_i64(t)?,
            given => {
                let each = given.map_or(Ok(1), |t| scalar_i64(t, "the length of a part"))?;
                let each = usize::try_from(each).ok().filter(|&n| n > 0).ok_or_else(|| {
                    err!(InvalidArgument, "parts of length {each} cannot cover a tensor")
                })?;
                ensure!(
                    extent.div_ceil(each) <= MAX_PARTS,
                    Unsupported,
                    "a sequence of {} parts exceeds the limit of {MAX_PARTS}",
                    extent.div_ceil(each)
                );
                (0..extent).step_by(each).map(|i| each.min(extent - i) as i64).collect()
            }
        };
        let mut parts = split(x, axis, &lengths)?;
        if args.opt(1)?.is_none() && !self.keepdims {
            let mut shape = Dims::from_slice(x.shape());
            shape.remove(axis);
            parts = parts.iter().map(|p| p.reshape(&shape)).collect::<Result<_>>()?;
        }
        let mut element = match parts.first() {
            Some(p) => Value::from(p.clone()).ty(),
            None => Type::Tensor(x.dtype(), None),
        };
        let items: Vec<Value> = parts.into_iter().map(Value::from).collect();
        for item in &items {
            element = join_elements(&element, &item.ty())?;
        }
        Ok(vec![Value::Sequence(element, Arc::new(items))])
    }
}

op! {
    /// The elements of the sequence one after the other along `axis`, or stacked along a new
    /// one. (ONNX ConcatFromSequence-11.)
    ConcatFromSequence {
        /// Axis that grows, or the new axis of the result.
        axis: i64 = 0,
        /// Whether the axis is new.
        new_axis: bool = false
    }
}

impl Operator for ConcatFromSequence {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let element = one_element(element_type(args, 0)?, args, "item");
        Ok(vec![match element {
            Type::Tensor(dtype, Some(mut s)) => {
                let count = args.fresh("extent");
                if self.new_axis {
                    s.insert(normalize_axis(self.axis, s.len() + 1)?, count);
                } else {
                    let axis = normalize_axis(self.axis, s.len())?;
                    s[axis] = count;
                }
                Fact::tensor(dtype, s)
            }
            Type::Tensor(dtype, None) => Fact::unranked(dtype),
            other => bail!(DTypeMismatch, "elements must be tensors to be joined, got {other}"),
        }])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let items = args.value(0)?.sequence()?;
        let parts = items.iter().map(Value::tensor).collect::<Result<Vec<_>>>()?;
        let first = parts
            .first()
            .ok_or_else(|| err!(InvalidArgument, "an empty sequence cannot be joined"))?;
        if !self.new_axis {
            return Ok(vec![concat(&parts, self.axis)?.into()]);
        }
        let axis = normalize_axis(self.axis, first.rank() + 1)?;
        let shape: Dims =
            std::iter::once(parts.len()).chain(first.shape().iter().copied()).collect();
        let mut sink = Sink::zeros(first.dtype(), &shape)?;
        for (i, part) in parts.iter().enumerate() {
            ensure!(
                part.shape() == first.shape(),
                ShapeMismatch,
                "element {i} has shape {:?}, element 0 {:?}; they cannot be stacked",
                part.shape(),
                first.shape()
            );
            sink.copy(i * first.len(), &Source::of(part)?, 0, part.len())?;
        }
        let mut perm: Vec<usize> = (1..shape.len()).collect();
        perm.insert(axis, 0);
        Ok(vec![through_views(&sink.finish()?, |y| y.permute(&perm))?.into()])
    }
}
