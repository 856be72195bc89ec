//! Tensors cross as plain objects: `{ dtype, shape, data }`.
//!
//! `data` is a typed array (for strings, an array of strings), so a tensor can be made,
//! printed, posted to a worker and forgotten without any ceremony.
//!
//! On the way in, elements are read where they are; the array is held until the call is
//! over, and its owner must leave it alone until then. `i32`, `i64` and `bool`, which may
//! be indices or steer control flow, are copied when the call starts: a kernel checks an
//! index once, and what it checked must not change. On the way out, the array is the
//! library's memory, freed by the garbage collector; only an output that shares memory
//! with something else (a constant, an input) is copied.

use crate::error::{internal, invalid};
use deepseek::{Buffer, Code, DType, Error, Result, Tensor, Type, Value};
use napi::bindgen_prelude::*;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// A kind of typed array: its number in Node-API, its name, the bytes of an element, and
/// the element type it stands for when none is given.
struct Kind {
    number: i32,
    name: &'static str,
    width: usize,
    natural: DType,
}

const fn kind(number: i32, name: &'static str, width: usize, natural: DType) -> Kind {
    Kind { number, name, width, natural }
}

const KINDS: [Kind; 12] = [
    kind(sys::TypedarrayType::int8_array, "Int8Array", 1, DType::I8),
    kind(sys::TypedarrayType::uint8_array, "Uint8Array", 1, DType::U8),
    kind(sys::TypedarrayType::uint8_clamped_array, "Uint8ClampedArray", 1, DType::U8),
    kind(sys::TypedarrayType::int16_array, "Int16Array", 2, DType::I16),
    kind(sys::TypedarrayType::uint16_array, "Uint16Array", 2, DType::U16),
    kind(sys::TypedarrayType::int32_array, "Int32Array", 4, DType::I32),
    kind(sys::TypedarrayType::uint32_array, "Uint32Array", 4, DType::U32),
    kind(sys::TypedarrayType::float32_array, "Float32Array", 4, DType::F32),
    kind(sys::TypedarrayType::float64_array, "Float64Array", 8, DType::F64),
    kind(sys::TypedarrayType::bigint64_array, "BigInt64Array", 8, DType::I64),
    kind(sys::TypedarrayType::biguint64_array, "BigUint64Array", 8, DType::U64),
    // Newer than the Node-API version that this is built for, so it has no name there.
    kind(11, "Float16Array", 2, DType::F16),
];

/// The kind of array that holds elements of a type: the type's own, 16-bit floats as
/// `Uint16Array`, everything narrower than that (and `bool`) as bytes.
fn kind_of(dtype: DType) -> &'static Kind {
    let own = KINDS.iter().find(|k| k.natural == dtype && k.number != 11);
    let carrier = if dtype.bits() == 16 { DType::U16 } else { DType::U8 };
    own.or_else(|| KINDS.iter().find(|k| k.natural == carrier)).unwrap_or(&KINDS[1])
}

/// Arrays that a call reads in place.
#[derive(Default)]
pub(crate) struct Pins(Vec<Pin>);

struct Pin {
    array: ObjectRef<false>,
    /// Held by every tensor over the array.
    users: Arc<()>,
}

impl Pins {
    /// Lets go of the arrays. One that a tensor still looks at is kept for good rather
    /// than freed under it.
    pub(crate) fn release(self, env: &Env) -> napi::Result<()> {
        let unused = self.0.into_iter().filter(|pin| Arc::strong_count(&pin.users) == 1);
        unused.into_iter().try_for_each(|pin| pin.array.unref(env))
    }
}

/// Whether elements are read in place (and the array pinned) or copied.
pub(crate) enum Take<'a> {
    Copy,
    InPlace(&'a mut Pins),
}

/// `value` as a `T`; the error names `what`.
pub(crate) fn convert<T: FromNapiValue>(value: Unknown, what: &str) -> Result<T> {
    // "Failed to convert JavaScript value `Number 3` into rust type `String`".
    let wrong = |e: napi::Error| {
        let reason = e.reason.replace("rust type", "type").replacen("Failed", "failed", 1);
        invalid(format!("{what}: {reason}"))
    };
    T::from_unknown(value).map_err(wrong)
}

