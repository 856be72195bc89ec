//! Linear quantisation: `q = saturate(round(x / scale) + zero)`, `x = (q - zero) scale`.
//!
//! Tensors are `[outer, channels, inner]` with one scale (and zero point) per channel; one channel
//! means one scale for all. Rounding is to nearest, ties to even, after an exact-to-rounding division,
//! as ONNX `QuantizeLinear` has it. A NaN becomes the zero point.

use crate::Isa;
use crate::elementwise::Unary;
use crate::elementwise::apply;
use crate::parallel::{Parallel, Shared, split};
use crate::simd::{Kernel, MAX_LANES, Simd};

/// An 8-bit integer that values are quantised to.
pub trait Quant: Copy + Send + Sync + sealed::Sealed + 'static {
    /// Smallest and largest value.
    const RANGE: (i32, i32);
    /// The value.
    fn widen(self) -> i32;
    /// Whether the type has a sign.
    const SIGNED: bool;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for i8 {}
}

macro_rules! quant {
    ($($ty:ty),*) => {
        $(
            impl Quant for $ty {
                const RANGE: (i32, i32) = (<$ty>::MIN as i32, <$ty>::MAX as i32);
                #[inline(always)]
                fn widen(self) -> i32 {
                    self as i32
                }
                const SIGNED: bool = <$ty>::MIN != 0;
            }
        )*
    };
}

quant!(u8, i8);

const STEP: usize = 32 * 1024;

fn check(
    what: &str,
    (outer, channels, inner): (usize, usize, usize),
    x: usize,
    y: usize,
    scales: usize,
    zeros: Option<usize>,
) {
    assert_eq!(
        x,
        outer * channels * inner,
        "{what}: input length against {outer} x {channels} x {inner}"
    );
    assert_eq!(y, x, "{what}: output length against input length");
    assert_eq!(scales, channels, "{what}: scales against channels");
    assert!(zeros.is_none_or(|z| z == channels), "{what}: zero points against {channels} channels");
}

struct QuantizeRow<'a, T> {
    x: &'a [f32],
    scale: f32,
    zero: i32,
    y: &'a mut [T],
}

impl<T: Quant> Kernel for QuantizeRow<'_, T> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let QuantizeRow { x, scale, zero, y } = self;
        let scale = s.splat(scale);
        // Bounds before the zero point is added; all are small integers, exact as floats.
        let low = s.splat((T::RANGE.0 - zero) as f32);
        let high = s.splat((T::RANGE.1 - zero) as f32);
        for (x, y) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)) {
            // SAFETY: the chunk has `x.len() <= LANES` floats, `q` the bytes of every vector.
            unsafe {
                let v = s.div(s.load_n(x.as_ptr(), x.len()), scale);
                let v = s.select(s.unordered(v, v), s.zero(), v);
                let v = s.add_i(s.to_int(s.max(low, s.min(high, v))), s.splat_i(zero));
                if y.len() == S::LANES {
                    s.store_low_bytes(y.as_mut_ptr().cast(), v);
                } else {
                    let mut q = [0u8; MAX_LANES];
                    s.store_low_bytes(q.as_mut_ptr(), v);
                    y.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(q.as_ptr(), y.len());
                }
            }
        }
    }
}

/// `y = saturate(round(x / scale) + zero)` over `[outer, channels, inner]`.
///
/// # Panics
/// When a length disagrees with the shape.
pub fn quantize<T: Quant>(
    isa: Isa,
    par: &dyn Parallel,
    shape: (usize, usize, usize),
    x: &[f32],
    scales: &[f32],
    zeros: Option<&[T]>,
    y: &mut [T],
) {
    check("quantize", shape, x.len(), y.len(), scales.len(), zeros.map(<[T]>::len));
    let y = Shared::new(y);
    rows(par, shape, &|c, start, n| {
        // SAFETY: the ranges of the tasks are disjoint and lie in `y`.
        let y = unsafe { y.part(start, n) };
        let zero = zeros.map_or(0, |z| z[c].widen());
        isa.dispatch(QuantizeRow { x: &x[start..start + n], scale: scales[c], zero, y });
    });
}

struct DequantizeRow<'a, T> {
    x: &'a [T],
    scale: f32,
    zero: i32,
    y: &'a mut [f32],
}

impl<T: Quant> Kernel for DequantizeRow<'_, T> {
    type Output = ();
    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (zero, scale) = (s.splat_i(self.zero), s.splat(self.scale));
        let whole = self.x.len() / S::LANES * S::LANES;
        for (y, x) in self.y.chunks_exact_mut(S::LANES).zip(self.x.chunks_exact(S::LANES)) {
            // SAFETY: both chunks are whole vectors, of bytes and of floats.
            unsafe {
                let p = x.as_ptr();
                let x = if T::SIGNED { s.load_i8(p.cast()) } else { s.load_u8(p.cast()) };
                s.store(y.as_mut_ptr(), s.mul(s.to_float(s.sub_i(x, zero)), scale));
            }
        }
        for (y, x) in self.y[whole..].iter_mut().zip(&self.x[whole..]) {
            *y = (x.widen() - self.zero) as f32 * self.scale;
        }
    }
}

