//! Values that go in and come out.

use crate::call::{Call, guard, guard_value, invalid};
use crate::error::{deepseek_dtype, deepseek_error, deepseek_status};
use deepseek::{Buffer, Code, DType, Error, Result, Tensor};
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Host memory.
pub const DEEPSEEK_DEVICE_CPU: i32 = 0;

/// A tensor: element type, shape, and elements in row-major order without gaps. Shared,
/// immutable.
pub struct deepseek_tensor {
    pub(crate) tensor: Tensor,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

impl deepseek_tensor {
    pub(crate) fn new(tensor: Tensor) -> Result<Self> {
        let tensor = tensor.to_contiguous()?;
        let shape = tensor.shape().iter().map(|&d| d as i64).collect();
        let strides = tensor.strides().iter().map(|&s| s as i64).collect();
        Ok(deepseek_tensor { tensor, shape, strides })
    }
}

/// A look into a tensor. Borrowed: valid until the tensor is freed. This struct never
/// grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct deepseek_tensor_view {
    /// First element; NULL for strings, see `deepseek_tensor_get_string`. Elements of 4 and 2
    /// bits are packed, the first in the low bits.
    pub data: *const c_void,
    /// Extents, outermost first; `rank` of them.
    pub shape: *const i64,
    /// Steps between neighbours along each axis, in elements; `rank` of them.
    pub strides: *const i64,
    /// Bytes at `data`; 0 for strings.
    pub bytes: usize,
    /// Number of elements.
    pub count: usize,
    /// Number of dimensions; 0 for a scalar.
    pub rank: usize,
    /// Element type, one of `DEEPSEEK_DTYPE_…`.
    pub dtype: deepseek_dtype,
    /// Where the elements are, one of `DEEPSEEK_DEVICE_…`.
    pub device: i32,
}

/// Called once when the library no longer needs memory that it was lent. `ctx` and `data`
/// are what the caller passed. May come from any thread; must not throw.
pub type deepseek_release = Option<unsafe extern "C" fn(ctx: *mut c_void, data: *mut c_void)>;

/// Memory of the caller, and how to tell that it is no longer needed. Not armed until the
/// call that lends it has succeeded.
struct Lent {
    release: deepseek_release,
    ctx: *mut c_void,
    data: *mut c_void,
    armed: AtomicBool,
}

// SAFETY: the pointers are only handed back to `release`, which the header says may be
// called from any thread.
unsafe impl Send for Lent {}
// SAFETY: as above; there is nothing to read through a shared reference.
unsafe impl Sync for Lent {}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (true, Some(release)) = (*self.armed.get_mut(), self.release) {
            // SAFETY: the caller passed this function for these pointers, and this is
            // the only call: a value is dropped once.
            unsafe { release(self.ctx, self.data) }
        }
    }
}

/// Extents from an array that the caller knows as `what`: non-negative.
pub(crate) fn extents(
    call: &Call,
    shape: *const i64,
    rank: usize,
    what: &str,
) -> Result<Vec<usize>> {
    let shape = call.slice(shape, rank, what)?;
    let extents = shape.iter().enumerate().map(|(axis, &extent)| {
        usize::try_from(extent).map_err(|_| {
            invalid(format!("{what}[{axis}] is {extent}; extents of a tensor are not negative"))
        })
    });
    extents.collect()
}

/// Makes a tensor with a copy of `data`, `bytes` long, row-major; or, if `data` is NULL and
/// `bytes` 0, a tensor of zeros (of empty strings). Bytes of `bool` other than 0 become 1.
/// Fails with `DEEPSEEK_STATUS_SHAPE_MISMATCH` if `bytes` is not what type and shape take,
/// `DEEPSEEK_STATUS_OUT_OF_MEMORY`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_tensor_new(
    dtype: deepseek_dtype,
    shape: *const i64,
    rank: usize,
    data: *const c_void,
    bytes: usize,
    out_tensor: *mut *mut deepseek_tensor,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_tensor, "out_tensor")?;
        let (dtype, shape) = (DType::from_i32(dtype)?, extents(call, shape, rank, "shape")?);
        let tensor = match (data.is_null(), bytes) {
            (true, 0) => Tensor::zeros(dtype, &shape)?,
            _ => Tensor::from_bytes(dtype, &shape, call.bytes(data, bytes, "data")?)?,
        };
        out.give_shared(deepseek_tensor::new(tensor)?);
        Ok(())
    })
}