/// An object of options; the defaults for `undefined`.
pub(crate) fn options<T: FromNapiValue + Default>(value: Unknown) -> Result<T> {
    match value.get_type() {
        Ok(napi::ValueType::Undefined | napi::ValueType::Null) => Ok(T::default()),
        Ok(napi::ValueType::Object) => convert(value, "options"),
        _ => Err(invalid("options must be an object")),
    }
}

/// A whole number from 0 on.
pub(crate) fn whole(number: f64, what: &str) -> Result<u64> {
    // The greatest integer that a double tells apart from its neighbours.
    if (0.0..=9_007_199_254_740_991.0).contains(&number) && number.fract() == 0.0 {
        return Ok(number as u64);
    }
    Err(invalid(format!("{what} is {number}, expected a whole number from 0 on")))
}

/// Extents from an array of numbers.
pub(crate) fn extents(shape: &[f64], what: &str) -> Result<Vec<usize>> {
    shape.iter().map(|&n| whole(n, what).map(|n| n as usize)).collect()
}

/// The entries of a plain object, in order.
pub(crate) fn entries<'env>(
    value: Unknown<'env>,
    what: &str,
) -> Result<Vec<(String, Unknown<'env>)>> {
    if !matches!(value.get_type(), Ok(napi::ValueType::Object)) {
        return Err(invalid(format!("{what} must be an object from names to values")));
    }
    let object: Object = convert(value, what)?;
    let names = Object::keys(&object).map_err(internal)?;
    let entry = |name: String| {
        let value = object.get_named_property::<Unknown>(&name).map_err(internal)?;
        Ok((name, value))
    };
    names.into_iter().map(entry).collect()
}

/// A value of the type `ty`: a tensor; an array of values for a sequence; `null` or a
/// value for an optional.
pub(crate) fn read_value(
    value: Unknown,
    ty: Option<&Type>,
    what: &str,
    take: &mut Take,
) -> Result<Value> {
    match ty {
        Some(Type::Sequence(element)) => {
            let array: Array = convert(value, what)?;
            let mut items = Vec::new();
            for i in 0..array.len() {
                let item = array.get::<Unknown>(i).map_err(internal)?;
                let item = item.ok_or_else(|| invalid(format!("{what}[{i}] is missing")))?;
                items.push(read_value(item, Some(element), &format!("{what}[{i}]"), take)?);
            }
            Ok(Value::Sequence((**element).clone(), Arc::new(items)))
        }
        Some(Type::Optional(inner)) => {
            let absent =
                matches!(value.get_type(), Ok(napi::ValueType::Null | napi::ValueType::Undefined));
            let item = match absent {
                true => None,
                false => Some(Box::new(read_value(value, Some(inner), what, take)?)),
            };
            Ok(Value::Optional((**inner).clone(), item))
        }
        _ => read_tensor(value, what, take).map(Value::Tensor),
    }
}

/// A tensor from `{ dtype?, shape, data }`.
pub(crate) fn read_tensor(value: Unknown, what: &str, take: &mut Take) -> Result<Tensor> {
    if !matches!(value.get_type(), Ok(napi::ValueType::Object)) {
        return Err(invalid(format!("{what} must be a tensor: {{ dtype, shape, data }}")));
    }
    let object: Object = convert(value, what)?;
    let field = |name: &str| {
        let value = object.get_named_property::<Unknown>(name).map_err(internal)?;
        Ok::<_, Error>((value, format!("{what}.{name}")))
    };
    let (dtype, label) = field("dtype")?;
    let dtype: Option<String> = convert(dtype, &label)?;
    let dtype = dtype.map(|name| DType::parse(&name).map_err(|e| e.context(&label))).transpose()?;
    let (shape, label) = field("shape")?;
    let shape = extents(&convert::<Vec<f64>>(shape, &label)?, &label)?;
    let (data, label) = field("data")?;
    if data.is_array().map_err(internal)? {
        if let Some(other) = dtype.filter(|&d| d != DType::String) {
            return Err(wrong_array(what, other, "an array"));
        }
        let strings: Vec<String> = convert(data, &label)?;
        return Tensor::from_strings(&shape, strings).map_err(|e| e.context(what));
    }
    let array = TypedBytes::read(data, &label)?;
    let dtype = dtype.unwrap_or(array.kind.natural);
    let expected = kind_of(dtype);
    let fits = dtype == array.kind.natural || expected.natural == array.kind.natural;
    if dtype == DType::String || !fits {
        return Err(wrong_array(what, dtype, array.kind.name));
    }
    array.tensor(dtype, &shape, take).map_err(|e| e.context(what))
}

