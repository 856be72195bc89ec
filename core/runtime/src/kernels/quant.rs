//! Bytes: quantisation, products, sums.

use super::attention::Threads;
use super::elementwise::function;
use super::{expect_shape, floats, none};
use crate::registry::{KernelArgs, KernelDef, Output, PrepareArgs, Prepared};
use deepseek_graph::ops::util::{normalize_axis, to_i64};
use deepseek_graph::{Dim, Fact, ops};
use deepseek_kernels_cpu::elementwise::Unary;
use deepseek_kernels_cpu::gemm::{
    ByteMat, ByteOut, Bytes, PackedI8, Zeros, gemm_i8, gemm_i8_scratch, int8_arch,
};
use deepseek_kernels_cpu::int8::{Quantised, add_i8};
use deepseek_kernels_cpu::quant::{dequantize, dynamic_range, quantize, quantize_rows};
use deepseek_tensor::{DType, Result, Tensor, ensure, err};

pub(super) static KERNELS: &[KernelDef] = &[
    KernelDef { op: "MatMulInteger", prepare: integer },
    KernelDef { op: "MatMulIntegerToFloat", prepare: to_float },
    KernelDef { op: "QLinearMatMul", prepare: requantised },
    KernelDef { op: "QLinearAdd", prepare: add },
    KernelDef { op: "QuantizeLinear", prepare: quantise },
    KernelDef { op: "DequantizeLinear", prepare: dequantise },
    KernelDef { op: "DynamicQuantizeLinear", prepare: dynamic },
    KernelDef { op: "DynamicQuantizeRows", prepare: dynamic_rows },
];

/// The elements of a tensor of bytes.
pub(super) fn bytes(t: &Tensor) -> Result<Bytes<'_>> {
    match t.dtype() {
        DType::U8 => Ok(Bytes::U8(t.as_slice()?)),
        DType::I8 => Ok(Bytes::I8(t.as_slice()?)),
        other => Err(err!(DTypeMismatch, "expected bytes, got {other}")),
    }
}

pub(super) fn is_bytes(dtype: Option<DType>) -> bool {
    matches!(dtype, Some(DType::U8 | DType::I8))
}

/// `u8s8` and the like.
pub(super) fn signs(args: &PrepareArgs, a: usize, b: usize) -> String {
    let one = |i| if args.dtype(i) == Some(DType::I8) { "s8" } else { "u8" };
    format!("{}{}", one(a), one(b))
}

/// Binds a kernel that multiplies bytes, under the name of the instruction that it uses.
pub(super) fn bind_bytes(
    args: &PrepareArgs,
    dtypes: &str,
    variant: &str,
    scratch: usize,
    run: impl Fn(&mut KernelArgs) -> Result<()> + Send + Sync + 'static,
) -> Result<Option<Prepared>> {
    Ok(Some(Prepared {
        name: format!("{}-{dtypes}-{variant}", int8_arch(args.isa)),
        scratch_bytes: Dim::from(scratch * size_of::<f32>()),
        kernel: Box::new(super::FnKernel(run, &[])),
    }))
}

/// One number of a run-time zero point or of an absent one.
pub(super) fn zero_point(t: Option<&Tensor>) -> Result<i32> {
    let Some(t) = t else { return Ok(0) };
    ensure!(t.len() == 1, ShapeMismatch, "{} zero points, expected one", t.len());
    Ok(match t.dtype() {
        DType::U8 => i32::from(t.item::<u8>()?),
        _ => i32::from(t.item::<i8>()?),
    })
}

/// One scale.
pub(super) fn scale(t: &Tensor) -> Result<f32> {
    ensure!(t.len() == 1, ShapeMismatch, "{} scales, expected one", t.len());
    t.item::<f32>()
}

/// Whether input `i` is absent or known to have one element.
pub(super) fn single(args: &PrepareArgs, i: usize) -> bool {
    let Some(fact) = args.input(i) else { return true };
    fact.shape().is_some_and(|s| s.iter().all(|d| d.as_const() == Some(1)))
}

/// Constant input `i` as numbers, one or `n` of them.
pub(super) fn scales(args: &PrepareArgs, i: usize, n: usize) -> Result<Option<Vec<f32>>> {
    let Some(t) = args.constant(i).filter(|t| t.dtype() == DType::F32) else { return Ok(None) };
    let fits = t.len() == 1 || t.len() == n && t.shape().last() == Some(&n);
    if fits { t.to_vec::<f32>().map(Some) } else { Ok(None) }
}

