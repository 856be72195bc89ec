//! Linear quantisation: numbers as small integers (or narrow floats) times a scale.
//!
//! Scale and zero point come per tensor (a scalar), per slice along an axis (a
//! vector), or per block of consecutive elements along an axis (a tensor that is
//! shorter along that axis). [`Grid`] says which scale belongs to an element.

use super::cast::{ScaleRounding, cast};
use super::util::{normalize_axis, shaped_like, to_f64, vec_for};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err, num_elements};
use half::{bf16, f16};

/// How the scales lie over a tensor: element `(o, j, i)` of the tensor seen as
/// `[outer, extent, inner]` takes scale `(o·outer_step + j/block·axis_step + i·inner_step)`.
struct Grid {
    extent: usize,
    inner: usize,
    block: usize,
    outer_step: usize,
    axis_step: usize,
    inner_step: usize,
}

impl Grid {
    fn new(x: &[usize], scale: &[usize], axis: i64, block: i64) -> Result<Self> {
        let constant =
            Grid { extent: 1, inner: 1, block: 1, outer_step: 0, axis_step: 0, inner_step: 0 };
        let count: usize = scale.iter().product();
        if scale.is_empty() || count == 1 && scale.len() == 1 && block == 0 {
            return Ok(constant);
        }
        let axis = if x.len() == 1 { 0 } else { normalize_axis(axis, x.len())? };
        let inner = x[axis + 1..].iter().product::<usize>().max(1);
        if scale.len() == 1 && block == 0 {
            ensure!(
                scale[0] == x[axis],
                ShapeMismatch,
                "{} scales for axis {axis} of shape {x:?}, which has {}",
                scale[0],
                x[axis]
            );
            let extent = x[axis].max(1);
            return Ok(Grid { extent, inner, axis_step: 1, ..constant });
        }
        ensure!(
            block > 0,
            InvalidArgument,
            "scales of shape {scale:?} are blocks, but block_size is {block}; set it to the number of elements that share a scale"
        );
        let block = usize::try_from(block).map_err(|_| err!(Unsupported, "block_size {block}"))?;
        let fits = scale.len() == x.len()
            && (0..x.len())
                .all(|i| scale[i] == if i == axis { x[i].div_ceil(block) } else { x[i] });
        ensure!(
            fits,
            ShapeMismatch,
            "scales of shape {scale:?} do not cover {x:?} in blocks of {block} along axis {axis}"
        );
        Ok(Grid {
            extent: x[axis].max(1),
            inner,
            block,
            outer_step: scale[axis] * inner,
            axis_step: inner,
            inner_step: 1,
        })
    }

    /// The scale's index for the element at row-major position `at`.
    fn index(&self, at: usize) -> usize {
        let (rest, i) = (at / self.inner, at % self.inner);
        let (o, j) = (rest / self.extent, rest % self.extent);
        o * self.outer_step + j / self.block * self.axis_step + i * self.inner_step
    }
}

/// The zero points as doubles, or a single zero.
fn zero_points(zero: Option<&Tensor>, scale: &Tensor) -> Result<Option<Vec<f64>>> {
    let Some(zero) = zero else { return Ok(None) };
    ensure!(
        zero.shape() == scale.shape() || zero.len() == 1 && scale.len() == 1,
        ShapeMismatch,
        "zero points of shape {:?} for scales of shape {:?}; they must be equal",
        zero.shape(),
        scale.shape()
    );
    Ok(Some(to_f64(zero)?))
}

fn infer_scales(args: &InferArgs, axis: i64, block: i64) -> Result<()> {
    let constants = |i: usize| -> Option<Vec<usize>> {
        args.shape(i)?.iter().map(|d| usize::try_from(d.as_const()?).ok()).collect()
    };
    if let (Some(x), Some(scale)) = (constants(0), constants(1)) {
        Grid::new(&x, &scale, axis, block)?;
    }
    Ok(())
}