fn wrong_array(what: &str, dtype: DType, got: &str) -> Error {
    let takes = match dtype {
        DType::String => "an array of strings",
        other => kind_of(other).name,
    };
    Error::new(Code::DTypeMismatch, format!("{what}: '{dtype}' takes {takes}, got {got}"))
}

/// A typed array and where its bytes are.
struct TypedBytes<'env> {
    kind: &'static Kind,
    first: *mut u8,
    len: usize,
    array: Object<'env>,
}

impl<'env> TypedBytes<'env> {
    fn read(value: Unknown<'env>, what: &str) -> Result<Self> {
        let env = value.value().env;
        let (mut number, mut count, mut first, mut offset) = (-1, 0, null_mut(), 0);
        let mut owner = null_mut();
        // SAFETY: `value` belongs to `env`, and every out pointer is a local.
        let status = unsafe {
            sys::napi_get_typedarray_info(
                env,
                value.raw(),
                &mut number,
                &mut count,
                &mut first,
                &mut owner,
                &mut offset,
            )
        };
        let kind = KINDS.iter().find(|k| k.number == number);
        match kind {
            Some(kind) if status == sys::Status::napi_ok => Ok(TypedBytes {
                kind,
                first: first.cast(),
                len: count * kind.width,
                array: Object::from_raw(env, value.raw()),
            }),
            _ => Err(invalid(format!("{what} must be a typed array or an array of strings"))),
        }
    }

    fn tensor(&self, dtype: DType, shape: &[usize], take: &mut Take) -> Result<Tensor> {
        let bytes = match NonNull::new(self.first) {
            // SAFETY: Node-API says that `len` bytes lie at `first` while the array is
            // alive and attached, which it is as long as no JavaScript runs.
            Some(first) => unsafe { std::slice::from_raw_parts(first.as_ptr(), self.len) },
            None => &[],
        };
        let steers = matches!(dtype, DType::I32 | DType::I64 | DType::Bool);
        let (Take::InPlace(pins), false, Some(first)) = (take, steers, NonNull::new(self.first))
        else {
            return Tensor::from_bytes(dtype, shape, bytes);
        };
        let users = Arc::new(());
        // SAFETY: the array is pinned below until the last holder of `users` is gone.
        // That nobody writes to it or transfers it while a call reads it is asked of the
        // caller; elements that would be unsafe to change are never read in place.
        let buffer = unsafe { Buffer::foreign(first, self.len, Box::new(users.clone()), false) };
        let tensor = Tensor::from_buffer(dtype, shape, Arc::new(buffer), 0)?;
        if tensor.size_bytes() != self.len {
            let (need, got) = (tensor.size_bytes(), self.len);
            let message = format!("{dtype}{shape:?} takes {need} bytes, got {got}");
            return Err(Error::new(Code::ShapeMismatch, message));
        }
        pins.0.push(Pin { array: self.array.create_ref().map_err(internal)?, users });
        Ok(tensor)
    }
}

/// A value as JavaScript sees it; the inverse of [`read_value`].
pub(crate) fn write_value(env: &Env, value: Value) -> Result<sys::napi_value> {
    match value {
        Value::Tensor(tensor) => write_tensor(env, tensor),
        Value::Optional(_, None) => Ok(Null.into_unknown(env).map_err(internal)?.raw()),
        Value::Optional(_, Some(inner)) => write_value(env, *inner),
        Value::Sequence(_, items) => {
            let len = u32::try_from(items.len()).map_err(|_| too_long(items.len()))?;
            let mut array = env.create_array(len).map_err(internal)?;
            for (i, item) in items.iter().enumerate() {
                array.set(i as u32, write_value(env, item.clone())?).map_err(internal)?;
            }
            Ok(array.raw())
        }
    }
}

