//! Loaded models.

use crate::background::{Held, promise, rejected};
use crate::error::{caught, guard, internal, invalid, open};
use crate::runtime::Runtime;
use crate::session::Session;
use crate::tensor::{convert, entries, extents, options, whole};
use deepseek::{MemoryReport as Report, Result, SaveOptions, Type};
use napi::bindgen_prelude::*;
use napi_derive::napi;
use std::collections::BTreeMap;

/// Name and type of an input or output.
#[napi(object, object_from_js = false)]
pub struct TensorInfo {
    /// Name.
    pub name: String,
    /// Type as text, such as `f32[batch, 3]`.
    pub r#type: String,
    /// Element type; absent for sequences and optionals.
    #[napi(ts_type = "DType")]
    pub dtype: Option<&'static str>,
    /// Extents, numbers or expressions over symbols; absent where the rank is unknown.
    pub shape: Option<Vec<Either<f64, String>>>,
}

/// Exact bytes of a run.
#[napi(object, object_from_js = false)]
pub struct MemoryReport {
    /// Working memory: values between nodes, and scratch.
    pub arena_bytes: f64,
    /// Outputs.
    pub output_bytes: f64,
    /// What a run takes beyond the constants: arena and outputs.
    pub planned_bytes: f64,
    /// The model's constants, mapped ones included.
    pub constant_bytes: f64,
    /// Number of values whose extents depend on data; they come on top.
    pub dynamic_values: u32,
    /// The largest values, descending.
    pub largest: Vec<PlannedValue>,
}

/// A value of the memory plan.
#[napi(object, object_from_js = false)]
pub struct PlannedValue {
    /// Name.
    pub name: String,
    /// Type as text.
    pub r#type: String,
    /// Bytes.
    pub bytes: f64,
}

/// How often an operator occurs.
#[napi(object, object_from_js = false)]
pub struct OpCount {
    /// Number of nodes.
    pub nodes: u32,
    /// Number of those that a kernel of this machine runs, rather than the scalar
    /// reference.
    pub kernels: u32,
}

/// Range of a symbol, both ends included.
#[napi(object, object_from_js = false)]
pub struct SymbolBounds {
    /// Least value.
    pub min: f64,
    /// Greatest value; absent if there is none.
    pub max: Option<f64>,
}

/// What a model consists of.
#[napi(object, object_from_js = false)]
pub struct ModelSummary {
    /// Where the model came from, e.g. `onnx`.
    pub source: String,
    /// Name of the graph.
    pub name: String,
    /// Number of nodes, subgraphs not counted.
    pub nodes: u32,
    /// Operators.
    pub ops: BTreeMap<String, OpCount>,
    /// Number of constant elements.
    pub parameters: f64,
    /// Bytes of the constants.
    pub parameter_bytes: f64,
    /// Symbols of the inputs.
    pub symbols: BTreeMap<String, SymbolBounds>,
}

/// How a model is made; every field is optional.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct ModelOptions<'env> {
    /// Bytes that a run may take beyond the weights; absent sets no bound. What is too large is
    /// cut into blocks of rows until a run of `shapes` fits, or `BUDGET_EXCEEDED` names the least
    /// number of bytes that would do. Runs that take more, because of other shapes or because
    /// there were none to cut for, are refused.
    pub memory_budget_bytes: Option<f64>,
    /// The largest shapes that the budget must hold for, by input. Inputs whose shapes say
    /// nothing new may be left out; if all are, the upper bounds of the model's symbols count.
    #[napi(ts_type = "Record<string, readonly number[]>")]
    pub shapes: Option<Object<'env>>,
    /// Run nothing in blocks of rows, unless the budget asks for it.
    pub whole: Option<bool>,
    /// Ranges of symbols that every run keeps to, both ends included, by symbol: a run outside
    /// fails with `SHAPE_MISMATCH`, and what is planned within bounds is planned within these. An
    /// end that is left out is the model's own.
    #[napi(ts_type = "Record<string, { min?: number, max?: number }>")]
    pub bounds: Option<Object<'env>>,
    /// What the layers of a model in `f32` compute in. `auto` takes `int8` where it is faster on this
    /// machine, inside the accuracy budget; absent or `f32` leaves the model as it is.
    /// `model.precisionReport` says what was chosen and why.
    #[napi(ts_type = "'f32' | 'bf16' | 'f16' | 'int8' | 'auto'")]
    pub precision: Option<String>,
    /// Path of inputs to calibrate with: an `.npz` file, or a directory of them, whose arrays are
    /// named after the inputs and hold samples along the first axis; for an encoder a `.txt` file
    /// of one text a line, or a `.jsonl` file of strings or objects with `text`. Absent makes inputs
    /// up; where the model leaves extents open they have the shapes of `shapes`.
    pub calibration: Option<String>,
    /// What the metric must reach on the calibration data, 1 being `f32`; 0.95 at least. Absent is
    /// 0.99 for `auto`, else 0.95.
    pub accuracy_budget: Option<f64>,
    /// What accuracy is measured by: `cosine` of outputs, which is the default, or `top1` agreement.
    #[napi(ts_type = "'cosine' | 'top1'")]
    pub metric: Option<String>,
}

