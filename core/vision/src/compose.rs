//! A pipeline's graph: nodes before the model, the model, nodes after it.

use crate::nodes::{
    Color, Crop, Filter, Layout, Letterbox, Node, NormScale, Pad, Resize, TopK, YOLOv8,
};
use deepseek_graph::ops::{self, ImageFilter, ImageFit, MAX_IMAGE_SIDE, PixelFormat};
use deepseek_graph::{Dim, Graph, Type, ValueId};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err};
use std::collections::HashMap;

/// Name of the graph's input, `u8[height, width, 3]`.
const IMAGE: &str = "image";

/// What the outputs of a composed graph are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Rows of boxes, with so many further numbers.
    Boxes { keypoints: usize, dims: usize },
    /// Scores and numbers of the best classes.
    Classes,
    /// The model's outputs as they are.
    Raw,
}

/// A pipeline as one graph.
#[derive(Clone, Debug)]
pub(crate) struct Composed {
    pub graph: Graph,
    pub head: Head,
    /// Number of classes, where known.
    pub classes: Option<usize>,
}

/// What flows between nodes.
enum Flow {
    /// An image and its placement.
    Image(ValueId, Option<ValueId>),
    /// A tensor, and the placement of the image that it was made of.
    Tensor(ValueId, Option<ValueId>),
    /// Outputs of the model.
    Outputs(Vec<(String, ValueId)>, Option<ValueId>),
    /// A head has read them.
    Done,
}

/// The nodes with what is understood when it is left out: the model before the first head, and for a detector a letterbox of
/// the model's extents and pixels from 0 to 1.
pub(crate) fn complete(nodes: &[(String, Node)]) -> Vec<(String, Node)> {
    let mut all = nodes.to_vec();
    let heads = |n: &Node| matches!(n, Node::YOLOv8(_) | Node::TopK(_));
    if !all.iter().any(|(_, n)| matches!(n, Node::Model)) {
        let at = all.iter().position(|(_, n)| heads(n)).unwrap_or(all.len());
        all.insert(at, ("model".to_owned(), Node::Model));
    }
    if !all.iter().any(|(_, n)| matches!(n, Node::YOLOv8(_))) {
        return all;
    }
    let model = all.iter().position(|(_, n)| matches!(n, Node::Model)).unwrap_or(0);
    if !all[..model].iter().any(|(_, n)| matches!(n, Node::NormScale(_) | Node::Graph(_))) {
        all.insert(model, ("normalize".to_owned(), NormScale::default().into()));
    }
    let moves =
        |n: &Node| matches!(n, Node::Resize(_) | Node::Letterbox(_) | Node::Crop(_) | Node::Pad(_));
    if !all.iter().any(|(_, n)| moves(n)) {
        all.insert(0, ("letterbox".to_owned(), Letterbox::default().into()));
    }
    all
}

/// Builds the graph of `nodes`, which are [complete], around `model`.
///
/// # Errors
/// `InvalidGraph` for nodes in an order that makes no sense; what a node or the model does not take, naming the node.
pub(crate) fn compose(
    model: &Graph,
    nodes: &[(String, Node)],
    labels: &[String],
) -> Result<Composed> {
    let mut graph = Graph::new(model.name.clone());
    let extents = [Dim::sym("height"), Dim::sym("width"), Dim::from(3i64)];
    let image = graph.add_input(IMAGE, Type::tensor(DType::U8, extents))?;
    for side in ["height", "width"] {
        graph.set_bound(side, 1, Some(MAX_IMAGE_SIDE))?;
    }
    let mut composed = Composed { graph, head: Head::Raw, classes: None };
    let mut flow = Flow::Image(image, None);
    for (name, node) in nodes {
        flow =
            step(&mut composed, flow, name, node, model, labels).map_err(|e| match e.node() {
                None => e.at_node(name),
                Some(_) => e,
            })?;
    }
    match flow {
        Flow::Done => {}
        Flow::Outputs(outputs, _) => {
            for (name, value) in outputs {
                composed.graph.add_output(&name, value)?;
            }
        }
        Flow::Image(..) | Flow::Tensor(..) => bail!(InvalidGraph, "the pipeline has no model node"),
    }
    Ok(composed)
}

