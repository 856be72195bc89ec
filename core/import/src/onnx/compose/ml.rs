//! The `ai.onnx.ml` domain: operators that are arithmetic in disguise.

use crate::onnx::call::{Call, Outputs};
use deepseek_graph::Attrs;
use deepseek_tensor::{DType, Result, Tensor, bail, ensure};

/// ArrayFeatureExtractor gathers along the last axis; a vector gives one row.
pub fn array_feature_extractor(c: &mut Call) -> Result<Outputs> {
    let (x, y) = (c.input(0)?, c.input(1)?);
    let rank = c.shape(x, "ArrayFeatureExtractor")?.len();
    let flat = c.ints(&[-1])?;
    let y = c.one("Reshape", Attrs::new(), &[y, flat])?;
    let picked = Attrs::new().with("axis", -1i64);
    if rank != 1 {
        return c.last_of("Gather", picked, &[x, y]);
    }
    let z = c.one("Gather", picked, &[x, y])?;
    let row = c.ints(&[1, -1])?;
    c.last_of("Reshape", Attrs::new(), &[z, row])
}

/// Binarizer: 1 above the threshold, else 0.
pub fn binarizer(c: &mut Call) -> Result<Outputs> {
    let x = c.input(0)?;
    let dtype = c.dtype(x)?;
    let threshold = c.take("threshold")?.unwrap_or(0.0f32);
    let threshold = c.scalar(dtype, threshold.into())?;
    let above = c.one("Greater", Attrs::new(), &[x, threshold])?;
    c.last_of("Cast", Attrs::new().with("to", dtype), &[above])
}

/// Scaler: `(x − offset) · scale`, in single precision.
pub fn scaler(c: &mut Call) -> Result<Outputs> {
    let mut x = c.input(0)?;
    if c.dtype(x)? != DType::F32 {
        x = c.one("Cast", Attrs::new().with("to", DType::F32), &[x])?;
    }
    let offset: Vec<f32> = c.take("offset")?.unwrap_or_else(|| vec![0.0]);
    let scale: Vec<f32> = c.take("scale")?.unwrap_or_else(|| vec![1.0]);
    let offset = c.constant(Tensor::from_slice(&[offset.len()], &offset)?)?;
    let scale = c.constant(Tensor::from_slice(&[scale.len()], &scale)?)?;
    let shifted = c.one("Sub", Attrs::new(), &[x, offset])?;
    c.last_of("Mul", Attrs::new(), &[shifted, scale])
}

/// LinearRegressor: `x · coefficientsᵀ + intercepts`.
pub fn linear_regressor(c: &mut Call) -> Result<Outputs> {
    let mut x = c.input(0)?;
    if c.dtype(x)? != DType::F32 {
        x = c.one("Cast", Attrs::new().with("to", DType::F32), &[x])?;
    }
    let post = c.take::<String>("post_transform")?;
    ensure!(
        post.as_deref().is_none_or(|p| p == "NONE"),
        Unsupported,
        "LinearRegressor with post_transform '{}'; apply it as its own operator",
        post.unwrap_or_default()
    );
    let targets = c.take("targets")?.unwrap_or(1i64);
    let weights: Vec<f32> = c.need("coefficients")?;
    let Some(rows) =
        usize::try_from(targets).ok().filter(|&n| n > 0 && weights.len().is_multiple_of(n))
    else {
        bail!(InvalidGraph, "{} coefficients do not divide by {targets} targets", weights.len());
    };
    let w = c.constant(Tensor::from_slice(&[rows, weights.len() / rows], &weights)?)?;
    let mut inputs = vec![x, w];
    if let Some(b) = c.take::<Vec<f32>>("intercepts")? {
        inputs.push(c.constant(Tensor::from_slice(&[b.len()], &b)?)?);
    }
    c.last_of("Gemm", Attrs::new().with("transB", true), &inputs)
}

/// FeatureVectorizer joins columns, in single precision.
pub fn feature_vectorizer(c: &mut Call) -> Result<Outputs> {
    c.take::<Vec<i64>>("inputdimensions")?;
    let mut parts = Vec::new();
    for i in 0..c.inputs.len() {
        let x = c.input(i)?;
        parts.push(c.one("Cast", Attrs::new().with("to", DType::F32), &[x])?);
    }
    c.last_of("Concat", Attrs::new().with("axis", 1i64), &parts)
}

/// LabelEncoder 1: strings to their index among the classes, or back.
pub fn label_encoder_1(c: &mut Call) -> Result<Outputs> {
    let x = c.input(0)?;
    let classes: Vec<String> = c.need("classes_strings")?;
    let indices: Vec<i64> = (0..classes.len() as i64).collect();
    let number = c.take("default_int64")?.unwrap_or(-1i64);
    let string = c.take("default_string")?.unwrap_or_else(|| "_Unused".to_owned());
    let attrs = match c.dtype(x)? {
        DType::String => Attrs::new()
            .with("keys_strings", classes)
            .with("values_int64s", indices)
            .with("default_int64", number),
        _ => Attrs::new()
            .with("keys_int64s", indices)
            .with("values_strings", classes)
            .with("default_string", string),
    };
    c.last_of("LabelEncoder", attrs, &[x])
}