/// An entry of `ModelOptions.bounds`.
#[napi(object, object_to_js = false)]
#[derive(Default)]
pub struct BoundsOption {
    /// Least value.
    pub min: Option<f64>,
    /// Greatest value.
    pub max: Option<f64>,
}

impl ModelOptions<'_> {
    /// The options in `value`; defaults for `undefined`.
    pub(crate) fn read(value: Unknown) -> Result<deepseek::ModelOptions> {
        let options: ModelOptions = options(value)?;
        let mut model = deepseek::ModelOptions {
            memory_budget_bytes: whole(
                options.memory_budget_bytes.unwrap_or(0.0),
                "options.memoryBudgetBytes",
            )?,
            whole: options.whole.unwrap_or(false),
            shapes: match options.shapes {
                Some(shapes) => read_shapes(shapes.to_unknown(), "options.shapes")?,
                None => Vec::new(),
            },
            bounds: match options.bounds {
                Some(bounds) => read_bounds(bounds.to_unknown(), "options.bounds")?,
                None => Vec::new(),
            },
            ..Default::default()
        };
        model.set_precision(
            options.precision.as_deref().unwrap_or_default(),
            options.calibration.as_deref().unwrap_or_default(),
            options.accuracy_budget.unwrap_or(0.0),
            options.metric.as_deref().unwrap_or_default(),
        )?;
        Ok(model)
    }
}

/// Ranges by symbol.
fn read_bounds(bounds: Unknown, what: &str) -> Result<Vec<deepseek::SymbolBounds>> {
    let read = |(symbol, value): (String, Unknown)| {
        if !matches!(value.get_type(), Ok(napi::ValueType::Object)) {
            return Err(invalid(format!("{what}.{symbol} must be an object of min and max")));
        }
        let range: BoundsOption = convert(value, &format!("{what}.{symbol}"))?;
        let end = |n: f64, end: &str| whole(n, &format!("{what}.{symbol}.{end}")).map(|n| n as i64);
        let min = end(range.min.unwrap_or(0.0), "min")?;
        let max = range.max.map(|max| end(max, "max")).transpose()?;
        Ok(deepseek::SymbolBounds { symbol, min, max })
    };
    entries(bounds, what)?.into_iter().map(read).collect()
}

/// Extents by name.
fn read_shapes(shapes: Unknown, what: &str) -> Result<Vec<(String, Vec<usize>)>> {
    let read = |(name, value): (String, Unknown)| {
        let what = format!("{what}.{name}");
        let shape = extents(&convert::<Vec<f64>>(value, &what)?, &what)?;
        Ok((name, shape))
    };
    entries(shapes, what)?.into_iter().map(read).collect()
}

/// A graph compiled for a runtime, with its weights. Immutable and shared.
#[napi]
pub struct Model {
    inner: Option<deepseek::Model>,
}

