//! What a run yields.

use crate::call::{Call, guard, guard_value, invalid};
use crate::error::{c_string, deepseek_error, deepseek_status};
use crate::tensor::deepseek_tensor;
use deepseek::{Code, DType, Error, Lists, Outputs, Result, Tensor, Type, Value};
use std::ffi::{CString, c_char};
use std::sync::Arc;

/// Named outputs of a run, in the model's order. Owned by the caller, immutable: any
/// thread may read it.
pub struct deepseek_outputs {
    outputs: Vec<Output>,
}

struct Output {
    name: CString,
    ty: CString,
    value: Value,
}

impl deepseek_outputs {
    pub(crate) fn new(outputs: Outputs) -> Result<Self> {
        let outputs = outputs.into_iter().map(|(name, value)| Output {
            name: c_string(&name),
            ty: c_string(&value.ty().to_string()),
            value,
        });
        Ok(deepseek_outputs { outputs: outputs.collect() })
    }

    /// Outputs that are lists of tensors.
    pub(crate) fn of_lists(lists: Lists) -> Result<Self> {
        let outputs = lists.into_iter().map(|(name, list)| {
            let element = Type::Tensor(list.first().map_or(DType::F32, Tensor::dtype), None);
            let items = list.into_iter().map(Value::Tensor).collect();
            (name, Value::Sequence(element, Arc::new(items)))
        });
        deepseek_outputs::new(outputs.collect())
    }

    fn at(&self, index: usize) -> Result<&Output> {
        self.outputs.get(index).ok_or_else(|| {
            invalid(format!("index is {index}, the run has {} outputs", self.outputs.len()))
        })
    }
}

impl Output {
    /// The items of a sequence; the value of an optional that has one, nothing of one
    /// that is empty.
    fn items(&self) -> Result<&[Value]> {
        match &self.value {
            Value::Tensor(_) => Err(self.unsupported("read it with deepseek_outputs_get_tensor")),
            Value::Sequence(_, items) => Ok(items),
            Value::Optional(_, item) => Ok(item.as_deref().map_or(&[], std::slice::from_ref)),
        }
    }

    fn unsupported(&self, remedy: &str) -> Error {
        let (name, ty) = (self.name.to_string_lossy(), self.ty.to_string_lossy());
        Error::new(Code::Unsupported, format!("output '{name}' is {ty}; {remedy}"))
    }
}

/// Number of outputs; 0 for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_outputs_count(outputs: *const deepseek_outputs) -> usize {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, 0, |call| {
        call.peek(outputs).map_or(0, |o| o.outputs.len())
    })
}

/// Name of an output; NULL if there are not so many, and for NULL. Valid until the
/// outputs are freed. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_outputs_get_name(
    outputs: *const deepseek_outputs,
    index: usize,
) -> *const c_char {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, std::ptr::null(), |call| {
        let output = call.peek(outputs).and_then(|o| o.outputs.get(index));
        output.map_or(std::ptr::null(), |o| o.name.as_ptr())
    })
}

/// Type of an output as text, e.g. `f32[2, 3]`, `seq(i64[...])`; NULL if there are not so
/// many, and for NULL. Valid until the outputs are freed. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_outputs_get_type(
    outputs: *const deepseek_outputs,
    index: usize,
) -> *const c_char {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, std::ptr::null(), |call| {
        let output = call.peek(outputs).and_then(|o| o.outputs.get(index));
        output.map_or(std::ptr::null(), |o| o.ty.as_ptr())
    })
}

/// Index of the output with a name. Fails with `DEEPSEEK_STATUS_NOT_FOUND`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_outputs_find(
    outputs: *const deepseek_outputs,
    name: *const c_char,
    out_index: *mut usize,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_index, "out_index")?;
        let outputs = &call.get(outputs, "outputs")?.outputs;
        let name = call.text(name, "name")?;
        let index = outputs.iter().position(|o| o.name.to_bytes() == name.as_bytes());
        out.set(index.ok_or_else(|| {
            let have: Vec<_> = outputs.iter().map(|o| o.name.to_string_lossy()).collect();
            let have = have.join("', '");
            Error::new(Code::NotFound, format!("no output named '{name}'; there are '{have}'"))
        })?);
        Ok(())
    })
}

/// A new reference to the tensor of an output. Fails with `DEEPSEEK_STATUS_UNSUPPORTED` for a
/// sequence or an optional value, see `deepseek_outputs_get_item`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_outputs_get_tensor(
    outputs: *const deepseek_outputs,
    index: usize,
    out_tensor: *mut *mut deepseek_tensor,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_tensor, "out_tensor")?;
        let output = call.get(outputs, "outputs")?.at(index)?;
        let Value::Tensor(tensor) = &output.value else {
            return Err(output.unsupported("read its items with deepseek_outputs_get_item"));
        };
        out.give_shared(deepseek_tensor::new(tensor.clone())?);
        Ok(())
    })
}

/// Number of items of an output that is a sequence; 1 or 0 for an optional value that is
/// there or not. Fails with `DEEPSEEK_STATUS_UNSUPPORTED` for a tensor. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_outputs_count_items(
    outputs: *const deepseek_outputs,
    index: usize,
    out_count: *mut usize,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_count, "out_count")?;
        out.set(call.get(outputs, "outputs")?.at(index)?.items()?.len());
        Ok(())
    })
}

/// A new reference to the tensor that is one item of a sequence, or the value of an
/// optional. Fails with `DEEPSEEK_STATUS_UNSUPPORTED` for a tensor, and for an item that is not
/// one. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_outputs_get_item(
    outputs: *const deepseek_outputs,
    index: usize,
    item: usize,
    out_tensor: *mut *mut deepseek_tensor,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_tensor, "out_tensor")?;
        let output = call.get(outputs, "outputs")?.at(index)?;
        let items = output.items()?;
        let value = items.get(item).ok_or_else(|| {
            invalid(format!("item is {item}, the output has {} items", items.len()))
        })?;
        let Value::Tensor(tensor) = value else {
            return Err(output.unsupported("items that are not tensors cannot be read"));
        };
        out.give_shared(deepseek_tensor::new(tensor.clone())?);
        Ok(())
    })
}

/// Frees outputs. Tensors taken from them stay. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_outputs_free(outputs: *mut deepseek_outputs) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| drop(call.take(outputs)))
}
