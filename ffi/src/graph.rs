//! A model recorded operation by operation.

use crate::call::{Call, guard, guard_value, invalid, too_small};
use crate::error::{deepseek_dtype, deepseek_error, deepseek_status};
use crate::model::deepseek_model;
use crate::options::deepseek_model_options;
use crate::runtime::deepseek_runtime;
use crate::tensor::deepseek_tensor;
use deepseek::{Code, DType, Error, GraphBuilder, Result, ValueRef};
use parking_lot::{Mutex, MutexGuard};
use std::ffi::c_char;
use std::sync::atomic::{AtomicBool, Ordering};

/// A value of a graph under construction. Means nothing to another graph.
pub type deepseek_value = u32;

/// No value: an optional input that is absent.
pub const DEEPSEEK_VALUE_NONE: deepseek_value = 0xffff_ffff;

/// A graph under construction. Exclusive: one thread at a time. Extents may be
/// expressions over named symbols (`batch`, `2*seq + 1`), so one model serves every length.
/// Shape errors are reported by the call that makes them.
pub struct deepseek_graph {
    state: Mutex<State>,
    poisoned: AtomicBool,
}

struct State {
    builder: GraphBuilder,
    /// What a `deepseek_value` is an index into.
    values: Vec<ValueRef>,
}

/// The state of a graph for one call. A panic meanwhile poisons the graph.
pub(crate) struct Entered<'a> {
    state: MutexGuard<'a, State>,
    poisoned: &'a AtomicBool,
}

impl deepseek_graph {
    /// Enters the graph, which one thread may do at a time.
    pub(crate) fn enter(&self) -> Result<Entered<'_>> {
        let Some(state) = self.state.try_lock() else {
            let message = "another thread is using the graph; build it from one thread at a time";
            return Err(Error::new(Code::InvalidState, message));
        };
        if self.poisoned.load(Ordering::Acquire) {
            let message = "an earlier call panicked; free this graph and make a new one";
            return Err(Error::new(Code::Poisoned, message));
        }
        Ok(Entered { state, poisoned: &self.poisoned })
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.poisoned.store(true, Ordering::Release);
        }
    }
}

impl State {
    fn value(&self, value: deepseek_value, what: &str) -> Result<ValueRef> {
        self.values.get(value as usize).copied().ok_or_else(|| {
            invalid(format!("{what} is {value}, the graph has {} values", self.values.len()))
        })
    }

    /// The number by which C knows a value.
    fn number(&mut self, value: ValueRef) -> Result<deepseek_value> {
        let number = u32::try_from(self.values.len()).ok().filter(|&n| n != DEEPSEEK_VALUE_NONE);
        let number = number.ok_or_else(|| invalid("the graph has too many values"))?;
        self.values.push(value);
        Ok(number)
    }
}

/// Makes an empty graph. `name` may be NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_graph_new(
    name: *const c_char,
    out_graph: *mut *mut deepseek_graph,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_graph, "out_graph")?;
        let builder = GraphBuilder::new(call.text_or_empty(name, "name")?);
        out.give(deepseek_graph {
            state: Mutex::new(State { builder, values: Vec::new() }),
            poisoned: AtomicBool::new(false),
        });
        Ok(())
    })
}

/// Adds an input. Each of the `rank` extents is a number (`"512"`) or an expression over
/// symbols (`"batch"`, `"2*seq + 1"`). Fails with `DEEPSEEK_STATUS_INVALID_ARGUMENT` for a
/// malformed extent, `DEEPSEEK_STATUS_INVALID_GRAPH` if the name is taken. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_graph_add_input(
    graph: *mut deepseek_graph,
    name: *const c_char,
    dtype: deepseek_dtype,
    shape: *const *const c_char,
    rank: usize,
    out_value: *mut deepseek_value,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_value, "out_value")?;
        let state = &mut *call.get(graph, "graph")?.enter()?.state;
        let (name, shape) = (call.text(name, "name")?, call.texts(shape, rank, "shape")?);
        let value = state.builder.input(name, DType::from_i32(dtype)?, &shape)?;
        out.set(state.number(value)?);
        Ok(())
    })
}

/// Declares that a symbol lies between `min` and `max`, both included; a negative `max`
/// sets no upper bound. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_graph_set_bound(
    graph: *mut deepseek_graph,
    symbol: *const c_char,
    min: i64,
    max: i64,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let state = &mut *call.get(graph, "graph")?.enter()?.state;
        state.builder.bound(call.text(symbol, "symbol")?, min, (max >= 0).then_some(max))
    })
}

