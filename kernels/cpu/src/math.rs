//! Transcendental functions on vectors, written once for every level.
//!
//! Each function reduces its argument to a small interval, evaluates a polynomial there and undoes
//! the reduction. The polynomials are our own weighted least-maximum fits (Lawson's iteration on
//! Chebyshev nodes), so that the error of the fit stays well below half a unit in the last place;
//! the reductions are those of Cody and Waite, *Software Manual for the Elementary Functions*, 1980.
//!
//! Largest errors against `f64`, in units in the last place, over a dense sample of every exponent
//! (`tests/elementwise.rs` asserts them): exp 1.1, log 0.9, tanh 1.4, sigmoid 2.1, erf 1.2, sin and
//! cos 1.5, softplus 2.1. NaN gives NaN; infinities and subnormals give the mathematical limit.

use crate::simd::Simd;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
// ln 2 in two parts; the first has few enough bits that its product with an exponent is exact.
const LN2_HI: f32 = 0.693_145_75;
const LN2_LO: f32 = 1.428_606_8e-6;

/// `c[0] + x (c[1] + x (c[2] + …))`.
#[inline(always)]
fn poly<S: Simd, const N: usize>(s: S, x: S::F, c: [f32; N]) -> S::F {
    let mut acc = s.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        acc = s.mul_add(acc, x, s.splat(c[i]));
    }
    acc
}

/// `a` times two to the power of the integer `n`, `|n| < 252`, rounded once.
#[inline(always)]
fn scale<S: Simd>(s: S, a: S::F, n: S::I) -> S::F {
    let bias = s.splat_i(127);
    let half = s.shr_i::<1>(n);
    let rest = s.sub_i(n, half);
    let p = s.as_float(s.shl_i::<23>(s.add_i(half, bias)));
    let q = s.as_float(s.shl_i::<23>(s.add_i(rest, bias)));
    s.mul(s.mul(a, p), q)
}

/// `(e^r - 1, n)` with `x = n ln 2 + r`; `x` within what [`exp`] clamps to.
#[inline(always)]
fn exp_parts<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let n = s.round_even(s.mul(x, s.splat(LOG2_E)));
    let r = s.mul_add(n, s.splat(-LN2_HI), x);
    let r = s.mul_add(n, s.splat(-LN2_LO), r);
    let q = poly(s, r, [5.0e-1, 1.666_651_8e-1, 4.166_620_2e-2, 8.369_025e-3, 1.395_072_6e-3]);
    (s.mul_add(s.mul(r, r), q, r), n)
}

/// e to the power of x.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // The second operand of min and max wins on NaN, so NaN passes through.
    let x = s.min(s.splat(89.0), x);
    let x = s.max(s.splat(-104.0), x);
    let (m1, n) = exp_parts(s, x);
    scale(s, s.add(m1, s.splat(1.0)), s.to_int(n))
}

/// 2 to the power of x for x below 127, and zero where x is below -125: one multiply-add for each of
/// five terms, for softmax. Exact at integers; else within 1.6 `f32::EPSILON` relatively. NaN gives NaN.
#[inline(always)]
pub(crate) fn exp2_unit<S: Simd>(s: S, x: S::F) -> S::F {
    let n = s.round_even(x);
    let f = s.sub(x, n);
    let p = poly(
        s,
        f,
        [1.0, std::f32::consts::LN_2, 2.402_228_3e-1, 5.550_558_5e-2, 9.669_691e-3, 1.330_060_5e-3],
    );
    s.zero_where_lt(x, s.splat(-125.0), s.mul_pow2(p, n))
}

/// e to the power of x, minus one, without cancellation near zero.
#[inline(always)]
pub(crate) fn expm1<S: Simd>(s: S, x: S::F) -> S::F {
    let c = s.max(s.splat(-104.0), s.min(s.splat(89.0), x));
    let (m1, n) = exp_parts(s, c);
    let one = s.splat(1.0);
    let far = s.sub(scale(s, s.add(m1, one), s.to_int(n)), one);
    let near = s.select(s.eq(x, s.zero()), x, m1);
    s.select(s.eq(n, s.zero()), near, far)
}

