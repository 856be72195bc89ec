//! Conformance: cases that others wrote, run on whatever executes graphs.
//!
//! A [`Case`] knows nothing of devices; a [`Backend`] knows nothing of cases. To run
//! the suite on a new backend, implement the trait and add a test file next to
//! `tests/onnx_backend.rs`.

mod compare;

use deepseek_graph::{Graph, Value, interpret};
use deepseek_import::onnx;
use deepseek_tensor::{Code, Error, Result};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

pub use compare::{Tolerance, compare};

/// Something that runs graphs.
pub trait Backend: Sync {
    /// Runs `graph` on `inputs`, in the order of its inputs, and returns its outputs.
    ///
    /// # Errors
    /// `Unsupported` where the backend cannot run the graph; whatever else goes wrong.
    fn run(&self, graph: &Graph, inputs: Vec<Value>) -> Result<Vec<Value>>;
}

/// The scalar reference.
pub struct Reference;

impl Backend for Reference {
    fn run(&self, graph: &Graph, inputs: Vec<Value>) -> Result<Vec<Value>> {
        interpret::run(graph, inputs)
    }
}

/// A model with stored inputs and expected outputs.
#[derive(Clone, Debug)]
pub struct Case {
    /// Kind and name, `node/test_add`.
    pub key: String,
    /// Directory with `model.onnx` and `test_data_set_*`.
    pub dir: PathBuf,
    /// Whether values are compared, or only types and shapes.
    pub values: bool,
    /// Relative tolerance.
    pub rtol: f64,
    /// Absolute tolerance.
    pub atol: f64,
}

impl Case {
    /// Operators of the model, sorted; empty if it does not import.
    pub fn operators(&self) -> Vec<&'static str> {
        let load = || onnx::load(self.dir.join("model.onnx"));
        let Ok(Ok(graph)) = catch_unwind(AssertUnwindSafe(load)) else { return Vec::new() };
        let mut names: Vec<_> = graph.nodes().iter().map(|n| n.op.name()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The data sets, in order.
    fn sets(&self) -> Vec<PathBuf> {
        (0..)
            .map(|i| self.dir.join(format!("test_data_set_{i}")))
            .take_while(|d| d.is_dir())
            .collect()
    }
}

/// How a case ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Outputs agree.
    Passed,
    /// Import or run said `UNSUPPORTED`; the error.
    Unsupported(String),
    /// Anything else; what happened.
    Failed(String),
}

impl Outcome {
    /// `passed`, `unsupported` or `failed`.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Unsupported(_) => "unsupported",
            Outcome::Failed(_) => "failed",
        }
    }

    /// The error, or what differs.
    pub fn message(&self) -> &str {
        match self {
            Outcome::Passed => "",
            Outcome::Unsupported(m) | Outcome::Failed(m) => m,
        }
    }

    fn of(e: &Error, during: &str) -> Self {
        match e.code() {
            Code::Unsupported => Outcome::Unsupported(e.to_string()),
            _ => Outcome::Failed(format!("{during}: {e}")),
        }
    }
}

/// Runs a case; with `verbose`, also describes the graph.
pub fn run_case(backend: &dyn Backend, case: &Case, verbose: bool) -> (Outcome, String) {
    let mut details = String::new();
    let run = || attempt(backend, case, verbose, &mut details);
    let outcome = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(outcome) => outcome,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("(no message)");
            Outcome::Failed(format!("panicked: {text}"))
        }
    };
    (outcome, details)
}

