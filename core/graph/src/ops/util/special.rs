//! Functions of double precision that the standard library lacks.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, FRAC_2_SQRT_PI};

/// Above this the continued fraction of `erfc` converges faster than the series of `erf`.
const ERF_SERIES_LIMIT: f64 = 2.0;

/// The error function, `2/√π ∫₀ˣ e^(−t²) dt`, with a relative error below 10⁻¹⁵.
/// Series and continued fraction: Abramowitz and Stegun 7.1.6 and 7.1.14.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    let y = if a < ERF_SERIES_LIMIT { erf_series(a) } else { 1.0 - erfc_fraction(a) };
    if x.is_nan() { x } else { y.copysign(x) }
}

/// `1 − erf(x)`, without cancellation where it is small.
pub fn erfc(x: f64) -> f64 {
    if x.is_nan() {
        x
    } else if x >= ERF_SERIES_LIMIT {
        erfc_fraction(x)
    } else if x > -ERF_SERIES_LIMIT {
        1.0 - erf_series(x)
    } else {
        2.0 - erfc_fraction(-x)
    }
}

/// `2/√π e^(−x²) Σ 2ⁿ x^(2n+1) / (1·3·…·(2n+1))`; all terms have one sign.
fn erf_series(x: f64) -> f64 {
    const TERMS: usize = 48;
    const RECIPROCALS: [f64; TERMS] = {
        let mut table = [0.0; TERMS];
        let mut n = 0;
        while n < TERMS {
            table[n] = 1.0 / (2 * n + 3) as f64;
            n += 1;
        }
        table
    };
    let ratio = 2.0 * x * x;
    let (mut sum, mut term) = (x, x);
    for reciprocal in RECIPROCALS {
        term *= ratio * reciprocal;
        sum += term;
        if term.abs() <= sum.abs() * 1e-17 {
            break;
        }
    }
    FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// `e^(−x²)/√π · 1/(x + ½/(x + 1/(x + 3⁄2/(x + …))))`, for `x ≥ 2`.
fn erfc_fraction(x: f64) -> f64 {
    const DEPTH: usize = 50;
    if x > 28.0 {
        return 0.0; // below the least subnormal
    }
    let fraction = (1..=DEPTH).rev().fold(x, |f, k| x + 0.5 * k as f64 / f);
    0.5 * FRAC_2_SQRT_PI * (-x * x).exp() / fraction
}

/// `1 / (1 + e^(−x))`, without overflow.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// `ln(1 + eˣ)`, without overflow.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + if x.is_nan() { x } else { (-x.abs()).exp().ln_1p() }
}

/// `x Φ(x)`, with `Φ` the distribution function of the standard normal.
pub fn gelu(x: f64) -> f64 {
    if x == f64::NEG_INFINITY { 0.0 } else { 0.5 * x * erfc(-x * FRAC_1_SQRT_2) }
}

/// [`gelu`] with `Φ` approximated: `½x (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
pub fn gelu_tanh(x: f64) -> f64 {
    if x == f64::NEG_INFINITY {
        return 0.0;
    }
    0.5 * x * (1.0 + (FRAC_2_PI.sqrt() * (x + 0.044_715 * x * x * x)).tanh())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_matches_published_values() {
        for (x, want, complement) in [
            (0.0, 0.0, 1.0),
            (1e-10, 1.128_379_167_095_512_6e-10, 0.999_999_999_887_162),
            (0.5, 0.520_499_877_813_046_5, 0.479_500_122_186_953_5),
            (1.0, 0.842_700_792_949_714_9, 0.157_299_207_050_285_13),
            (1.999, 0.995_301_556_651_370_5, 0.004_698_443_348_629_488),
            (2.0, 0.995_322_265_018_952_7, 0.004_677_734_981_047_265),
            (3.5, 0.999_999_256_901_627_7, 7.430_983_723_414_128e-7),
            (6.0, 1.0, 2.151_973_671_249_891_3e-17),
            (10.0, 1.0, 2.088_487_583_762_545e-45),
        ] {
            assert!((erf(x) - want).abs() <= 1e-15 * want, "erf {x}: {} {want}", erf(x));
            assert_eq!(erf(-x), -erf(x));
            let slack = if x < 2.0 { 2e-13 } else { 2e-15 };
            assert!((erfc(x) - complement).abs() <= slack * complement, "erfc {x}: {}", erfc(x));
        }
        assert_eq!((erf(f64::INFINITY), erfc(f64::NEG_INFINITY)), (1.0, 2.0));
        assert!(erf(f64::NAN).is_nan() && erfc(f64::NAN).is_nan());
    }

    #[test]
    fn saturating_ends_are_finite() {
        assert_eq!((sigmoid(-1e9), sigmoid(1e9)), (0.0, 1.0));
        assert_eq!((softplus(-1e9), softplus(1e9)), (0.0, 1e9));
        assert_eq!((gelu(f64::NEG_INFINITY), gelu_tanh(f64::NEG_INFINITY)), (0.0, 0.0));
        assert!(softplus(f64::NAN).is_nan() && gelu(f64::NAN).is_nan());
    }
}