/// `y = (x - zero) scale` over `[outer, channels, inner]`.
///
/// # Panics
/// When a length disagrees with the shape.
pub fn dequantize<T: Quant>(
    isa: Isa,
    par: &dyn Parallel,
    shape: (usize, usize, usize),
    x: &[T],
    scales: &[f32],
    zeros: Option<&[T]>,
    y: &mut [f32],
) {
    check("dequantize", shape, x.len(), y.len(), scales.len(), zeros.map(<[T]>::len));
    let y = Shared::new(y);
    rows(par, shape, &|c, start, n| {
        // SAFETY: the ranges of the tasks are disjoint and lie in `y`.
        let y = unsafe { y.part(start, n) };
        let zero = zeros.map_or(0, |z| z[c].widen());
        isa.dispatch(DequantizeRow { x: &x[start..start + n], scale: scales[c], zero, y });
    });
}

/// Calls `body(channel, start, len)` for runs of one channel.
fn rows(
    par: &dyn Parallel,
    (outer, channels, inner): (usize, usize, usize),
    body: &(dyn Fn(usize, usize, usize) + Sync),
) {
    if channels == 1 {
        split(par, outer * inner, STEP, &|start, n| body(0, start, n));
        return;
    }
    split(par, outer * channels, STEP.div_ceil(inner.max(1)), &|first, n| {
        for r in first..first + n {
            body(r % channels, r * inner, inner);
        }
    });
}

/// The scale and zero point that cover `x` and zero in `u8`, as ONNX `DynamicQuantizeLinear` chooses
/// them: `scale = (max - min) / 255`, `zero = saturate(round(-min / scale))`. All zeros give `(1, 0)`.
pub fn dynamic_range(isa: Isa, par: &dyn Parallel, x: &[f32]) -> (f32, u8) {
    use crate::reduce::{Reduce, reduce};
    const PARTS: usize = 64;
    let mut bounds = [[0.0f32; 2]; PARTS];
    let step = x.len().div_ceil(PARTS).max(STEP);
    let out = Shared::new(&mut bounds);
    split(par, x.len(), step, &|start, n| {
        // SAFETY: each task has a part of its own, of which there are `PARTS` at most.
        let part = unsafe { out.part(start / step, 1) };
        for (op, y) in [Reduce::Min, Reduce::Max].into_iter().zip(&mut part[0]) {
            let mut bound = [0.0];
            reduce(isa, &crate::Serial, op, 1, n, 1, &x[start..start + n], &mut bound);
            *y = bound[0];
        }
    });
    let (low, high) =
        bounds.iter().fold((0f32, 0f32), |(low, high), b| (low.min(b[0]), high.max(b[1])));
    let scale = (high - low) / 255.0;
    if scale == 0.0 || !scale.is_finite() {
        return (1.0, 0);
    }
    (scale, (-low / scale).round_ties_even().clamp(0.0, 255.0) as u8)
}

struct QuantizeRow128<'a> {
    x: &'a [f32],
    factors: Option<&'a [f32]>,
    y: &'a mut [u8],
}

impl Kernel for QuantizeRow128<'_> {
    type Output = f32;
    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> f32 {
        let QuantizeRow128 { x, factors, y } = self;
        let k = x.len();
        // SAFETY: every access is to elements `i..i + n` of slices of `k`.
        let at = |i: usize, n: usize| unsafe {
            let v = s.load_n(x[i..i + n].as_ptr(), n);
            match factors {
                Some(f) => s.mul(v, s.load_n(f[i..i + n].as_ptr(), n)),
                None => v,
            }
        };
        let mut most = s.zero();
        for i in (0..k).step_by(S::LANES) {
            let v = s.abs(at(i, S::LANES.min(k - i)));
            most = s.max(most, s.select(s.unordered(v, v), s.zero(), v));
        }
        let mut lanes = [0f32; MAX_LANES];
        // SAFETY: the array holds a vector.
        unsafe { s.store(lanes.as_mut_ptr(), most) };
        let most = lanes[..S::LANES].iter().fold(0f32, |m, x| m.max(*x));
        let usable = most >= f32::MIN_POSITIVE * 127.0;
        let (by, scale) = if usable { (127.0 / most, most / 127.0) } else { (0.0, 1.0) };
        let (by, middle) = (s.splat(by), s.splat_i(128));
        for i in (0..k).step_by(S::LANES) {
            let n = S::LANES.min(k - i);
            let v = s.mul(at(i, n), by);
            let v = s.select(s.unordered(v, v), s.zero(), v);
            let v = s.add_i(s.to_int(v), middle);
            let to = y[i..i + n].as_mut_ptr();
            // SAFETY: `n` bytes of the row, or a whole vector of them.
            unsafe {
                if n == S::LANES {
                    s.store_low_bytes(to, v);
                } else {
                    let mut q = [0u8; MAX_LANES];
                    s.store_low_bytes(q.as_mut_ptr(), v);
                    to.copy_from_nonoverlapping(q.as_ptr(), n);
                }
            }
        }
        scale
    }
}