/// Tensors from an array of them.
pub(crate) fn read_tensors(value: Unknown, what: &str, take: &mut Take) -> Result<Vec<Tensor>> {
    if !value.is_array().map_err(internal)? {
        return Err(invalid(format!("{what} must be an array of tensors, one for each sequence")));
    }
    let array: Array = convert(value, what)?;
    let read = |i| {
        let what = format!("{what}[{i}]");
        let item = array.get::<Unknown>(i).map_err(internal)?;
        read_tensor(item.ok_or_else(|| invalid(format!("{what} is missing")))?, &what, take)
    };
    (0..array.len()).map(read).collect()
}

/// Tensors as an array of them.
pub(crate) fn write_tensors(env: &Env, tensors: Vec<Tensor>) -> Result<sys::napi_value> {
    let len = u32::try_from(tensors.len()).map_err(|_| too_long(tensors.len()))?;
    let mut array = env.create_array(len).map_err(internal)?;
    for (i, tensor) in (0..).zip(tensors) {
        array.set(i, write_tensor(env, tensor)?).map_err(internal)?;
    }
    Ok(array.raw())
}

fn write_tensor(env: &Env, tensor: Tensor) -> Result<sys::napi_value> {
    let mut object = Object::new(env).map_err(internal)?;
    let shape: Vec<f64> = tensor.shape().iter().map(|&n| n as f64).collect();
    let dtype = tensor.dtype();
    object.set("dtype", dtype.name()).map_err(internal)?;
    object.set("shape", shape).map_err(internal)?;
    if dtype == DType::String {
        object.set("data", tensor.as_strings()?).map_err(internal)?;
    } else {
        let kind = kind_of(dtype);
        let buffer = memory(env, tensor)?;
        object
            .set("data", view(env, &buffer, kind, 0, buffer.len() / kind.width)?)
            .map_err(internal)?;
    }
    Ok(object.raw())
}

/// The bytes of a tensor as an `ArrayBuffer`, without a copy unless they are shared.
fn memory<'env>(env: &'env Env, tensor: Tensor) -> Result<ArrayBuffer<'env>> {
    let mut tensor = tensor.to_contiguous()?;
    let len = tensor.size_bytes();
    if len == 0 {
        return ArrayBuffer::from_data(env, Vec::new()).map_err(internal);
    }
    let first = tensor.as_mut_ptr()?;
    // SAFETY: `as_mut_ptr` made the tensor the only owner of its bytes, and the tensor
    // moves into the finaliser, so they stay until the garbage collector is done.
    unsafe { ArrayBuffer::from_external(env, first, len, tensor, |_, tensor| drop(tensor)) }
        .map_err(internal)
}

/// `count` elements of a buffer, from byte `offset` on, as a typed array.
fn view(
    env: &Env,
    buffer: &ArrayBuffer,
    kind: &Kind,
    offset: usize,
    count: usize,
) -> Result<sys::napi_value> {
    let mut array = null_mut();
    // SAFETY: `buffer` belongs to `env`, and the out pointer is a local; Node-API checks
    // offset and count against the buffer.
    let status = unsafe {
        sys::napi_create_typedarray(env.raw(), kind.number, count, buffer.raw(), offset, &mut array)
    };
    match status {
        sys::Status::napi_ok => Ok(array),
        other => {
            Err(Error::new(Code::Internal, format!("cannot make a {}: status {other}", kind.name)))
        }
    }
}

/// Vectors of `dim` elements, end to end in `all`, as an array of `Float32Array`s over one
/// piece of memory.
pub(crate) fn write_vectors(env: &Env, all: Vec<f32>, dim: usize) -> Result<sys::napi_value> {
    let count = all.len().checked_div(dim).unwrap_or(0);
    let len = u32::try_from(count).map_err(|_| too_long(count))?;
    let mut array = env.create_array(len).map_err(internal)?;
    if count > 0 {
        let kind = kind_of(DType::F32);
        let buffer = memory(env, Tensor::from_vec(&[count, dim], all)?)?;
        for i in 0..len {
            let offset = i as usize * dim * kind.width;
            array.set(i, view(env, &buffer, kind, offset, dim)?).map_err(internal)?;
        }
    }
    Ok(array.raw())
}

fn too_long(len: usize) -> Error {
    invalid(format!("{len} items exceed what a JavaScript array holds"))
}
