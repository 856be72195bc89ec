//! Operators over packed sequences: rows of all sequences end to end, and where each begins.
//!
//! A batch of sequences of different lengths is a tensor `[tokens, …]` and
//! `offsets i64[batch + 1]`: sequence `i` is the rows `offsets[i]..offsets[i + 1]`, so the first
//! offset is 0 and the last is `tokens`. What one does within a sequence is defined as another
//! operator on each sequence alone, and computed so here.

use super::concat::concat;
use super::util::{list_i64, to_i64, wrap_index};
use super::{CumSum, MatMul, ReduceMax, ReduceMean, ReduceMin, ReduceSum};
use crate::{Dim, EvalArgs, Fact, InferArgs, NoSubgraphs, Operator, Value, attr_enum, op};
use deepseek_tensor::{DType, Result, Tensor, ensure};
use std::ops::Range;

/// The rows of each sequence, for `offsets i64[batch + 1]` over `tokens` rows.
///
/// # Errors
/// `InvalidArgument` unless the offsets start at 0, do not fall and end at `tokens`.
pub fn segments(offsets: &Tensor, tokens: usize) -> Result<Vec<Range<usize>>> {
    let offsets = list_i64(offsets, "offsets")?;
    let ends = (offsets.first(), offsets.last());
    ensure!(
        ends == (Some(&0), Some(&(tokens as i64))),
        InvalidArgument,
        "offsets run from {:?} to {:?}, expected 0 to {tokens}, the number of rows",
        ends.0,
        ends.1
    );
    if let Some(w) = offsets.windows(2).find(|w| w[0] > w[1]) {
        return Err(deepseek_tensor::err!(
            InvalidArgument,
            "offsets fall from {} to {}; sequences are in order",
            w[0],
            w[1]
        ));
    }
    Ok(offsets.windows(2).map(|w| w[0] as usize..w[1] as usize).collect())
}

/// The rows `range` of `x`.
fn rows(x: &Tensor, range: &Range<usize>) -> Result<Tensor> {
    x.slice_axis(0, range.start, 1, range.len())
}

/// The one output of `op` on `inputs`.
pub(super) fn apply(op: &dyn Operator, inputs: &[Tensor]) -> Result<Tensor> {
    let inputs: Vec<_> = inputs.iter().map(|t| Some(Value::Tensor(t.clone()))).collect();
    let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
    match op.eval(&args)?.into_iter().next() {
        Some(value) => value.tensor().cloned(),
        None => deepseek_tensor::bail!(Internal, "{} gives no output", op.name()),
    }
}

/// Checks that input `i` can be offsets and gives the number of sequences.
pub(super) fn batch_of(args: &InferArgs, i: usize) -> Result<Dim> {
    let dtype = args.dtype(i)?;
    ensure!(dtype == DType::I64, DTypeMismatch, "offsets must be i64, got {dtype}; insert a Cast");
    match args.shape(i) {
        Some([n]) => {
            let batch = n - 1;
            ensure!(
                batch.as_const().is_none_or(|n| n >= 0),
                ShapeMismatch,
                "offsets have one entry more than there are sequences, got {n} entries"
            );
            Ok(batch)
        }
        Some(s) => deepseek_tensor::bail!(ShapeMismatch, "offsets need rank 1, got shape {s:?}"),
        None => Ok(args.fresh("batch")),
    }
}

/// Extents of the rows of input `i`, and their number.
pub(super) fn packed<'a>(args: &InferArgs<'a>, i: usize) -> Result<Option<&'a [Dim]>> {
    let shape = args.shape(i);
    ensure!(shape != Some(&[]), ShapeMismatch, "input {i} is a scalar, expected rows");
    Ok(shape)
}

/// `parts` one after the other; `none` where there are none.
fn join(parts: &[Tensor], none: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    if parts.is_empty() { none() } else { concat(&parts.iter().collect::<Vec<_>>(), 0) }
}

attr_enum! {
    /// How [`SegmentReduce`] makes one row of several.
    SegmentReduction {
        /// As [`ReduceSum`].
        Sum = "sum",
        /// As [`ReduceMean`].
        Mean = "mean",
        /// As [`ReduceMax`].
        Max = "max",
        /// As [`ReduceMin`].
        Min = "min",
    }
}