/// Quantises each row of `x` `[rows, k]` around the zero point 128: `y = round(x factor (127 / most)) +
/// 128` with the greatest magnitude `most` of the row, whose scale is `most / 127`. A row of zeros has
/// scale 1, NaN counts as 0. `factors` has one number for each column.
///
/// # Panics
/// When a length disagrees.
pub fn quantize_rows(
    isa: Isa,
    par: &dyn Parallel,
    k: usize,
    x: &[f32],
    factors: Option<&[f32]>,
    y: &mut [u8],
    scales: &mut [f32],
) {
    let rows = scales.len();
    assert_eq!(x.len(), rows * k, "quantize_rows: input length against {rows} rows of {k}");
    assert_eq!(y.len(), x.len(), "quantize_rows: output length against input length");
    assert!(factors.is_none_or(|f| f.len() == k), "quantize_rows: factors against {k} columns");
    let (y, scales) = (Shared::new(y), Shared::new(scales));
    split(par, rows, STEP.div_ceil(4 * k.max(1)), &|first, n| {
        for r in first..first + n {
            // SAFETY: each task has rows of its own.
            let (y, scale) = unsafe { (y.part(r * k, k), scales.part(r, 1)) };
            let x = &x[r * k..(r + 1) * k];
            scale[0] = isa.dispatch(QuantizeRow128 { x, factors, y });
        }
    });
}

/// `y[r, c] = activation(acc[r, c] row_scale col_scale[c] + bias[c])`: the way out of an 8-bit product.
/// `col_scale` has one value or `cols`; `bias` has `cols`.
///
/// # Panics
/// When a length disagrees.
#[expect(clippy::too_many_arguments, reason = "an input, its shape, its scales and an output")]
pub fn rescale(
    isa: Isa,
    par: &dyn Parallel,
    rows: usize,
    cols: usize,
    acc: &[i32],
    row_scale: f32,
    col_scale: &[f32],
    bias: Option<&[f32]>,
    activation: Option<Unary>,
    y: &mut [f32],
) {
    assert_eq!(acc.len(), rows * cols, "rescale: input length against {rows} rows of {cols}");
    assert_eq!(y.len(), acc.len(), "rescale: output length against input length");
    assert!(
        col_scale.len() == 1 || col_scale.len() == cols,
        "rescale: {} scales, want 1 or {cols}",
        col_scale.len()
    );
    assert!(bias.is_none_or(|b| b.len() == cols), "rescale: bias does not have {cols} values");
    struct Row<'a> {
        acc: &'a [i32],
        row_scale: f32,
        col_scale: &'a [f32],
        bias: Option<&'a [f32]>,
        activation: Option<Unary>,
        y: &'a mut [f32],
    }
    impl Kernel for Row<'_> {
        type Output = ();
        #[inline(always)]
        fn call<S: Simd>(self, s: S) {
            let Row { acc, row_scale, col_scale, bias, activation, y } = self;
            if let [scale] = col_scale {
                let k = row_scale * scale;
                for (y, a) in y.iter_mut().zip(acc) {
                    *y = *a as f32 * k;
                }
            } else {
                for ((y, a), k) in y.iter_mut().zip(acc).zip(col_scale) {
                    *y = *a as f32 * (row_scale * k);
                }
            }
            if let Some(bias) = bias {
                for (y, b) in y.iter_mut().zip(bias) {
                    *y += b;
                }
            }
            if let Some(op) = activation {
                let (p, n) = (y.as_mut_ptr(), y.len());
                // SAFETY: one row of the length of `y`.
                unsafe { apply(s, op, p, p, n) };
            }
        }
    }
    let y = Shared::new(y);
    split(par, rows, STEP.div_ceil(cols.max(1)), &|start, n| {
        for r in start..start + n {
            // SAFETY: each task has rows of its own.
            let y = unsafe { y.part(r * cols, cols) };
            let acc = &acc[r * cols..(r + 1) * cols];
            isa.dispatch(Row { acc, row_scale, col_scale, bias, activation, y });
        }
    });
}
