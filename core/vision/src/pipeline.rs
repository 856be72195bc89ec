//! The pipeline: nodes around a model, made into a plan when it first runs.
//!
//! A pipeline is shared. Each call takes a session from a small stock (or makes one), so calls from several threads run at
//! the same time; a node that is added while others run counts from the next call on. Images of a call run one after the
//! other, each at its own size, with all threads on one image: nothing is padded, and what is found in an image does not
//! depend on its company.

use crate::compose::{self, Composed, Head};
use crate::image::Image;
use crate::nodes::{GraphNode, Node};
use bytes::Bytes;
use deepseek_graph::{Bindings, Dim, Graph, Value};
use deepseek_import::package::{self, Package};
use deepseek_runtime::{
    Cancel, LowerOptions, MemoryReport, Plan, Profile, RunOptions, Runtime, Session, lower, prepare,
};
use deepseek_tensor::{Result, Tensor, bail, ensure, err};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Sessions that are kept, with their memory, while no call uses them.
const KEPT_SESSIONS: usize = 4;

/// Where the graph of a node lies among the files of a package.
const NODE_FILES: &str = "nodes/";

/// A model with the nodes around it.
pub struct Pipeline {
    runtime: Runtime,
    model: Graph,
    source: String,
    state: Mutex<State>,
}

struct State {
    nodes: Vec<(String, Node)>,
    labels: Vec<String>,
    compiled: Option<Arc<Compiled>>,
}

/// The plan of a pipeline, and sessions that no call uses now.
struct Compiled {
    plan: Arc<Plan>,
    head: Head,
    idle: Mutex<Vec<Session>>,
}

/// What was found in an image.
#[derive(Clone, Debug, Default)]
pub struct Prediction {
    /// Pixels of a row of the image.
    pub width: usize,
    /// Rows of the image.
    pub height: usize,
    /// Objects, the best first, where a node detects.
    pub detections: Vec<Detection>,
    /// Classes, the best first, where a node classifies.
    pub classes: Vec<Class>,
    /// Outputs of the model by name, where no node reads them.
    pub outputs: Vec<(String, Value)>,
}

/// An object in an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// `x1, y1, x2, y2` in pixels of the image, from its top left corner.
    pub corners: [f32; 4],
    /// Score, 0 to 1.
    pub score: f32,
    /// Number of the class.
    pub class: usize,
    /// Key points `[x, y]`, or `[x, y, visibility]`, in pixels of the image; empty unless the model finds them.
    pub keypoints: Vec<Vec<f32>>,
}

/// A class of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    /// Number of the class.
    pub class: usize,
    /// Score, as the model or the softmax after it gives it.
    pub score: f32,
}

/// A node as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    kind: String,
    #[serde(default)]
    settings: serde_json::Value,
}

/// The section `pipeline` of a manifest.
#[derive(Serialize, Deserialize)]
struct Section {
    nodes: Vec<Stored>,
}

impl Pipeline {
    /// Loads a model, an `.onnx` or `.deepseek` file, with the nodes and labels that a `.deepseek` file has.
    ///
    /// # Errors
    /// `Io`, `InvalidFile`, `InvalidGraph`, `Unsupported` naming the file and what is wrong in it.
    pub fn load(path: impl AsRef<Path>, runtime: &Runtime) -> Result<Self> {
        let path = path.as_ref();
        Pipeline::of_package(package::open(path)?, runtime).map_err(|e| e.context(path.display()))
    }

    /// A pipeline around a graph with one input.
    ///
    /// # Errors
    /// None; nodes are checked when they are added and when the pipeline first runs.
    pub fn from_graph(graph: Graph, runtime: &Runtime) -> Result<Self> {
        Ok(Pipeline::new(graph, "graph".to_owned(), Vec::new(), Vec::new(), runtime))
    }

    fn of_package(package: Package, runtime: &Runtime) -> Result<Self> {
        let Package { graph, source, files, pipeline, labels, .. } = package;
        let mut nodes = Vec::new();
        if let Some(section) = pipeline {
            let section: Section = serde_json::from_value(section)
                .map_err(|e| err!(InvalidFile, "the section 'pipeline' is not valid: {e}"))?;
            for Stored { name, kind, settings } in section.nodes {
                let node = match kind.as_str() {
                    "Graph" => {
                        let file = format!("{NODE_FILES}{name}");
                        let bytes = files.get(&file).ok_or_else(|| {
                            err!(InvalidFile, "the graph of node '{name}', '{file}', is missing")
                        })?;
                        let inner = package::from_bytes(bytes.clone())?;
                        GraphNode { graph: Arc::new(inner.graph) }.into()
                    }
                    _ => Node::from_json(&kind, settings)
                        .map_err(|e| err!(InvalidFile, "node '{name}': {}", e.message()))?,
                };
                compose::check(&node).map_err(|e| e.at_node(&name))?;
                nodes.push((name, node));
            }
        }
        Ok(Pipeline::new(graph, source, nodes, labels, runtime))
    }

