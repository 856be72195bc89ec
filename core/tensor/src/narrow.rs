//! Float formats narrower than 16 bits, and the packing of sub-byte elements.
//!
//! Conversions are exact on the way to `f32`; on the way back they round to the
//! nearest, ties to even. Sources: OCP 8-bit Floating Point Specification 1.0
//! (E4M3FN, E5M2), OCP Microscaling Formats 1.0 (E8M0, E2M1), and the FNUZ
//! variants as the ONNX specification of `Cast` defines them.

use crate::{DType, Result, bail};

/// How a minifloat encodes values that are not finite.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    /// Exponent all ones: infinity and NaN, as IEEE 754.
    Ieee,
    /// No infinity; exponent and mantissa all ones is NaN.
    Finite,
    /// No infinity, no negative zero; the pattern of negative zero is NaN.
    Unsigned0,
    /// Every pattern is finite.
    None,
}

struct Format {
    exponent_bits: u32,
    mantissa_bits: u32,
    bias: i32,
    special: Special,
}

fn format_of(dtype: DType) -> Option<Format> {
    let f = |exponent_bits, mantissa_bits, bias, special| {
        Some(Format { exponent_bits, mantissa_bits, bias, special })
    };
    match dtype {
        DType::F8E4M3FN => f(4, 3, 7, Special::Finite),
        DType::F8E4M3FNUZ => f(4, 3, 8, Special::Unsigned0),
        DType::F8E5M2 => f(5, 2, 15, Special::Ieee),
        DType::F8E5M2FNUZ => f(5, 2, 16, Special::Unsigned0),
        DType::F4E2M1 => f(2, 1, 1, Special::None),
        _ => None,
    }
}

impl Format {
    fn sign_mask(&self) -> u32 {
        1 << (self.exponent_bits + self.mantissa_bits)
    }

    /// Pattern of the largest finite magnitude.
    fn max_pattern(&self) -> u32 {
        let all = self.sign_mask() - 1;
        match self.special {
            Special::Ieee => (all >> self.mantissa_bits << self.mantissa_bits) - 1,
            Special::Finite => all - 1,
            Special::Unsigned0 | Special::None => all,
        }
    }

    fn decode(&self, bits: u32) -> f32 {
        let negative = bits & self.sign_mask() != 0;
        let magnitude = bits & (self.sign_mask() - 1);
        let sign = if negative { -1.0 } else { 1.0 };
        let exponent = (magnitude >> self.mantissa_bits) as i32;
        let mantissa = magnitude & ((1 << self.mantissa_bits) - 1);
        match self.special {
            Special::Unsigned0 if negative && magnitude == 0 => return f32::NAN,
            Special::Finite if magnitude == self.sign_mask() - 1 => return f32::NAN,
            Special::Ieee if magnitude > self.max_pattern() => {
                return if mantissa == 0 { sign * f32::INFINITY } else { f32::NAN };
            }
            _ => {}
        }
        let scale = 1i32 << self.mantissa_bits;
        let value = if exponent == 0 {
            mantissa as f32 / scale as f32 * exp2(1 - self.bias)
        } else {
            (1.0 + mantissa as f32 / scale as f32) * exp2(exponent - self.bias)
        };
        sign * value
    }

    fn nan(&self, negative: bool) -> u32 {
        let sign = if negative { self.sign_mask() } else { 0 };
        match self.special {
            Special::Ieee => (self.max_pattern() + 2) | sign,
            Special::Finite => (self.sign_mask() - 1) | sign,
            Special::Unsigned0 => self.sign_mask(),
            // E2M1 has no NaN, and the microscaling specification leaves the conversion open;
            // the ONNX conformance cases expect negative zero.
            Special::None => self.sign_mask(),
        }
    }

    fn encode(&self, x: f32, saturate: bool) -> u32 {
        let negative = x.is_sign_negative();
        let sign = if negative { self.sign_mask() } else { 0 };
        if x.is_nan() {
            return self.nan(negative);
        }
        let max = self.max_pattern();
        let overflow = match (saturate || self.special == Special::None, self.special) {
            (true, _) => max | sign,
            (false, Special::Ieee) => (max + 1) | sign,
            (false, _) => self.nan(negative),
        };
        if x.is_infinite() {
            return overflow;
        }
        let a = x.abs() as f64;
        if a == 0.0 {
            return if self.special == Special::Unsigned0 { 0 } else { sign };
        }
        // Quantum of the binade that `a` lies in (or of the subnormals).
        let e = (((a.to_bits() >> 52) as i32) - 1023).max(1 - self.bias);
        let quantum = ((e - self.mantissa_bits as i32) as f64).exp2();
        let steps = (a / quantum).round_ties_even() as u64;
        // Rounding up may carry into the next binade; the sum below carries along.
        let base = ((e + self.bias - 1) as u64) << self.mantissa_bits;
        let pattern = base + steps;
        if pattern > max as u64 {
            return overflow;
        }
        if pattern == 0 && self.special == Special::Unsigned0 {
            return 0;
        }
        pattern as u32 | sign
    }
}

fn exp2(e: i32) -> f32 {
    (e as f32).exp2()
}

/// Value of one unpacked element (in the low bits of `bits`) of a float format
/// narrower than 16 bits; `None` for other element types.
pub fn decode_float(dtype: DType, bits: u8) -> Option<f32> {
    if dtype == DType::F8E8M0 {
        return Some(if bits == 0xff {
            f32::NAN
        } else {
            f32::from_bits(if bits == 0 { 0x0040_0000 } else { (bits as u32) << 23 })
        });
    }
    format_of(dtype).map(|f| f.decode(bits as u32))
}

