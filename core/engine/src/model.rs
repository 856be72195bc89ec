//! A loaded model.

use crate::calibration::{self, Subject};
use crate::{Runtime, Session};
use deepseek_graph::{Bindings, Dim, Graph, Symbol, Type, ValueId};
use deepseek_import::package::{self, Package, PackedConstants, SentenceEncoder};
use deepseek_runtime::precision::{Metric, Precision, PrecisionOptions, Target};
use deepseek_runtime::{Cut, LowerOptions, MemoryReport, Plan, Ragged};
use deepseek_tensor::{Result, bail, ensure, err};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A graph lowered for a runtime, with its weights. Immutable and shared: clones
/// refer to the same model, and any thread may use it.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    plan: Arc<Plan>,
    /// What the plan was made from, before it was cut into blocks of rows.
    prepared: Graph,
    extras: Extras,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    source: String,
    /// How it was lowered, for the packed form.
    options: LowerOptions,
    ragged: OnceLock<Result<Ragged>>,
}

/// What came with a model and travels with it.
#[derive(Clone, Default)]
struct Extras {
    files: BTreeMap<String, bytes::Bytes>,
    pipeline: Option<serde_json::Value>,
    labels: Vec<String>,
    encoder: Option<SentenceEncoder>,
    precision: Option<String>,
}

/// Name and type of an input or output.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    /// Name.
    pub name: String,
    /// Type; extents may be symbolic.
    pub ty: Type,
}

/// How a model is opened. The default runs in blocks of rows what costs no time to run so, and
/// sets no bound.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// Bytes that a run may take beyond the weights; 0 sets no bound. What is too large is cut
    /// into blocks of rows until runs fit; a run that takes more all the same is refused, a
    /// ragged one too.
    pub memory_budget_bytes: u64,
    /// Run nothing in blocks of rows, unless the budget asks for it.
    pub whole: bool,
    /// Shapes of inputs for which the budget must hold, else opening fails. Where there are none,
    /// the upper bounds of the model's symbols count, if all have one. Synthetic calibration samples
    /// have these shapes too, where `precision` has none.
    pub shapes: Vec<(String, Vec<usize>)>,
    /// Ranges of symbols that every run keeps to: a run outside is refused, and what is planned
    /// within bounds is planned within these.
    pub bounds: Vec<SymbolBounds>,
    /// Compute in less than `f32`, calibrated and under an accuracy budget; see
    /// [`Model::precision_report`]. `None` leaves the model as it is.
    pub precision: Option<PrecisionOptions>,
    /// A file that is read in place of the calibration data of `precision`: an `.npz` file, or a directory
    /// of them, whose arrays are named after the inputs and hold samples along the first axis; for an
    /// encoder a `.txt` file of one text a line, or a `.jsonl` file of strings or objects with `text`.
    pub calibration: Option<PathBuf>,
}

impl ModelOptions {
    /// Sets `precision` and `calibration` from what the other languages and the program take: `target` is
    /// `f32`, `bf16`, `f16`, `int8` or `auto`, `calibration` a path, `metric` `cosine` or `top1`; an empty
    /// text or a budget of 0 is the default, and without a target the model is left as it is.
    ///
    /// # Errors
    /// `InvalidArgument` for another name, and for any of the others without a target.
    pub fn set_precision(
        &mut self,
        target: &str,
        calibration: &str,
        accuracy_budget: f64,
        metric: &str,
    ) -> Result<()> {
        if target.is_empty() {
            let given = [
                ("calibration data", !calibration.is_empty()),
                ("an accuracy budget", accuracy_budget != 0.0),
                ("a metric", !metric.is_empty()),
            ];
            if let Some((what, _)) = given.into_iter().find(|g| g.1) {
                bail!(InvalidArgument, "{what} needs a precision; set bf16, f16, int8 or auto");
            }
            return Ok(());
        }
        let metric = if metric.is_empty() { Metric::default() } else { metric.parse()? };
        self.precision = Some(PrecisionOptions {
            target: target.parse()?,
            accuracy_budget: (accuracy_budget != 0.0).then_some(accuracy_budget),
            metric,
            ..PrecisionOptions::default()
        });
        self.calibration = (!calibration.is_empty()).then(|| calibration.into());
        Ok(())
    }

