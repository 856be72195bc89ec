//! Picking elements by index.

use super::util::{
    Sink, Source, around, each_index, normalize_axis, to_i64, with_contents, wrap_index,
};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Dims, Result, Tensor, contiguous_strides, ensure, err, num_elements};

/// Fails unless the input is an index tensor.
fn expect_index(args: &InferArgs, i: usize) -> Result<()> {
    let dtype = args.dtype(i)?;
    ensure!(
        matches!(dtype, DType::I32 | DType::I64),
        DTypeMismatch,
        "indices must be i32 or i64, got {dtype}; insert a Cast"
    );
    Ok(())
}

op! {
    /// `y[…, i…, …] = x[…, indices[i…], …]`: slices of `x` along `axis`, which the axes
    /// of the indices replace. Negative indices count from the end. (ONNX Gather-13.)
    Gather {
        /// Axis of the data that is indexed.
        axis: i64 = 0
    }
}

impl Operator for Gather {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        expect_index(args, 1)?;
        let dtype = args.dtype(0)?;
        let (Some(s), Some(i)) = (args.shape(0), args.shape(1)) else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        let axis = normalize_axis(self.axis, s.len())?;
        let shape = [&s[..axis], i, &s[axis + 1..]].concat();
        let contents = match (args.dims(0), args.ints(1)) {
            (Some(data), Some(at)) if s.len() == 1 => {
                let pick = |&i: &i64| Ok(data[wrap_index(i, data.len(), 0)?].clone());
                Some(at.iter().map(pick).collect::<Result<Vec<_>>>()?)
            }
            _ => None,
        };
        Ok(vec![with_contents(Fact::tensor(dtype, shape), contents)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, indices) = (args.tensor(0)?, args.tensor(1)?);
        let axis = normalize_axis(self.axis, x.rank())?;
        let (outer, extent, inner) = around(x.shape(), axis);
        let at = to_i64(indices)?
            .into_iter()
            .map(|i| wrap_index(i, extent, axis))
            .collect::<Result<Vec<_>>>()?;
        let shape = [&x.shape()[..axis], indices.shape(), &x.shape()[axis + 1..]].concat();
        let mut sink = Sink::zeros(x.dtype(), &shape)?;
        let source = Source::of(x)?;
        let mut to = 0;
        for o in 0..outer {
            for &i in &at {
                sink.copy(to, &source, (o * extent + i) * inner, inner)?;
                to += inner;
            }
        }
        Ok(vec![sink.finish()?.into()])
    }
}

op! {
    /// `y[i…] = x[i…]` with `i[axis]` replaced by `indices[i…]`; the shape is that of the
    /// indices. Negative indices count from the end. (ONNX GatherElements-13.)
    GatherElements {
        /// Axis that is indexed.
        axis: i64 = 0
    }
}