    fn new(
        model: Graph,
        source: String,
        nodes: Vec<(String, Node)>,
        labels: Vec<String>,
        runtime: &Runtime,
    ) -> Self {
        let state = Mutex::new(State { nodes, labels, compiled: None });
        Pipeline { runtime: runtime.clone(), model, source, state }
    }

    /// Adds a node after those there are.
    ///
    /// A detector needs no more than its [`crate::YOLOv8`] node: what is left out is a letterbox of the extents that the
    /// model takes, and pixels divided by 255.
    ///
    /// # Errors
    /// `InvalidArgument` if the name is empty or taken, or naming the setting that is wrong.
    pub fn add_node(&self, name: &str, node: impl Into<Node>) -> Result<()> {
        let node = node.into();
        ensure!(!name.is_empty(), InvalidArgument, "a {} node without a name", node.kind());
        compose::check(&node).map_err(|e| e.at_node(name))?;
        let mut state = self.state();
        ensure!(
            state.nodes.iter().all(|(n, _)| n != name),
            InvalidArgument,
            "there is a node '{name}' already; remove it or use another name"
        );
        state.nodes.push((name.to_owned(), node));
        state.compiled = None;
        Ok(())
    }

    /// Removes a node.
    ///
    /// # Errors
    /// `NotFound` listing those there are.
    pub fn remove_node(&self, name: &str) -> Result<()> {
        let mut state = self.state();
        let at = state.nodes.iter().position(|(n, _)| n == name).ok_or_else(|| {
            let names: Vec<&str> = state.nodes.iter().map(|(n, _)| n.as_str()).collect();
            err!(NotFound, "there is no node '{name}', only '{}'", names.join("', '"))
        })?;
        state.nodes.remove(at);
        state.compiled = None;
        Ok(())
    }

    /// The nodes that were added, in order.
    pub fn nodes(&self) -> Vec<(String, Node)> {
        self.state().nodes.clone()
    }

    /// Names of the classes, by number; empty where they are not known.
    pub fn labels(&self) -> Vec<String> {
        self.state().labels.clone()
    }

    /// Names the classes. That there is one for each class is checked when the pipeline next runs.
    pub fn set_labels(&self, labels: Vec<String>) {
        let mut state = self.state();
        state.labels = labels;
        state.compiled = None;
    }

