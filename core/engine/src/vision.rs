//! Images in, detections and classes out.

use crate::{MemoryReport, Profile, RunOptions, Runtime};
use deepseek_tensor::Result;
use deepseek_vision::{Image, Node, Pipeline, Prediction, draw};
use std::path::Path;
use std::sync::Arc;

/// A model with the nodes around it that prepare images and read its outputs; see [`deepseek_vision`]. Shared: clones refer to
/// the same pipeline, and any thread may use it.
#[derive(Clone)]
pub struct VisionPipeline(Arc<Pipeline>);

impl VisionPipeline {
    /// Loads a model, an `.onnx` or `.deepseek` file, with the nodes and labels that a `.deepseek` file has.
    ///
    /// # Errors
    /// `Io`, `InvalidFile`, `InvalidGraph`, `Unsupported` naming the file and what is wrong in it.
    pub fn load(path: impl AsRef<Path>, runtime: &Runtime) -> Result<Self> {
        Ok(VisionPipeline(Arc::new(Pipeline::load(path, runtime)?)))
    }

    /// Adds a node after those there are. A detector needs no more than its [`crate::YOLOv8`] node.
    ///
    /// # Errors
    /// `InvalidArgument` if the name is empty or taken, or naming the setting that is wrong.
    pub fn add_node(&self, name: &str, node: impl Into<Node>) -> Result<()> {
        self.0.add_node(name, node)
    }

    /// Removes a node.
    ///
    /// # Errors
    /// `NotFound` listing those there are.
    pub fn remove_node(&self, name: &str) -> Result<()> {
        self.0.remove_node(name)
    }

    /// The nodes that were added, in order.
    pub fn nodes(&self) -> Vec<(String, Node)> {
        self.0.nodes()
    }

    /// Names of the classes, by number; empty where they are not known.
    pub fn labels(&self) -> Vec<String> {
        self.0.labels()
    }

    /// Names the classes. That there is one for each class is checked when the pipeline next runs.
    pub fn set_labels(&self, labels: Vec<String>) {
        self.0.set_labels(labels);
    }

    /// Writes model, nodes and labels to a `.deepseek` file. Readers that know no pipelines read the model.
    ///
    /// # Errors
    /// `InvalidArgument` if the name does not end in `.deepseek`; `InvalidGraph` and others if the nodes do not fit; `Io`.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.0.save(path)
    }

    /// What is found in each image, of whatever size. It does not depend on the other images.
    ///
    /// # Errors
    /// `InvalidGraph`, `ShapeMismatch` and others if the nodes do not fit the model or each other, naming the node;
    /// `Cancelled`, `Timeout`, `BudgetExceeded`, `OutOfMemory`.
    pub fn run(&self, images: &[Image], options: &RunOptions) -> Result<Vec<Prediction>> {
        self.0.run(images, &options.cancel())
    }

    /// As [`VisionPipeline::run`] on one image, with the time and memory of each node.
    ///
    /// # Errors
    /// As [`VisionPipeline::run`].
    pub fn profile(&self, image: &Image, options: &RunOptions) -> Result<(Prediction, Profile)> {
        self.0.profile(image, &options.cancel())
    }

    /// Bytes that a run on an image of `width · height` pixels takes, beyond the weights and without what is found.
    ///
    /// # Errors
    /// As [`VisionPipeline::run`]; `ShapeMismatch` for extents that no image has.
    pub fn plan_memory(&self, width: usize, height: usize) -> Result<MemoryReport> {
        self.0.plan_memory(width, height)
    }

    /// The image with what was found in it drawn over it, as a PNG file.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn draw(&self, image: &Image, found: &Prediction) -> Result<Vec<u8>> {
        draw::to_png(&draw::overlay(image, found, &self.0.labels())?)
    }
}