impl Operator for GatherElements {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        expect_index(args, 1)?;
        if let (Some(s), Some(i)) = (args.shape(0), args.shape(1)) {
            normalize_axis(self.axis, s.len())?;
            ensure!(
                s.len() == i.len(),
                ShapeMismatch,
                "data of rank {} against indices of rank {}",
                s.len(),
                i.len()
            );
        }
        let shape = args.shape(1).map(<[Dim]>::to_vec);
        Ok(vec![Fact::maybe_ranked(args.dtype(0)?, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, indices) = (args.tensor(0)?, args.tensor(1)?);
        let places = element_places(x.shape(), indices, self.axis)?;
        let mut sink = Sink::zeros(x.dtype(), indices.shape())?;
        let source = Source::of(x)?;
        for (to, at) in places.into_iter().enumerate() {
            sink.copy(to, &source, at, 1)?;
        }
        Ok(vec![sink.finish()?.into()])
    }
}

/// For each element of `indices`, the row-major position in a tensor of `shape` of the
/// element at the same place but for `axis`, where the index says.
///
/// # Errors
/// `ShapeMismatch` if the ranks differ or another axis is longer than the tensor's;
/// `InvalidArgument` for an index outside.
pub(crate) fn element_places(shape: &[usize], indices: &Tensor, axis: i64) -> Result<Vec<usize>> {
    let axis = normalize_axis(axis, shape.len())?;
    let fits = indices.rank() == shape.len()
        && (0..shape.len()).all(|a| a == axis || indices.shape()[a] <= shape[a]);
    ensure!(
        fits,
        ShapeMismatch,
        "indices of shape {:?} do not fit data of shape {shape:?} along axis {axis}",
        indices.shape()
    );
    let strides = contiguous_strides(shape);
    let values = to_i64(indices)?;
    let mut places = Vec::with_capacity(values.len());
    let mut next = values.iter();
    each_index(indices.shape(), |index| {
        let &i = next.next().ok_or_else(|| err!(Internal, "an index is missing"))?;
        let at = wrap_index(i, shape[axis], axis)?;
        let place = |(a, &i): (usize, &usize)| strides[a] as usize * if a == axis { at } else { i };
        places.push(index.iter().enumerate().map(place).sum());
        Ok(())
    })?;
    Ok(places)
}

op! {
    /// `y[b…, i…] = x[b…, indices[b…, i…, :]]`: slices of `x` addressed by index tuples,
    /// the last axis of the indices; `batch_dims` leading axes are shared.
    /// (ONNX GatherND-13.)
    GatherND {
        /// Number of shared leading axes.
        batch_dims: i64 = 0
    }
}

impl Operator for GatherND {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        expect_index(args, 1)?;
        let dtype = args.dtype(0)?;
        let (Some(s), Some(i)) = (args.shape(0), args.shape(1)) else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        let Some(tuple) = i.last().and_then(|d| usize::try_from(d.as_const()?).ok()) else {
            ensure!(!i.is_empty(), ShapeMismatch, "indices must have at least one axis");
            return Ok(vec![Fact::unranked(dtype)]);
        };
        let from = self.first_kept(s.len(), i.len(), tuple)?;
        let shape = [&i[..i.len() - 1], &s[from..]].concat();
        Ok(vec![Fact::tensor(dtype, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, indices) = (args.tensor(0)?, args.tensor(1)?);
        let (shape, i) = (x.shape(), indices.shape());
        ensure!(!i.is_empty(), ShapeMismatch, "indices must have at least one axis");
        let tuple = i[i.len() - 1];
        let from = self.first_kept(x.rank(), i.len(), tuple)?;
        let b = from - tuple;
        ensure!(
            shape[..b] == i[..b],
            ShapeMismatch,
            "the {b} batch axes of data {shape:?} and indices {i:?} differ"
        );
        let out = [&i[..i.len() - 1], &shape[from..]].concat();
        let mut sink = Sink::zeros(x.dtype(), &out)?;
        let places = tuple_places(shape, indices, b)?;
        let (source, run) = (Source::of(x)?, num_elements(&shape[from..])?);
        for (n, at) in places.into_iter().enumerate() {
            sink.copy(n * run, &source, at, run)?;
        }
        Ok(vec![sink.finish()?.into()])
    }
}

impl GatherND {
    /// First axis of the data that the slices keep.
    fn first_kept(&self, rank: usize, index_rank: usize, tuple: usize) -> Result<usize> {
        let b = usize::try_from(self.batch_dims).ok().filter(|&b| b < rank.min(index_rank));
        let b = b.ok_or_else(|| {
            err!(
                InvalidArgument,
                "batch_dims {} is outside 0 to {}",
                self.batch_dims,
                rank.min(index_rank) as i64 - 1
            )
        })?;
        b.checked_add(tuple).filter(|&n| n <= rank).ok_or_else(|| {
            err!(
                ShapeMismatch,
                "index tuples of {tuple} after {b} batch axes address more than rank {rank}"
            )
        })
    }
}

/// For each index tuple along the last axis of `indices`, the row-major position of the
/// slice it addresses in a tensor of `shape`, after `batch` shared leading axes. The
/// caller has checked that ranks fit.
///
/// # Errors
/// `InvalidArgument` for an index outside its axis.
pub(crate) fn tuple_places(shape: &[usize], indices: &Tensor, batch: usize) -> Result<Vec<usize>> {
    let (lead, tuple) = match indices.shape() {
        [lead @ .., tuple] => (Dims::from_slice(lead), *tuple),
        [] => return Err(err!(ShapeMismatch, "indices must have at least one axis")),
    };
    let strides = contiguous_strides(shape);
    let values = to_i64(indices)?;
    let mut places = Vec::new();
    let mut row = 0;
    each_index(&lead, |index| {
        let mut at = 0;
        for a in 0..batch {
            at += index[a] * strides[a] as usize;
        }
        for (k, &i) in values[row * tuple..][..tuple].iter().enumerate() {
            let a = batch + k;
            at += wrap_index(i, shape[a], a)? * strides[a] as usize;
        }
        places.push(at);
        row += 1;
        Ok(())
    })?;
    Ok(places)
}