    /// Writes model, nodes and labels to a `.deepseek` file. Readers that know no pipelines read the model.
    ///
    /// # Errors
    /// `InvalidArgument` if the name does not end in `.deepseek`; what composing the pipeline finds; `Io` naming the path.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        ensure!(
            path.extension().is_some_and(|e| e.eq_ignore_ascii_case(package::EXTENSION)),
            InvalidArgument,
            "'{}' does not end in .{}, by which the file is known when it is opened",
            path.display(),
            package::EXTENSION
        );
        let (nodes, labels) = {
            let state = self.state();
            (state.nodes.clone(), state.labels.clone())
        };
        self.compose(&nodes, &labels)?;
        let mut files = BTreeMap::new();
        let mut stored = Vec::new();
        for (name, node) in nodes {
            if let Node::Graph(n) = &node {
                let inner = plain((*n.graph).clone(), "graph".to_owned());
                files
                    .insert(format!("{NODE_FILES}{name}"), Bytes::from(package::to_bytes(&inner)?));
            }
            stored.push(Stored { name, kind: node.kind().to_owned(), settings: node.settings() });
        }
        let section = serde_json::to_value(Section { nodes: stored })
            .map_err(|e| err!(Internal, "nodes as JSON: {e}"))?;
        let package = Package {
            files,
            pipeline: Some(section),
            labels,
            ..plain(prepare(self.model.clone())?, self.source.clone())
        };
        package::save(&package, path)
    }

    /// What is found in each image.
    ///
    /// # Errors
    /// `InvalidGraph`, `ShapeMismatch` and others if the nodes do not fit the model or each other, naming the node;
    /// `Cancelled`, `Timeout`, `BudgetExceeded`, `OutOfMemory`.
    pub fn run(&self, images: &[Image], cancel: &Cancel) -> Result<Vec<Prediction>> {
        let compiled = self.compiled()?;
        let mut session = compiled.take();
        let options = RunOptions { cancel: cancel.clone(), profile: false };
        let found = images.iter().map(|image| {
            let result = session.run(vec![image.tensor().clone().into()], &options)?;
            compiled.read(image, result.outputs)
        });
        let found = found.collect();
        compiled.put_back(session);
        found
    }

    /// As [`Pipeline::run`] on one image, with the time and memory of each node.
    ///
    /// # Errors
    /// As [`Pipeline::run`].
    pub fn profile(&self, image: &Image, cancel: &Cancel) -> Result<(Prediction, Profile)> {
        let compiled = self.compiled()?;
        let mut session = compiled.take();
        let options = RunOptions { cancel: cancel.clone(), profile: true };
        let result = session.run(vec![image.tensor().clone().into()], &options);
        compiled.put_back(session);
        let result = result?;
        let profile = result.profile.ok_or_else(|| err!(Internal, "a run without its profile"))?;
        Ok((compiled.read(image, result.outputs)?, profile))
    }

    /// Bytes that a run on an image of `width · height` pixels takes, without weights. What is found is not counted:
    /// its size depends on the image.
    ///
    /// # Errors
    /// As [`Pipeline::run`]; `ShapeMismatch` for extents that no image has.
    pub fn plan_memory(&self, width: usize, height: usize) -> Result<MemoryReport> {
        let compiled = self.compiled()?;
        let mut bindings = Bindings::default();
        for (name, n) in [("width", width), ("height", height)] {
            let bound = bindings.unify(&Dim::sym(name), n as i64);
            bound.map_err(|e| err!(InvalidArgument, "{name}: {e}"))?;
        }
        compiled.plan.memory(&bindings)
    }

    /// The plan that runs, for reports.
    ///
    /// # Errors
    /// As [`Pipeline::run`].
    pub fn plan(&self) -> Result<Arc<Plan>> {
        Ok(self.compiled()?.plan.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compose(&self, nodes: &[(String, Node)], labels: &[String]) -> Result<Composed> {
        compose::compose(&self.model, &compose::complete(nodes), labels)
    }

    fn compiled(&self) -> Result<Arc<Compiled>> {
        let mut state = self.state();
        if let Some(compiled) = &state.compiled {
            return Ok(compiled.clone());
        }
        let Composed { graph, head, .. } = self.compose(&state.nodes, &state.labels)?;
        let plan = lower(&prepare(graph)?, &self.runtime, &LowerOptions::default())?;
        let compiled = Compiled { plan: Arc::new(plan), head, idle: Mutex::new(Vec::new()) };
        Ok(state.compiled.insert(Arc::new(compiled)).clone())
    }
}

/// A package of a graph and nothing else.
fn plain(graph: Graph, source: String) -> Package {
    Package {
        graph,
        source,
        files: BTreeMap::new(),
        pipeline: None,
        labels: Vec::new(),
        encoder: None,
        precision: None,
        packed: None,
    }
}

impl Compiled {
    fn take(&self) -> Session {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| Session::new(self.plan.clone()))
    }

    /// Keeps the session for the next call, unless enough are kept.
    fn put_back(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT_SESSIONS {
            idle.push(session);
        }
    }

    /// What the outputs of a run say.
    fn read(&self, image: &Image, outputs: Vec<Value>) -> Result<Prediction> {
        let mut found =
            Prediction { width: image.width(), height: image.height(), ..Default::default() };
        match (self.head, &outputs[..]) {
            (Head::Boxes { keypoints, dims }, [rows]) => {
                found.detections = boxes(rows.tensor()?, keypoints, dims)?;
            }
            (Head::Classes, [scores, classes]) => {
                let scores = scores.tensor()?.to_vec::<f32>()?;
                let classes = classes.tensor()?.to_vec::<i64>()?;
                found.classes = scores
                    .into_iter()
                    .zip(classes)
                    .map(|(score, class)| Class { class: class.max(0) as usize, score })
                    .collect();
            }
            (Head::Raw, _) => {
                let names = self.plan.graph().outputs().iter().map(|(name, _)| name.clone());
                found.outputs = names.zip(outputs).collect();
            }
            _ => bail!(Internal, "{} outputs of {:?}", outputs.len(), self.head),
        }
        Ok(found)
    }
}

fn boxes(rows: &Tensor, keypoints: usize, dims: usize) -> Result<Vec<Detection>> {
    let &[_, columns] = rows.shape() else {
        bail!(Internal, "detections of shape {:?}", rows.shape());
    };
    let rows = rows.to_vec::<f32>()?;
    let detection = |row: &[f32]| Detection {
        corners: [row[0], row[1], row[2], row[3]],
        score: row[4],
        class: row[5] as usize,
        keypoints: match keypoints {
            0 => Vec::new(),
            _ => row[6..].chunks_exact(dims.max(1)).map(<[f32]>::to_vec).collect(),
        },
    };
    Ok(rows.chunks_exact(columns).map(detection).collect())
}
