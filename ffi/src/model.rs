//! A model: what it takes and gives, and how many bytes it needs.

use crate::buffer::deepseek_buffer;
use crate::call::{Call, Out, guard, guard_value, invalid};
use crate::error::{c_string, deepseek_dtype, deepseek_error, deepseek_status};
use crate::options::deepseek_model_options;
use crate::runtime::deepseek_runtime;
use deepseek::{Code, Error, MemoryReport, Model, Result, SaveOptions, TensorSpec, Type};
use std::ffi::{CString, c_char, c_void};

/// A model lowered for a runtime, with its weights. Shared, immutable.
pub struct deepseek_model {
    pub(crate) model: Model,
    inputs: Vec<Spec>,
    outputs: Vec<Spec>,
}

/// A [`TensorSpec`] in C's words.
struct Spec {
    name: CString,
    ty: CString,
    dtype: deepseek_dtype,
    shape: Option<Vec<i64>>,
}

impl Spec {
    fn new(spec: &TensorSpec) -> Self {
        let (dtype, shape) = match &spec.ty {
            Type::Tensor(dtype, shape) => (*dtype as i32, shape.as_ref()),
            _ => (0, None),
        };
        Spec {
            name: c_string(&spec.name),
            ty: c_string(&spec.ty.to_string()),
            dtype,
            shape: shape.map(|s| s.iter().map(|d| d.as_const().unwrap_or(-1)).collect()),
        }
    }

    fn view(&self) -> deepseek_model_value {
        deepseek_model_value {
            name: self.name.as_ptr(),
            r#type: self.ty.as_ptr(),
            shape: self.shape.as_ref().map_or(std::ptr::null(), |s| s.as_ptr()),
            rank: self.shape.as_ref().map_or(-1, |s| s.len() as i64),
            dtype: self.dtype,
            reserved: 0,
        }
    }
}

impl deepseek_model {
    pub(crate) fn new(model: Model) -> Self {
        let inputs = model.inputs().iter().map(Spec::new).collect();
        let outputs = model.outputs().iter().map(Spec::new).collect();
        deepseek_model { model, inputs, outputs }
    }
}

/// An input or output of a model. Borrowed: valid until the model is freed. This struct
/// never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct deepseek_model_value {
    /// Name.
    pub name: *const c_char,
    /// Type as text, e.g. `f32[batch, 2*seq + 1]`, `seq(i64[...])`.
    pub r#type: *const c_char,
    /// Extents, outermost first, -1 where an extent is symbolic; `rank` of them. NULL if the
    /// rank is unknown.
    pub shape: *const i64,
    /// Number of dimensions; -1 if it is unknown, or if the value is not a tensor.
    pub rank: i64,
    /// Element type, one of `DEEPSEEK_DTYPE_…`; 0 if the value is not a tensor.
    pub dtype: deepseek_dtype,
    /// Zero.
    pub reserved: i32,
}

/// Bytes that a run takes. This struct never grows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct deepseek_memory {
    /// Bytes of the arena: intermediate values and scratch.
    pub arena_bytes: u64,
    /// Bytes of the outputs.
    pub output_bytes: u64,
    /// `arena_bytes + output_bytes`: what a run takes beyond the weights.
    pub planned_bytes: u64,
    /// Bytes of the weights, mapped ones included.
    pub constant_bytes: u64,
    /// Number of values whose extents depend on data; they come on top.
    pub dynamic_values: u64,
}

/// Opens a model: an `.onnx` file, a `.deepseek` file, or a directory with a Hugging Face
/// `config.json` and safetensors weights. `options` may be NULL. Fails with `DEEPSEEK_STATUS_IO`,
/// `DEEPSEEK_STATUS_INVALID_FILE`, `DEEPSEEK_STATUS_INVALID_GRAPH`, or
/// `DEEPSEEK_STATUS_UNSUPPORTED` naming the format, operator or field;
/// `DEEPSEEK_STATUS_BUDGET_EXCEEDED` naming the least budget that would do;
/// `DEEPSEEK_STATUS_NOT_FOUND`, `DEEPSEEK_STATUS_SHAPE_MISMATCH` for a shape that fits no input;
/// `DEEPSEEK_STATUS_NOT_FOUND`, `DEEPSEEK_STATUS_INVALID_ARGUMENT` for bounds of a symbol that no
/// input has, or that are not within the model's own; for a precision
/// `DEEPSEEK_STATUS_INVALID_ARGUMENT` for a name that there is not, calibration data that does not
/// fit, or a budget that cannot be met, with the best that can be reached.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_open(
    runtime: *const deepseek_runtime,
    path: *const c_char,
    options: *const deepseek_model_options,
    out_model: *mut *mut deepseek_model,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_model, "out_model")?;
        let runtime = &call.get(runtime, "runtime")?.runtime;
        let options = call.model_options(options)?;
        let model = Model::open_with(call.text(path, "path")?, runtime, &options)?;
        out.give_shared(deepseek_model::new(model));
        Ok(())
    })
}

