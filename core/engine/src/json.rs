//! Reports as JSON, the same text in every language and in the program. Keys are only
//! added.

use crate::{
    Class, Detection, Dim, MemoryReport, Model, PlannedValue, Prediction, Profile, TensorSpec, Type,
};
use serde_json::{Map, Value, json};

/// What a model consists of: `source`, `name`, `inputs`, `outputs`, `symbols` with their
/// bounds, `nodes`, `ops` with how often each occurs and on how many of those nodes a
/// kernel of this machine runs, `parameters`, `parameter_bytes`, `memory_formula`.
pub fn model(model: &Model) -> String {
    let summary = model.summary();
    let symbols: Map<String, Value> = summary
        .symbols
        .iter()
        .map(|(name, (min, max))| (name.clone(), json!({ "min": min, "max": max })))
        .collect();
    let ops: Map<String, Value> = summary
        .ops
        .iter()
        .map(|(op, (nodes, kernels))| (op.clone(), json!({ "nodes": nodes, "kernels": kernels })))
        .collect();
    json!({
        "source": summary.source,
        "name": summary.name,
        "inputs": model.inputs().iter().map(spec).collect::<Vec<_>>(),
        "outputs": model.outputs().iter().map(spec).collect::<Vec<_>>(),
        "symbols": symbols,
        "nodes": summary.nodes,
        "ops": ops,
        "parameters": summary.parameters,
        "parameter_bytes": summary.parameter_bytes,
        "memory_formula": model.memory_formula().to_string(),
    })
    .to_string()
}

/// Bytes of a run: `planned_bytes`, which are `arena_bytes` and `output_bytes`;
/// `heap_bytes`, the part of `arena_bytes` that is not in the arena; `constant_bytes`;
/// `formula`, the planned bytes over the model's symbols, whether that is exact
/// (`formula_exact`) or an upper bound because the exact one is too long, and whether this
/// shape is `specialised`, smaller than the formula says; `dynamic_values`; the `largest` values,
/// descending; and `peak_step`, the node in which most bytes are alive, `scratch_bytes`
/// among them, with what makes up its `peak`.
pub fn memory(report: &MemoryReport) -> String {
    memory_value(report).to_string()
}

/// [`memory`] as a value.
pub fn memory_value(report: &MemoryReport) -> Value {
    json!({
        "arena_bytes": report.arena_bytes,
        "output_bytes": report.output_bytes,
        "planned_bytes": report.planned_bytes(),
        "constant_bytes": report.constant_bytes,
        "dynamic_values": report.dynamic_values,
        "largest": report.largest.iter().map(planned).collect::<Vec<_>>(),
        "heap_bytes": report.heap_bytes,
        "scratch_bytes": report.scratch_bytes,
        "formula": report.formula.to_string(),
        "formula_exact": report.formula_exact,
        "specialised": report.specialised,
        "peak_step": report.peak_step,
        "peak": report.peak.iter().map(planned).collect::<Vec<_>>(),
    })
}

/// `name`, `type`, `bytes`, `kind` (`value`, `scratch`, `output`, `heap`), and `offset` in
/// the arena, null beside it.
fn planned(v: &PlannedValue) -> Value {
    json!({
        "name": v.name,
        "type": v.ty.to_string(),
        "bytes": v.bytes,
        "kind": v.kind.name(),
        "offset": v.offset,
    })
}

/// A run as [`Profile::to_json`] writes it.
pub fn profile(profile: &Profile) -> String {
    profile.to_json()
}

/// Extents are numbers, or text where they are symbolic; no `dtype` and `shape` for a
/// value that is not a tensor, no `shape` for one of unknown rank.
fn spec(spec: &TensorSpec) -> Value {
    let mut out = Map::from_iter([
        ("name".to_owned(), json!(spec.name)),
        ("type".to_owned(), json!(spec.ty.to_string())),
    ]);
    if let Type::Tensor(dtype, shape) = &spec.ty {
        out.insert("dtype".to_owned(), json!(dtype.name()));
        if let Some(shape) = shape {
            out.insert("shape".to_owned(), shape.iter().map(extent).collect());
        }
    }
    Value::Object(out)
}

fn extent(dim: &Dim) -> Value {
    dim.as_const().map_or_else(|| json!(dim.to_string()), |n| json!(n))
}

/// What was found in an image: `width`, `height`; `detections`, each with `box` (`x1, y1, x2, y2` in pixels), `score`,
/// `class` and, where it has a name, `label`, and `keypoints` where the model finds them; `classes` with `class`, `score`
/// and `label`; `outputs`, the names and types of outputs that no node reads.
pub fn prediction(found: &Prediction, labels: &[String]) -> Value {
    let named = |mut value: Value, class: usize| {
        if let Some(label) = labels.get(class) {
            value["label"] = json!(label);
        }
        value
    };
    let detection = |d: &Detection| {
        let mut value = json!({ "box": d.corners, "score": d.score, "class": d.class });
        if !d.keypoints.is_empty() {
            value["keypoints"] = json!(d.keypoints);
        }
        named(value, d.class)
    };
    let class = |c: &Class| named(json!({ "class": c.class, "score": c.score }), c.class);
    let output = |(name, value): &(String, crate::Value)| json!({ "name": name, "type": value.ty().to_string() });
    json!({
        "width": found.width,
        "height": found.height,
        "detections": found.detections.iter().map(detection).collect::<Vec<_>>(),
        "classes": found.classes.iter().map(class).collect::<Vec<_>>(),
        "outputs": found.outputs.iter().map(output).collect::<Vec<_>>(),
    })
}
