//! Changing the element type: by value ([`Cast`], [`CastLike`]) or by bits ([`BitCast`]).

use super::util::shape_math::{carries, combine};
use super::util::{Kind, cast_from_f64, cast_from_i64, map, shaped_like, to_f64, to_i64, vec_for};
use crate::{EvalArgs, Fact, InferArgs, Num, Operator, Value, attr_enum, for_dtype, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, narrow};

attr_enum! {
    /// Which power of two represents a number between two of them in `f8e8m0`.
    ScaleRounding {
        /// The greater.
        Up = "up",
        /// The lesser.
        Down = "down",
        /// The nearer; half way is up.
        Nearest = "nearest",
    }
}

op! {
    /// The elements converted to the type `to`, same shape. (ONNX Cast-28.)
    ///
    /// - To floats: nearest, ties to even; beyond the range infinity, for 8-bit floats the
    ///   greatest finite value with `saturate`, else infinity or NaN as the format has it.
    /// - Float to integer: toward zero, NaN is 0. Beyond the range 32- and 64-bit integers
    ///   saturate; narrower ones keep the low bits, as integers do.
    /// - Integer to integer: the low bits.
    /// - To `bool`: not zero. From `bool`: 0 or 1.
    /// - Text to number: decimal or scientific notation, `inf` and `nan` in any case.
    ///   Number to text: the shortest decimal that reads back, never in scientific notation;
    ///   `NaN`, `INF`, `-INF`; truth values are `1` and `0`.
    Cast {
        /// Target type.
        to: DType = DType::F32,
        /// Whether 8-bit floats saturate.
        saturate: bool = true,
        /// Rounding to `f8e8m0`; other types ignore it.
        round_mode: ScaleRounding = ScaleRounding::Up,
    }
}

impl Operator for Cast {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        infer_cast(args, self.to)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        Ok(vec![cast(args.tensor(0)?, self.to, self.saturate, self.round_mode)?.into()])
    }
}

op! {
    /// [`Cast`] to the element type of the second input. (ONNX CastLike-25.)
    CastLike {
        /// Whether 8-bit floats saturate.
        saturate: bool = true,
        /// Rounding to `f8e8m0`; other types ignore it.
        round_mode: ScaleRounding = ScaleRounding::Up,
    }
}

impl Operator for CastLike {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(2, 2)?;
        let to = args.dtype(1)?;
        infer_cast(&InferArgs { inputs: &args.inputs[..1], ..*args }, to)
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let to = args.tensor(1)?.dtype();
        Ok(vec![cast(args.tensor(0)?, to, self.saturate, self.round_mode)?.into()])
    }
}

fn infer_cast(args: &InferArgs, to: DType) -> Result<Vec<Fact>> {
    let from = args.dtype(0)?;
    if from == to {
        return Ok(vec![args.fact(0)?.clone()]);
    }
    if carries(from)
        && let Some(known) = combine(args, to, |v| Some(v[0].clone()))
    {
        return Ok(vec![known]);
    }
    Ok(vec![shaped_like(args, 0, to)?])
}

/// The conversion of [`Cast`].
///
/// # Errors
/// `InvalidArgument` for text that is not a number; `OutOfMemory`.
pub(crate) fn cast(
    t: &Tensor,
    to: DType,
    saturate: bool,
    rounding: ScaleRounding,
) -> Result<Tensor> {
    let from = t.dtype();
    if from == to {
        return Ok(t.clone());
    }
    if from == DType::String {
        return parse_strings(t, to, saturate, rounding);
    }
    if to == DType::String {
        return format_numbers(t);
    }
    if Kind::Float.admits(from) && Kind::Float.admits(to) {
        // Without an intermediate copy: weights pass here.
        return for_dtype!(from, A in float => for_dtype!(to, B in float => {
            map(t, |x: A| B::from_f64(x.to_f64()))
        }));
    }
    if from.is_float() {
        return encode(&to_f64(t)?, t.shape(), to, saturate, rounding);
    }
    let values = to_i64(t)?;
    if !to.is_float() {
        return cast_from_i64(to, t.shape(), &values);
    }
    let wide = |x: i64| if from == DType::U64 { i128::from(x as u64) } else { i128::from(x) };
    if to == DType::F64 {
        return Tensor::from_vec(t.shape(), values.iter().map(|&x| wide(x) as f64).collect());
    }
    let values: Vec<f64> = values.iter().map(|&x| round_to_odd(wide(x))).collect();
    encode(&values, t.shape(), to, saturate, rounding)
}

