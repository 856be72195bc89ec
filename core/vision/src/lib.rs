//! Images in, detections and classes out.
//!
//! A [`Pipeline`] is a model with what surrounds it: nodes that resize, cut and normalise images before it and read
//! boxes or classes from its outputs. Nodes are built into the graph around the model, so one plan runs all, and
//! memory planning, profiling and saving see all of it. What a library for training did to its images, a node does with the
//! same bits (see [`Filter`]).
//!
//! Only what is no graph stays outside: files become pixels ([`decode`]), results become pictures ([`draw`]).
//!
//! ```no_run
//! use deepseek_runtime::{Cancel, Runtime};
//! use deepseek_vision::{Image, Limits, NormScale, Pipeline, YOLOv8};
//!
//! let runtime = Runtime::new(&Default::default())?;
//! let pipeline = Pipeline::load("yolov8n.onnx", &runtime)?;
//! pipeline.add_node("normalize", NormScale::default())?;
//! pipeline.add_node("detect", YOLOv8 { conf_thresh: 0.5, ..Default::default() })?;
//! let image = Image::open("street.jpg", &Limits::default())?;
//! for found in &pipeline.run(&[image], &Cancel::new())?[0].detections {
//!     println!("{} {:.2} {:?}", found.class, found.score, found.corners);
//! }
//! # Ok::<(), deepseek_tensor::Error>(())
//! ```
//!
//! This room calls no kernel and knows no device.

mod compose;
pub mod decode;
pub mod draw;
mod exif;
mod image;
mod nodes;
mod pipeline;
mod yuv;

pub use decode::Limits;
pub use image::{Image, PixelLayout, Plane};
pub use nodes::{
    Color, Crop, Filter, GraphNode, Layout, Letterbox, Node, NormScale, Pad, Resize, TopK, YOLOv8,
};
pub use pipeline::{Class, Detection, Pipeline, Prediction};
