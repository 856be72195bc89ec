//! Element types.

use crate::{Result, err};
use std::fmt;

/// Element type of a tensor. Values are part of the C ABI and never change.
///
/// Types narrower than a byte are stored packed, the first element in the low
/// bits (the ONNX convention); they are storage types: kernels and the scalar
/// reference read them through [`crate::Tensor::unpack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i32)]
pub enum DType {
    /// IEEE 754 binary32.
    F32 = 1,
    /// IEEE 754 binary64.
    F64 = 2,
    /// IEEE 754 binary16.
    F16 = 3,
    /// bfloat16: the upper half of a binary32.
    BF16 = 4,
    /// Signed 8-bit integer.
    I8 = 5,
    /// Signed 16-bit integer.
    I16 = 6,
    /// Signed 32-bit integer.
    I32 = 7,
    /// Signed 64-bit integer.
    I64 = 8,
    /// Unsigned 8-bit integer.
    U8 = 9,
    /// Unsigned 16-bit integer.
    U16 = 10,
    /// Unsigned 32-bit integer.
    U32 = 11,
    /// Unsigned 64-bit integer.
    U64 = 12,
    /// One byte, 0 or 1.
    Bool = 13,
    /// UTF-8 text.
    String = 14,
    /// Signed 4-bit integer, packed.
    I4 = 15,
    /// Unsigned 4-bit integer, packed.
    U4 = 16,
    /// Signed 2-bit integer, packed.
    I2 = 17,
    /// Unsigned 2-bit integer, packed.
    U2 = 18,
    /// 8-bit float, 4 exponent bits, finite and NaN only (OCP E4M3FN).
    F8E4M3FN = 19,
    /// 8-bit float, 4 exponent bits, one NaN, no negative zero.
    F8E4M3FNUZ = 20,
    /// 8-bit float, 5 exponent bits, with infinities (OCP E5M2).
    F8E5M2 = 21,
    /// 8-bit float, 5 exponent bits, one NaN, no negative zero.
    F8E5M2FNUZ = 22,
    /// 8-bit power-of-two scale (OCP E8M0).
    F8E8M0 = 23,
    /// 4-bit float (OCP E2M1), packed.
    F4E2M1 = 24,
}

impl DType {
    /// Every type, in ABI order.
    pub const ALL: [DType; 24] = [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::BF16,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::Bool,
        DType::String,
        DType::I4,
        DType::U4,
        DType::I2,
        DType::U2,
        DType::F8E4M3FN,
        DType::F8E4M3FNUZ,
        DType::F8E5M2,
        DType::F8E5M2FNUZ,
        DType::F8E8M0,
        DType::F4E2M1,
    ];