/// The double next to `x` whose last bit records that `x` lies beside it, so that
/// rounding again to a narrower format gives what rounding `x` once would.
/// (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008.)
fn round_to_odd(x: i128) -> f64 {
    let magnitude = x.unsigned_abs();
    let excess = (128 - magnitude.leading_zeros()).saturating_sub(53);
    let mut kept = magnitude >> excess;
    if kept << excess != magnitude {
        kept |= 1;
    }
    let y = (kept << excess) as f64;
    if x < 0 { -y } else { y }
}

/// As [`round_to_odd`], from double to single precision.
fn narrow_to_odd(x: f64) -> f32 {
    let y = x as f32;
    if x.is_nan() || x.is_infinite() || f64::from(y) == x {
        return y;
    }
    let toward_zero = if f64::from(y).abs() > x.abs() { y.to_bits() - 1 } else { y.to_bits() };
    f32::from_bits(toward_zero | 1)
}

/// Doubles as elements of `to`, which is not text.
fn encode(
    values: &[f64],
    shape: &[usize],
    to: DType,
    saturate: bool,
    rounding: ScaleRounding,
) -> Result<Tensor> {
    if to == DType::F8E8M0 {
        let bits: Vec<u8> = values.iter().map(|&x| encode_scale(x, saturate, rounding)).collect();
        return Tensor::from_bytes(to, shape, &bits);
    }
    if to.is_float8() || to == DType::F4E2M1 {
        let bits: Option<Vec<u8>> =
            values.iter().map(|&x| narrow::encode_float(to, narrow_to_odd(x), saturate)).collect();
        let Some(bits) = bits else { bail!(Internal, "{to} is not a narrow float") };
        return if to.is_packed() {
            Tensor::from_unpacked(to, shape, &bits)
        } else {
            Tensor::from_bytes(to, shape, &bits)
        };
    }
    if to.is_int() && to.bits() < 32 {
        let whole: Vec<i64> = values.iter().map(|&x| x as i64).collect();
        return cast_from_i64(to, shape, &whole);
    }
    cast_from_f64(to, shape, values)
}

/// The biased exponent that represents `x`: 0 to 254 for 2⁻¹²⁷ to 2¹²⁷, 255 for NaN.
/// Without `saturate`, zero and what is out of range are NaN too; a negative number
/// always is, for it has no logarithm.
fn encode_scale(x: f64, saturate: bool, rounding: ScaleRounding) -> u8 {
    const NAN: u8 = 255;
    const LEAST: i32 = -127;
    const GREATEST: i32 = 127;
    if x.is_nan() || x < 0.0 {
        return NAN;
    }
    if x == 0.0 || x.is_infinite() {
        return match (saturate, x == 0.0) {
            (false, _) => NAN,
            (true, true) => 0,
            (true, false) => (GREATEST - LEAST) as u8,
        };
    }
    // Exact for normal doubles; the subnormal ones are far below 2⁻¹²⁷ anyway.
    let bits = x.to_bits();
    let floor = (bits >> 52) as i32 - 1023;
    let fraction = bits & ((1 << 52) - 1);
    let up = match rounding {
        ScaleRounding::Up => fraction != 0,
        ScaleRounding::Down => false,
        ScaleRounding::Nearest => fraction >= 1 << 51,
    };
    let exponent = floor + i32::from(up);
    if !saturate && !(LEAST..=GREATEST).contains(&exponent) {
        return NAN;
    }
    (exponent.clamp(LEAST, GREATEST) - LEAST) as u8
}