/// Makes a tensor over memory of the caller, without a copy where `data` is aligned for the
/// element type. If the call succeeds, `release(ctx, data)` is called exactly once, when
/// the last user is gone (perhaps before this call returns, where a copy was made); until
/// then the memory must stay as it is. If the call fails, it is not called. `release` may
/// be NULL for memory that outlives every use. Fails as `deepseek_tensor_new`.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_tensor_wrap(
    dtype: deepseek_dtype,
    shape: *const i64,
    rank: usize,
    data: *mut c_void,
    bytes: usize,
    release: deepseek_release,
    ctx: *mut c_void,
    out_tensor: *mut *mut deepseek_tensor,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_tensor, "out_tensor")?;
        let (dtype, shape) = (DType::from_i32(dtype)?, extents(call, shape, rank, "shape")?);
        let lent = call.bytes(data, bytes, "data")?;
        let first = NonNull::new(data.cast::<u8>()).ok_or_else(|| invalid("data is NULL"))?;
        let keep = Arc::new(Lent { release, ctx, data, armed: AtomicBool::new(false) });
        // SAFETY: the header asks that the memory stays valid and unchanged until
        // `release` is called, which happens when the last clone of `keep` is dropped.
        let buffer = unsafe { Buffer::foreign(first, lent.len(), Box::new(keep.clone()), false) };
        let tensor = Tensor::from_buffer(dtype, &shape, Arc::new(buffer), 0)?;
        if tensor.size_bytes() != bytes {
            let need = tensor.size_bytes();
            let message = format!("{dtype}{shape:?} takes {need} bytes, got {bytes}");
            return Err(Error::new(Code::ShapeMismatch, message));
        }
        let tensor = deepseek_tensor::new(tensor)?;
        keep.armed.store(true, Ordering::Release);
        out.give_shared(tensor);
        Ok(())
    })
}

/// Makes a tensor of `count` strings, row-major. `lengths` holds their lengths in bytes;
/// NULL if they end in NUL. Fails with `DEEPSEEK_STATUS_SHAPE_MISMATCH` if `count` is not what the
/// shape takes. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_tensor_new_strings(
    shape: *const i64,
    rank: usize,
    strings: *const *const c_char,
    lengths: *const usize,
    count: usize,
    out_tensor: *mut *mut deepseek_tensor,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_tensor, "out_tensor")?;
        let shape = extents(call, shape, rank, "shape")?;
        let strings = call.contents(strings, lengths, count, "strings")?;
        let strings = strings.into_iter().map(str::to_owned).collect();
        out.give_shared(deepseek_tensor::new(Tensor::from_strings(&shape, strings)?)?);
        Ok(())
    })
}

/// Looks into a tensor. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_tensor_get_view(
    tensor: *const deepseek_tensor,
    out_view: *mut deepseek_tensor_view,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_view, "out_view")?;
        let t = call.get(tensor, "tensor")?;
        out.set(deepseek_tensor_view {
            data: t.tensor.as_ptr().cast(),
            shape: t.shape.as_ptr(),
            strides: t.strides.as_ptr(),
            bytes: t.tensor.size_bytes(),
            count: t.tensor.len(),
            rank: t.shape.len(),
            dtype: t.tensor.dtype() as i32,
            device: DEEPSEEK_DEVICE_CPU,
        });
        Ok(())
    })
}

/// Looks at one string of a tensor, by its index in row-major order: `*out_len` bytes at
/// `*out_data`, not followed by NUL, valid until the tensor is freed. Fails with
/// `DEEPSEEK_STATUS_DTYPE_MISMATCH` if the elements are not strings. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_tensor_get_string(
    tensor: *const deepseek_tensor,
    index: usize,
    out_data: *mut *const c_char,
    out_len: *mut usize,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let (data, len) = (call.out(out_data, "out_data")?, call.out(out_len, "out_len")?);
        let text = call.get(tensor, "tensor")?.tensor.string_at(index)?;
        data.set(text.as_ptr().cast());
        len.set(text.len());
        Ok(())
    })
}

/// Adds one to the count of a tensor and returns it; NULL for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_tensor_ref(
    tensor: *const deepseek_tensor,
) -> *mut deepseek_tensor {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, std::ptr::null_mut(), |call| call.share(tensor))
}

/// Takes one from the count of a tensor. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_tensor_free(tensor: *mut deepseek_tensor) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| drop(call.take_shared(tensor)))
}
