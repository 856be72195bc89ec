//! `ai.deepseek.Model`.

use crate::error::{Failure, native};
use crate::handle;
use crate::wire::{self, Texts, TextsWriter};
use deepseek::{
    Code, Dim, Error, MemoryReport, Model, ModelOptions, Runtime, SaveOptions, SymbolBounds,
    TensorSpec, Type,
};
use jni::objects::{JByteArray, JClass, JLongArray, JObject};
use jni::sys::{jboolean, jlong};
use jni::{Env, EnvUnowned, jni_mangle};

/// Options of a model; `names` and `shapes` as in [`plan_shapes`]; for each of `symbols` two
/// `bounds`, a negative greatest value for none; `precision` is target, calibration data, accuracy
/// budget and metric.
pub(crate) fn options(
    env: &Env,
    memory_budget_bytes: jlong,
    whole: jboolean,
    (names, shapes): (&JByteArray, &JLongArray),
    (symbols, bounds): (&JByteArray, &JLongArray),
    precision: &JByteArray,
) -> Result<ModelOptions, Failure> {
    let memory_budget_bytes = u64::try_from(memory_budget_bytes).map_err(|_| {
        let message = format!("memoryBudgetBytes is {memory_budget_bytes}; take 0 to set no bound");
        Error::new(Code::InvalidArgument, message)
    })?;
    let (symbols, ends) = (Texts::read(env, symbols)?, wire::longs(env, bounds)?);
    let bounds = symbols.decode()?.into_iter().zip(ends.chunks_exact(2));
    let bounds = bounds.map(|(symbol, ends)| SymbolBounds {
        symbol: symbol.to_owned(),
        min: ends[0],
        max: (ends[1] >= 0).then_some(ends[1]),
    });
    let mut options = ModelOptions {
        memory_budget_bytes,
        whole,
        shapes: named_shapes(env, names, shapes)?,
        bounds: bounds.collect(),
        ..ModelOptions::default()
    };
    let precision = Texts::read(env, precision)?;
    if let [target, calibration, budget, metric] = precision.decode()?[..] {
        let budget = budget.parse().map_err(|_| {
            let message = format!("accuracyBudget is '{budget}', expected a number");
            Error::new(Code::InvalidArgument, message)
        })?;
        options.set_precision(target, calibration, budget, metric)?;
    }
    Ok(options)
}

/// Shapes by name: `packed` holds for each name a rank, then as many extents.
fn named_shapes(
    env: &Env,
    names: &JByteArray,
    packed: &JLongArray,
) -> Result<Vec<(String, Vec<usize>)>, Failure> {
    let (names, packed) = (Texts::read(env, names)?, wire::longs(env, packed)?);
    let mut rest = &packed[..];
    let mut shapes = Vec::new();
    for name in names.decode()? {
        let Some((&rank, tail)) = rest.split_first() else { break };
        let (shape, tail) = tail.split_at((rank as usize).min(tail.len()));
        shapes.push((name.to_owned(), wire::extents(shape)?));
        rest = tail;
    }
    Ok(shapes)
}

/// Opens a file or directory.
#[jni_mangle("ai.deepseek.Model", "openPath")]
pub fn open_model<'l>(
    env: EnvUnowned<'l>,
    _class: JClass<'l>,
    path: JByteArray<'l>,
    runtime: jlong,
    memory_budget_bytes: jlong,
    whole: jboolean,
    names: JByteArray<'l>,
    shapes: JLongArray<'l>,
    symbols: JByteArray<'l>,
    bounds: JLongArray<'l>,
    precision: JByteArray<'l>,
) -> jlong {
    native(env, |env| {
        let path = wire::text(env, &path)?;
        let options = options(
            env,
            memory_budget_bytes,
            whole,
            (&names, &shapes),
            (&symbols, &bounds),
            &precision,
        )?;
        let runtime = handle::get::<Runtime>(runtime)?;
        Ok(handle::give(Model::open_with(path, &runtime, &options)?))
    })
}

/// Loads an ONNX model from memory.
#[jni_mangle("ai.deepseek.Model", "openBytes")]
pub fn open_bytes<'l>(
    env: EnvUnowned<'l>,
    _class: JClass<'l>,
    bytes: JByteArray<'l>,
    runtime: jlong,
    memory_budget_bytes: jlong,
    whole: jboolean,
    names: JByteArray<'l>,
    shapes: JLongArray<'l>,
    symbols: JByteArray<'l>,
    bounds: JLongArray<'l>,
    precision: JByteArray<'l>,
) -> jlong {
    native(env, |env| {
        let bytes = env.convert_byte_array(&bytes)?;
        let options = options(
            env,
            memory_budget_bytes,
            whole,
            (&names, &shapes),
            (&symbols, &bounds),
            &precision,
        )?;
        let runtime = handle::get::<Runtime>(runtime)?;
        Ok(handle::give(Model::from_onnx_bytes_with(&bytes, &runtime, &options)?))
    })
}

/// The inputs: see [`specs`].
#[jni_mangle("ai.deepseek.Model", "inputSpecs")]
pub fn input_specs<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> JByteArray<'l> {
    native(env, |env| specs(env, handle::get::<Model>(handle)?.inputs()))
}

/// The outputs: see [`specs`].
#[jni_mangle("ai.deepseek.Model", "outputSpecs")]
pub fn output_specs<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> JByteArray<'l> {
    native(env, |env| specs(env, handle::get::<Model>(handle)?.outputs()))
}