    /// The precision that a model is compiled for, with its calibration data; `None` for `f32`.
    fn reduced(&self, subject: &Subject<'_>) -> Result<Option<PrecisionOptions>> {
        let Some(asked) = &self.precision else {
            ensure!(
                self.calibration.is_none(),
                InvalidArgument,
                "calibration data needs a precision; set bf16, f16, int8 or auto"
            );
            return Ok(None);
        };
        if asked.target == Target::Only(Precision::F32) {
            return Ok(None);
        }
        let mut asked = asked.clone();
        if asked.shapes.is_empty() {
            asked.shapes.clone_from(&self.shapes);
        }
        if let Some(path) = &self.calibration {
            asked.calibration = calibration::read(path, subject)?;
        }
        Ok(Some(asked))
    }
}

/// The range of a symbol, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SymbolBounds {
    /// Name of the symbol.
    pub symbol: String,
    /// Least value; 0 leaves the model's own.
    pub min: i64,
    /// Greatest value; `None` leaves the model's own, if it has one.
    pub max: Option<i64>,
}

/// How a model is saved. The default suits every machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SaveOptions {
    /// Store the weights a second time, packed for the kernels of this machine: on machines with the same
    /// instruction set, opening the file packs nothing, and processes share the packed weights.
    pub packed: bool,
}

/// What `inspect` shows.
#[derive(Clone, Debug)]
pub struct ModelSummary {
    /// Where the model came from, e.g. `onnx`.
    pub source: String,
    /// Name of the graph.
    pub name: String,
    /// Number of nodes, subgraphs not counted.
    pub nodes: usize,
    /// How often each operator occurs, and on how many of those nodes a kernel of
    /// this machine (rather than the scalar reference) runs.
    pub ops: BTreeMap<String, (usize, usize)>,
    /// Number of constant elements.
    pub parameters: u64,
    /// Bytes of the constants.
    pub parameter_bytes: u64,
    /// Symbols with their bounds: least, and greatest where there is one.
    pub symbols: BTreeMap<String, (i64, Option<i64>)>,
}

impl Model {
    /// Opens a model: an `.onnx` file, a `.deepseek` file, or a directory with a Hugging Face
    /// `config.json` and safetensors weights.
    ///
    /// # Errors
    /// `Io` if the path cannot be read; `InvalidFile`, `InvalidGraph` if it is not
    /// what it claims to be; `Unsupported` naming the format, operator or field.
    pub fn open(path: impl AsRef<Path>, runtime: &Runtime) -> Result<Model> {
        Model::open_with(path, runtime, &ModelOptions::default())
    }

    /// As [`Model::open`], with options.
    ///
    /// # Errors
    /// As [`Model::open`]; `BudgetExceeded` naming the least number of bytes that would do;
    /// `NotFound` or `ShapeMismatch` for a shape that fits no input; `NotFound` or
    /// `InvalidArgument` for bounds of a symbol that the inputs do not have, or that are not
    /// within the model's own; for a precision what
    /// [`compile`](deepseek_runtime::precision::compile) and reading the calibration data report.
    pub fn open_with(
        path: impl AsRef<Path>,
        runtime: &Runtime,
        options: &ModelOptions,
    ) -> Result<Model> {
        let path = path.as_ref();
        let package = package::open(path)?;
        let source = package.source.clone();
        let Package { graph, files, pipeline, labels, encoder, precision, packed, .. } = package;
        if let Some(packed) = packed
            && packed.machine == deepseek_runtime::packed_for(runtime.isa())
        {
            runtime.offer_packed(&graph, packed.constants);
        }
        let extras = Extras { files, pipeline, labels, encoder, precision };
        Model::lower(graph, runtime, (&source, Some(path)), extras, options)
    }