/// Applies a node.
fn step(
    to: &mut Composed,
    flow: Flow,
    name: &str,
    node: &Node,
    model: &Graph,
    labels: &[String],
) -> Result<Flow> {
    let g = &mut to.graph;
    Ok(match (node, flow) {
        (Node::Resize(n), Flow::Image(x, place)) => moved(g, name, resize(n), x, place)?,
        (Node::Letterbox(n), Flow::Image(x, place)) => {
            let op = letterbox(n, model)?;
            moved(g, name, op, x, place)?
        }
        (Node::Crop(n), Flow::Image(x, place)) => moved(g, name, crop(n), x, place)?,
        (Node::Pad(n), Flow::Image(x, place)) => moved(g, name, pad(n), x, place)?,
        (Node::NormScale(n), Flow::Image(x, place)) => {
            Flow::Tensor(g.add(name, to_tensor(n), &[x])?, place)
        }
        (Node::Graph(n), Flow::Image(x, place)) => {
            let y = one_output(append(g, name, &n.graph, x)?)?;
            match g.fact(y).ty {
                Type::Tensor(DType::U8, _) => Flow::Image(y, place),
                _ => Flow::Tensor(y, place),
            }
        }
        (Node::Graph(n), Flow::Tensor(x, place)) => {
            Flow::Tensor(one_output(append(g, name, &n.graph, x)?)?, place)
        }
        (Node::Graph(n), Flow::Outputs(mut outputs, place)) => {
            outputs[0].1 = one_output(append(g, name, &n.graph, outputs[0].1)?)?;
            Flow::Outputs(outputs, place)
        }
        (Node::Model, Flow::Tensor(x, place)) => Flow::Outputs(insert_model(g, model, x)?, place),
        (Node::Model, Flow::Image(x, place)) => {
            ensure!(
                matches!(model_input(model)?.1, Type::Tensor(DType::U8, Some(s)) if s.len() == 3),
                InvalidGraph,
                "the model takes {}, not an image; add a NormScale node before it",
                model_input(model)?.1
            );
            Flow::Outputs(insert_model(g, model, x)?, place)
        }
        (Node::YOLOv8(n), Flow::Outputs(outputs, place)) => {
            boxes(to, name, n, &outputs, place, labels)?;
            Flow::Done
        }
        (Node::TopK(n), Flow::Outputs(outputs, _)) => {
            classes(to, name, n, &outputs, labels)?;
            Flow::Done
        }
        (node, flow) => {
            let (wants, after) = match node {
                Node::YOLOv8(_) | Node::TopK(_) | Node::Graph(_) => {
                    ("outputs of the model", "after")
                }
                _ => ("an image", "before"),
            };
            let gets = match flow {
                Flow::Image(..) => "an image",
                Flow::Tensor(..) => "a normalised tensor",
                Flow::Outputs(..) => "outputs of the model",
                Flow::Done => "detections or classes",
            };
            bail!(
                InvalidGraph,
                "a {} node takes {wants}, here it gets {gets}; add it {after} the node that makes these",
                node.kind()
            )
        }
    })
}

/// Adds an operator that moves an image.
fn moved(
    g: &mut Graph,
    name: &str,
    op: impl deepseek_graph::Operator,
    x: ValueId,
    place: Option<ValueId>,
) -> Result<Flow> {
    let placed = g.unique_name(&format!("{name}.placement"));
    let image = g.unique_name(name);
    let inputs: Vec<_> = [Some(x)].into_iter().chain(place.map(Some)).collect();
    let outputs =
        g.add_node(name, std::sync::Arc::new(op), &inputs, &[Some(&image), Some(&placed)])?;
    match outputs[..] {
        [Some(image), place] => Ok(Flow::Image(image, place)),
        _ => bail!(Internal, "an operator of images without outputs"),
    }
}

fn filter(f: Filter) -> ImageFilter {
    match f {
        Filter::Opencv => ImageFilter::OpencvLinear,
        Filter::Pillow => ImageFilter::PillowBilinear,
    }
}

fn resize(n: &Resize) -> ops::ImageResize {
    ops::ImageResize {
        height: n.height.into(),
        width: n.width.into(),
        shortest: n.shortest.into(),
        fit: if n.shortest > 0 { ImageFit::Shortest } else { ImageFit::Stretch },
        filter: filter(n.filter),
        fill: 0,
    }
}