/// Constant zero points of `n` columns, 0 where input `i` is absent.
pub(super) fn zeros(args: &PrepareArgs, i: usize, n: usize) -> Result<Option<Vec<i32>>> {
    if args.input(i).is_none() {
        return Ok(Some(vec![0; n]));
    }
    let Some(t) = args.constant(i) else { return Ok(None) };
    let z: Vec<i32> = to_i64(t)?.into_iter().map(|z| z as i32).collect();
    Ok(match z.len() {
        1 => Some(vec![z[0]; n]),
        len if len == n && t.shape().last() == Some(&n) => Some(z),
        _ => None,
    })
}

/// The constant matrix of bytes behind input `b`, packed with the zero points of input `zero`.
fn weights(args: &PrepareArgs, b: usize, zero: usize) -> Result<Option<PackedI8>> {
    let Some(w) = args.constant(b).filter(|t| t.rank() == 2 && is_bytes(Some(t.dtype()))) else {
        return Ok(None);
    };
    let (k, n) = (w.shape()[0], w.shape()[1]);
    let Some(zeros) = zeros(args, zero, n)? else { return Ok(None) };
    let w = w.to_contiguous()?;
    let mat = ByteMat { data: bytes(&w)?, row: n, col: 1 };
    Ok(Some(PackedI8::new(args.isa, k, n, mat, Zeros::Cols(&zeros))))
}

/// Rows of the left operand, all of its leading axes.
fn rows(a: &Tensor, packed: &PackedI8) -> Result<usize> {
    let (lead, k) = a.shape().split_at(a.rank() - 1);
    ensure!(
        k[0] == packed.k(),
        ShapeMismatch,
        "cannot multiply {} columns by {} rows",
        k[0],
        packed.k()
    );
    Ok(lead.iter().product())
}

fn expect_len(out: &Output, want: usize) -> Result<()> {
    let got = out.len();
    ensure!(got == want, ShapeMismatch, "the product has {want} elements, the output {got}");
    Ok(())
}

/// Whether input 0 is a matrix of bytes, or several.
fn multiplies(args: &PrepareArgs) -> bool {
    is_bytes(args.dtype(0)) && args.input(0).and_then(Fact::rank).is_some_and(|r| r >= 2)
}

fn scratch(args: &PrepareArgs, packed: &PackedI8) -> usize {
    gemm_i8_scratch(args.isa, &Threads(args.threads), packed.k())
}

fn integer(args: &PrepareArgs) -> Result<Option<Prepared>> {
    if !multiplies(args) || !single(args, 2) {
        return Ok(None);
    }
    let Some(packed) = weights(args, 1, 3)? else { return Ok(None) };
    let dtypes = format!("{}s32", signs(args, 0, 1));
    bind_bytes(args, &dtypes, "gemm-packed", scratch(args, &packed), move |k| {
        let a = k.input(0)?.clone();
        let (m, n) = (rows(&a, &packed)?, packed.n());
        let zero = zero_point(k.opt(2))?;
        expect_len(&k.outputs[0], m * n)?;
        let c = k.outputs[0].as_slice_mut::<i32>()?;
        let a = ByteMat { data: bytes(&a)?, row: packed.k(), col: 1 };
        let out = ByteOut::I32 { c, row: n };
        gemm_i8(k.isa, k.pool, m, a, zero, &packed, out, k.scratch);
        Ok(())
    })
}

fn to_float(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::MatMulIntegerToFloat>() else { return Ok(None) };
    if !multiplies(args) || !single(args, 2) && !for_rows(args, 2) || !single(args, 4) {
        return Ok(None);
    }
    let Some(activation) = unary(op.activation.as_ref()) else { return Ok(None) };
    let Some(packed) = weights(args, 1, 5)? else { return Ok(None) };
    let Some(col_scale) = scales(args, 3, packed.n())? else { return Ok(None) };
    let dtypes = format!("{}f32", signs(args, 0, 1));
    bind_bytes(args, &dtypes, "gemm-packed", scratch(args, &packed), move |k| {
        let a = k.input(0)?.clone();
        let (m, n) = (rows(&a, &packed)?, packed.n());
        let (a_scale, zero) = (k.input(2)?.clone(), zero_point(k.opt(4))?);
        let scale = floats(&a_scale)?;
        ensure!(
            scale.len() == 1 || scale.len() == m,
            ShapeMismatch,
            "{} scales for {m} rows",
            scale.len()
        );
        let bias = k.opt(6).cloned();
        if let Some(b) = &bias {
            expect_shape("the bias", b.shape(), &[n])?;
        }
        let bias = bias.as_ref().map(floats).transpose()?;
        expect_len(&k.outputs[0], m * n)?;
        let c = k.outputs[0].as_slice_mut::<f32>()?;
        let a = ByteMat { data: bytes(&a)?, row: packed.k(), col: 1 };
        let col_scale = &col_scale[..];
        let out = ByteOut::F32 { scale, col_scale, bias, activation, c, row: n };
        gemm_i8(k.isa, k.pool, m, a, zero, &packed, out, k.scratch);
        Ok(())
    })
}