fn attempt(backend: &dyn Backend, case: &Case, verbose: bool, details: &mut String) -> Outcome {
    let bytes = match std::fs::read(case.dir.join("model.onnx")) {
        Ok(bytes) => bytes,
        Err(e) => return Outcome::Failed(format!("model.onnx: {e}")),
    };
    let graph = match onnx::load_bytes(&bytes, Some(&case.dir)) {
        Ok(graph) => graph,
        Err(e) => return Outcome::of(&e, "import"),
    };
    if verbose {
        describe(&graph, 0, details);
    }
    let sets = case.sets();
    if sets.is_empty() {
        return Outcome::Failed("the case has no data".to_owned());
    }
    for set in sets {
        let types = |ids: &mut dyn Iterator<Item = deepseek_graph::ValueId>| -> Vec<_> {
            ids.map(|id| graph.fact(id).ty.clone()).collect()
        };
        let read = |what: &str, types: &[deepseek_graph::Type]| -> Result<Vec<Value>> {
            types.iter().enumerate().map(|(i, ty)| read_value(&set, what, i, ty)).collect()
        };
        let ins = types(&mut graph.inputs().iter().copied());
        let outs = types(&mut graph.outputs().iter().map(|(_, id)| *id));
        let (inputs, want) = match (read("input", &ins), read("output", &outs)) {
            (Ok(i), Ok(o)) => (i, o),
            (Err(e), _) | (_, Err(e)) => return Outcome::Failed(format!("data: {e}")),
        };
        if set.join(format!("output_{}.pb", want.len())).exists() {
            return Outcome::Failed(format!("the case has more than {} outputs", want.len()));
        }
        if verbose {
            for ((_, ty), value) in ins.iter().enumerate().zip(&inputs) {
                let _ = writeln!(details, "  fed {ty}: {}", compare::summary(value));
            }
        }
        let got = match backend.run(&graph, inputs) {
            Ok(got) => got,
            Err(e) => return Outcome::of(&e, "run"),
        };
        if got.len() != want.len() {
            return Outcome::Failed(format!("{} outputs, expected {}", got.len(), want.len()));
        }
        let tolerance = Tolerance { rtol: case.rtol, atol: case.atol, values: case.values };
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            if let Err(why) = compare(got, want, &tolerance) {
                let name = &graph.outputs()[i].0;
                if verbose {
                    let _ = writeln!(details, "  want '{name}': {}", compare::summary(want));
                    let _ = writeln!(details, "  got  '{name}': {}", compare::summary(got));
                }
                return Outcome::Failed(format!("output {i} '{name}': {why}"));
            }
        }
        // What the shape rule said must hold for what came out.
        for ((name, id), value) in graph.outputs().iter().zip(&got) {
            let ty = &graph.fact(*id).ty;
            if !ty.admits(value) {
                let why = format!("inferred {ty}, but the run gave {}", value.ty());
                return Outcome::Failed(format!("output '{name}': {why}"));
            }
        }
    }
    Outcome::Passed
}

fn read_value(set: &Path, what: &str, i: usize, ty: &deepseek_graph::Type) -> Result<Value> {
    let path = set.join(format!("{what}_{i}.pb"));
    let bytes = std::fs::read(&path)
        .map_err(|e| Error::new(Code::Io, format!("{}: {e}", path.display())))?;
    onnx::value_from_bytes(&bytes, ty).map_err(|e| e.context(path.display()))
}

/// The graph, one line a node, with what was inferred.
fn describe(graph: &Graph, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth + 1);
    let show = |id: &Option<deepseek_graph::ValueId>| match id {
        None => "-".to_owned(),
        Some(id) => format!("{} {}", graph.value(*id).name, graph.fact(*id)),
    };
    let list = |ids: &[Option<deepseek_graph::ValueId>]| {
        ids.iter().map(show).collect::<Vec<_>>().join(", ")
    };
    let inputs: Vec<_> = graph.inputs().iter().map(|i| Some(*i)).collect();
    let _ = writeln!(out, "{pad}graph '{}'({})", graph.name, list(&inputs));
    for node in graph.nodes() {
        let mut attrs = String::new();
        for (name, attr) in node.op.attrs().iter() {
            let _ = write!(attrs, " {name}={}", short(attr));
        }
        let _ = writeln!(
            out,
            "{pad}  {} = {}{attrs} ({})",
            list(&node.outputs),
            node.op.name(),
            list(&node.inputs)
        );
        for sub in node.op.subgraphs() {
            describe(sub, depth + 2, out);
        }
    }
    let outputs: Vec<_> = graph.outputs().iter().map(|(_, id)| Some(*id)).collect();
    let _ = writeln!(out, "{pad}  return {}", list(&outputs));
}

fn short(attr: &deepseek_graph::Attr) -> String {
    use deepseek_graph::Attr;
    match attr {
        Attr::Bool(v) => v.to_string(),
        Attr::Int(v) => v.to_string(),
        Attr::Float(v) => v.to_string(),
        Attr::Str(v) => format!("{v:?}"),
        Attr::DType(v) => v.to_string(),
        Attr::Ints(v) => format!("{v:?}"),
        Attr::Floats(v) => format!("{v:?}"),
        Attr::Strs(v) => format!("{v:?}"),
        Attr::Tensor(t) => compare::summary(&t.clone().into()),
        Attr::Graph(g) => format!("graph '{}'", g.name),
    }
}