fn letterbox(n: &Letterbox, model: &Graph) -> Result<ops::ImageResize> {
    let (height, width) = match (n.height, n.width) {
        (0, 0) => image_extents(model)?,
        (h, w) => (h.into(), w.into()),
    };
    Ok(ops::ImageResize {
        height,
        width,
        shortest: 0,
        fit: ImageFit::Letterbox,
        filter: filter(n.filter),
        fill: n.fill.into(),
    })
}

fn crop(n: &Crop) -> ops::ImageCrop {
    ops::ImageCrop { height: n.height.into(), width: n.width.into(), fill: n.fill.into() }
}

fn pad(n: &Pad) -> ops::ImagePad {
    ops::ImagePad {
        left: n.left.into(),
        top: n.top.into(),
        right: n.right.into(),
        bottom: n.bottom.into(),
        fill: n.fill.into(),
    }
}

fn to_tensor(n: &NormScale) -> ops::ImageToTensor {
    ops::ImageToTensor {
        scale: n.scale,
        mean: n.mean.clone(),
        std: n.std.clone(),
        color: match n.color {
            Color::Rgb => PixelFormat::Rgb,
            Color::Bgr => PixelFormat::Bgr,
            Color::Gray => PixelFormat::Grayscale,
        },
        channels_last: n.layout == Layout::Nhwc,
    }
}

fn detect(n: &YOLOv8, extra: usize) -> ops::DetectBoxes {
    ops::DetectBoxes {
        score_threshold: n.conf_thresh,
        iou_threshold: n.iou_thresh,
        max_boxes: n.max_det.into(),
        classes: n.classes.iter().map(|&c| c.into()).collect(),
        agnostic: n.agnostic,
        extra: extra as i64,
        point: if n.keypoints > 0 { n.keypoint_dims.into() } else { 0 },
    }
}

/// Settings that can be judged without the model.
///
/// # Errors
/// `InvalidArgument` naming the setting.
pub(crate) fn check(node: &Node) -> Result<()> {
    let sides = |w: u32, h: u32| {
        let fine = |n: u32| (1..=MAX_IMAGE_SIDE).contains(&i64::from(n));
        ensure!(
            fine(w) && fine(h),
            InvalidArgument,
            "{w} × {h} pixels, expected 1 to {MAX_IMAGE_SIDE} each"
        );
        Ok(())
    };
    match node {
        Node::Resize(n) if n.shortest > 0 => {
            ensure!(
                n.width == 0 && n.height == 0,
                InvalidArgument,
                "both shortest and width or height are given; leave one out"
            );
            sides(n.shortest, n.shortest)
        }
        Node::Resize(n) => sides(n.width, n.height),
        Node::Letterbox(n) if n.width == 0 && n.height == 0 => Ok(()),
        Node::Letterbox(n) => sides(n.width, n.height),
        Node::Crop(n) => sides(n.width, n.height),
        Node::Pad(n) => pad(n).window([1, 1]).map(|_| ()),
        Node::NormScale(n) => {
            let channels = if n.color == Color::Gray { 1 } else { 3 };
            to_tensor(n).values(channels).map(|_| ())
        }
        Node::YOLOv8(n) => {
            // The operator judges its own settings, here for as many classes as are spoken of.
            let known = n.classes.iter().max().map_or(1, |&c| i64::from(c) + 1);
            let extra = n.keypoints.saturating_mul(n.keypoint_dims);
            let rows = Dim::from(4 + known + i64::from(extra));
            let mut g = Graph::new("check");
            let raw = [Dim::from(1i64), rows, Dim::from(1i64)];
            let raw = g.add_input("raw", Type::tensor(DType::F32, raw))?;
            match g.add("detect", detect(n, extra as usize), &[raw]) {
                Ok(_) => Ok(()),
                Err(e) => bail!(InvalidArgument, "{}", e.message()),
            }
        }
        Node::TopK(n) => {
            ensure!(n.k > 0, InvalidArgument, "k is 0, expected at least 1");
            Ok(())
        }
        Node::Model => Ok(()),
        Node::Graph(n) => {
            let (inputs, outputs) = (n.graph.inputs().len(), n.graph.outputs().len());
            ensure!(
                inputs == 1 && outputs == 1,
                InvalidArgument,
                "the graph has {inputs} inputs and {outputs} outputs, expected one of each"
            );
            Ok(())
        }
    }
}

