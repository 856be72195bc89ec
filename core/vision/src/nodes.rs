//! The nodes of a pipeline: what they are called, their settings and defaults.
//!
//! Settings travel as JSON in a `.deepseek` file and as attributes (`conf_thresh = 0.5, classes = [0, 2]`) in the C
//! interface; names are the same in every language.

use deepseek_graph::text::parse_attrs;
use deepseek_graph::{Attr, Graph};
use deepseek_tensor::{Result, bail, err};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// Whose bits a resize gives; models are trained on those of one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// `cv2.resize` with `INTER_LINEAR`, as ultralytics letterboxes.
    #[default]
    Opencv,
    /// `Image.resize` of Pillow with `BILINEAR`, antialiased, as torchvision's `Resize` does.
    Pillow,
}

/// Colours that a model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Color {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel, ITU-R BT.601 luma as Pillow's `L`.
    Gray,
}

/// Order of the axes that a model takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Layout {
    /// `[1, channels, height, width]`.
    #[default]
    Nchw,
    /// `[1, height, width, channels]`.
    Nhwc,
}

/// Another size. Give `width` and `height`, which changes the aspect, or `shortest`, which keeps it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resize {
    /// Pixels of a row; 0 with `shortest`.
    pub width: u32,
    /// Rows; 0 with `shortest`.
    pub height: u32,
    /// Pixels of the shorter side, as torchvision's `Resize` of one number; 0 with `width` and `height`.
    pub shortest: u32,
    /// How.
    pub filter: Filter,
}

/// The whole image in the middle of a canvas, its aspect kept; rounds as ultralytics' `LetterBox`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Letterbox {
    /// Pixels of a row; 0 takes what the model takes.
    pub width: u32,
    /// Rows; 0 takes what the model takes.
    pub height: u32,
    /// Value of the pixels around the image.
    pub fill: u8,
    /// How.
    pub filter: Filter,
}

impl Default for Letterbox {
    fn default() -> Self {
        Letterbox { width: 0, height: 0, fill: 114, filter: Filter::Opencv }
    }
}

/// The middle of the image; where it is smaller, pixels of `fill` surround it. Rounds as torchvision's `CenterCrop`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Crop {
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Value of added pixels.
    pub fill: u8,
}

/// Pixels around the image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pad {
    /// Columns before the first.
    pub left: u32,
    /// Rows before the first.
    pub top: u32,
    /// Columns after the last.
    pub right: u32,
    /// Rows after the last.
    pub bottom: u32,
    /// Value of added pixels.
    pub fill: u8,
}

/// Pixels to what a model takes: `(pixel · scale − mean[c]) / std[c]`, in `f32`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NormScale {
    /// For each channel in the model's order; empty is zeros.
    pub mean: Vec<f32>,
    /// As `mean`; empty is ones.
    pub std: Vec<f32>,
    /// Applied first; the nearest number to `1 / n` divides by `n`.
    pub scale: f32,
    /// Order of the axes.
    pub layout: Layout,
    /// Order of the channels.
    pub color: Color,
}

impl Default for NormScale {
    fn default() -> Self {
        NormScale {
            mean: Vec::new(),
            std: Vec::new(),
            scale: 1.0 / 255.0,
            layout: Layout::Nchw,
            color: Color::Rgb,
        }
    }
}

/// Boxes from the raw output of a YOLOv8 or YOLO11 detector, `[1, 4 + classes, places]`, or of a pose model. Defaults are
/// those of ultralytics' `predict`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct YOLOv8 {
    /// A box counts if its best class scores more, 0 to 1.
    pub conf_thresh: f32,
    /// A box goes if it overlaps a better one of its class by more, 0 to 1.
    pub iou_thresh: f32,
    /// Classes that count; empty is all.
    pub classes: Vec<u32>,
    /// Most boxes of an image.
    pub max_det: u32,
    /// Whether boxes of different classes suppress each other.
    pub agnostic: bool,
    /// Key points of a pose model; 0 for others.
    pub keypoints: u32,
    /// Numbers of a key point: 2, or 3 with its visibility.
    pub keypoint_dims: u32,
}

impl Default for YOLOv8 {
    fn default() -> Self {
        YOLOv8 {
            conf_thresh: 0.25,
            iou_thresh: 0.7,
            classes: Vec::new(),
            max_det: 300,
            agnostic: false,
            keypoints: 0,
            keypoint_dims: 3,
        }
    }
}

