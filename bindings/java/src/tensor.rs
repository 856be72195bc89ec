//! `ai.deepseek.Tensor`.

use crate::error::{Failure, native};
use crate::handle;
use crate::wire::{self, Texts, TextsWriter};
use deepseek::{Buffer, Code, DType, Error, Tensor};
use jni::objects::{
    JBooleanArray, JByteArray, JByteBuffer, JClass, JDoubleArray, JFloatArray, JIntArray,
    JLongArray, JObject, JShortArray,
};
use jni::sys::{jint, jlong};
use jni::{EnvUnowned, jni_mangle};
use std::ptr::NonNull;
use std::sync::Arc;

/// Gives a tensor to Java, which reads elements row-major: a strided view is copied.
///
/// # Errors
/// `OutOfMemory`.
pub(crate) fn give(tensor: &Tensor) -> Result<jlong, Failure> {
    Ok(handle::give(tensor.to_contiguous()?))
}

/// A tensor from an array, and back. The tensor's unsigned twin is read as its bits.
macro_rules! arrays {
    ($($from:ident $to:ident $array:ident $zero:expr, $($twin:ident)* => $dtype:ident;)*) => {$(
        /// A tensor with a copy of the elements.
        #[jni_mangle("ai.deepseek.Tensor")]
        pub fn $from<'l>(
            env: EnvUnowned<'l>,
            _class: JClass<'l>,
            data: $array<'l>,
            shape: JLongArray<'l>,
        ) -> jlong {
            native(env, |env| {
                let shape = wire::shape(env, &shape)?;
                let mut elements = vec![$zero; data.len(env)?];
                data.get_region(env, 0, &mut elements)?;
                Ok(handle::give(Tensor::from_vec(&shape, elements)?))
            })
        }

        /// A copy of the elements.
        #[jni_mangle("ai.deepseek.Tensor")]
        pub fn $to<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> $array<'l> {
            native(env, |env| {
                let tensor = handle::get::<Tensor>(handle)?;
                let tensor = match tensor.dtype() {
                    $(DType::$twin => tensor.bitcast(DType::$dtype)?,)*
                    _ => tensor,
                };
                let elements = tensor.as_slice()?;
                wire::array_length(elements.len())?;
                let array = $array::new(env, elements.len())?;
                array.set_region(env, 0, elements)?;
                Ok(array)
            })
        }
    )*};
}

arrays! {
    from_floats to_floats JFloatArray 0f32, => F32;
    from_doubles to_doubles JDoubleArray 0f64, => F64;
    from_shorts to_shorts JShortArray 0i16, U16 F16 BF16 => I16;
    from_ints to_ints JIntArray 0i32, U32 => I32;
    from_longs to_longs JLongArray 0i64, U64 => I64;
    from_booleans to_booleans JBooleanArray false, => Bool;
}

/// A tensor with a copy of little-endian bytes.
#[jni_mangle("ai.deepseek.Tensor")]
pub fn from_bytes<'l>(
    env: EnvUnowned<'l>,
    _class: JClass<'l>,
    dtype: jint,
    data: JByteArray<'l>,
    shape: JLongArray<'l>,
) -> jlong {
    native(env, |env| {
        let (dtype, shape) = (DType::from_i32(dtype)?, wire::shape(env, &shape)?);
        let bytes = env.convert_byte_array(&data)?;
        Ok(handle::give(Tensor::from_bytes(dtype, &shape, &bytes)?))
    })
}

/// A tensor of strings.
#[jni_mangle("ai.deepseek.Tensor")]
pub fn from_texts<'l>(
    env: EnvUnowned<'l>,
    _class: JClass<'l>,
    data: JByteArray<'l>,
    shape: JLongArray<'l>,
) -> jlong {
    native(env, |env| {
        let shape = wire::shape(env, &shape)?;
        let texts = Texts::read(env, &data)?;
        let texts = texts.decode()?.into_iter().map(str::to_owned).collect();
        Ok(handle::give(Tensor::from_strings(&shape, texts)?))
    })
}

/// A tensor of zeros.
#[jni_mangle("ai.deepseek.Tensor", "zeros")]
pub fn zeros<'l>(
    env: EnvUnowned<'l>,
    _class: JClass<'l>,
    dtype: jint,
    shape: JLongArray<'l>,
) -> jlong {
    native(env, |env| {
        let shape = wire::shape(env, &shape)?;
        Ok(handle::give(Tensor::zeros(DType::from_i32(dtype)?, &shape)?))
    })
}