fn parse_strings(t: &Tensor, to: DType, saturate: bool, rounding: ScaleRounding) -> Result<Tensor> {
    let texts = t.as_strings()?;
    let number = |s: &str| -> Result<f64> {
        match s.trim().parse::<f64>() {
            Ok(x) => Ok(x),
            Err(_) => bail!(InvalidArgument, "'{s}' is not a number"),
        }
    };
    if to.is_int() {
        let values = texts
            .iter()
            .map(|s| match s.trim().parse::<i128>() {
                Ok(x) => Ok(x as i64),
                Err(_) => Ok(number(s)? as i64),
            })
            .collect::<Result<Vec<_>>>()?;
        return cast_from_i64(to, t.shape(), &values);
    }
    if to == DType::F32 {
        // Straight to single precision: by way of double it could round twice.
        let values = texts
            .iter()
            .map(|s| s.trim().parse::<f32>().or_else(|_| Ok(number(s)? as f32)))
            .collect::<Result<Vec<_>>>()?;
        return Tensor::from_vec(t.shape(), values);
    }
    let values = texts.iter().map(|s| number(s)).collect::<Result<Vec<_>>>()?;
    encode(&values, t.shape(), to, saturate, rounding)
}

fn format_numbers(t: &Tensor) -> Result<Tensor> {
    let mut out: Vec<String> = vec_for(t.shape())?;
    let dtype = t.dtype();
    if dtype == DType::F64 {
        out.extend(t.iter::<f64>()?.map(|x| format_float(x, x)));
    } else if dtype.is_float() {
        // Every narrower float is a single exactly, and the shortest text depends on the format.
        out.extend(to_f64(t)?.into_iter().map(|x| format_float(x, x as f32)));
    } else if dtype == DType::U64 {
        out.extend(t.iter::<u64>()?.map(|x| x.to_string()));
    } else {
        out.extend(to_i64(t)?.into_iter().map(|x| x.to_string()));
    }
    Tensor::from_strings(t.shape(), out)
}

fn format_float(value: f64, shown: impl std::fmt::Display) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "INF" } else { "-INF" }.to_owned()
    } else {
        shown.to_string()
    }
}

op! {
    /// The same bits read as the type `to`, which must be as wide; same shape. Bytes read as
    /// `bool` other than 0 and 1 become 1. (ONNX BitCast-26.)
    BitCast {
        /// Target type.
        to: DType = DType::F32,
    }
}

impl Operator for BitCast {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let from = args.dtype(0)?;
        expect_same_width(from, self.to)?;
        Ok(vec![shaped_like(args, 0, self.to)?])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let t = args.tensor(0)?;
        expect_same_width(t.dtype(), self.to)?;
        let t = t.to_contiguous()?;
        Ok(vec![Tensor::from_bytes(self.to, t.shape(), t.as_bytes()?)?.into()])
    }
}