    /// Writes the model to a `.deepseek` file: its graph as the compiler has prepared it, its weights, and
    /// what came with them, such as the files of a tokenizer. What is at `path` is replaced when all is written.
    /// The same model always gives the same bytes.
    ///
    /// # Errors
    /// `Io` naming the path; `InvalidArgument` if its name does not end in `.deepseek`.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_with(path, &SaveOptions::default())
    }

    /// As [`Model::save`], with options.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save_with(&self, path: impl AsRef<Path>, options: &SaveOptions) -> Result<()> {
        let path = path.as_ref();
        ensure!(
            path.extension().is_some_and(|e| e.eq_ignore_ascii_case(package::EXTENSION)),
            InvalidArgument,
            "'{}' does not end in .{}, by which the file is known when it is opened",
            path.display(),
            package::EXTENSION
        );
        let Extras { files, pipeline, labels, encoder, precision } = self.0.extras.clone();
        let (graph, source) = (self.0.prepared.clone(), self.0.source.clone());
        let packed = match options.packed {
            true => Some(PackedConstants {
                machine: deepseek_runtime::packed_for(self.runtime().isa()),
                constants: deepseek_runtime::packed_constants(
                    &graph,
                    self.runtime(),
                    &self.0.options,
                )?,
            }),
            false => None,
        };
        let package =
            Package { graph, source, files, pipeline, labels, encoder, precision, packed };
        package::save(&package, path)
    }

    /// Loads an ONNX model from memory. External data is refused: it has no directory.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_onnx_bytes(bytes: &[u8], runtime: &Runtime) -> Result<Model> {
        Model::from_onnx_bytes_with(bytes, runtime, &ModelOptions::default())
    }

    /// As [`Model::from_onnx_bytes`], with options.
    ///
    /// # Errors
    /// As [`Model::open_with`].
    pub fn from_onnx_bytes_with(
        bytes: &[u8],
        runtime: &Runtime,
        options: &ModelOptions,
    ) -> Result<Model> {
        let graph = deepseek_import::onnx::load_bytes(bytes, None)?;
        Model::lower(graph, runtime, ("onnx", None), Extras::default(), options)
    }

    /// Lowers a graph of the intermediate representation.
    ///
    /// # Errors
    /// `InvalidGraph` if there is no output; what lowering reports.
    pub fn from_graph(graph: Graph, runtime: &Runtime) -> Result<Model> {
        Model::from_graph_with(graph, runtime, &ModelOptions::default())
    }

    /// As [`Model::from_graph`], with options.
    ///
    /// # Errors
    /// As [`Model::from_graph`] and [`Model::open_with`].
    pub fn from_graph_with(
        graph: Graph,
        runtime: &Runtime,
        options: &ModelOptions,
    ) -> Result<Model> {
        ensure!(
            !graph.outputs().is_empty(),
            InvalidGraph,
            "graph '{}' has no output; add one",
            graph.name
        );
        Model::lower(graph, runtime, ("graph", None), Extras::default(), options)
    }

    fn lower(
        mut graph: Graph,
        runtime: &Runtime,
        (source, path): (&str, Option<&Path>),
        mut extras: Extras,
        options: &ModelOptions,
    ) -> Result<Model> {
        let spec = |graph: &Graph, name: &str, id: ValueId| TensorSpec {
            name: name.to_owned(),
            ty: graph.fact(id).ty.clone(),
        };
        let inputs = graph.inputs().iter();
        let inputs: Vec<TensorSpec> =
            inputs.map(|id| spec(&graph, &graph.value(*id).name, *id)).collect();
        narrow(&mut graph, &inputs, &options.bounds)?;
        let at = match options.shapes.is_empty() {
            true => None,
            false => {
                let shapes: Vec<(&str, &[usize])> =
                    options.shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
                Some(bind_shapes(&inputs, &shapes)?)
            }
        };
        let at = at.filter(|_| options.memory_budget_bytes > 0);
        let (files, encoder) = (&extras.files, extras.encoder.as_ref());
        let prepared = match options.reduced(&Subject { graph: &graph, files, encoder, path })? {
            Some(precision) => {
                let compiled = deepseek_runtime::precision::compile(&graph, runtime, &precision)?;
                extras.precision = Some(compiled.report.to_json());
                compiled.graph
            }
            None => deepseek_runtime::prepare(graph)?,
        };
        let memory_budget_bytes = options.memory_budget_bytes;
        let options = LowerOptions { whole: options.whole, memory_budget_bytes, at };
        let plan = Arc::new(deepseek_runtime::lower(&prepared, runtime, &options)?);
        let graph = plan.graph();
        let inputs =
            graph.inputs().iter().map(|id| spec(graph, &graph.value(*id).name, *id)).collect();
        let outputs = graph.outputs().iter().map(|(name, id)| spec(graph, name, *id)).collect();
        let (source, ragged) = (source.to_owned(), OnceLock::new());
        Ok(Model(Arc::new(Inner {
            plan,
            prepared,
            extras,
            inputs,
            outputs,
            source,
            options,
            ragged,
        })))
    }

    /// The inputs, in order.
    pub fn inputs(&self) -> &[TensorSpec] {
        &self.0.inputs
    }

    /// The outputs, in order.
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.0.outputs
    }

    /// Why its layers have the precisions that they have, as one JSON object (the fields of
    /// [`PrecisionReport`](deepseek_runtime::precision::PrecisionReport)); `None` for a model that was not
    /// compiled for less than `f32`.
    pub fn precision_report(&self) -> Option<&str> {
        self.0.extras.precision.as_deref()
    }

    /// `f32`, or what the model was compiled for: `int8` or `auto`.
    pub fn precision(&self) -> String {
        let report = self.precision_report().and_then(|r| {
            let report: serde_json::Value = serde_json::from_str(r).ok()?;
            Some(report.get("requested")?.as_str()?.to_owned())
        });
        report.unwrap_or_else(|| "f32".to_owned())
    }

    /// A new session.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// The runtime the model was lowered for.
    pub fn runtime(&self) -> &Runtime {
        self.0.plan.runtime()
    }

    pub(crate) fn plan(&self) -> &Arc<Plan> {
        &self.0.plan
    }

    /// The packed form of the model, which runs sequences of different lengths without padding
    /// (see [`Session::run_ragged`]). Made at the first call; it shares the model's weights, as the
    /// model has them and as kernels have packed them, and keeps within its byte budget.
    ///
    /// # Errors
    /// `Unsupported` if the model has none, naming the node that mixes the rows of sequences and
    /// why; `BudgetExceeded` naming the least number of bytes that would do; what lowering
    /// reports.
    pub fn ragged(&self) -> Result<&Ragged> {
        let make = || Ragged::new(&self.0.prepared, self.0.plan.runtime(), &self.0.options);
        self.0.ragged.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// Exact bytes of a ragged run of sequences with the given lengths.
    ///
    /// # Errors
    /// As [`Model::ragged`]; `InvalidArgument` for no or an empty sequence, or naming a symbol
    /// that lengths leave open; `ShapeMismatch` for a length outside the model's bounds.
    pub fn plan_memory_for_lengths(&self, lengths: &[usize]) -> Result<MemoryReport> {
        self.ragged()?.memory(lengths)
    }

    /// Bytes of a run beyond the weights as a formula over the model's symbols. For a shape
    /// that is packed anew a run takes less; [`Model::plan_memory`] says how much. Where the exact
    /// formula is too long to write it is an upper bound; see [`Model::memory_formula_is_exact`].
    pub fn memory_formula(&self) -> Dim {
        self.0.plan.memory_formula()
    }

    /// Whether [`Model::memory_formula`] is exact, for shapes that are not packed anew, or an
    /// upper bound.
    pub fn memory_formula_is_exact(&self) -> bool {
        self.0.plan.memory_formula_is_exact()
    }

    /// Exact bytes of a run whose symbols have the given values.
    ///
    /// # Errors
    /// `NotFound` for a symbol the model does not have; `InvalidArgument` naming a
    /// symbol without a value; `ShapeMismatch` for a value outside its bounds.
    pub fn plan_memory(&self, symbols: &[(&str, i64)]) -> Result<MemoryReport> {
        let known = self.symbols();
        let mut bindings = Bindings::default();
        for (name, value) in symbols {
            ensure!(
                known.contains_key(*name),
                NotFound,
                "the model has no symbol '{name}'; it has {}",
                known.keys().map(|s| format!("'{s}'")).collect::<Vec<_>>().join(", ")
            );
            bindings
                .unify(&Dim::sym(name), *value)
                .map_err(|e| err!(InvalidArgument, "symbol '{name}': {e}"))?;
        }
        self.0.plan.memory(&bindings)
    }

    /// Bytes that no run within the bounds of the model's symbols exceeds; what
    /// the run at the upper bounds takes, where all sizes grow with every symbol.
    ///
    /// # Errors
    /// `InvalidArgument` naming a symbol without an upper bound.
    pub fn plan_memory_within_bounds(&self) -> Result<MemoryReport> {
        self.0.plan.memory_within_bounds()
    }

    /// Exact bytes of a run whose inputs have the given shapes.
    ///
    /// # Errors
    /// `NotFound` for an unknown input, `ShapeMismatch` if a shape does not fit,
    /// `InvalidArgument` naming a symbol that the shapes leave open.
    pub fn plan_memory_for_shapes(&self, shapes: &[(&str, &[usize])]) -> Result<MemoryReport> {
        self.0.plan.memory(&bind_shapes(&self.0.inputs, shapes)?)
    }

    /// What runs in blocks of rows for inputs of the given shapes, what that saves and costs.
    ///
    /// # Errors
    /// As [`Model::plan_memory_for_shapes`].
    pub fn plan_cuts_for_shapes(&self, shapes: &[(&str, &[usize])]) -> Result<Vec<Cut>> {
        self.0.plan.cuts(&bind_shapes(&self.0.inputs, shapes)?)
    }

    fn symbols(&self) -> BTreeMap<String, (i64, Option<i64>)> {
        let bounds = self.0.plan.graph().bounds();
        let mut out = BTreeMap::new();
        for spec in &self.0.inputs {
            for symbol in symbols_of(&spec.ty) {
                out.insert(symbol.name().to_owned(), bounds.get(&symbol));
            }
        }
        out
    }

    /// What the model consists of.
    pub fn summary(&self) -> ModelSummary {
        let graph = self.0.plan.graph();
        let mut ops: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let parameters = self.0.plan.parameters();
        let kernels = self.0.plan.inner_kernels();
        for (node, kernel) in &kernels {
            let entry = ops.entry(node.op.name().to_owned()).or_default();
            entry.0 += 1;
            entry.1 += usize::from(*kernel != "reference");
        }
        ModelSummary {
            source: self.0.source.clone(),
            name: graph.name.clone(),
            nodes: kernels.len(),
            ops,
            parameters: parameters.iter().map(|t| t.len() as u64).sum(),
            parameter_bytes: parameters.iter().map(|t| t.size_bytes() as u64).sum(),
            symbols: self.symbols(),
        }
    }
}