/// A tensor over the memory of a direct buffer, all of it.
#[jni_mangle("ai.deepseek.Tensor")]
pub fn wrap<'l>(
    env: EnvUnowned<'l>,
    _class: JClass<'l>,
    dtype: jint,
    buffer: JByteBuffer<'l>,
    shape: JLongArray<'l>,
) -> jlong {
    native(env, |env| {
        let (dtype, shape) = (DType::from_i32(dtype)?, wire::shape(env, &shape)?);
        let length = env.get_direct_buffer_capacity(&buffer)?;
        let memory = if length == 0 {
            // A buffer of no bytes may have no address.
            Buffer::zeroed(0)?
        } else {
            let address = NonNull::new(env.get_direct_buffer_address(&buffer)?);
            let address = address.ok_or(jni::errors::Error::NullPtr("direct buffer"))?;
            let keep = Box::new(env.new_global_ref(&buffer)?);
            // SAFETY: a direct buffer's memory stays where it is while the buffer is
            // reachable, which the global reference sees to; that nobody writes it
            // meanwhile is the caller's promise, stated at `Tensor.wrap`.
            unsafe { Buffer::foreign(address, length, keep, false) }
        };
        let tensor = Tensor::from_buffer(dtype, &shape, Arc::new(memory), 0)?;
        if tensor.size_bytes() != length {
            let need = tensor.size_bytes();
            let message = format!("{tensor:?} takes {need} bytes, the buffer has {length} left");
            return Err(Error::new(Code::ShapeMismatch, message).into());
        }
        Ok(handle::give(tensor))
    })
}

/// Element type, bytes, then the extents.
#[jni_mangle("ai.deepseek.Tensor")]
pub fn describe<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> JLongArray<'l> {
    native(env, |env| {
        let tensor = handle::get::<Tensor>(handle)?;
        let mut out = vec![tensor.dtype() as jlong, tensor.size_bytes() as jlong];
        out.extend(tensor.shape().iter().map(|&d| d as jlong));
        let array = JLongArray::new(env, out.len())?;
        array.set_region(env, 0, &out)?;
        Ok(array)
    })
}

/// A copy of the bytes.
#[jni_mangle("ai.deepseek.Tensor")]
pub fn to_bytes<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> JByteArray<'l> {
    native(env, |env| wire::bytes(env, handle::get::<Tensor>(handle)?.as_bytes()?))
}

/// The strings.
#[jni_mangle("ai.deepseek.Tensor")]
pub fn to_texts<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> JByteArray<'l> {
    native(env, |env| {
        let mut out = TextsWriter::default();
        for text in handle::get::<Tensor>(handle)?.as_strings()? {
            out.push(text)?;
        }
        out.finish(env)
    })
}

/// Another number for the same tensor.
#[jni_mangle("ai.deepseek.Tensor")]
pub fn share<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> jlong {
    native(env, |_| Ok(handle::give(handle::get::<Tensor>(handle)?)))
}

/// A direct buffer over part of the bytes. It is for reading, until the number `handle`
/// is given back; Java ties the two together.
#[jni_mangle("ai.deepseek.Tensor")]
pub fn view<'l>(
    env: EnvUnowned<'l>,
    _class: JClass<'l>,
    handle: jlong,
    offset: jlong,
    length: jint,
) -> JByteBuffer<'l> {
    native(env, |env| {
        let tensor = handle::get::<Tensor>(handle)?;
        let bytes = tensor.as_bytes()?;
        let part = usize::try_from(offset)
            .ok()
            .and_then(|from| bytes.get(from..)?.get(..usize::try_from(length).ok()?));
        let part = part.ok_or_else(|| {
            let size = bytes.len();
            let message = format!("{length} bytes from {offset} leave the tensor's {size} bytes");
            Error::new(Code::InvalidArgument, message)
        })?;
        // SAFETY: the bytes live as long as the table holds the tensor under this number,
        // which Java gives back once the buffer, and what was sliced from it, is
        // unreachable; Java hands out the buffer read-only.
        Ok(unsafe { env.new_direct_byte_buffer(part.as_ptr().cast_mut(), part.len()) }?)
    })
}