/// Natural logarithm.
#[inline(always)]
pub(crate) fn log<S: Simd>(s: S, x: S::F) -> S::F {
    let tiny = s.lt(x, s.splat(f32::MIN_POSITIVE));
    let y = s.select(tiny, s.mul(x, s.splat(8_388_608.0)), x);
    // Take sqrt(1/2) away from the bits so that the exponent field counts from there: the rest is
    // the mantissa in [sqrt(1/2), sqrt(2)).
    let offset = s.splat_i(0x3f35_04f3);
    let top = s.sub_i(s.as_int(y), offset);
    let e = s.shr_i::<23>(top);
    let m = s.as_float(s.add_i(s.and_i(top, s.splat_i(0x007f_ffff)), offset));
    let e = s.to_float(e);
    let e = s.select(tiny, s.sub(e, s.splat(23.0)), e);
    let f = s.sub(m, s.splat(1.0));
    let p = poly(
        s,
        f,
        [
            3.333_333e-1,
            -2.500_082e-1,
            2.000_122_7e-1,
            -1.662_335_7e-1,
            1.420_175_9e-1,
            -1.316_018_3e-1,
            1.276_157_5e-1,
            -7.634_493e-2,
        ],
    );
    let f2 = s.mul(f, f);
    let tail = s.mul_add(s.mul(f2, f), p, s.mul(f2, s.splat(-0.5)));
    let tail = s.mul_add(e, s.splat(LN2_LO), tail);
    let r = s.mul_add(e, s.splat(LN2_HI), s.add(f, tail));
    // Edges: NaN and negative numbers, zero, infinity.
    let inf = s.splat(f32::INFINITY);
    let r = s.select(s.eq(x, inf), inf, r);
    let r = s.select(s.eq(x, s.zero()), s.neg(inf), r);
    let bad = s.select(s.lt(x, s.zero()), s.splat(f32::NAN), r);
    s.select(s.unordered(x, x), x, bad)
}

/// `log(1 + x)` for x in `[0, 1]`.
#[inline(always)]
fn log1p_unit<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let u = s.add(one, x);
    let lost = s.sub(x, s.sub(u, one));
    s.add(log(s, u), s.div(lost, u))
}

/// Hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let a = s.min(s.splat(10.0), s.abs(x));
    let z = s.mul(a, a);
    let p = poly(
        s,
        z,
        [-3.333_328e-1, 1.333_144_2e-1, -5.373_971_5e-2, 2.063_908_6e-2, -5.704_986_4e-3],
    );
    let near = s.mul_add(s.mul(z, a), p, a);
    let one = s.splat(1.0);
    let far = s.sub(one, s.div(s.splat(2.0), s.add(exp(s, s.add(a, a)), one)));
    s.copysign(s.select(s.lt(a, s.splat(0.625)), near, far), x)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    // e^-|x| never overflows, and its quotient keeps small results accurate.
    let e = exp(s, s.neg(s.abs(x)));
    let one = s.splat(1.0);
    let top = s.select(s.lt(x, s.zero()), e, one);
    s.div(top, s.add(one, e))
}

/// The error function.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    let a = s.min(s.splat(4.0), s.abs(x));
    let z = s.mul(a, a);
    let p = poly(
        s,
        z,
        [
            1.283_791_7e-1,
            -3.761_263_2e-1,
            1.128_367_9e-1,
            -2.685_849_7e-2,
            5.198_83e-3,
            -8.118_075e-4,
            8.267_462e-5,
        ],
    );
    let near = s.mul_add(a, p, a);
    let q = poly(
        s,
        a,
        [
            1.664_472_5e-4,
            1.127_797_2,
            6.369_761e-1,
            1.041_136_8e-1,
            -2.231_521_5e-2,
            3.065_491e-3,
            -1.982_197_1e-4,
        ],
    );
    let far = s.sub(s.splat(1.0), exp(s, s.neg(q)));
    s.copysign(s.select(s.lt(a, s.splat(0.9375)), near, far), x)
}

/// `x Φ(x)`, Φ the distribution function of the normal distribution (Hendrycks and Gimpel, 2016), within
/// `3 f32::EPSILON |x|`.
///
/// With `a = |x|` it is `max(x, 0) - a Φ(-a)`, and `log2 Φ(-a)` is close to a polynomial: so there is one
/// polynomial and one exponential instead of the three of the error function, and the left tail keeps
/// its digits.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::F) -> S::F {
    // At the bound the exponential is zero.
    let a = s.min(s.splat(14.0), s.abs(x));
    let log = poly(
        s,
        a,
        [
            -1.0,
            -1.151_115_8,
            -4.591_233_7e-1,
            -5.271_921e-2,
            7.330_414_4e-3,
            -2.952_246_6e-4,
            -1.442_787e-4,
            3.869_502e-5,
            -4.695_392e-6,
            2.896_465e-7,
            -7.154_631e-9,
        ],
    );
    let tail = s.mul(a, exp2_unit(s, log));
    s.sub(s.max(s.zero(), x), tail)
}

/// `x/2 (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))`, as `x sigmoid(2 …)`.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let x2 = s.mul(x, x);
    let inner = s.mul_add(x2, s.splat(0.071_354_814), s.splat(1.595_769_2));
    s.mul(x, sigmoid(s, s.mul(x, inner)))
}

/// `x sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    s.mul(x, sigmoid(s, x))
}

/// `x sigmoid(alpha x)`.
#[inline(always)]
pub(crate) fn swish<S: Simd>(s: S, x: S::F, alpha: f32) -> S::F {
    s.mul(x, sigmoid(s, s.mul(x, s.splat(alpha))))
}