/// Sets bounds of symbols of the inputs, which lie within those that the graph was made for.
fn narrow(graph: &mut Graph, inputs: &[TensorSpec], bounds: &[SymbolBounds]) -> Result<()> {
    let known: BTreeSet<Symbol> = inputs.iter().flat_map(|spec| symbols_of(&spec.ty)).collect();
    for SymbolBounds { symbol, min, max } in bounds {
        let Some(known) = known.iter().find(|s| s.name() == symbol) else {
            let names: Vec<_> = known.iter().map(|s| format!("'{}'", s.name())).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            bail!(
                NotFound,
                "bounds of symbol '{symbol}', which no input has; the model's symbols are {names}"
            );
        };
        let (least, most) = graph.bounds().get(known);
        let (min, max) = (if *min == 0 { least } else { *min }, max.or(most));
        let shown = |(min, max): (i64, Option<i64>)| match max {
            Some(max) => format!("{min} to {max}"),
            None => format!("{min} and up"),
        };
        ensure!(
            min >= least && most.is_none_or(|most| max.is_some_and(|max| max <= most)),
            InvalidArgument,
            "bounds of symbol '{symbol}' are {}, the model takes {}; choose a part of that",
            shown((min, max)),
            shown((least, most))
        );
        graph.set_bound(symbol, min, max)?;
    }
    Ok(())
}

