//! The activation functions that recurrent layers may name.

use deepseek_tensor::{Result, bail};

/// A function with its parameters.
#[derive(Clone, Copy, Debug)]
pub(super) enum Activation {
    Relu,
    Tanh,
    Sigmoid,
    Affine { alpha: f64, beta: f64 },
    LeakyRelu { alpha: f64 },
    ThresholdedRelu { alpha: f64 },
    ScaledTanh { alpha: f64, beta: f64 },
    HardSigmoid { alpha: f64, beta: f64 },
    Elu { alpha: f64 },
    Softsign,
    Softplus,
}

impl Activation {
    /// The function `name` (case does not matter), which takes its parameters from the front of
    /// `alpha` and `beta` where it has any, and their defaults where the lists have run out.
    pub(super) fn parse(
        name: &str,
        alpha: &mut impl Iterator<Item = f64>,
        beta: &mut impl Iterator<Item = f64>,
    ) -> Result<Self> {
        use Activation::*;
        let mut a = |default: f64| alpha.next().unwrap_or(default);
        let mut b = |default: f64| beta.next().unwrap_or(default);
        Ok(match name.to_ascii_lowercase().as_str() {
            "relu" => Relu,
            "tanh" => Tanh,
            "sigmoid" => Sigmoid,
            "affine" => Affine { alpha: a(1.0), beta: b(0.0) },
            "leakyrelu" => LeakyRelu { alpha: a(0.01f32.into()) },
            "thresholdedrelu" => ThresholdedRelu { alpha: a(1.0) },
            "scaledtanh" => ScaledTanh { alpha: a(1.0), beta: b(1.0) },
            "hardsigmoid" => HardSigmoid { alpha: a(0.2f32.into()), beta: b(0.5) },
            "elu" => Elu { alpha: a(1.0) },
            "softsign" => Softsign,
            "softplus" => Softplus,
            _ => bail!(Unsupported, "'{name}' is not an activation function of recurrent layers"),
        })
    }

    pub(super) fn apply(self, x: f64) -> f64 {
        match self {
            Activation::Relu => x.max(0.0),
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Affine { alpha, beta } => alpha * x + beta,
            Activation::LeakyRelu { alpha } => {
                if x >= 0.0 {
                    x
                } else {
                    alpha * x
                }
            }
            Activation::ThresholdedRelu { alpha } => {
                if x >= alpha {
                    x
                } else {
                    0.0
                }
            }
            Activation::ScaledTanh { alpha, beta } => alpha * (beta * x).tanh(),
            Activation::HardSigmoid { alpha, beta } => (alpha * x + beta).clamp(0.0, 1.0),
            Activation::Elu { alpha } => {
                if x >= 0.0 {
                    x
                } else {
                    alpha * x.exp_m1()
                }
            }
            Activation::Softsign => x / (1.0 + x.abs()),
            Activation::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_consumed_only_by_those_that_have_them() {
        let (mut alpha, mut beta) = ([2.0, 3.0].into_iter(), [4.0].into_iter());
        let mut next = |name| Activation::parse(name, &mut alpha, &mut beta).unwrap().apply(1.0);
        assert_eq!(next("Relu"), 1.0);
        assert_eq!(next("Affine"), 6.0);
        assert_eq!(next("Softsign"), 0.5);
        assert_eq!(next("Affine"), 3.0);
        assert_eq!(next("AFFINE"), 1.0);
    }
}