/// For each: name, type, element type (empty if it is not a tensor), rank (-1 if it is
/// not known), and for each extent its text and its number (-1 if it is symbolic).
fn specs<'l>(env: &mut Env<'l>, specs: &[TensorSpec]) -> Result<JByteArray<'l>, Failure> {
    let mut out = TextsWriter::default();
    for spec in specs {
        out.push(&spec.name)?;
        out.push(&spec.ty.to_string())?;
        let (dtype, shape) = match &spec.ty {
            Type::Tensor(dtype, shape) => (dtype.name(), shape.as_deref()),
            Type::Sequence(_) | Type::Optional(_) => ("", None),
        };
        out.push(dtype)?;
        out.push(&shape.map_or(-1, |s| s.len() as i64).to_string())?;
        for dim in shape.unwrap_or_default() {
            out.push(&dim.to_string())?;
            out.push(&dim.as_const().unwrap_or(-1).to_string())?;
        }
    }
    out.finish(env)
}

/// Plans a run whose symbols have the given values: see [`report`].
#[jni_mangle("ai.deepseek.Model", "planSymbols")]
pub fn plan_symbols<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    names: JByteArray<'l>,
    values: JLongArray<'l>,
) -> JByteArray<'l> {
    native(env, |env| {
        let (names, values) = (Texts::read(env, &names)?, wire::longs(env, &values)?);
        let symbols: Vec<_> = names.decode()?.into_iter().zip(values).collect();
        report(env, &handle::get::<Model>(handle)?.plan_memory(&symbols)?)
    })
}

/// Plans for any run within the bounds of the symbols: see [`report`].
#[jni_mangle("ai.deepseek.Model", "planBounds")]
pub fn plan_bounds<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> JByteArray<'l> {
    native(env, |env| report(env, &handle::get::<Model>(handle)?.plan_memory_within_bounds()?))
}

/// Plans a run whose inputs have the given shapes: see [`report`]. `shapes` holds for
/// each input its rank, then its extents.
#[jni_mangle("ai.deepseek.Model", "planShapes")]
pub fn plan_shapes<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    names: JByteArray<'l>,
    shapes: JLongArray<'l>,
) -> JByteArray<'l> {
    native(env, |env| {
        let shapes = named_shapes(env, &names, &shapes)?;
        let shapes: Vec<_> = shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
        report(env, &handle::get::<Model>(handle)?.plan_memory_for_shapes(&shapes)?)
    })
}

/// Fails unless the model has a packed form.
#[jni_mangle("ai.deepseek.Model", "requireRagged")]
pub fn require_ragged<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) {
    native(env, |_| {
        handle::get::<Model>(handle)?.ragged()?;
        Ok(())
    })
}

/// Plans a ragged run of sequences with the given lengths: see [`report`].
#[jni_mangle("ai.deepseek.Model", "planLengths")]
pub fn plan_lengths<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    lengths: JLongArray<'l>,
) -> JByteArray<'l> {
    native(env, |env| {
        let lengths = wire::longs(env, &lengths)?;
        let sizes: Result<Vec<usize>, _> = lengths.iter().map(|&n| usize::try_from(n)).collect();
        let sizes = sizes.map_err(|_| {
            let message = format!("lengths are {lengths:?}, expected numbers from 1 on");
            Error::new(Code::InvalidArgument, message)
        })?;
        report(env, &handle::get::<Model>(handle)?.plan_memory_for_lengths(&sizes)?)
    })
}

/// The report as JSON, then its numbers, then name, type and bytes of the largest values.
fn report<'l>(env: &mut Env<'l>, report: &MemoryReport) -> Result<JByteArray<'l>, Failure> {
    let mut out = TextsWriter::default();
    out.push(&deepseek::json::memory(report))?;
    for number in [
        report.arena_bytes,
        report.output_bytes,
        report.planned_bytes(),
        report.constant_bytes,
        report.dynamic_values as u64,
    ] {
        out.push(&number.to_string())?;
    }
    for value in &report.largest {
        out.push(&value.name)?;
        out.push(&value.ty.to_string())?;
        out.push(&value.bytes.to_string())?;
    }
    out.finish(env)
}

/// Bytes of a run as a formula.
#[jni_mangle("ai.deepseek.Model", "formula")]
pub fn formula<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> JByteArray<'l> {
    native(env, |env| {
        let formula: Dim = handle::get::<Model>(handle)?.memory_formula();
        wire::bytes(env, formula.to_string().as_bytes())
    })
}

/// Writes the model to a `.deepseek` file.
#[jni_mangle("ai.deepseek.Model", "savePath")]
pub fn save<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
    path: JByteArray<'l>,
    packed: jboolean,
) {
    native(env, |env| {
        let path = wire::text(env, &path)?;
        handle::get::<Model>(handle)?.save_with(path, &SaveOptions { packed })?;
        Ok(())
    })
}

/// What the model consists of, as JSON.
#[jni_mangle("ai.deepseek.Model", "summaryJson")]
pub fn summary_json<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> JByteArray<'l> {
    native(env, |env| {
        let model = handle::get::<Model>(handle)?;
        wire::bytes(env, deepseek::json::model(&model).as_bytes())
    })
}

/// Why its layers have their precisions, as JSON; empty if there is nothing to say.
#[jni_mangle("ai.deepseek.Model", "precisionJson")]
pub fn precision_json<'l>(
    env: EnvUnowned<'l>,
    _this: JObject<'l>,
    handle: jlong,
) -> JByteArray<'l> {
    native(env, |env| {
        let model = handle::get::<Model>(handle)?;
        wire::bytes(env, model.precision_report().unwrap_or_default().as_bytes())
    })
}

/// A new session.
#[jni_mangle("ai.deepseek.Model", "newSession")]
pub fn new_session<'l>(env: EnvUnowned<'l>, _this: JObject<'l>, handle: jlong) -> jlong {
    native(env, |_| Ok(handle::give(handle::get::<Model>(handle)?.session())))
}