/// As `deepseek_model_open`, from an ONNX model in memory, which is borrowed for the call.
/// External data is refused: it has no directory. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_open_bytes(
    runtime: *const deepseek_runtime,
    data: *const c_void,
    len: usize,
    options: *const deepseek_model_options,
    out_model: *mut *mut deepseek_model,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_model, "out_model")?;
        let runtime = &call.get(runtime, "runtime")?.runtime;
        let options = call.model_options(options)?;
        call.get(data.cast::<u8>(), "data")?;
        let model = Model::from_onnx_bytes_with(call.bytes(data, len, "data")?, runtime, &options)?;
        out.give_shared(deepseek_model::new(model));
        Ok(())
    })
}

/// Number of inputs; 0 for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_count_inputs(model: *const deepseek_model) -> usize {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, 0, |call| call.peek(model).map_or(0, |m| m.inputs.len()))
}

/// Number of outputs; 0 for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_count_outputs(model: *const deepseek_model) -> usize {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, 0, |call| call.peek(model).map_or(0, |m| m.outputs.len()))
}

/// Describes an input. Fails with `DEEPSEEK_STATUS_INVALID_ARGUMENT` if there are not so
/// many. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_get_input(
    model: *const deepseek_model,
    index: usize,
    out_value: *mut deepseek_model_value,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_value, "out_value")?;
        out.set(at(&call.get(model, "model")?.inputs, index, "inputs")?.view());
        Ok(())
    })
}

/// Describes an output. Fails with `DEEPSEEK_STATUS_INVALID_ARGUMENT` if there are not so
/// many. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_get_output(
    model: *const deepseek_model,
    index: usize,
    out_value: *mut deepseek_model_value,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_value, "out_value")?;
        out.set(at(&call.get(model, "model")?.outputs, index, "outputs")?.view());
        Ok(())
    })
}

fn at<'a>(specs: &'a [Spec], index: usize, what: &str) -> Result<&'a Spec> {
    specs
        .get(index)
        .ok_or_else(|| invalid(format!("index is {index}, the model has {} {what}", specs.len())))
}

/// Hands a report out as numbers, and as JSON if that is wanted.
fn give_memory(
    report: &MemoryReport,
    out: Out<deepseek_memory>,
    details: Option<Out<*mut deepseek_buffer>>,
) -> Result<()> {
    out.set(deepseek_memory {
        arena_bytes: report.arena_bytes,
        output_bytes: report.output_bytes,
        planned_bytes: report.planned_bytes(),
        constant_bytes: report.constant_bytes,
        dynamic_values: report.dynamic_values as u64,
    });
    if let Some(details) = details {
        details.give(deepseek_buffer::new(deepseek::json::memory(report)));
    }
    Ok(())
}

/// Exact bytes of a run whose symbols have the given values: `symbols[i]` is
/// `values[i]`. If `out_details` is not NULL it receives a JSON object with the same
/// numbers and the largest values. Fails with `DEEPSEEK_STATUS_NOT_FOUND` for a symbol
/// that the model does not have, `DEEPSEEK_STATUS_INVALID_ARGUMENT` naming one without a
/// value, `DEEPSEEK_STATUS_SHAPE_MISMATCH` for a value outside its bounds. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_get_memory(
    model: *const deepseek_model,
    symbols: *const *const c_char,
    values: *const i64,
    count: usize,
    out_memory: *mut deepseek_memory,
    out_details: *mut *mut deepseek_buffer,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_memory, "out_memory")?;
        let details = call.out_if_wanted(out_details, "out_details")?;
        let model = &call.get(model, "model")?.model;
        let symbols = call.texts(symbols, count, "symbols")?;
        let values = call.slice(values, count, "values")?;
        let symbols: Vec<_> = symbols.into_iter().zip(values.iter().copied()).collect();
        let report = model.plan_memory(&symbols)?;
        give_memory(&report, out, details)
    })
}

/// Bytes that no run within the bounds of the model's symbols exceeds: what the run at the upper
/// bounds takes, where all sizes grow with every symbol. Fails with
/// `DEEPSEEK_STATUS_INVALID_ARGUMENT` naming a symbol without an upper bound, which
/// `deepseek_model_options` can set. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_get_memory_within_bounds(
    model: *const deepseek_model,
    out_memory: *mut deepseek_memory,
    out_details: *mut *mut deepseek_buffer,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_memory, "out_memory")?;
        let details = call.out_if_wanted(out_details, "out_details")?;
        let report = call.get(model, "model")?.model.plan_memory_within_bounds()?;
        give_memory(&report, out, details)
    })
}

/// As `deepseek_model_get_memory`, for inputs of the given shapes: input `names[i]` has the
/// `ranks[i]` extents `shapes[i]`. Inputs whose shapes say nothing new may be left out.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_get_memory_for_shapes(
    model: *const deepseek_model,
    names: *const *const c_char,
    shapes: *const *const i64,
    ranks: *const usize,
    count: usize,
    out_memory: *mut deepseek_memory,
    out_details: *mut *mut deepseek_buffer,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_memory, "out_memory")?;
        let details = call.out_if_wanted(out_details, "out_details")?;
        let model = &call.get(model, "model")?.model;
        let names = call.texts(names, count, "names")?;
        let ranks = call.slice(ranks, count, "ranks")?;
        let shapes = call.shapes(shapes, ranks, "shapes")?;
        let shapes: Vec<_> = names.into_iter().zip(shapes.iter().map(Vec::as_slice)).collect();
        let report = model.plan_memory_for_shapes(&shapes)?;
        give_memory(&report, out, details)
    })
}