op! {
    /// `y = saturate(round(x / scale) + zero_point)`, ties to even, of x's shape. Inputs: x
    /// (f16, bf16, f32 or i32), scale, and optionally the zero point, of the scale's shape. The
    /// result type is the zero point's, `output_dtype`, or `u8`. The quotient is rounded to
    /// `precision`, by default the scale's type. (ONNX QuantizeLinear-28.)
    QuantizeLinear {
        /// Axis of a vector of scales, or of blocks.
        axis: i64 = 1,
        /// Elements that share a scale in blocked quantisation; 0 for none.
        block_size: i64 = 0,
        /// Result type, where there is no zero point.
        output_dtype: Option<DType> = None,
        /// Type that the quotient is rounded to.
        precision: Option<DType> = None,
        /// Whether 8-bit floats saturate.
        saturate: bool = true,
    }
}

impl QuantizeLinear {
    fn result_type(&self, zero_point: Option<DType>) -> Result<DType> {
        let dtype = match (self.output_dtype, zero_point) {
            (Some(a), Some(b)) if a != b => {
                bail!(DTypeMismatch, "output_dtype is {a}, but the zero point has type {b}")
            }
            (Some(dtype), _) | (None, Some(dtype)) => dtype,
            (None, None) => DType::U8,
        };
        let narrow = dtype.bits() <= 16 && dtype.is_int()
            || dtype.is_float8() && dtype != DType::F8E8M0
            || dtype == DType::F4E2M1;
        ensure!(
            narrow,
            DTypeMismatch,
            "cannot quantise to {dtype}; use an integer of 2 to 16 bits or a float of 4 or 8 bits"
        );
        Ok(dtype)
    }
}

impl Operator for QuantizeLinear {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 3)?;
        args.dtype(1)?;
        let zero = args.get(2).map(Fact::dtype).transpose()?;
        infer_scales(args, self.axis, self.block_size)?;
        Ok(vec![shaped_like(args, 0, self.result_type(zero)?)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, scale, zero) = (args.tensor(0)?, args.tensor(1)?, args.opt(2)?);
        let to = self.result_type(zero.map(Tensor::dtype))?;
        let grid = Grid::new(x.shape(), scale.shape(), self.axis, self.block_size)?;
        let zeros = zero_points(zero, scale)?;
        let round = rounding_to(match self.precision {
            Some(dtype) => dtype,
            None if scale.dtype() == DType::F8E8M0 => DType::F32,
            None => scale.dtype(),
        })?;
        let scales = to_f64(scale)?;
        let mut out: Vec<f64> = vec_for(x.shape())?;
        out.extend(to_f64(x)?.into_iter().enumerate().map(|(at, x)| {
            let s = grid.index(at);
            let quotient = round(x / scales[s]);
            let zero = zeros.as_ref().map_or(0.0, |z| z[s]);
            if to.is_float() { quotient + zero } else { quotient.round_ties_even() + zero }
        }));
        if to.is_int() {
            let (low, high) = int_range(to);
            out.iter_mut().for_each(|x| *x = x.clamp(low, high));
        }
        let out = Tensor::from_vec(x.shape(), out)?;
        Ok(vec![cast(&out, to, self.saturate, ScaleRounding::Up)?.into()])
    }
}

/// The function that rounds a double to `dtype`; integers keep the exact quotient.
fn rounding_to(dtype: DType) -> Result<fn(f64) -> f64> {
    Ok(match dtype {
        DType::F32 => |x| f64::from(x as f32),
        DType::F16 => |x| f16::from_f64(x).to_f64(),
        DType::BF16 => |x| bf16::from_f64(x).to_f64(),
        DType::F64 | DType::I32 => |x| x,
        other => bail!(Unsupported, "cannot divide in {other}; use f32, f16, bf16 or f64"),
    })
}

/// Least and greatest value of an integer type of at most 16 bits.
fn int_range(dtype: DType) -> (f64, f64) {
    let values = f64::from(1u32 << dtype.bits());
    if dtype.is_signed_int() { (-values / 2.0, values / 2.0 - 1.0) } else { (0.0, values - 1.0) }
}

op! {
    /// `y = (x − zero_point) · scale`, of x's shape, in the scale's type or `output_dtype`,
    /// rounded once. Inputs: x (integers of up to 32 bits, floats of 4 or 8), scale, and
    /// optionally the zero point, of x's type and the scale's shape. (ONNX DequantizeLinear-28.)
    DequantizeLinear {
        /// Axis of a vector of scales, or of blocks.
        axis: i64 = 1,
        /// Elements that share a scale in blocked quantisation; 0 for none.
        block_size: i64 = 0,
        /// Result type, by default the scale's.
        output_dtype: Option<DType> = None,
    }
}