/// The model's input: its name and type.
fn model_input(model: &Graph) -> Result<(&str, &Type)> {
    let [id] = model.inputs() else {
        bail!(
            Unsupported,
            "the model has {} inputs, a pipeline takes models with one",
            model.inputs().len()
        );
    };
    let value = model.value(*id);
    Ok((&value.name, &value.fact.ty))
}

/// Height and width that the model's input has.
fn image_extents(model: &Graph) -> Result<(i64, i64)> {
    let (name, ty) = model_input(model)?;
    let dims: Option<Vec<Option<i64>>> = match ty {
        Type::Tensor(_, Some(s)) if s.len() == 4 => Some(s.iter().map(Dim::as_const).collect()),
        _ => None,
    };
    match dims.as_deref() {
        Some([_, Some(1 | 3), Some(h), Some(w)]) | Some([_, Some(h), Some(w), Some(1 | 3)]) => {
            Ok((*h, *w))
        }
        _ => bail!(
            InvalidGraph,
            "the model's input '{name}' is {ty}, which leaves the size of images open; set width and height"
        ),
    }
}

/// Copies `from` into `g`, its only input read from `x`; gives its outputs.
fn append(g: &mut Graph, scope: &str, from: &Graph, x: ValueId) -> Result<Vec<(String, ValueId)>> {
    let (name, ty) = model_input(from)?;
    let got = &g.fact(x).ty;
    let fits = match (ty, got) {
        (Type::Tensor(d, None), Type::Tensor(e, _)) => d == e,
        (Type::Tensor(d, Some(s)), Type::Tensor(e, Some(t))) => {
            let may = |(a, b): (&Dim, &Dim)| !matches!((a.as_const(), b.as_const()), (Some(a), Some(b)) if a != b);
            d == e && s.len() == t.len() && s.iter().zip(t).all(may)
        }
        _ => true,
    };
    ensure!(
        fits,
        ShapeMismatch,
        "the input '{name}' takes {ty}, the node before it gives {got}; change Resize, Letterbox, Crop or NormScale"
    );
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    map.insert(from.inputs()[0], x);
    for (id, tensor) in from.constants() {
        let name = g.unique_name(&from.value(*id).name);
        map.insert(*id, g.add_constant(&name, tensor.clone())?);
    }
    let missing = || err!(Internal, "a node of {scope} reads a value that does not exist");
    for node in from.nodes() {
        let inputs = node
            .inputs
            .iter()
            .map(|i| i.map(|i| map.get(&i).copied().ok_or_else(missing)).transpose())
            .collect::<Result<Vec<_>>>()?;
        let mut taken: Vec<Option<String>> = Vec::new();
        for id in &node.outputs {
            taken.push(id.map(|id| g.unique_name(&from.value(id).name)));
        }
        let names: Vec<Option<&str>> = taken.iter().map(Option::as_deref).collect();
        let outputs = g.add_node(&node.name, node.op.clone(), &inputs, &names)?;
        for (old, new) in node.outputs.iter().zip(outputs) {
            if let (Some(old), Some(new)) = (old, new) {
                map.insert(*old, new);
            }
        }
    }
    from.outputs()
        .iter()
        .map(|(name, id)| Ok((name.clone(), map.get(id).copied().ok_or_else(missing)?)))
        .collect()
}

fn one_output(mut outputs: Vec<(String, ValueId)>) -> Result<ValueId> {
    match (outputs.pop(), outputs.len()) {
        (Some((_, value)), 0) => Ok(value),
        (_, n) => bail!(InvalidGraph, "the graph has {} outputs, expected one", n + 1),
    }
}

/// The model on `x`, in the element type that it takes; outputs that are 16-bit floats become `f32`.
fn insert_model(g: &mut Graph, model: &Graph, x: ValueId) -> Result<Vec<(String, ValueId)>> {
    let want = match model_input(model)?.1 {
        Type::Tensor(dtype, _) => *dtype,
        other => bail!(Unsupported, "the model takes {other}, expected a tensor"),
    };
    let x = match g.fact(x).dtype()? {
        DType::F32 if matches!(want, DType::F16 | DType::BF16) => cast(g, x, want)?,
        _ => x,
    };
    let mut outputs = append(g, "the model", model, x)?;
    for (_, value) in &mut outputs {
        if matches!(g.fact(*value).dtype(), Ok(DType::F16 | DType::BF16)) {
            *value = cast(g, *value, DType::F32)?;
        }
    }
    Ok(outputs)
}