#[napi]
impl Model {
    /// Opens an `.onnx` file, a `.deepseek` file, or a directory with a Hugging Face
    /// `config.json` and safetensors weights. Rejects with `IO`, `INVALID_FILE`, `INVALID_GRAPH`, or
    /// `UNSUPPORTED` naming the format, operator or field; `BUDGET_EXCEEDED` naming the least
    /// budget that would do; `NOT_FOUND`, `SHAPE_MISMATCH` for a shape of the options that
    /// fits no input; `NOT_FOUND`, `INVALID_ARGUMENT` for bounds of a symbol that no input has, or
    /// that are not within the model's own; `INVALID_ARGUMENT` for a precision or metric that there
    /// is not, calibration data that does not fit, or an accuracy budget that cannot be met, with
    /// the best that can be reached.
    #[napi(
        ts_args_type = "runtime: Runtime, path: string, options?: ModelOptions",
        ts_return_type = "Promise<Model>"
    )]
    pub fn open<'env>(
        env: &'env Env,
        runtime: Unknown,
        path: Unknown,
        options: Unknown,
    ) -> napi::Result<Object<'env>> {
        Model::later(env, || {
            let (runtime, path) = (Runtime::from_arg(runtime)?, convert::<String>(path, "path")?);
            let options = ModelOptions::read(options)?;
            Ok(move || deepseek::Model::open_with(path, &runtime, &options))
        })
    }

    /// As `open`, on this thread.
    #[napi(ts_args_type = "runtime: Runtime, path: string, options?: ModelOptions")]
    pub fn open_sync(
        env: &Env,
        runtime: Unknown,
        path: Unknown,
        options: Unknown,
    ) -> napi::Result<Model> {
        guard(env, || {
            let (runtime, path) = (Runtime::from_arg(runtime)?, convert::<String>(path, "path")?);
            let model = deepseek::Model::open_with(path, &runtime, &ModelOptions::read(options)?)?;
            Ok(Model { inner: Some(model) })
        })
    }

    /// Loads an ONNX model from memory; the bytes are copied. External data is refused:
    /// it has no directory.
    #[napi(
        ts_args_type = "runtime: Runtime, bytes: Uint8Array, options?: ModelOptions",
        ts_return_type = "Promise<Model>"
    )]
    pub fn from_onnx<'env>(
        env: &'env Env,
        runtime: Unknown,
        bytes: Unknown,
        options: Unknown,
    ) -> napi::Result<Object<'env>> {
        Model::later(env, || {
            let (runtime, bytes) = (Runtime::from_arg(runtime)?, onnx_bytes(bytes)?);
            let options = ModelOptions::read(options)?;
            Ok(move || deepseek::Model::from_onnx_bytes_with(&bytes, &runtime, &options))
        })
    }

    /// As `fromOnnx`, on this thread.
    #[napi(ts_args_type = "runtime: Runtime, bytes: Uint8Array, options?: ModelOptions")]
    pub fn from_onnx_sync(
        env: &Env,
        runtime: Unknown,
        bytes: Unknown,
        options: Unknown,
    ) -> napi::Result<Model> {
        guard(env, || {
            let (runtime, bytes) = (Runtime::from_arg(runtime)?, onnx_bytes(bytes)?);
            let options = ModelOptions::read(options)?;
            let model = deepseek::Model::from_onnx_bytes_with(&bytes, &runtime, &options)?;
            Ok(Model { inner: Some(model) })
        })
    }

    /// Writes the model to a `.deepseek` file: the prepared graph, the weights, and what came
    /// with them, such as the files of a tokenizer. What is at `path` is replaced when all is
    /// written. Rejects with `IO` naming the path, `INVALID_ARGUMENT` if its name does not end
    /// in `.deepseek`.
    #[napi(ts_args_type = "path: string", ts_return_type = "Promise<void>")]
    pub fn save<'env>(&self, env: &'env Env, path: Unknown) -> napi::Result<Object<'env>> {
        match caught(|| Ok((self.get()?.clone(), convert::<String>(path, "path")?))) {
            Ok((model, path)) => promise(env, Held::default(), move || model.save(path), nothing),
            Err(e) => rejected(env, &e),
        }
    }

    /// As `save`, on this thread.
    #[napi(ts_args_type = "path: string")]
    pub fn save_sync(&self, env: &Env, path: Unknown) -> napi::Result<()> {
        guard(env, || self.get()?.save(convert::<String>(path, "path")?))
    }

    /// As `save`, and stores the weights a second time, packed for the kernels of this machine:
    /// on machines with the same instruction set, opening the file packs nothing, and processes
    /// share the packed weights.
    #[napi(ts_args_type = "path: string", ts_return_type = "Promise<void>")]
    pub fn save_packed<'env>(&self, env: &'env Env, path: Unknown) -> napi::Result<Object<'env>> {
        match caught(|| Ok((self.get()?.clone(), convert::<String>(path, "path")?))) {
            Ok((model, path)) => {
                let save = move || model.save_with(path, &SaveOptions { packed: true });
                promise(env, Held::default(), save, nothing)
            }
            Err(e) => rejected(env, &e),
        }
    }

    /// As `savePacked`, on this thread.
    #[napi(ts_args_type = "path: string")]
    pub fn save_packed_sync(&self, env: &Env, path: Unknown) -> napi::Result<()> {
        let options = SaveOptions { packed: true };
        guard(env, || self.get()?.save_with(convert::<String>(path, "path")?, &options))
    }

    /// The inputs, in order.
    #[napi(getter)]
    pub fn inputs(&self, env: &Env) -> napi::Result<Vec<TensorInfo>> {
        guard(env, || Ok(self.get()?.inputs().iter().map(info).collect()))
    }

    /// The outputs, in order.
    #[napi(getter)]
    pub fn outputs(&self, env: &Env) -> napi::Result<Vec<TensorInfo>> {
        guard(env, || Ok(self.get()?.outputs().iter().map(info).collect()))
    }

    /// Bytes of a run as a formula over the model's symbols.
    #[napi(getter)]
    pub fn memory_formula(&self, env: &Env) -> napi::Result<String> {
        guard(env, || Ok(self.get()?.memory_formula().to_string()))
    }

    /// Why the layers of the model have the precisions that they have, as the text of a JSON object:
    /// `requested`, `synthetic` (whether the calibration data was made up), `calibrated_with` and
    /// `verified_with` samples, `metric`, `budget`, the `accuracy` reached, milliseconds of a run
    /// `ms_before` and `ms_after`, and for each of `layers` that had a choice `node`, `op`,
    /// `precision`, `error` and `why`. `null` if it was not compiled for less than `f32`.
    #[napi(getter)]
    pub fn precision_report(&self, env: &Env) -> napi::Result<Option<String>> {
        guard(env, || Ok(self.get()?.precision_report().map(str::to_owned)))
    }

    /// Exact bytes of a run whose symbols have the given values. Throws `NOT_FOUND` for
    /// a symbol that the model does not have, `INVALID_ARGUMENT` naming one without a
    /// value, `SHAPE_MISMATCH` for a value outside its bounds.
    #[napi(ts_args_type = "symbols: Record<string, number>")]
    pub fn plan_memory(&self, env: &Env, symbols: Unknown) -> napi::Result<MemoryReport> {
        guard(env, || {
            let model = self.get()?;
            let mut values = Vec::new();
            for (name, value) in entries(symbols, "symbols")? {
                let what = format!("symbols.{name}");
                values.push((name, whole(convert(value, &what)?, &what)? as i64));
            }
            let values: Vec<_> = values.iter().map(|(n, v)| (n.as_str(), *v)).collect();
            model.plan_memory(&values).map(report)
        })
    }

    /// Bytes that no run within the bounds of the model's symbols exceeds: what the run at the
    /// upper bounds takes, where all sizes grow with every symbol. Throws `INVALID_ARGUMENT`
    /// naming a symbol without an upper bound; `ModelOptions.bounds` sets it.
    #[napi]
    pub fn plan_memory_within_bounds(&self, env: &Env) -> napi::Result<MemoryReport> {
        guard(env, || self.get()?.plan_memory_within_bounds().map(report))
    }

    /// Exact bytes of a run whose inputs have the given shapes. Throws `NOT_FOUND` for
    /// an unknown input, `SHAPE_MISMATCH` for a shape that does not fit,
    /// `INVALID_ARGUMENT` naming a symbol that the shapes leave open.
    #[napi(ts_args_type = "shapes: Record<string, readonly number[]>")]
    pub fn plan_memory_for_shapes(&self, env: &Env, shapes: Unknown) -> napi::Result<MemoryReport> {
        guard(env, || {
            let model = self.get()?;
            let values = read_shapes(shapes, "shapes")?;
            let values: Vec<_> = values.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
            model.plan_memory_for_shapes(&values).map(report)
        })
    }

    /// Whether the model runs sequences of different lengths without padding (`runRagged`, or
    /// the run option `ragged`). Throws `UNSUPPORTED` if it does not, naming the node that
    /// mixes the rows of sequences and why. The first call compiles the packed form, on this
    /// thread; so does the first ragged run, on its own.
    #[napi]
    pub fn check_ragged(&self, env: &Env) -> napi::Result<()> {
        guard(env, || self.get()?.ragged().map(|_| ()))
    }

    /// Exact bytes of a ragged run of sequences with the given lengths. Throws as
    /// `checkRagged`; `INVALID_ARGUMENT` for no or an empty sequence; `SHAPE_MISMATCH` for a
    /// length outside the model's bounds.
    #[napi(ts_args_type = "lengths: readonly number[]")]
    pub fn plan_memory_for_lengths(
        &self,
        env: &Env,
        lengths: Unknown,
    ) -> napi::Result<MemoryReport> {
        guard(env, || {
            let model = self.get()?;
            let lengths = extents(&convert::<Vec<f64>>(lengths, "lengths")?, "lengths")?;
            model.plan_memory_for_lengths(&lengths).map(report)
        })
    }

    /// What the model consists of.
    #[napi]
    pub fn summary(&self, env: &Env) -> napi::Result<ModelSummary> {
        guard(env, || {
            let s = self.get()?.summary();
            let count = |(nodes, kernels): (usize, usize)| OpCount {
                nodes: nodes as u32,
                kernels: kernels as u32,
            };
            let bounds = |(min, max): (i64, Option<i64>)| SymbolBounds {
                min: min as f64,
                max: max.map(|m| m as f64),
            };
            Ok(ModelSummary {
                source: s.source,
                name: s.name,
                nodes: s.nodes as u32,
                ops: s.ops.into_iter().map(|(op, n)| (op, count(n))).collect(),
                parameters: s.parameters as f64,
                parameter_bytes: s.parameter_bytes as f64,
                symbols: s.symbols.into_iter().map(|(name, b)| (name, bounds(b))).collect(),
            })
        })
    }

    /// A new session.
    #[napi]
    pub fn session(&self, env: &Env) -> napi::Result<Session> {
        guard(env, || Ok(Session::new(self.get()?.session())))
    }

    /// Lets go of the model. Its sessions go on; the weights are freed with the last.
    #[napi]
    pub fn close(&mut self) {
        self.inner = None;
    }

    fn get(&self) -> Result<&deepseek::Model> {
        open(&self.inner, "model")
    }

    /// A promise of the model that is made, on another thread, by what `prepare` yields on this.
    pub(crate) fn later<'env, W>(
        env: &'env Env,
        prepare: impl FnOnce() -> Result<W>,
    ) -> napi::Result<Object<'env>>
    where
        W: FnOnce() -> Result<deepseek::Model> + Send + 'static,
    {
        match caught(prepare) {
            Ok(work) => promise(env, Held::default(), work, Model::write),
            Err(e) => rejected(env, &e),
        }
    }

    /// The model as JavaScript sees it.
    fn write(env: &Env, model: deepseek::Model) -> Result<sys::napi_value> {
        let instance = Model { inner: Some(model) }.into_instance(env).map_err(internal)?;
        Ok(instance.raw())
    }
}

