//! Runtimes and models.

use crate::ffi::{MemoryReport, PlannedValue, Status, TensorInfo};
use crate::status::{give, guard};
use crate::tensor::dtype_of;
use deepseek::{Result, RuntimeOptions, SaveOptions, TensorSpec, Type};

/// Threads, instruction set and byte budget.
pub(crate) struct Runtime(pub(crate) deepseek::Runtime);

/// A graph lowered for a runtime, with its weights.
pub(crate) struct Model(pub(crate) deepseek::Model);

/// Named rows of integers: values of symbols, or shapes of inputs.
#[derive(Default)]
pub(crate) struct Extents(Vec<(String, Vec<usize>)>);

pub(crate) fn extents_new() -> Box<Extents> {
    Box::default()
}

impl Extents {
    pub(crate) fn add(&mut self, name: &str, values: &[usize]) {
        self.0.push((name.to_owned(), values.to_vec()));
    }
}

pub(crate) fn version() -> &'static str {
    deepseek::VERSION
}

/// `isa` is a level's name, or empty for the best there is.
pub(crate) fn runtime_new(
    threads: usize,
    isa: &str,
    memory_budget_bytes: u64,
    status: &mut Status,
) -> *mut Runtime {
    give(status, || {
        let isa = (!isa.is_empty()).then(|| deepseek::isa::by_name(isa)).transpose()?;
        let options = RuntimeOptions { threads, memory_budget_bytes, isa };
        Ok(Runtime(deepseek::Runtime::new(&deepseek::options_from_env(options)?)?))
    })
}

impl Runtime {
    pub(crate) fn threads(&self) -> usize {
        self.0.threads()
    }

    pub(crate) fn isa(&self) -> &'static str {
        self.0.isa().level().name()
    }

    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.0.reserved_bytes()
    }
}

/// How a model is opened.
pub(crate) struct ModelOptions(pub(crate) deepseek::ModelOptions);

pub(crate) fn model_options_new(memory_budget_bytes: u64, whole: bool) -> Box<ModelOptions> {
    Box::new(ModelOptions(deepseek::ModelOptions {
        memory_budget_bytes,
        whole,
        ..Default::default()
    }))
}

impl ModelOptions {
    pub(crate) fn add_shape(&mut self, name: &str, shape: &[usize]) {
        self.0.shapes.push((name.to_owned(), shape.to_vec()));
    }

    /// Without `bounded`, the greatest value is the model's own.
    pub(crate) fn add_bounds(&mut self, symbol: &str, min: i64, max: i64, bounded: bool) {
        let (symbol, max) = (symbol.to_owned(), bounded.then_some(max));
        self.0.bounds.push(deepseek::SymbolBounds { symbol, min, max });
    }

    /// Empty texts and a budget of 0 are the defaults.
    pub(crate) fn set_precision(
        &mut self,
        target: &str,
        calibration: &str,
        accuracy_budget: f64,
        metric: &str,
        status: &mut Status,
    ) {
        guard(status, (), || self.0.set_precision(target, calibration, accuracy_budget, metric));
    }
}

pub(crate) fn model_open(
    runtime: &Runtime,
    path: &str,
    options: &ModelOptions,
    status: &mut Status,
) -> *mut Model {
    give(status, || Ok(Model(deepseek::Model::open_with(path, &runtime.0, &options.0)?)))
}

pub(crate) fn model_from_onnx(
    runtime: &Runtime,
    bytes: &[u8],
    options: &ModelOptions,
    status: &mut Status,
) -> *mut Model {
    give(status, || {
        Ok(Model(deepseek::Model::from_onnx_bytes_with(bytes, &runtime.0, &options.0)?))
    })
}

impl Model {
    pub(crate) fn inputs(&self) -> Vec<TensorInfo> {
        self.0.inputs().iter().map(info).collect()
    }

    pub(crate) fn outputs(&self) -> Vec<TensorInfo> {
        self.0.outputs().iter().map(info).collect()
    }

    pub(crate) fn memory_formula(&self, status: &mut Status) -> String {
        guard(status, String::new(), || Ok(self.0.memory_formula().to_string()))
    }

    pub(crate) fn save(&self, path: &str, packed: bool, status: &mut Status) {
        guard(status, (), || self.0.save_with(path, &SaveOptions { packed }));
    }

    pub(crate) fn summary_json(&self, status: &mut Status) -> String {
        guard(status, String::new(), || Ok(deepseek::json::model(&self.0)))
    }

    /// Empty if there is none.
    pub(crate) fn precision_report(&self, status: &mut Status) -> String {
        guard(status, String::new(), || {
            Ok(self.0.precision_report().unwrap_or_default().to_owned())
        })
    }

    /// Each row of `symbols` has one value.
    pub(crate) fn plan_memory(&self, symbols: &Extents, status: &mut Status) -> MemoryReport {
        guard(status, MemoryReport::default(), || {
            let symbols: Vec<_> = symbols
                .0
                .iter()
                .flat_map(|(name, values)| {
                    values.iter().map(|&v| (name.as_str(), i64::try_from(v).unwrap_or(i64::MAX)))
                })
                .collect();
            report(self.0.plan_memory(&symbols))
        })
    }

    pub(crate) fn plan_memory_within_bounds(&self, status: &mut Status) -> MemoryReport {
        guard(status, MemoryReport::default(), || report(self.0.plan_memory_within_bounds()))
    }

    pub(crate) fn plan_memory_for_shapes(
        &self,
        shapes: &Extents,
        status: &mut Status,
    ) -> MemoryReport {
        guard(status, MemoryReport::default(), || {
            let shapes: Vec<_> =
                shapes.0.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
            report(self.0.plan_memory_for_shapes(&shapes))
        })
    }

    /// Whether the model has a packed form; why not in `status`.
    pub(crate) fn check_ragged(&self, status: &mut Status) {
        guard(status, (), || self.0.ragged().map(|_| ()));
    }

    pub(crate) fn plan_memory_for_lengths(
        &self,
        lengths: &[usize],
        status: &mut Status,
    ) -> MemoryReport {
        guard(status, MemoryReport::default(), || report(self.0.plan_memory_for_lengths(lengths)))
    }
}

fn report(report: Result<deepseek::MemoryReport>) -> Result<MemoryReport> {
    let report = report?;
    let largest = report.largest.iter().map(|v| PlannedValue {
        name: v.name.clone(),
        type_text: v.ty.to_string(),
        bytes: v.bytes,
    });
    Ok(MemoryReport {
        arena_bytes: report.arena_bytes,
        output_bytes: report.output_bytes,
        planned_bytes: report.planned_bytes(),
        constant_bytes: report.constant_bytes,
        dynamic_values: report.dynamic_values,
        largest: largest.collect(),
    })
}

fn info(spec: &TensorSpec) -> TensorInfo {
    let dims = match &spec.ty {
        Type::Tensor(_, dims) => dims.as_deref(),
        _ => None,
    };
    TensorInfo {
        name: spec.name.clone(),
        type_text: spec.ty.to_string(),
        dtype: dtype_of(&spec.ty),
        ranked: dims.is_some(),
        shape: dims.unwrap_or_default().iter().map(|d| d.as_const().unwrap_or(-1)).collect(),
        extents: dims.unwrap_or_default().iter().map(ToString::to_string).collect(),
    }
}