fn cast(g: &mut Graph, x: ValueId, to: DType) -> Result<ValueId> {
    g.add("cast", ops::Cast { to, ..Default::default() }, &[x])
}

/// Reads boxes from the first output.
fn boxes(
    to: &mut Composed,
    name: &str,
    n: &YOLOv8,
    outputs: &[(String, ValueId)],
    place: Option<ValueId>,
    labels: &[String],
) -> Result<()> {
    let Some((output, value)) = outputs.first() else { bail!(InvalidGraph, "no outputs") };
    ensure!(
        outputs.len() == 1,
        Unsupported,
        "the model has {} outputs, a detector has one; models with masks are not supported",
        outputs.len()
    );
    let ty = to.graph.fact(*value).ty.clone();
    let rows = match &ty {
        Type::Tensor(DType::F32, Some(s)) if s.len() == 3 => s[1].as_const(),
        _ => bail!(
            ShapeMismatch,
            "the output '{output}' is {ty}, raw detections are f32[1, 4 + classes, places]"
        ),
    };
    if let Type::Tensor(_, Some(s)) = &ty
        && s[2].as_const() == Some(6)
    {
        bail!(
            Unsupported,
            "the output '{output}' is {ty}: a model that was exported with its own suppression; export it without"
        );
    }
    let extra = (n.keypoints as usize).saturating_mul(n.keypoint_dims as usize);
    let op = detect(n, extra);
    if let Some(rows) = rows {
        // Whether there are that many is for the operator to say.
        let classes = usize::try_from(rows).unwrap_or(0).saturating_sub(4 + extra);
        ensure!(
            labels.is_empty() || classes == 0 || labels.len() == classes,
            InvalidArgument,
            "{} labels for {classes} classes",
            labels.len()
        );
        to.classes = Some(classes);
    }
    let inputs: Vec<ValueId> = [*value].into_iter().chain(place).collect();
    let found = to.graph.add(name, op, &inputs)?;
    to.graph.add_output("detections", found)?;
    to.head = Head::Boxes { keypoints: n.keypoints as usize, dims: n.keypoint_dims as usize };
    Ok(())
}

/// Reads classes from the first output.
fn classes(
    to: &mut Composed,
    name: &str,
    n: &TopK,
    outputs: &[(String, ValueId)],
    labels: &[String],
) -> Result<()> {
    let Some((output, value)) = outputs.first() else { bail!(InvalidGraph, "no outputs") };
    let g = &mut to.graph;
    let ty = g.fact(*value).ty.clone();
    let count = match &ty {
        Type::Tensor(DType::F32, Some(s)) if s.len() == 2 => s[1].as_const(),
        _ => bail!(ShapeMismatch, "the output '{output}' is {ty}, scores are f32[1, classes]"),
    };
    let count =
        count.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0).ok_or_else(|| {
            err!(Unsupported, "the output '{output}' is {ty}; the number of classes must be fixed")
        })?;
    ensure!(
        labels.is_empty() || labels.len() == count,
        InvalidArgument,
        "{} labels for {count} classes",
        labels.len()
    );
    to.classes = Some(count);
    let scores = match n.softmax {
        true => g.add("softmax", ops::Softmax { axis: -1 }, &[*value])?,
        false => *value,
    };
    let k = g.unique_name("k");
    let k = g.add_constant(&k, Tensor::from_vec(&[1], vec![(n.k as usize).min(count) as i64])?)?;
    let op = std::sync::Arc::new(ops::TopK { axis: -1, largest: true, sorted: true });
    let (best, which) = (g.unique_name(name), g.unique_name(&format!("{name}.classes")));
    let found = g.add_node(name, op, &[Some(scores), Some(k)], &[Some(&best), Some(&which)])?;
    for (output, value) in ["scores", "classes"].into_iter().zip(found.into_iter().flatten()) {
        g.add_output(output, value)?;
    }
    to.head = Head::Classes;
    Ok(())
}