fn onnx_bytes(value: Unknown) -> Result<Vec<u8>> {
    let bytes = Uint8ArraySlice::from_unknown(value);
    Ok(bytes.map_err(|_| invalid("bytes must be a Uint8Array"))?.to_vec())
}

fn info(spec: &deepseek::TensorSpec) -> TensorInfo {
    let (dtype, dims) = match &spec.ty {
        Type::Tensor(dtype, dims) => (Some(dtype.name()), dims.as_ref()),
        _ => (None, None),
    };
    let shape = dims.map(|dims| {
        let extent = |dim: &deepseek::Dim| match dim.as_const() {
            Some(n) => Either::A(n as f64),
            None => Either::B(dim.to_string()),
        };
        dims.iter().map(extent).collect()
    });
    TensorInfo { name: spec.name.clone(), r#type: spec.ty.to_string(), dtype, shape }
}

fn report(report: Report) -> MemoryReport {
    let largest = report.largest.iter().map(|v| PlannedValue {
        name: v.name.clone(),
        r#type: v.ty.to_string(),
        bytes: v.bytes as f64,
    });
    MemoryReport {
        arena_bytes: report.arena_bytes as f64,
        output_bytes: report.output_bytes as f64,
        planned_bytes: report.planned_bytes() as f64,
        constant_bytes: report.constant_bytes as f64,
        dynamic_values: report.dynamic_values as u32,
        largest: largest.collect(),
    }
}

/// `undefined`, for a promise of no value.
fn nothing(env: &Env, (): ()) -> Result<sys::napi_value> {
    // SAFETY: `env` is the environment of the thread that this runs on.
    unsafe { <()>::to_napi_value(env.raw(), ()) }.map_err(internal)
}
