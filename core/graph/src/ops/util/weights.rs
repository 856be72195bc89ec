//! Weights in 16 bits: products of an `f32` operand by weights that are stored narrower.
//!
//! | weights | what is multiplied |
//! |---|---|
//! | the type of x | x and the weights |
//! | `bf16`, x in `f32` | x rounded to bf16 (nearest, ties to even), and the weights |
//! | `f16`, x in `f32` | x and the weights, which are exact in `f32` |
//!
//! The result, bias and residual have the type of x.

use super::{cast_from_f64, to_f64};
use crate::{Fact, InferArgs, Type};
use deepseek_tensor::{DType, Result, Tensor, ensure};
use half::bf16;

/// The element type of x (input 0), and the fact of the weights (input 1) as if they had it.
///
/// # Errors
/// `DTypeMismatch` naming both types if weights of theirs do not go with x.
pub(crate) fn expect_weights(args: &InferArgs) -> Result<(DType, Fact)> {
    let (x, w) = (args.dtype(0)?, args.dtype(1)?);
    let narrow = x == DType::F32 && matches!(w, DType::BF16 | DType::F16);
    ensure!(
        x == w || narrow,
        DTypeMismatch,
        "weights of {w} do not go with an operand of {x}: they have its type, or are bf16 or f16 where it is f32; insert a Cast"
    );
    let mut fact = args.fact(1)?.clone();
    if let Type::Tensor(dtype, _) = &mut fact.ty {
        *dtype = x;
    }
    Ok((x, fact))
}

/// The operands that are multiplied, in the type of x.
///
/// # Errors
/// `OutOfMemory`.
pub(crate) fn widened(x: &Tensor, w: &Tensor) -> Result<(Tensor, Tensor)> {
    if x.dtype() == w.dtype() {
        return Ok((x.clone(), w.clone()));
    }
    let wide = cast_from_f64(x.dtype(), w.shape(), &to_f64(w)?)?;
    let x = match w.dtype() {
        DType::BF16 => {
            let rounded = x.to_vec::<f32>()?.into_iter().map(|v| bf16::from_f32(v).to_f32());
            Tensor::from_vec(x.shape(), rounded.collect())?
        }
        _ => x.clone(),
    };
    Ok((x, wide))
}
