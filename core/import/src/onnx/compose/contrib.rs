//! Operators of the `com.microsoft` domain, which ONNX Runtime's optimiser writes
//! into the models it saves, in terms of standard ones.

use crate::onnx::call::{Call, Outputs};
use deepseek_graph::{Attrs, ValueId};
use deepseek_tensor::{Result, ensure};

fn none() -> Attrs {
    Attrs::new()
}

fn tanh_gelu() -> Attrs {
    Attrs::new().with("approximate", "tanh".to_owned())
}

/// Gelu with the error function.
pub fn gelu(c: &mut Call) -> Result<Outputs> {
    let x = c.input(0)?;
    c.last_of("Gelu", none(), &[x])
}

/// BiasGelu: `gelu(x + b)`.
pub fn bias_gelu(c: &mut Call) -> Result<Outputs> {
    let sum = c.one("Add", none(), &[c.input(0)?, c.input(1)?])?;
    c.last_of("Gelu", none(), &[sum])
}

/// FastGelu: Gelu by tanh, with an optional bias.
pub fn fast_gelu(c: &mut Call) -> Result<Outputs> {
    let mut x = c.input(0)?;
    if let Some(b) = c.opt(1) {
        x = c.one("Add", none(), &[x, b])?;
    }
    c.last_of("Gelu", tanh_gelu(), &[x])
}

/// QuickGelu: `x · sigmoid(alpha · x)`.
pub fn quick_gelu(c: &mut Call) -> Result<Outputs> {
    let alpha = c.take("alpha")?.unwrap_or(1.702f32);
    let x = c.input(0)?;
    c.last_of("Swish", none().with("alpha", alpha), &[x])
}

/// FusedMatMul: `alpha · op(a) · op(b)`, where `op` may swap the last two axes.
pub fn fused_matmul(c: &mut Call) -> Result<Outputs> {
    let mut sides = Vec::new();
    for (i, name) in ["transA", "transB"].into_iter().enumerate() {
        let batch = if i == 0 { "transBatchA" } else { "transBatchB" };
        ensure!(
            !c.take(batch)?.unwrap_or(false),
            Unsupported,
            "FusedMatMul with {batch}; save the model at a lower optimisation level"
        );
        let x = c.input(i)?;
        sides.push(match c.take(name)?.unwrap_or(false) {
            false => x,
            true => {
                let rank = c.shape(x, "FusedMatMul")?.len() as i64;
                ensure!(rank >= 2, ShapeMismatch, "a vector cannot be transposed");
                let perm: Vec<i64> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
                c.one("Transpose", none().with("perm", perm), &[x])?
            }
        });
    }
    let alpha = c.take("alpha")?.unwrap_or(1.0f32);
    if alpha == 1.0 {
        return c.last_of("MatMul", none(), &sides);
    }
    let y = c.one("MatMul", none(), &sides)?;
    let alpha = c.scalar(c.dtype(y)?, alpha.into())?;
    c.last_of("Mul", none(), &[y, alpha])
}

/// SimplifiedLayerNormalization is RMSNormalization.
pub fn simplified_layer_norm(c: &mut Call) -> Result<Outputs> {
    let attrs = std::mem::take(&mut c.attrs);
    let inputs = c.inputs.clone();
    c.last("RMSNormalization", attrs, &inputs)
}

/// SkipLayerNormalization: `LayerNormalization(input + skip + bias)` over the last axis;
/// output 3 is the sum.
pub fn skip_layer_norm(c: &mut Call) -> Result<Outputs> {
    let (scale, shift, bias) = (c.input(2)?, c.opt(3), c.opt(4));
    skip_norm(c, "LayerNormalization", scale, shift, bias)
}

/// SkipSimplifiedLayerNormalization: the same with RMSNormalization.
pub fn skip_simplified_layer_norm(c: &mut Call) -> Result<Outputs> {
    let (scale, bias) = (c.input(2)?, c.opt(3));
    skip_norm(c, "RMSNormalization", scale, None, bias)
}

fn skip_norm(
    c: &mut Call,
    op: &str,
    scale: ValueId,
    shift: Option<ValueId>,
    bias: Option<ValueId>,
) -> Result<Outputs> {
    ensure!(
        !c.wants(1) && !c.wants(2),
        Unsupported,
        "mean and deviation of {}; only the normalised output and the sum are available",
        c.node.op_type
    );
    let mut sum = c.one("Add", none(), &[c.input(0)?, c.input(1)?])?;
    if let Some(b) = bias {
        sum = c.one("Add", none(), &[sum, b])?;
    }
    let epsilon = c.take("epsilon")?.unwrap_or(1e-12f32);
    let attrs = none().with("axis", -1i64).with("epsilon", epsilon);
    let inputs: Vec<_> =
        [Some(sum), Some(scale), shift].into_iter().filter(Option::is_some).collect();
    let y = c.emit(op, attrs, &inputs, 1)?[0];
    c.alias(&[y, y, y, sum])
}