fn expect_same_width(from: DType, to: DType) -> Result<()> {
    ensure!(
        from != DType::String && to != DType::String,
        DTypeMismatch,
        "strings have no bits to reinterpret ({from} as {to}); use Cast"
    );
    ensure!(
        from.bits() == to.bits(),
        DTypeMismatch,
        "cannot reinterpret {from} of {} bits as {to} of {}; the widths must be equal",
        from.bits(),
        to.bits()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dim;

    fn to(t: &Tensor, dtype: DType) -> Tensor {
        cast(t, dtype, true, ScaleRounding::Up).unwrap()
    }

    #[test]
    fn floats_truncate_then_wrap_or_saturate() {
        let x = Tensor::from_slice(&[5], &[-1.9f32, 300.0, f32::NAN, 3e9, -3e9]).unwrap();
        assert_eq!(to(&x, DType::U8).to_vec::<u8>().unwrap()[..3], [255, 44, 0]);
        let want = [-1, 300, 0, i32::MAX, i32::MIN];
        assert_eq!(to(&x, DType::I32).to_vec::<i32>().unwrap(), want);
        let narrow = to(&x, DType::I4).unpack().unwrap().to_vec::<i8>().unwrap();
        assert_eq!(narrow[..3], [-1, -4, 0]);
    }

    #[test]
    fn integers_round_once_to_narrow_floats() {
        // Halfway between two singles, plus a bit that a double cannot hold.
        let x = (1i64 << 62) + (1 << 38) + 1;
        let t = Tensor::from_slice(&[2], &[x, -x]).unwrap();
        let want = x as f32;
        assert_eq!(to(&t, DType::F32).to_vec::<f32>().unwrap(), [want, -want]);
        assert_ne!(want, x as f64 as f32, "the case tells double rounding apart");
        let u = Tensor::from_slice(&[1], &[u64::MAX]).unwrap();
        assert_eq!(to(&u, DType::F64).to_vec::<f64>().unwrap(), [u64::MAX as f64]);
    }

    #[test]
    fn scales_round_by_mode_and_leave_the_range_by_saturation() {
        use ScaleRounding::{Down, Nearest, Up};
        for (x, saturate, mode, want) in [
            (1.0, true, Up, 127),
            (1.1, true, Up, 128),
            (1.1, true, Down, 127),
            (1.5, true, Nearest, 128),
            (1.49, true, Nearest, 127),
            (0.0, true, Up, 0),
            (0.0, false, Nearest, 255),
            (f64::INFINITY, true, Up, 254),
            (f64::INFINITY, false, Nearest, 255),
            (f64::NAN, true, Up, 255),
            (-2.0, true, Up, 255),
            (1e300, true, Up, 254),
            (1e-300, true, Down, 0),
            (1e-300, false, Down, 255),
        ] {
            assert_eq!(encode_scale(x, saturate, mode), want, "{x} {saturate} {mode:?}");
        }
    }

    #[test]
    fn text_and_numbers_convert_both_ways() {
        let text = |v: &[&str]| {
            Tensor::from_strings(&[v.len()], v.iter().map(|s| s.to_string()).collect()).unwrap()
        };
        let t = text(&["2.75", "1e-5", "+INF", "nan", "-inf"]);
        let got = to(&t, DType::F32).to_vec::<f32>().unwrap();
        assert_eq!(got[..3], [2.75, 1e-5, f32::INFINITY]);
        assert!(got[3].is_nan() && got[4] == f32::NEG_INFINITY);
        assert_eq!(to(&text(&["-7", "2.9"]), DType::I8).to_vec::<i8>().unwrap(), [-7, 2]);
        let e = cast(&text(&["Hello"]), DType::F32, true, ScaleRounding::Up).unwrap_err();
        assert!(e.message().contains("'Hello'"));
        let x = Tensor::from_slice(&[3], &[-0.1f32, f32::NAN, f32::NEG_INFINITY]).unwrap();
        assert_eq!(to(&x, DType::String).as_strings().unwrap(), ["-0.1", "NaN", "-INF"]);
        let b = Tensor::from_slice(&[2], &[true, false]).unwrap();
        assert_eq!(to(&b, DType::String).as_strings().unwrap(), ["1", "0"]);
    }

    #[test]
    fn extents_survive_a_detour_through_floats() {
        let n = Dim::sym("n");
        let fact = Fact::dims(DType::I64, vec![n.clone()], false);
        let inputs = [Some(&fact)];
        let args = InferArgs { node: "t", inputs: &inputs, outputs: 1 };
        let float = Cast { to: DType::F32, ..Cast::default() }.infer(&args).unwrap().remove(0);
        let inputs = [Some(&float)];
        let args = InferArgs { node: "t", inputs: &inputs, outputs: 1 };
        let back = Cast { to: DType::I64, ..Cast::default() }.infer(&args).unwrap().remove(0);
        assert_eq!(back.as_dims(), Some(vec![n]));
    }

    #[test]
    fn bits_are_kept() {
        let run = |t: &Tensor, dtype| {
            let inputs = [Some(t.clone().into())];
            let args = EvalArgs { inputs: &inputs, outputs: 1, env: &crate::NoSubgraphs };
            BitCast { to: dtype }.eval(&args).map(|v| v[0].tensor().unwrap().clone())
        };
        let x = Tensor::from_slice(&[1], &[1.0f32]).unwrap();
        assert_eq!(run(&x, DType::U32).unwrap().to_vec::<u32>().unwrap(), [0x3f80_0000]);
        assert!(run(&x, DType::U16).unwrap_err().message().contains("32 bits"));
    }
}