/// Whether input `i` has one number for each row of input 0.
fn for_rows(args: &PrepareArgs, i: usize) -> bool {
    let bounds = args.graph.bounds();
    match (args.input(0).and_then(Fact::shape), args.input(i).and_then(Fact::shape)) {
        (Some(a), Some(s)) => {
            let rows = a.len().wrapping_sub(1);
            s.len() == a.len()
                && s[rows].as_const() == Some(1)
                && s[..rows].iter().zip(a).all(|(s, a)| s.always_eq(a, bounds))
        }
        _ => false,
    }
}

/// The function of an activation; `None` if there is one without a function.
pub(super) fn unary(activation: Option<&ops::Pointwise>) -> Option<Option<Unary>> {
    match activation {
        None => Some(None),
        Some(f) => function(f).map(Some),
    }
}

/// What turns sums into bytes, all of it constant.
pub(super) struct Requantise {
    /// To steps of the result, or to numbers where there is an activation.
    scale: Vec<f32>,
    bias: Option<Vec<i32>>,
    zero: i32,
    signed: bool,
    /// With one by the scale of the result.
    activation: Option<(Unary, f32)>,
}

impl Requantise {
    /// Of inputs `x_scale`, `w_scale`, `y_scale`, `y_zero` and `bias`, for `n` columns.
    pub(super) fn new(
        args: &PrepareArgs,
        [x_scale, w_scale, y_scale, y_zero, bias]: [usize; 5],
        n: usize,
        activation: Option<&ops::Pointwise>,
    ) -> Result<Option<Self>> {
        let Some(activation) = unary(activation) else { return Ok(None) };
        let (Some(x), Some(w), Some(y)) =
            (scales(args, x_scale, 1)?, scales(args, w_scale, n)?, scales(args, y_scale, 1)?)
        else {
            return Ok(None);
        };
        let Some(zero) = args.constant(y_zero).filter(|t| t.len() == 1) else { return Ok(None) };
        let bias = match (args.input(bias), args.constant(bias)) {
            (None, _) => None,
            (Some(_), Some(t)) if t.shape() == [n] => Some(t.to_vec::<i32>()?),
            _ => return Ok(None),
        };
        let signed = match zero.dtype() {
            DType::I8 => true,
            DType::U8 => false,
            _ => return Ok(None),
        };
        let scale = match activation {
            Some(_) => w.iter().map(|w| x[0] * w).collect(),
            None => w.iter().map(|w| x[0] * w / y[0]).collect(),
        };
        let activation = activation.map(|f| (f, 1.0 / y[0]));
        Ok(Some(Requantise { scale, bias, zero: zero_point(Some(zero))?, signed, activation }))
    }

    /// The name of the type of the result.
    pub(super) fn name(&self) -> &'static str {
        if self.signed { "s8" } else { "u8" }
    }

    /// The way out of sums into rows of `row` bytes.
    pub(super) fn out<'a>(&'a self, y: &'a mut Output, row: usize) -> Result<ByteOut<'a>> {
        let (scale, bias) = (&self.scale[..], self.bias.as_deref());
        if let Some((activation, inverse)) = self.activation {
            let (zero, signed, c) = (self.zero, self.signed, y.as_bytes_mut()?);
            return Ok(ByteOut::Activated {
                scale,
                bias,
                activation,
                inverse,
                zero,
                signed,
                c,
                row,
            });
        }
        Ok(if self.signed {
            ByteOut::I8 { scale, bias, zero: self.zero as i8, c: y.as_slice_mut()?, row }
        } else {
            ByteOut::U8 { scale, bias, zero: self.zero as u8, c: y.as_slice_mut()?, row }
        })
    }
}

