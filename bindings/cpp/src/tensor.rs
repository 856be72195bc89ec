//! Values in and out.

use crate::ffi::{Keep, Status};
use crate::status::{give, guard};
use cxx::UniquePtr;
use deepseek::{Buffer, Code, DType, Error, Result, Type};
use std::ptr::NonNull;
use std::sync::Arc;

/// A tensor whose elements lie row-major without gaps.
pub(crate) struct Tensor(pub(crate) deepseek::Tensor);

/// A run-time value: a tensor, a sequence or an optional.
pub(crate) struct Value(pub(crate) deepseek::Value);

pub(crate) fn dtype_numbers() -> Vec<i32> {
    DType::ALL.into_iter().map(|d| d as i32).collect()
}

pub(crate) fn dtype_name(number: i32) -> &'static str {
    DType::from_i32(number).map_or("unknown", DType::name)
}

pub(crate) fn dtype_bits(number: i32) -> usize {
    DType::from_i32(number).map_or(0, DType::bits)
}

pub(crate) fn dtype_parse(text: &str, status: &mut Status) -> i32 {
    guard(status, 0, || Ok(DType::parse(text)? as i32))
}

pub(crate) fn tensor_copy(
    dtype: i32,
    shape: &[usize],
    bytes: &[u8],
    status: &mut Status,
) -> *mut Tensor {
    give(status, || {
        Ok(Tensor(deepseek::Tensor::from_bytes(DType::from_i32(dtype)?, shape, bytes)?))
    })
}

pub(crate) fn tensor_zeros(dtype: i32, shape: &[usize], status: &mut Status) -> *mut Tensor {
    give(status, || Ok(Tensor(deepseek::Tensor::zeros(DType::from_i32(dtype)?, shape)?)))
}

pub(crate) fn tensor_strings(
    shape: &[usize],
    strings: &[&str],
    status: &mut Status,
) -> *mut Tensor {
    give(status, || {
        let strings = strings.iter().map(|&s| s.to_owned()).collect();
        Ok(Tensor(deepseek::Tensor::from_strings(shape, strings)?))
    })
}

/// What keeps adopted memory alive.
struct Lent(#[expect(dead_code, reason = "held to be dropped")] UniquePtr<Keep>);

// SAFETY: the library only ever destroys the owner; `Keep` says that any thread may.
unsafe impl Send for Lent {}
// SAFETY: as above; nothing is reached through a shared reference.
unsafe impl Sync for Lent {}

/// A tensor over `bytes` bytes at `data`, which `keep` owns.
///
/// # Safety
/// The bytes must stay valid, unchanged and in place until `keep` is destroyed.
pub(crate) unsafe fn tensor_adopt(
    dtype: i32,
    shape: &[usize],
    data: *const u8,
    bytes: usize,
    keep: UniquePtr<Keep>,
    status: &mut Status,
) -> *mut Tensor {
    give(status, || {
        let dtype = DType::from_i32(dtype)?;
        let first = match NonNull::new(data.cast_mut()) {
            Some(first) => first,
            None if bytes == 0 => NonNull::dangling(),
            None => return Err(Error::new(Code::InvalidArgument, "the tensor's data is null")),
        };
        // SAFETY: the caller vouches for the bytes as long as `keep` lives, and `Lent`
        // holds it as long as the buffer.
        let buffer = unsafe { Buffer::foreign(first, bytes, Box::new(Lent(keep)), false) };
        let tensor = deepseek::Tensor::from_buffer(dtype, shape, Arc::new(buffer), 0)?;
        if tensor.size_bytes() != bytes {
            let need = tensor.size_bytes();
            let message = format!("{dtype}{shape:?} takes {need} bytes, got {bytes}");
            return Err(Error::new(Code::ShapeMismatch, message));
        }
        Ok(Tensor(tensor))
    })
}

impl Tensor {
    pub(crate) fn dtype(&self) -> i32 {
        self.0.dtype() as i32
    }

    pub(crate) fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    pub(crate) fn data(&self) -> *const u8 {
        self.0.as_ptr()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.size_bytes()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is a string at `index`; why not in `status`.
    pub(crate) fn has_string(&self, index: usize, status: &mut Status) -> bool {
        guard(status, false, || self.0.string_at(index).map(|_| true))
    }

    /// The string at `index`, which [`Tensor::has_string`] has found.
    pub(crate) fn string(&self, index: usize) -> &str {
        self.0.string_at(index).unwrap_or_default()
    }
}

impl Value {
    pub(crate) fn type_text(&self) -> String {
        self.0.ty().to_string()
    }

    pub(crate) fn is_tensor(&self) -> bool {
        matches!(self.0, deepseek::Value::Tensor(_))
    }

    pub(crate) fn to_tensor(&self, status: &mut Status) -> *mut Tensor {
        give(status, || Ok(Tensor(self.0.tensor()?.to_contiguous()?)))
    }

    /// Number of items: of a sequence; 1 or 0 of an optional.
    pub(crate) fn count(&self, status: &mut Status) -> usize {
        guard(status, 0, || Ok(self.items()?.len()))
    }

    pub(crate) fn item(&self, index: usize, status: &mut Status) -> *mut Value {
        give(status, || {
            let items = self.items()?;
            let item = items.get(index).ok_or_else(|| {
                let message = format!("item is {index}, the value has {} items", items.len());
                Error::new(Code::InvalidArgument, message)
            })?;
            Ok(Value(item.clone()))
        })
    }

    fn items(&self) -> Result<&[deepseek::Value]> {
        match &self.0 {
            deepseek::Value::Optional(_, item) => {
                Ok(item.as_deref().map_or(&[], std::slice::from_ref))
            }
            other => other.sequence(),
        }
    }
}

/// Number of the element type, 0 for what is not a tensor.
pub(crate) fn dtype_of(ty: &Type) -> i32 {
    match ty {
        Type::Tensor(dtype, _) => *dtype as i32,
        _ => 0,
    }
}