impl DequantizeLinear {
    fn result_type(&self, scale: DType) -> Result<DType> {
        let dtype = self.output_dtype.unwrap_or(scale);
        ensure!(
            matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64),
            DTypeMismatch,
            "cannot dequantise to {dtype}; set output_dtype to f32, f16 or bf16"
        );
        Ok(dtype)
    }
}

impl Operator for DequantizeLinear {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 3)?;
        if args.get(2).is_some() {
            args.expect_same_dtype(0, 2)?;
        }
        infer_scales(args, self.axis, self.block_size)?;
        Ok(vec![shaped_like(args, 0, self.result_type(args.dtype(1)?)?)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (x, scale) = (args.tensor(0)?, args.tensor(1)?);
        let to = self.result_type(scale.dtype())?;
        let grid = Grid::new(x.shape(), scale.shape(), self.axis, self.block_size)?;
        let zeros = zero_points(args.opt(2)?, scale)?;
        let scales = to_f64(scale)?;
        let mut out: Vec<f64> = vec_for(x.shape())?;
        out.extend(to_f64(x)?.into_iter().enumerate().map(|(at, x)| {
            let s = grid.index(at);
            (x - zeros.as_ref().map_or(0.0, |z| z[s])) * scales[s]
        }));
        let out = Tensor::from_vec(x.shape(), out)?;
        Ok(vec![cast(&out, to, true, ScaleRounding::Up)?.into()])
    }
}

op! {
    /// Quantises f32 to `u8` over the range of the data, stretched to include 0. Outputs: the
    /// quantised tensor, the scale `(max − min)/255` and the zero point
    /// `round(clamp(−min/scale, 0, 255))`, both scalars. Data without a range has scale 1.
    /// All steps are in single precision. (ONNX DynamicQuantizeLinear-11.)
    DynamicQuantizeLinear {}
}