/// Adds a constant. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_graph_add_constant(
    graph: *mut deepseek_graph,
    name: *const c_char,
    tensor: *const deepseek_tensor,
    out_value: *mut deepseek_value,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_value, "out_value")?;
        let state = &mut *call.get(graph, "graph")?.enter()?.state;
        let tensor = call.get(tensor, "tensor")?.tensor.clone();
        let value = state.builder.constant(call.text(name, "name")?, tensor)?;
        out.set(state.number(value)?);
        Ok(())
    })
}

/// Applies the operator `op`, an ONNX operator name. `name` names the node; NULL or empty
/// takes the operator's. `attributes` is text such as `axis = 1, mode = "linear"`; NULL
/// takes the defaults. Absent optional inputs are `DEEPSEEK_VALUE_NONE`. Writes
/// `output_count` values. Fails with `DEEPSEEK_STATUS_UNSUPPORTED` for an unknown operator or
/// attribute, or with what the operator's shape rule finds. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_graph_add_node(
    graph: *mut deepseek_graph,
    op: *const c_char,
    name: *const c_char,
    attributes: *const c_char,
    inputs: *const deepseek_value,
    input_count: usize,
    out_values: *mut deepseek_value,
    output_count: usize,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        call.out(out_values, "out_values")?;
        let out = call.out_slice(out_values, output_count, "out_values")?;
        let state = &mut *call.get(graph, "graph")?.enter()?.state;
        let (op, name) = (call.text(op, "op")?, call.text_or_empty(name, "name")?);
        let attrs = deepseek::parse_attrs(call.text_or_empty(attributes, "attributes")?)?;
        let inputs = call.slice(inputs, input_count, "inputs")?.iter().enumerate();
        let inputs: Vec<Option<ValueRef>> = inputs
            .map(|(i, &value)| match value {
                DEEPSEEK_VALUE_NONE => Ok(None),
                value => state.value(value, &format!("inputs[{i}]")).map(Some),
            })
            .collect::<Result<_>>()?;
        let values = state.builder.node(op, name, attrs, &inputs, output_count)?;
        let values = values.into_iter().map(|v| state.number(v)).collect::<Result<Vec<_>>>()?;
        out.set_all(&values)
    })
}

/// Names a value as an output. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_graph_add_output(
    graph: *mut deepseek_graph,
    name: *const c_char,
    value: deepseek_value,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let state = &mut *call.get(graph, "graph")?.enter()?.state;
        let value = state.value(value, "value")?;
        state.builder.output(call.text(name, "name")?, value)
    })
}

/// Type of a value as inferred, e.g. `f32[batch, 2*seq + 1]`, with a NUL at the end, into a
/// buffer of `cap` bytes. `*out_len` receives the length without the NUL, also when the
/// call fails with `DEEPSEEK_STATUS_BUFFER_TOO_SMALL`, for which nothing else is written.
/// `buffer` may be NULL if `cap` is 0. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_graph_get_type(
    graph: *const deepseek_graph,
    value: deepseek_value,
    buffer: *mut c_char,
    cap: usize,
    out_len: *mut usize,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let len = call.out(out_len, "out_len")?;
        let out = call.out_slice(buffer.cast::<u8>(), cap, "buffer")?;
        let state = &*call.get(graph, "graph")?.enter()?.state;
        let mut text = state.builder.ty(state.value(value, "value")?)?.to_string().into_bytes();
        len.set(text.len());
        text.push(0);
        if text.len() > out.len() {
            return Err(too_small(text.len(), out.len()));
        }
        out.set_all(&text)
    })
}

/// Lowers the graph for a runtime. `options` may be NULL. The graph may grow on and be built
/// again. Fails with `DEEPSEEK_STATUS_INVALID_GRAPH` if there is no output, and for its options as
/// `deepseek_model_open`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_graph_build(
    graph: *const deepseek_graph,
    runtime: *const deepseek_runtime,
    options: *const deepseek_model_options,
    out_model: *mut *mut deepseek_model,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_model, "out_model")?;
        let state = &*call.get(graph, "graph")?.enter()?.state;
        let runtime = &call.get(runtime, "runtime")?.runtime;
        let model = state.builder.build_with(runtime, &call.model_options(options)?)?;
        out.give_shared(deepseek_model::new(model));
        Ok(())
    })
}

/// Frees a graph. Models built from it stay. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_graph_free(graph: *mut deepseek_graph) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| drop(call.take(graph)))
}