fn requantised(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::QLinearMatMul>() else { return Ok(None) };
    if !multiplies(args) || !single(args, 2) {
        return Ok(None);
    }
    let Some(packed) = weights(args, 3, 5)? else { return Ok(None) };
    let way = Requantise::new(args, [1, 4, 6, 7, 8], packed.n(), op.activation.as_ref())?;
    let Some(way) = way else { return Ok(None) };
    let dtypes = format!("{}{}", signs(args, 0, 3), way.name());
    bind_bytes(args, &dtypes, "gemm-packed", scratch(args, &packed), move |k| {
        let a = k.input(0)?.clone();
        let (m, n) = (rows(&a, &packed)?, packed.n());
        let zero = zero_point(k.opt(2))?;
        expect_len(&k.outputs[0], m * n)?;
        let a = ByteMat { data: bytes(&a)?, row: packed.k(), col: 1 };
        let out = way.out(&mut k.outputs[0], n)?;
        gemm_i8(k.isa, k.pool, m, a, zero, &packed, out, k.scratch);
        Ok(())
    })
}

fn add(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let bounds = args.graph.bounds();
    let same = match (args.input(0).and_then(Fact::shape), args.input(3).and_then(Fact::shape)) {
        (Some(a), Some(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.always_eq(b, bounds))
        }
        _ => false,
    };
    if !same || ![1, 2, 4, 5, 6, 7].into_iter().all(|i| single(args, i)) {
        return Ok(None);
    }
    let f32s = [1, 4, 6].into_iter().all(|i| args.dtype(i) == Some(DType::F32));
    if !f32s || ![0, 3, 7].into_iter().all(|i| is_bytes(args.dtype(i))) {
        return Ok(None);
    }
    let signed = args.dtype(7) == Some(DType::I8);
    super::bind(args, &signs(args, 0, 3), "add", none(), move |k| {
        let (a, b) = (k.input(0)?.clone(), k.input(3)?.clone());
        expect_shape("a summand", a.shape(), k.outputs[0].shape())?;
        expect_shape("a summand", b.shape(), k.outputs[0].shape())?;
        let how = |s: usize, z: usize| -> Result<Quantised> {
            Ok(Quantised { scale: scale(k.input(s)?)?, zero: zero_point(k.opt(z))? })
        };
        let (a_as, b_as, y_as) = (how(1, 2)?, how(4, 5)?, how(6, 7)?);
        let y = k.outputs[0].as_bytes_mut()?;
        add_i8(k.isa, k.pool, (bytes(&a)?, a_as), (bytes(&b)?, b_as), y_as, signed, y);
        Ok(())
    })
}

/// `[outer, channels, inner]` around an axis; one channel for one scale.
fn around(shape: &[usize], axis: i64, scales: usize) -> Result<(usize, usize, usize)> {
    if scales == 1 {
        return Ok((1, 1, shape.iter().product()));
    }
    let axis = if shape.len() == 1 { 0 } else { normalize_axis(axis, shape.len())? };
    ensure!(
        shape[axis] == scales,
        ShapeMismatch,
        "{scales} scales for axis {axis} of shape {shape:?}, which has {}",
        shape[axis]
    );
    let outer = shape[..axis].iter().product();
    Ok((outer, scales, shape[axis + 1..].iter().product()))
}

/// Whether scales (input 1) are a number or a vector of `f32`.
fn plain_scales(args: &PrepareArgs, block: i64) -> bool {
    let vector = args.input(1).and_then(Fact::rank).is_some_and(|r| r <= 1);
    block == 0 && vector && args.dtype(1) == Some(DType::F32)
}

fn quantise(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::QuantizeLinear>() else { return Ok(None) };
    let to = args.output(0).and_then(|f| f.dtype().ok());
    let precise = op.precision.is_none_or(|p| p == DType::F32);
    if !plain_scales(args, op.block_size)
        || args.dtype(0) != Some(DType::F32)
        || !is_bytes(to)
        || !precise
    {
        return Ok(None);
    }
    let axis = op.axis;
    let dtypes = if to == Some(DType::I8) { "f32s8" } else { "f32u8" };
    super::bind(args, dtypes, "quantize", none(), move |k| {
        let (x, s, z) = (k.input(0)?.clone(), k.input(1)?.clone(), k.opt(2).cloned());
        let shape = around(x.shape(), axis, s.len())?;
        let (x, s) = (floats(&x)?, floats(&s)?);
        let out = &mut k.outputs[0];
        ensure!(out.len() == x.len(), ShapeMismatch, "{} results for {}", out.len(), x.len());
        let zeros = |n: usize| ensure_len(z.as_ref(), n);
        zeros(s.len())?;
        match out.dtype() {
            DType::I8 => {
                let z = z.as_ref().map(|z| z.as_slice::<i8>()).transpose()?;
                quantize(k.isa, k.pool, shape, x, s, z, out.as_slice_mut::<i8>()?);
            }
            _ => {
                let z = z.as_ref().map(|z| z.as_slice::<u8>()).transpose()?;
                quantize(k.isa, k.pool, shape, x, s, z, out.as_slice_mut::<u8>()?);
            }
        }
        Ok(())
    })
}