impl Operator for DynamicQuantizeLinear {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = args.dtype(0)?;
        ensure!(dtype == DType::F32, DTypeMismatch, "expected f32, got {dtype}; insert a Cast");
        let scalar: [Dim; 0] = [];
        Ok(vec![
            shaped_like(args, 0, DType::U8)?,
            Fact::tensor(DType::F32, scalar.clone()),
            Fact::tensor(DType::U8, scalar),
        ])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let (low, high) =
            x.iter::<f32>()?.fold((0f32, 0f32), |(low, high), x| (low.min(x), high.max(x)));
        let scale = if high > low { (high - low) / 255.0 } else { 1.0 };
        let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
        let y = super::util::map(x, |x: f32| {
            ((x / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8
        })?;
        Ok(vec![y.into(), Tensor::scalar(scale)?.into(), Tensor::scalar(zero as u8)?.into()])
    }
}

op! {
    /// Quantises each row (the last axis) of f32 to `u8` around the zero point 128. Inputs: x
    /// `[…, k]` and optionally one factor for each column, `[k]`, by which x is multiplied first.
    /// Outputs: `round(x · factor · (127 / most)) + 128`, ties to even, and the scale `most / 127`,
    /// `[…, 1]`, where `most` is the greatest magnitude in the row. A row of zeros has scale 1 and
    /// bytes 128, one with an infinite number an infinite scale; NaN counts as 0. All steps are in
    /// single precision.
    DynamicQuantizeRows {}
}

impl Operator for DynamicQuantizeRows {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 2)?;
        for i in 0..args.inputs.len() {
            let dtype = args.dtype(i)?;
            ensure!(dtype == DType::F32, DTypeMismatch, "expected f32, got {dtype}; insert a Cast");
        }
        let Some(shape) = args.shape(0) else {
            return Ok(vec![Fact::unranked(DType::U8), Fact::unranked(DType::F32)]);
        };
        let Some(k) = shape.last() else {
            return Err(err!(ShapeMismatch, "a scalar has no rows to quantise"));
        };
        if let Some(factors) = args.shape(1) {
            let fits = factors.len() == 1
                && !matches!((factors[0].as_const(), k.as_const()), (Some(a), Some(b)) if a != b);
            ensure!(fits, ShapeMismatch, "factors of shape {factors:?} for {k} columns");
        }
        let mut scales = shape.to_vec();
        *scales.last_mut().expect("the rank is not 0") = Dim::from(1);
        Ok(vec![shaped_like(args, 0, DType::U8)?, Fact::tensor(DType::F32, scales)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let Some(&k) = x.shape().last() else {
            return Err(err!(ShapeMismatch, "a scalar has no rows to quantise"));
        };
        let mut data = x.to_vec::<f32>()?;
        if let Some(factors) = args.opt(1)? {
            let factors = factors.to_vec::<f32>()?;
            ensure!(factors.len() == k, ShapeMismatch, "{} factors for {k} columns", factors.len());
            data.iter_mut().enumerate().for_each(|(i, x)| *x *= factors[i % k]);
        }
        let (mut q, mut scales) = (Vec::with_capacity(data.len()), Vec::new());
        for row in data.chunks_exact(k.max(1)) {
            let most = row.iter().fold(0f32, |m, x| m.max(x.abs()));
            let usable = most >= f32::MIN_POSITIVE * 127.0;
            let by = if usable { 127.0 / most } else { 0.0 };
            scales.push(if usable { most / 127.0 } else { 1.0 });
            // A cast of NaN to an integer is 0.
            q.extend(row.iter().map(|x| ((x * by).round_ties_even() as i32 + 128) as u8));
        }
        let mut shape = x.shape().to_vec();
        let rank = shape.len();
        shape[rank - 1] = 1;
        if k == 0 {
            scales = vec![1.0; num_elements(&shape)?];
        }
        let q = Tensor::from_vec(x.shape(), q)?;
        Ok(vec![q.into(), Tensor::from_vec(&shape, scales)?.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    fn run(op: &dyn Operator, inputs: &[Option<Value>]) -> Result<Tensor> {
        let args = EvalArgs { inputs, outputs: 1, env: &NoSubgraphs };
        op.eval(&args)?[0].tensor().cloned()
    }

    #[test]
    fn grids_cover_tensors_per_axis_and_in_ragged_blocks() {
        let index = |x: &[usize], scale: &[usize], axis, block| {
            let g = Grid::new(x, scale, axis, block).unwrap();
            (0..x.iter().product()).map(|at| g.index(at)).collect::<Vec<_>>()
        };
        assert_eq!(index(&[2, 2], &[], 1, 0), [0, 0, 0, 0]);
        assert_eq!(index(&[2, 3], &[3], 1, 0), [0, 1, 2, 0, 1, 2]);
        assert_eq!(index(&[2, 3], &[2], -2, 0), [0, 0, 0, 1, 1, 1]);
        assert_eq!(index(&[2, 3], &[2, 2], 1, 2), [0, 0, 1, 2, 2, 3]);
        assert_eq!(index(&[3, 2], &[2, 2], 0, 2), [0, 1, 0, 1, 2, 3]);
        assert_eq!(index(&[3], &[3], 1, 0), [0, 1, 2]);
        for (x, scale, axis, block) in
            [(&[2, 3][..], &[2][..], 1, 0), (&[2, 3], &[2, 2], 1, 0), (&[2, 3], &[2, 1], 1, 2)]
        {
            assert!(Grid::new(x, scale, axis, block).is_err(), "{x:?} {scale:?}");
        }
    }

    #[test]
    fn narrow_results_saturate_and_round_to_even() {
        let x: Value = Tensor::from_slice(&[5], &[-9.0f32, -0.5, 0.5, 1.5, 99.0]).unwrap().into();
        let one: Value = Tensor::scalar(1f32).unwrap().into();
        let op = QuantizeLinear { output_dtype: Some(DType::I4), ..Default::default() };
        let got = run(&op, &[Some(x), Some(one)]).unwrap();
        assert_eq!(got.unpack().unwrap().to_vec::<i8>().unwrap(), [-8, 0, 0, 2, 7]);
    }

    #[test]
    fn a_constant_input_has_scale_one() {
        let x: Value = Tensor::zeros(DType::F32, &[3]).unwrap().into();
        let args = EvalArgs { inputs: &[Some(x)], outputs: 3, env: &NoSubgraphs };
        let got = DynamicQuantizeLinear {}.eval(&args).unwrap();
        assert_eq!(got[1].tensor().unwrap().item::<f32>().unwrap(), 1.0);
        assert_eq!(got[0].tensor().unwrap().to_vec::<u8>().unwrap(), [0, 0, 0]);
    }
}