/// Whether the model runs sequences of different lengths without padding
/// (`deepseek_session_run_ragged`, or the run option `ragged`). Fails with
/// `DEEPSEEK_STATUS_UNSUPPORTED` if it does not, naming the node that mixes the rows of sequences
/// and why. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_check_ragged(
    model: *const deepseek_model,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| call.get(model, "model")?.model.ragged().map(|_| ()))
}

/// As `deepseek_model_get_memory`, for a ragged run of `count` sequences of `lengths[i]` rows.
/// Fails as `deepseek_model_check_ragged` too. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_get_memory_for_lengths(
    model: *const deepseek_model,
    lengths: *const usize,
    count: usize,
    out_memory: *mut deepseek_memory,
    out_details: *mut *mut deepseek_buffer,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_memory, "out_memory")?;
        let details = call.out_if_wanted(out_details, "out_details")?;
        let model = &call.get(model, "model")?.model;
        let report = model.plan_memory_for_lengths(call.slice(lengths, count, "lengths")?)?;
        give_memory(&report, out, details)
    })
}

/// Bytes of a run beyond the weights, as a formula over the model's symbols, e.g.
/// `1536*batch*seq + 4096`; an upper bound where the exact formula is too long to write, as
/// `formula_exact` in the details of `deepseek_model_get_memory` says. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_get_memory_formula(
    model: *const deepseek_model,
    out_formula: *mut *mut deepseek_buffer,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_formula, "out_formula")?;
        let formula = call.get(model, "model")?.model.memory_formula().to_string();
        out.give(deepseek_buffer::new(formula));
        Ok(())
    })
}

/// Writes a model to a `.deepseek` file: its graph as the compiler has prepared it, its weights,
/// and what came with them, such as the files of a tokenizer. What is at `path`, whose name must
/// end in `.deepseek`, is replaced when all is written; the same model always gives the same
/// bytes. Fails with `DEEPSEEK_STATUS_IO` naming the path. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_save(
    model: *const deepseek_model,
    path: *const c_char,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        call.get(model, "model")?.model.save(call.text(path, "path")?)
    })
}

/// As `deepseek_model_save`, and stores the weights a second time, packed for the kernels of this
/// machine: on machines with the same instruction set, opening the file packs nothing, and
/// processes share the packed weights. Other machines open it as any other. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_save_packed(
    model: *const deepseek_model,
    path: *const c_char,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let options = SaveOptions { packed: true };
        call.get(model, "model")?.model.save_with(call.text(path, "path")?, &options)
    })
}

/// What a model consists of, as a JSON object: source, name, inputs, outputs, symbols with
/// their bounds, operators with how often each occurs and on how many of those nodes a
/// kernel of this machine runs, parameters. Keys are only added. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_get_summary(
    model: *const deepseek_model,
    out_json: *mut *mut deepseek_buffer,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_json, "out_json")?;
        let json = deepseek::json::model(&call.get(model, "model")?.model);
        out.give(deepseek_buffer::new(json));
        Ok(())
    })
}

/// Why the layers of a model have the precisions that they have, as a JSON object: `requested`,
/// `synthetic` (whether the calibration data was made up), `calibrated_with` and `verified_with`
/// samples, `metric`, `budget`, the `accuracy` reached, milliseconds of a run `ms_before` and
/// `ms_after` where they were measured, and for each of `layers` that had a choice `node`, `op`,
/// `precision`, `error`, and `why`. Keys are only added. It travels with a saved model. Fails with
/// `DEEPSEEK_STATUS_NOT_FOUND` for a model that was not compiled for less than f32. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_get_precision_report(
    model: *const deepseek_model,
    out_json: *mut *mut deepseek_buffer,
    err: *mut *mut deepseek_error,
) -> deepseek_status {
    // SAFETY: the caller keeps the contract of the header.
    guard(unsafe { Call::new(err) }, |call| {
        let out = call.out(out_json, "out_json")?;
        let report = call.get(model, "model")?.model.precision_report().ok_or_else(|| {
            let text = "the model was not compiled for less than f32; \
                        set precision in its options";
            Error::new(Code::NotFound, text)
        })?;
        out.give(deepseek_buffer::new(report.to_owned()));
        Ok(())
    })
}

/// Adds one to the count of a model and returns it; NULL for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_ref(model: *const deepseek_model) -> *mut deepseek_model {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, std::ptr::null_mut(), |call| call.share(model))
}

/// Takes one from the count of a model. Sessions keep theirs. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn deepseek_model_free(model: *mut deepseek_model) {
    // SAFETY: the caller keeps the contract of the header.
    guard_value(unsafe { Call::plain() }, (), |call| drop(call.take_shared(model)))
}