/// The best classes of a classifier's output, `[1, classes]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopK {
    /// How many; at most as many as there are.
    pub k: u32,
    /// Whether the output is made to sum to 1 first. Models that end in a softmax do not need it.
    pub softmax: bool,
}

impl Default for TopK {
    fn default() -> Self {
        TopK { k: 5, softmax: false }
    }
}

/// A graph of the caller, with one input and one output. What it takes is what the node before it gives: a tensor, or an
/// image, `u8[height, width, 3]`.
#[derive(Clone, Debug)]
pub struct GraphNode {
    /// The graph.
    pub graph: Arc<Graph>,
}

/// A node of a pipeline.
#[derive(Clone, Debug)]
pub enum Node {
    /// See [`Resize`].
    Resize(Resize),
    /// See [`Letterbox`].
    Letterbox(Letterbox),
    /// See [`Crop`].
    Crop(Crop),
    /// See [`Pad`].
    Pad(Pad),
    /// See [`NormScale`].
    NormScale(NormScale),
    /// The model. Where no node says so, it comes before the first one that reads its outputs.
    Model,
    /// See [`GraphNode`].
    Graph(GraphNode),
    /// See [`YOLOv8`].
    YOLOv8(YOLOv8),
    /// See [`TopK`].
    TopK(TopK),
}

macro_rules! settings {
    ($($kind:ident),*) => {
        $(impl From<$kind> for Node {
            fn from(settings: $kind) -> Node {
                Node::$kind(settings)
            }
        })*

        /// Kinds that are made of settings.
        const KINDS: &[&str] = &[$(stringify!($kind),)* "Model"];

        fn from_settings(kind: &str, settings: Value) -> Result<Node> {
            match kind {
                $(stringify!($kind) => serde_json::from_value::<$kind>(settings)
                    .map(Node::$kind)
                    .map_err(|e| err!(InvalidArgument, "{kind}: {e}")),)*
                "Model" => Ok(Node::Model),
                "Graph" => bail!(
                    InvalidArgument,
                    "a Graph node is made of a model file or a graph, not of settings"
                ),
                _ => bail!(
                    InvalidArgument,
                    "there is no node '{kind}'; known are {}, Graph",
                    KINDS.join(", ")
                ),
            }
        }

        impl Node {
            /// Name of what it is, e.g. `YOLOv8`.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Node::$kind(_) => stringify!($kind),)*
                    Node::Model => "Model",
                    Node::Graph(_) => "Graph",
                }
            }

            /// Settings as a JSON object; empty for kinds that have none.
            pub fn settings(&self) -> Value {
                match self {
                    $(Node::$kind(settings) => json!(settings),)*
                    Node::Model | Node::Graph(_) => json!({}),
                }
            }
        }
    };
}

settings!(Resize, Letterbox, Crop, Pad, NormScale, YOLOv8, TopK);

impl From<GraphNode> for Node {
    fn from(node: GraphNode) -> Node {
        Node::Graph(node)
    }
}

impl Node {
    /// The node `kind` with settings as a JSON object; what is left out has its default.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown kind, listing those there are, or naming the setting that is wrong.
    pub fn from_json(kind: &str, settings: Value) -> Result<Node> {
        from_settings(kind, settings)
    }

    /// The node `kind` with settings as text: a JSON object, or attributes: `conf_thresh = 0.5, classes = [0, 2]`.
    ///
    /// # Errors
    /// As [`Node::from_json`]; `InvalidGraph` or `InvalidArgument` if the text cannot be read.
    pub fn parse(kind: &str, settings: &str) -> Result<Node> {
        if settings.trim_start().starts_with('{') {
            let settings = serde_json::from_str(settings)
                .map_err(|e| err!(InvalidArgument, "the settings of {kind} are no JSON: {e}"))?;
            return Node::from_json(kind, settings);
        }
        let mut object = serde_json::Map::new();
        for (name, attr) in parse_attrs(settings)?.iter() {
            let value = match attr {
                Attr::Bool(b) => json!(b),
                Attr::Int(i) => json!(i),
                Attr::Float(x) => json!(x),
                Attr::Str(s) => json!(s),
                Attr::Ints(v) => json!(v),
                Attr::Floats(v) => json!(v),
                Attr::Strs(v) => json!(v),
                other => bail!(InvalidArgument, "setting '{name}' cannot be a {}", other.kind()),
            };
            object.insert(name.to_owned(), value);
        }
        Node::from_json(kind, Value::Object(object))
    }
}