/// Nearest element of a float format narrower than 16 bits. Out-of-range values
/// become the largest magnitude with `saturate`, else infinity or NaN as the
/// format has them. `None` for other element types and for `F8E8M0`, whose
/// rounding is the caller's choice.
pub fn encode_float(dtype: DType, x: f32, saturate: bool) -> Option<u8> {
    format_of(dtype).map(|f| f.encode(x, saturate) as u8)
}

/// Unpacks `count` elements of 2 or 4 bits, first element in the low bits, to one
/// per byte. Signed integers are sign-extended.
///
/// # Errors
/// `InvalidArgument` if `dtype` is not packed or `bytes` is too short.
pub fn unpack(dtype: DType, bytes: &[u8], count: usize) -> Result<Vec<u8>> {
    let bits = dtype.bits();
    if !dtype.is_packed() {
        bail!(InvalidArgument, "{dtype} is not a packed element type");
    }
    if bytes.len() < dtype.bytes_for(count)? {
        bail!(InvalidArgument, "{count} elements of {dtype} need more than {} bytes", bytes.len());
    }
    let per_byte = 8 / bits;
    Ok((0..count)
        .map(|i| {
            let raw = bytes[i / per_byte] >> (i % per_byte * bits) & ((1 << bits) - 1);
            if dtype.is_signed_int() {
                (((raw << (8 - bits)) as i8) >> (8 - bits)) as u8
            } else {
                raw
            }
        })
        .collect())
}

/// Packs one-per-byte elements, keeping the low bits of each.
///
/// # Errors
/// `InvalidArgument` if `dtype` is not packed.
pub fn pack(dtype: DType, elements: &[u8]) -> Result<Vec<u8>> {
    let bits = dtype.bits();
    if !dtype.is_packed() {
        bail!(InvalidArgument, "{dtype} is not a packed element type");
    }
    let per_byte = 8 / bits;
    let mask = ((1u16 << bits) - 1) as u8;
    Ok(elements
        .chunks(per_byte)
        .map(|chunk| {
            chunk.iter().enumerate().fold(0u8, |acc, (i, e)| acc | (e & mask) << (i * bits))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOATS: [DType; 5] =
        [DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ, DType::F4E2M1];

    #[test]
    fn every_finite_pattern_round_trips() {
        for d in FLOATS {
            for bits in 0..1u32 << d.bits() {
                let x = decode_float(d, bits as u8).unwrap();
                if x.is_finite() {
                    assert_eq!(encode_float(d, x, false).unwrap() as u32, bits, "{d} {x}");
                }
            }
        }
    }

    #[test]
    fn named_values_match_the_specifications() {
        for (d, bits, x) in [
            (DType::F8E4M3FN, 0x7e, 448.0),
            (DType::F8E4M3FN, 0x01, 1.0 / 512.0),
            (DType::F8E4M3FNUZ, 0x7f, 240.0),
            (DType::F8E5M2, 0x7b, 57344.0),
            (DType::F8E5M2FNUZ, 0x7f, 57344.0),
            (DType::F4E2M1, 0x7, 6.0),
            (DType::F4E2M1, 0x1, 0.5),
            (DType::F8E8M0, 127, 1.0),
        ] {
            assert_eq!(decode_float(d, bits), Some(x), "{d} {bits:#x}");
        }
        assert!(decode_float(DType::F8E4M3FN, 0x7f).unwrap().is_nan());
        assert!(decode_float(DType::F8E4M3FNUZ, 0x80).unwrap().is_nan());
        assert_eq!(encode_float(DType::F8E5M2, 1e9, false), Some(0x7c));
        assert_eq!(encode_float(DType::F8E5M2, 1e9, true), Some(0x7b));
        assert_eq!(encode_float(DType::F8E4M3FN, 1e9, false), Some(0x7f));
    }

    #[test]
    fn rounding_is_nearest_even_against_exhaustive_search() {
        for d in FLOATS {
            let table: Vec<(u32, f32)> = (0..1u32 << d.bits())
                .map(|b| (b, decode_float(d, b as u8).unwrap()))
                .filter(|(_, x)| x.is_finite() && x.is_sign_positive())
                .collect();
            let max = table.iter().fold(0f32, |m, (_, x)| m.max(*x));
            for i in 0..4000 {
                let x = max * (i as f32 / 4000.0).powi(3);
                let (bits, _) = *table
                    .iter()
                    .min_by(|a, b| {
                        let (da, db) =
                            ((a.1 as f64 - x as f64).abs(), (b.1 as f64 - x as f64).abs());
                        da.total_cmp(&db).then((a.0 & 1).cmp(&(b.0 & 1)))
                    })
                    .unwrap();
                assert_eq!(encode_float(d, x, true).unwrap() as u32, bits, "{d} {x}");
            }
        }
    }

    #[test]
    fn packing_puts_the_first_element_in_the_low_bits() {
        assert_eq!(pack(DType::I4, &[0xff, 0x01, 0x08]).unwrap(), vec![0x1f, 0x08]);
        assert_eq!(unpack(DType::I4, &[0x1f, 0x08], 3).unwrap(), vec![0xff, 0x01, 0xf8]);
        assert_eq!(unpack(DType::U2, &[0b11_10_01_00], 4).unwrap(), vec![0, 1, 2, 3]);
        assert!(unpack(DType::U4, &[0], 3).is_err());
    }
}