impl SegmentReduction {
    fn op(self) -> Box<dyn Operator> {
        match self {
            SegmentReduction::Sum => Box::new(ReduceSum { keepdims: true, ..Default::default() }),
            SegmentReduction::Mean => Box::new(ReduceMean { keepdims: true, ..Default::default() }),
            SegmentReduction::Max => Box::new(ReduceMax { keepdims: true, ..Default::default() }),
            SegmentReduction::Min => Box::new(ReduceMin { keepdims: true, ..Default::default() }),
        }
    }
}

op! {
    /// `y[i, …]` is what the rows of sequence `i` of `x [tokens, …]` reduce to, `y [batch, …]`;
    /// what a sequence without rows gives is what the reduction gives for no elements. Inputs:
    /// `x`, `offsets i64[batch + 1]`.
    SegmentReduce { reduction: SegmentReduction = SegmentReduction::Sum }
}

impl Operator for SegmentReduce {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let batch = batch_of(args, 1)?;
        let Some(x) = packed(args, 0)? else { return Ok(vec![Fact::unranked(args.dtype(0)?)]) };
        let mut shape = x.to_vec();
        shape[0] = batch;
        Ok(vec![Fact::tensor(args.dtype(0)?, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let (op, axis) = (self.reduction.op(), Tensor::from_slice(&[1], &[0i64])?);
        let parts = segments(args.tensor(1)?, rows_of(x)?)?
            .iter()
            .map(|r| apply(&*op, &[rows(x, r)?, axis.clone()]))
            .collect::<Result<Vec<_>>>()?;
        Ok(vec![join(&parts, || rows(x, &(0..0)))?.into()])
    }
}

fn rows_of(x: &Tensor) -> Result<usize> {
    match x.shape() {
        [n, ..] => Ok(*n),
        [] => deepseek_tensor::bail!(ShapeMismatch, "a scalar has no rows"),
    }
}

op! {
    /// Running sums over the rows of each sequence of `x [tokens, …]`, as [`CumSum`] along axis 0
    /// of the sequence alone. Inputs: `x`, `offsets i64[batch + 1]`.
    SegmentCumSum {
        /// Whether the row itself is left out.
        exclusive: bool = false,
        /// Whether to run from the end of the sequence.
        reverse: bool = false
    }
}

impl Operator for SegmentCumSum {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        batch_of(args, 1)?;
        packed(args, 0)?;
        Ok(vec![Fact { ty: args.fact(0)?.ty.clone(), known: None }])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let op = CumSum { exclusive: self.exclusive, reverse: self.reverse };
        let axis = Tensor::scalar(0i64)?;
        let parts = segments(args.tensor(1)?, rows_of(x)?)?
            .iter()
            .map(|r| apply(&op, &[rows(x, r)?, axis.clone()]))
            .collect::<Result<Vec<_>>>()?;
        Ok(vec![join(&parts, || Ok(x.clone()))?.into()])
    }
}

op! {
    /// `y[i] = aᵢᵀ bᵢ`: for each sequence, the product over its rows of `a [tokens, m]` and
    /// `b [tokens, n]`, `y [batch, m, n]`; with weights as `a`, weighted sums of the rows of `b`.
    /// Inputs: `a`, `b`, `offsets i64[batch + 1]`. As [`MatMul`] of the sequence alone.
    SegmentMatMul {}
}

impl Operator for SegmentMatMul {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 3)?;
        let dtype = args.expect_same_dtype(0, 1)?;
        let batch = batch_of(args, 2)?;
        let (Some(a), Some(b)) = (args.shape(0), args.shape(1)) else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        let ([ta, m], [tb, n]) = (a, b) else {
            deepseek_tensor::bail!(ShapeMismatch, "both operands need rank 2, got {a:?} and {b:?}")
        };
        if let (Some(x), Some(y)) = (ta.as_const(), tb.as_const()) {
            ensure!(x == y, ShapeMismatch, "operands of {x} and {y} rows");
        }
        Ok(vec![Fact::tensor(dtype, [batch, m.clone(), n.clone()])])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = (args.tensor(0)?, args.tensor(1)?);
        ensure!(
            a.rank() == 2 && b.rank() == 2 && a.shape()[0] == b.shape()[0],
            ShapeMismatch,
            "operands {:?} and {:?} are not two matrices of one number of rows",
            a.shape(),
            b.shape()
        );
        let (m, n) = (a.shape()[1], b.shape()[1]);
        let parts = segments(args.tensor(2)?, a.shape()[0])?
            .iter()
            .map(|r| {
                let product = apply(&MatMul {}, &[rows(a, r)?.permute(&[1, 0])?, rows(b, r)?])?;
                product.reshape(&[1, m, n])
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(vec![join(&parts, || Tensor::zeros(a.dtype(), &[0, m, n]))?.into()])
    }
}

op! {
    /// `y[i, …]` is row `index[i]` of sequence `i` of `x [tokens, …]`, `y [batch, …]`. Inputs:
    /// `x`, `offsets i64[batch + 1]`, `index` `i64[batch]` or `i64[1]`, the same for all; a
    /// negative index counts from the end of the sequence, one outside it is an error.
    SegmentGather {}
}

impl Operator for SegmentGather {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 3)?;
        let batch = batch_of(args, 1)?;
        let index = args.dtype(2)?;
        ensure!(index == DType::I64, DTypeMismatch, "the index must be i64, got {index}");
        if let Some(s) = args.shape(2) {
            ensure!(s.len() == 1, ShapeMismatch, "the index needs rank 1, got shape {s:?}");
        }
        let Some(x) = packed(args, 0)? else { return Ok(vec![Fact::unranked(args.dtype(0)?)]) };
        let mut shape = x.to_vec();
        shape[0] = batch;
        Ok(vec![Fact::tensor(args.dtype(0)?, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let places = segment_rows(args.tensor(1)?, args.tensor(2)?, rows_of(x)?)?;
        let parts = places.iter().map(|&at| rows(x, &(at..at + 1))).collect::<Result<Vec<_>>>()?;
        Ok(vec![join(&parts, || rows(x, &(0..0)))?.into()])
    }
}

/// The row of a packed tensor of `tokens` rows that [`SegmentGather`] takes for each sequence.
///
/// # Errors
/// `InvalidArgument` for an index outside its sequence, and as [`segments`]; `ShapeMismatch`
/// unless there is one index, or one for each sequence.
pub fn segment_rows(offsets: &Tensor, index: &Tensor, tokens: usize) -> Result<Vec<usize>> {
    let segments = segments(offsets, tokens)?;
    let index = to_i64(index)?;
    ensure!(
        index.len() == 1 || index.len() == segments.len(),
        ShapeMismatch,
        "{} indices for {} sequences; give 1 or one for each",
        index.len(),
        segments.len()
    );
    let one = index.len() == 1;
    segments
        .iter()
        .enumerate()
        .map(|(i, r)| {
            let at = wrap_index(index[if one { 0 } else { i }], r.len(), 0)
                .map_err(|e| e.context(format_args!("sequence {i}")))?;
            Ok(r.start + at)
        })
        .collect()
}

/// The shape rule of operators with one integer for each row of input 1.
fn integer_per_row(args: &InferArgs) -> Result<Vec<Fact>> {
    args.expect_inputs(2, 2)?;
    batch_of(args, 0)?;
    args.dtype(1)?;
    let tokens = packed(args, 1)?.map_or_else(|| args.fresh("tokens"), |s| s[0].clone());
    Ok(vec![Fact::tensor(DType::I64, [tokens])])
}

op! {
    /// `i64[tokens]`: the place of each row in its sequence, from 0. Inputs:
    /// `offsets i64[batch + 1]`, and any tensor of `tokens` rows, whose elements are not read.
    SegmentPositions {}
}

impl Operator for SegmentPositions {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        integer_per_row(args)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let tokens = rows_of(args.tensor(1)?)?;
        let segments = segments(args.tensor(0)?, tokens)?;
        let places: Vec<i64> = segments.into_iter().flat_map(|r| 0..r.len() as i64).collect();
        Ok(vec![Tensor::from_vec(&[tokens], places)?.into()])
    }
}

op! {
    /// `i64[tokens]`: the sequence that each row belongs to, from 0. Inputs:
    /// `offsets i64[batch + 1]`, and any tensor of `tokens` rows, whose elements are not read.
    SegmentIds {}
}

impl Operator for SegmentIds {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        integer_per_row(args)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let tokens = rows_of(args.tensor(1)?)?;
        let segments = segments(args.tensor(0)?, tokens)?.into_iter().enumerate();
        let ids: Vec<i64> = segments.flat_map(|(i, r)| r.map(move |_| i as i64)).collect();
        Ok(vec![Tensor::from_vec(&[tokens], ids)?.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(shape: &[usize], data: &[f32]) -> Tensor {
        Tensor::from_slice(shape, data).unwrap()
    }

    fn i(data: &[i64]) -> Tensor {
        Tensor::from_slice(&[data.len()], data).unwrap()
    }

    /// Sequences of two, zero and one rows.
    fn example() -> (Tensor, Tensor) {
        (f(&[3, 2], &[1.0, 2.0, 3.0, 5.0, 7.0, 8.0]), i(&[0, 2, 2, 3]))
    }

    fn floats(op: impl Operator, inputs: &[Tensor]) -> (Vec<usize>, Vec<f32>) {
        let y = apply(&op, inputs).unwrap();
        (y.shape().to_vec(), y.to_vec().unwrap())
    }

    #[test]
    fn each_sequence_is_reduced_alone() {
        let (x, offsets) = example();
        let reduce = |reduction| {
            let op = SegmentReduce { reduction };
            floats(op, &[x.clone(), offsets.clone()])
        };
        assert_eq!(reduce(SegmentReduction::Sum), (vec![3, 2], vec![4.0, 7.0, 0.0, 0.0, 7.0, 8.0]));
        let (_, mean) = reduce(SegmentReduction::Mean);
        assert_eq!((&mean[..2], &mean[4..]), (&[2.0, 3.5][..], &[7.0, 8.0][..]));
        assert!(mean[2].is_nan());
        assert_eq!(reduce(SegmentReduction::Max).1[..2], [3.0, 5.0]);
        assert_eq!(reduce(SegmentReduction::Min).1[..2], [1.0, 2.0]);
        let none = floats(SegmentReduce::default(), &[f(&[0, 2], &[]), i(&[0])]);
        assert_eq!(none, (vec![0, 2], vec![]));
    }

    #[test]
    fn sums_run_within_a_sequence() {
        let (x, offsets) = example();
        let run = |reverse| {
            let op = SegmentCumSum { exclusive: false, reverse };
            floats(op, &[x.clone(), offsets.clone()]).1
        };
        assert_eq!(run(false), [1.0, 2.0, 4.0, 7.0, 7.0, 8.0]);
        assert_eq!(run(true), [4.0, 7.0, 3.0, 5.0, 7.0, 8.0]);
    }

    #[test]
    fn products_run_over_the_rows_of_a_sequence() {
        let (x, offsets) = example();
        let weights = f(&[3, 1], &[10.0, 1.0, 2.0]);
        let got = floats(SegmentMatMul {}, &[weights, x, offsets]);
        assert_eq!(got, (vec![3, 1, 2], vec![13.0, 25.0, 0.0, 0.0, 14.0, 16.0]));
    }

    #[test]
    fn rows_are_taken_from_their_own_sequence() {
        let x = f(&[3, 1], &[1.0, 2.0, 3.0]);
        let take = |offsets: &[i64], index: &[i64]| {
            apply(&SegmentGather {}, &[x.clone(), i(offsets), i(index)])
        };
        assert_eq!(take(&[0, 2, 3], &[0]).unwrap().to_vec::<f32>().unwrap(), [1.0, 3.0]);
        assert_eq!(take(&[0, 2, 3], &[-1]).unwrap().to_vec::<f32>().unwrap(), [2.0, 3.0]);
        assert_eq!(take(&[0, 2, 3], &[1, 0]).unwrap().to_vec::<f32>().unwrap(), [2.0, 3.0]);
        // Row 1 of the second sequence would be a row of nobody, of the first one of the second.
        let e = take(&[0, 1, 3], &[1]).unwrap_err().to_string();
        assert!(e.contains("sequence 0") && e.contains('1'), "{e}");
        assert!(take(&[0, 2, 3], &[0, 0, 0]).is_err());
    }

    #[test]
    fn rows_know_their_place_and_their_sequence() {
        let (x, offsets) = example();
        let places = apply(&SegmentPositions {}, &[offsets.clone(), x.clone()]).unwrap();
        assert_eq!(places.to_vec::<i64>().unwrap(), [0, 1, 0]);
        let ids = apply(&SegmentIds {}, &[offsets, x]).unwrap();
        assert_eq!(ids.to_vec::<i64>().unwrap(), [0, 0, 2]);
    }

    #[test]
    fn offsets_that_do_not_cover_the_rows_are_refused() {
        let (x, _) = example();
        for offsets in [&[][..], &[0, 2], &[1, 3], &[0, 4], &[0, 2, 1, 3], &[0, -1, 3]] {
            let e = apply(&SegmentReduce::default(), &[x.clone(), i(offsets)]).unwrap_err();
            assert!(e.to_string().contains("offsets"), "{e}");
        }
    }
}