    /// Short name, used in text form, messages and file formats.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I8 => "i8",
            DType::I16 => "i16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::U8 => "u8",
            DType::U16 => "u16",
            DType::U32 => "u32",
            DType::U64 => "u64",
            DType::Bool => "bool",
            DType::String => "string",
            DType::I4 => "i4",
            DType::U4 => "u4",
            DType::I2 => "i2",
            DType::U2 => "u2",
            DType::F8E4M3FN => "f8e4m3fn",
            DType::F8E4M3FNUZ => "f8e4m3fnuz",
            DType::F8E5M2 => "f8e5m2",
            DType::F8E5M2FNUZ => "f8e5m2fnuz",
            DType::F8E8M0 => "f8e8m0",
            DType::F4E2M1 => "f4e2m1",
        }
    }

    /// Parses a short name (`f32`) or numpy's spelling (`float32`).
    ///
    /// # Errors
    /// `InvalidArgument` for any other text.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(d) = DType::ALL.into_iter().find(|d| d.name() == text) {
            return Ok(d);
        }
        Ok(match text {
            "float32" | "float" => DType::F32,
            "float64" | "double" => DType::F64,
            "float16" | "half" => DType::F16,
            "bfloat16" => DType::BF16,
            "int8" => DType::I8,
            "int16" => DType::I16,
            "int32" => DType::I32,
            "int64" => DType::I64,
            "uint8" => DType::U8,
            "uint16" => DType::U16,
            "uint32" => DType::U32,
            "uint64" => DType::U64,
            "str" => DType::String,
            "int4" => DType::I4,
            "uint4" => DType::U4,
            "int2" => DType::I2,
            "uint2" => DType::U2,
            "float8e4m3fn" => DType::F8E4M3FN,
            "float8e4m3fnuz" => DType::F8E4M3FNUZ,
            "float8e5m2" => DType::F8E5M2,
            "float8e5m2fnuz" => DType::F8E5M2FNUZ,
            "float8e8m0" => DType::F8E8M0,
            "float4e2m1" => DType::F4E2M1,
            _ => {
                return Err(err!(
                    InvalidArgument,
                    "'{text}' is not an element type; use a name such as f32, int64, bool or bf16"
                ));
            }
        })
    }

    /// The type with this ABI number.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown number.
    pub fn from_i32(value: i32) -> Result<Self> {
        DType::ALL.into_iter().find(|d| *d as i32 == value).ok_or_else(|| {
            err!(
                InvalidArgument,
                "{value} is not an element type; known are 1 to {}",
                Self::ALL.len()
            )
        })
    }

    /// Bits per stored element; 0 for [`DType::String`].
    pub fn bits(self) -> usize {
        match self {
            DType::String => 0,
            DType::I2 | DType::U2 => 2,
            DType::I4 | DType::U4 | DType::F4E2M1 => 4,
            DType::I8
            | DType::U8
            | DType::Bool
            | DType::F8E4M3FN
            | DType::F8E4M3FNUZ
            | DType::F8E5M2
            | DType::F8E5M2FNUZ
            | DType::F8E8M0 => 8,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 16,
            DType::F32 | DType::I32 | DType::U32 => 32,
            DType::F64 | DType::I64 | DType::U64 => 64,
        }
    }

    /// Whether several elements share a byte.
    pub fn is_packed(self) -> bool {
        matches!(self.bits(), 2 | 4)
    }

    /// Whether the type is a floating-point format, of any width.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::F4E2M1)
            || self.is_float8()
    }

    /// Whether the type is one of the 8-bit floats.
    pub fn is_float8(self) -> bool {
        matches!(
            self,
            DType::F8E4M3FN | DType::F8E4M3FNUZ | DType::F8E5M2 | DType::F8E5M2FNUZ | DType::F8E8M0
        )
    }

    /// Whether the type is an integer, of any width; `bool` is not.
    pub fn is_int(self) -> bool {
        !self.is_float() && !matches!(self, DType::Bool | DType::String)
    }

    /// Whether the type is a signed integer.
    pub fn is_signed_int(self) -> bool {
        matches!(self, DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::I4 | DType::I2)
    }

    /// Bytes that `count` contiguous elements take, packed types rounded up.
    /// Strings have no byte size and count as 0.
    ///
    /// # Errors
    /// `InvalidArgument` if the size overflows.
    pub fn bytes_for(self, count: usize) -> Result<usize> {
        count.checked_mul(self.bits()).map(|b| b.div_ceil(8)).ok_or_else(|| {
            err!(InvalidArgument, "{count} elements of {self} overflow the address space")
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type whose values are tensor elements of [`Element::DTYPE`].
pub trait Element:
    sealed::Sealed + Copy + Default + Send + Sync + PartialEq + fmt::Debug + 'static
{
    /// The element type this Rust type stores.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($ty:ty => $dtype:ident),* $(,)?) => {$(
        impl sealed::Sealed for $ty {}
        impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
        }
    )*};
}

elements! {
    f32 => F32, f64 => F64, half::f16 => F16, half::bf16 => BF16,
    i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64, bool => Bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip() {
        for d in DType::ALL {
            assert_eq!(DType::parse(d.name()).unwrap(), d);
            assert_eq!(DType::from_i32(d as i32).unwrap(), d);
        }
        assert!(DType::parse("complex64").is_err());
        assert!(DType::from_i32(0).is_err() && DType::from_i32(25).is_err());
    }

    #[test]
    fn packed_sizes_round_up_and_overflow_is_an_error() {
        assert_eq!(DType::I4.bytes_for(3).unwrap(), 2);
        assert_eq!(DType::U2.bytes_for(5).unwrap(), 2);
        assert!(DType::F64.bytes_for(usize::MAX / 8).is_err());
    }
}