/// `x tanh(log(1 + e^x))`: with `t = e^x (e^x + 2)` the hyperbolic tangent is `t / (t + 2)`, without
/// cancellation, and one for all that is above 20.
#[inline(always)]
pub(crate) fn mish<S: Simd>(s: S, x: S::F) -> S::F {
    let two = s.splat(2.0);
    let e = exp(s, s.min(s.splat(20.0), x));
    let t = s.mul(e, s.add(e, two));
    s.mul(x, s.div(t, s.add(t, two)))
}

/// `log(1 + e^x)`.
#[inline(always)]
pub(crate) fn softplus<S: Simd>(s: S, x: S::F) -> S::F {
    let e = exp(s, s.neg(s.abs(x)));
    s.add(log1p_unit(s, e), s.max(s.zero(), x))
}

/// The largest magnitude whose reduction by multiples of π/2 is exact enough in `f32`.
const TRIG_LIMIT: f32 = 8192.0;

/// Sine for `quarter == 0`, cosine for `quarter == 1`.
#[inline(always)]
pub(crate) fn sin_cos<S: Simd>(s: S, x: S::F, quarter: i32) -> S::F {
    // π/2 in four parts; the first three have 11 bits, so their products with |n| < 2^13 are exact.
    const P: [f32; 4] = [1.570_312_5, 4.837_513e-4, 7.549_533_6e-8, 2.563_344e-12];
    let n = s.round_even(s.mul(x, s.splat(std::f32::consts::FRAC_2_PI)));
    let r = s.mul_add(n, s.splat(-P[0]), x);
    let r = s.mul_add(n, s.splat(-P[1]), r);
    let r = s.mul_add(n, s.splat(-P[2]), r);
    let r = s.mul_add(n, s.splat(-P[3]), r);
    let z = s.mul(r, r);
    let sin = poly(s, z, [-1.666_665_5e-1, 8.332_156e-3, -1.951_463_2e-4]);
    let sin = s.mul_add(s.mul(z, r), sin, r);
    let cos = poly(s, z, [4.166_664_6e-2, -1.388_736_2e-3, 2.443_773e-5]);
    let cos = s.add(s.splat(1.0), s.mul_add(s.mul(z, z), cos, s.mul(z, s.splat(-0.5))));
    let k = s.add_i(s.to_int(n), s.splat_i(quarter));
    let odd = s.eq_i(s.and_i(k, s.splat_i(1)), s.splat_i(1));
    let v = s.select(odd, cos, sin);
    // Quadrants two and three negate.
    let sign = s.shl_i::<30>(s.and_i(k, s.splat_i(2)));
    let v = s.as_float(s.xor_i(s.as_int(v), sign));
    // Sine keeps the sign of zero.
    let v = if quarter == 0 { s.select(s.eq(x, s.zero()), x, v) } else { v };
    let far = s.lt(s.splat(TRIG_LIMIT), s.abs(x));
    if s.any(far) { sin_cos_far(s, x, v, quarter) } else { v }
}

/// Replaces the lanes beyond [`TRIG_LIMIT`] by the double-precision function of each value, which
/// also turns infinities into NaN.
#[cold]
#[inline(never)]
fn sin_cos_far<S: Simd>(s: S, x: S::F, v: S::F, quarter: i32) -> S::F {
    let xs = s.to_array(x);
    let mut vs = s.to_array(v);
    for (v, x) in vs.iter_mut().zip(xs) {
        if x.abs() > TRIG_LIMIT {
            let x = f64::from(x);
            *v = (if quarter == 0 { x.sin() } else { x.cos() }) as f32;
        }
    }
    // SAFETY: the array holds the most lanes of any level.
    unsafe { s.load(vs.as_ptr()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Kernel;
    use crate::{Isa, Level};

    /// The error of [`exp2_unit`] at `x`, in units of `f32::EPSILON` of the result.
    struct Exp2(f32);

    impl Kernel for Exp2 {
        type Output = f32;
        #[inline(always)]
        fn call<S: Simd>(self, s: S) -> f32 {
            s.to_array(exp2_unit(s, s.splat(self.0)))[0]
        }
    }

    #[test]
    fn exp2_unit_keeps_its_word() {
        for isa in Level::available_vectors().map(|l| Isa::at(l).expect("the level is available")) {
            for i in -125 * 512..=126 * 512 {
                let x = i as f32 / 512.0 + (i % 7) as f32 * 1e-4;
                let (got, want) = (f64::from(isa.dispatch(Exp2(x))), f64::from(x).exp2());
                let error = (got / want - 1.0).abs() / f64::from(f32::EPSILON);
                let zero = x < -125.0 && got == 0.0;
                assert!(
                    error <= if i % 512 == 0 && i % 7 == 0 { 0.0 } else { 1.6 } || zero,
                    "{} at {x}: {got}, {error} eps",
                    isa.level()
                );
            }
            for (x, want) in [(0.0, 1.0), (-125.5, 0.0), (f32::MIN, 0.0), (f32::NEG_INFINITY, 0.0)]
            {
                assert_eq!(isa.dispatch(Exp2(x)), want, "{} at {x}", isa.level());
            }
            assert!(isa.dispatch(Exp2(f32::NAN)).is_nan());
        }
    }
}