fn symbols_of(ty: &Type) -> Vec<Symbol> {
    match ty {
        Type::Tensor(_, Some(dims)) => dims.iter().flat_map(Dim::symbols).collect(),
        _ => Vec::new(),
    }
}

/// What shapes of inputs say about the symbols.
fn bind_shapes(inputs: &[TensorSpec], shapes: &[(&str, &[usize])]) -> Result<Bindings> {
    let mut bindings = Bindings::default();
    for (name, shape) in shapes {
        let spec = inputs.iter().find(|s| s.name == *name).ok_or_else(|| {
            err!(NotFound, "no input named '{name}'; the inputs are {}", input_names(inputs))
        })?;
        let Type::Tensor(_, Some(dims)) = &spec.ty else { continue };
        ensure!(
            dims.len() == shape.len(),
            ShapeMismatch,
            "input '{name}' takes {}, got {shape:?}",
            spec.ty
        );
        for (dim, &extent) in dims.iter().zip(*shape) {
            bindings.unify(dim, extent as i64).map_err(|e| {
                err!(ShapeMismatch, "input '{name}' takes {}, got {shape:?}: {e}", spec.ty)
            })?;
        }
    }
    Ok(bindings)
}

fn input_names(inputs: &[TensorSpec]) -> String {
    inputs.iter().map(|s| format!("'{}'", s.name)).collect::<Vec<_>>().join(", ")
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({}, {} nodes)", self.0.source, self.0.plan.graph().nodes().len())
    }
}