fn ensure_len(zeros: Option<&Tensor>, n: usize) -> Result<()> {
    let got = zeros.map_or(n, Tensor::len);
    ensure!(got == n, ShapeMismatch, "{got} zero points for {n} scales");
    Ok(())
}

fn dequantise(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let Some(op) = args.op::<ops::DequantizeLinear>() else { return Ok(None) };
    let f32s = args.output(0).is_some_and(|f| f.dtype().is_ok_and(|d| d == DType::F32));
    if !plain_scales(args, op.block_size) || !f32s || !is_bytes(args.dtype(0)) {
        return Ok(None);
    }
    let axis = op.axis;
    let dtypes = if args.dtype(0) == Some(DType::I8) { "s8f32" } else { "u8f32" };
    super::bind(args, dtypes, "dequantize", none(), move |k| {
        let (x, s, z) = (k.input(0)?.clone(), k.input(1)?.clone(), k.opt(2).cloned());
        let shape = around(x.shape(), axis, s.len())?;
        let s = floats(&s)?;
        let y = k.outputs[0].as_slice_mut::<f32>()?;
        ensure!(y.len() == x.len(), ShapeMismatch, "{} results for {}", y.len(), x.len());
        ensure_len(z.as_ref(), s.len())?;
        match bytes(&x)? {
            Bytes::I8(x) => {
                let z = z.as_ref().map(|z| z.as_slice::<i8>()).transpose()?;
                dequantize(k.isa, k.pool, shape, x, s, z, y);
            }
            Bytes::U8(x) => {
                let z = z.as_ref().map(|z| z.as_slice::<u8>()).transpose()?;
                dequantize(k.isa, k.pool, shape, x, s, z, y);
            }
        }
        Ok(())
    })
}

fn dynamic(args: &PrepareArgs) -> Result<Option<Prepared>> {
    if args.dtype(0) != Some(DType::F32) || args.node.outputs.iter().any(Option::is_none) {
        return Ok(None);
    }
    if args.node.outputs.len() != 3 {
        return Ok(None);
    }
    super::bind(args, "f32u8", "dynamic-quantize", none(), |k| {
        let x = k.input(0)?.clone();
        let x = floats(&x)?;
        let (scale, zero) = dynamic_range(k.isa, k.pool, x);
        let [y, s, z] = &mut *k.outputs else {
            return Err(err!(Internal, "three outputs were asked for"));
        };
        let y = y.as_slice_mut::<u8>()?;
        ensure!(y.len() == x.len(), ShapeMismatch, "{} results for {}", y.len(), x.len());
        quantize(k.isa, k.pool, (1, 1, x.len()), x, &[scale], Some(&[zero]), y);
        s.as_slice_mut::<f32>()?[0] = scale;
        z.as_slice_mut::<u8>()?[0] = zero;
        Ok(())
    })
}

fn dynamic_rows(args: &PrepareArgs) -> Result<Option<Prepared>> {
    let both = args.node.outputs.len() == 2 && args.node.outputs.iter().all(Option::is_some);
    if args.dtype(0) != Some(DType::F32) || !both {
        return Ok(None);
    }
    super::bind(args, "f32u8", "quantize-rows", none(), |k| {
        let (x, factors) = (k.input(0)?.clone(), k.opt(1).cloned());
        let width = x.shape().last().copied().unwrap_or(0);
        if let Some(f) = &factors {
            expect_shape("the factors", f.shape(), &[width])?;
        }
        let x = floats(&x)?;
        let factors = factors.as_ref().map(floats).transpose()?;
        let [y, s] = &mut *k.outputs else {
            return Err(err!(Internal, "two outputs were asked for"));
        };
        let (y, s) = (y.as_slice_mut::<u8>()?, s.as_slice_mut::<f32>()?);
        ensure!(
            y.len() == x.len() && s.len() * width == x.len(),
            ShapeMismatch,
            "{} bytes and {} scales for {} elements in rows of {width}",
            y.len(),
            s.len(),
            x.len()
        );
        quantize_rows(k.isa, k.pool, width, x, factors, y, s);
        Ok(())
    })
}
