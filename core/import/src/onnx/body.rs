//! Subgraphs, closed: outer values that a body reads become inputs of its own.
//!
//! ONNX lets a body read any value of the graphs around it. In the graph room a
//! body is a graph like any other, so each outer value it reads is *captured*: the
//! node gets it as a further input, after its own, and the body as a further input
//! of the same position. Constants are not captured but shared into the body, where
//! shape rules can see them.

use super::call::{Call, Outputs};
use super::import::{Frame, constant_names, value_info};
use super::order::free_names;
use super::proto::GraphProto;
use super::types::{declared, join};
use deepseek_graph::{Attr, Attrs, Dim, Graph, Type, ValueId};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err};
use std::collections::HashMap;
use std::sync::Arc;

/// How often a loop body is inferred again with wider types before its carried
/// values are taken to have no rank.
const WIDENINGS: usize = 3;

/// An outer value that a body reads.
enum Capture {
    Value(ValueId, Type),
    Constant(Tensor),
    /// An optional input of a function that the caller left out.
    Absent,
}

/// What bodies read from outside, in order of first use.
struct Captures(Vec<(String, Capture)>);

impl Captures {
    fn of(c: &Call, bodies: &[&GraphProto]) -> Result<Self> {
        let mut list = Vec::new();
        for name in free_names(bodies, &c.importer.steps)? {
            let capture = match c.frame.names.get(name) {
                None => bail!(InvalidGraph, "a subgraph reads '{name}', which nothing defines"),
                Some(None) => Capture::Absent,
                Some(Some(v)) => match c.fact(*v).as_constant() {
                    Some(t) => Capture::Constant(t),
                    None => Capture::Value(*v, c.fact(*v).ty.clone()),
                },
            };
            list.push((name.to_owned(), capture));
        }
        Ok(Captures(list))
    }

    /// The values that become inputs.
    fn values(&self) -> impl Iterator<Item = Option<ValueId>> + '_ {
        self.0.iter().filter_map(|(_, c)| match c {
            Capture::Value(v, _) => Some(Some(*v)),
            _ => None,
        })
    }
}

/// Builds `body` with inputs of the given types, then the captures.
fn build(c: &mut Call, body: &GraphProto, types: &[Type], captures: &Captures) -> Result<Graph> {
    build_with(c, body, types, captures, &[])
}

/// As [`build`]; outputs marked in `optional` are wrapped in an optional.
fn build_with(
    c: &mut Call,
    body: &GraphProto,
    types: &[Type],
    captures: &Captures,
    optional: &[bool],
) -> Result<Graph> {
    let mut g = Graph::new(&body.name);
    let mut frame = Frame {
        names: HashMap::new(),
        prefix: String::new(),
        opsets: c.frame.opsets.clone(),
        bound: c.frame.bound.clone(),
    };
    let inputs = own_inputs(body);
    ensure!(
        inputs.len() == types.len(),
        InvalidGraph,
        "the subgraph '{}' has {} inputs, {} needs {}",
        body.name,
        inputs.len(),
        c.node.op_type,
        types.len()
    );
    for (input, ty) in inputs.iter().zip(types) {
        let id = g.add_input(&input.name, ty.clone())?;
        frame.names.insert(input.name.clone(), Some(id));
    }
    for (name, capture) in &captures.0 {
        let value = match capture {
            Capture::Value(_, ty) => Some(g.add_input(&g.unique_name(name), ty.clone())?),
            Capture::Constant(t) => Some(g.add_constant(&g.unique_name(name), t.clone())?),
            Capture::Absent => None,
        };
        // A name that this body defines itself is one that only its sibling captures.
        frame.names.entry(name.clone()).or_insert(value);
    }
    for name in defined_names(body) {
        if !inputs.iter().any(|v| v.name == name) {
            frame.names.remove(name);
        }
    }
    c.importer.constants(&mut g, &mut frame, body)?;
    c.importer.nodes(&mut g, &mut frame, &body.node, &value_info(body))?;
    c.importer.outputs(&mut g, &frame, &body.output, optional)?;
    Ok(g)
}

/// Inputs that are not constants.
fn own_inputs(body: &GraphProto) -> Vec<&super::proto::ValueInfoProto> {
    let constants = constant_names(body);
    body.input.iter().filter(|v| !constants.contains(v.name.as_str())).collect()
}

/// Names that the body's nodes and initializers define.
fn defined_names(body: &GraphProto) -> impl Iterator<Item = &str> {
    constant_names(body)
        .into_iter()
        .chain(body.node.iter().flat_map(|n| &n.output).map(String::as_str))
}

fn graph(g: Graph) -> Attr {
    Attr::Graph(Arc::new(g))
}

/// `If`: inputs `cond, captures…`; both branches take all captures. Where the condition
/// is known, only its branch is imported, in place: the other one may not even fit the
/// shapes at hand.
pub(super) fn if_(c: &mut Call) -> Result<Outputs> {
    let (yes, no) = (c.need_graph("then_branch")?, c.need_graph("else_branch")?);
    if let Some(cond) = c.fact(c.input(0)?).as_constant()
        && cond.dtype() == DType::Bool
        && cond.len() == 1
    {
        return inline(c, if cond.to_vec::<bool>()?[0] { yes } else { no });
    }
    let captures = Captures::of(c, &[yes, no])?;
    let mut attrs = std::mem::take(&mut c.attrs);
    for (name, branch) in [("then_branch", yes), ("else_branch", no)] {
        attrs.insert(name, graph(build(c, branch, &[], &captures)?));
    }
    let inputs: Vec<_> = [Some(c.input(0)?)].into_iter().chain(captures.values()).collect();
    c.last("If", attrs, &inputs)
}

/// Imports a body without inputs where the node stands.
fn inline(c: &mut Call, body: &GraphProto) -> Result<Outputs> {
    ensure!(
        own_inputs(body).is_empty() && body.output.len() >= c.node.output.len(),
        InvalidGraph,
        "the subgraph '{}' has {} inputs and {} outputs, {} needs 0 and {}",
        body.name,
        own_inputs(body).len(),
        body.output.len(),
        c.node.op_type,
        c.node.output.len()
    );
    let mut frame = Frame {
        names: c.frame.names.clone(),
        prefix: format!("{}/", c.label),
        opsets: c.frame.opsets.clone(),
        bound: c.frame.bound.clone(),
    };
    for name in defined_names(body) {
        frame.names.remove(name);
    }
    c.importer.constants(c.g, &mut frame, body)?;
    c.importer.nodes(c.g, &mut frame, &body.node, &value_info(body))?;
    (0..c.node.output.len())
        .map(|i| match frame.names.get(&body.output[i].name) {
            _ if !c.wants(i) => Ok(None),
            Some(Some(v)) => Ok(Some(*v)),
            _ => bail!(
                InvalidGraph,
                "the subgraph '{}' does not define its output '{}'",
                body.name,
                body.output[i].name
            ),
        })
        .collect()
}

/// `Loop`: inputs `M, cond, carried…, captures…`, attribute `carried`.
pub(super) fn loop_(c: &mut Call) -> Result<Outputs> {
    let body = c.need_graph("body")?;
    let carried: Vec<ValueId> = present(c, 2)?;
    let fixed = [Type::tensor(DType::I64, []), Type::tensor(DType::Bool, [])];
    let captures = Captures::of(c, &[body])?;
    let own = own_inputs(body);
    let mut types = carried_types(c, &carried, own.get(fixed.len()..).unwrap_or_default())?;
    let g = widen(c, body, &captures, &mut types, 1, |carried| {
        fixed.iter().chain(carried).cloned().collect()
    })?;
    let attrs = std::mem::take(&mut c.attrs).with("carried", carried.len() as i64);
    let attrs = with_graph(attrs, "body", g);
    let mut carried = carried;
    for (v, ty) in carried.iter_mut().zip(&types) {
        if matches!(ty, Type::Optional(_)) && !matches!(c.fact(*v).ty, Type::Optional(_)) {
            *v = c.one("Optional", Attrs::new(), &[*v])?;
        }
    }
    let inputs: Vec<_> = [c.opt(0), c.opt(1)]
        .into_iter()
        .chain(carried.iter().copied().map(Some))
        .chain(captures.values())
        .collect();
    let mut outputs = c.last("Loop", attrs, &inputs)?;
    // What the body gives as a plain value is one after the loop, too.
    for ((value, ty), own) in outputs.iter_mut().zip(&types).zip(body.output.iter().skip(1)) {
        if let Some(v) = value
            && matches!(ty, Type::Optional(_))
            && !matches!(declared(&own.name, own.r#type.as_ref())?, Some(Type::Optional(_)) | None)
        {
            *v = c.one("OptionalGetElement", Attrs::new(), &[*v])?;
        }
    }
    Ok(outputs)
}

/// `Scan`: inputs `states…, scanned…, captures…`, attributes `num_scan_inputs` and
/// `carried`.
pub(super) fn scan(c: &mut Call) -> Result<Outputs> {
    let body = c.need_graph("body")?;
    let values = present(c, 0)?;
    let scanned: i64 = c.need("num_scan_inputs")?;
    let states = usize::try_from(scanned)
        .ok()
        .and_then(|n| values.len().checked_sub(n))
        .ok_or_else(|| err!(InvalidGraph, "{scanned} scan inputs of {} inputs", values.len()))?;
    let axes: Vec<i64> = match c.attrs.get("scan_input_axes") {
        Some(Attr::Ints(axes)) => axes.clone(),
        _ => Vec::new(),
    };
    let mut slices = Vec::new();
    for (i, v) in values[states..].iter().enumerate() {
        let axis = axes.get(i).copied().unwrap_or(0);
        slices.push(without_axis(&c.fact(*v).ty, axis)?);
    }
    let captures = Captures::of(c, &[body])?;
    let own = own_inputs(body);
    let mut types = carried_types(c, &values[..states], &own[..states.min(own.len())])?;
    let g = widen(c, body, &captures, &mut types, 0, |carried| {
        carried.iter().chain(&slices).cloned().collect()
    })?;
    let attrs = std::mem::take(&mut c.attrs)
        .with("num_scan_inputs", scanned)
        .with("carried", states as i64);
    let attrs = with_graph(attrs, "body", g);
    let inputs: Vec<_> = values.iter().copied().map(Some).chain(captures.values()).collect();
    c.last("Scan", attrs, &inputs)
}

/// `Scan` of opset 8 runs each sample of a batch by itself: an outer scan over the
/// batch axis, whose body is the newer scan over the sequence axis.
pub(super) fn scan_8(c: &mut Call) -> Result<Outputs> {
    ensure!(
        c.opt(0).is_none(),
        Unsupported,
        "Scan-8 with sequence lengths; pad the sequences and scan all steps"
    );
    let body = c.need_graph("body")?;
    let scanned: i64 = c.need("num_scan_inputs")?;
    let directions: Vec<i64> = c.take("directions")?.unwrap_or_default();
    let values = present(c, 1)?;
    let states = usize::try_from(scanned)
        .ok()
        .and_then(|n| values.len().checked_sub(n))
        .ok_or_else(|| err!(InvalidGraph, "{scanned} scan inputs of {} inputs", values.len()))?;
    let captures = Captures::of(c, &[body])?;
    let mut per_sample = Vec::new();
    for v in &values {
        per_sample.push(without_axis(&c.fact(*v).ty, 0)?);
    }
    let mut slices = Vec::new();
    for ty in &per_sample[states..] {
        slices.push(without_axis(ty, 0)?);
    }
    let mut types = per_sample[..states].to_vec();
    let inner = widen(c, body, &captures, &mut types, 0, |carried| {
        carried.iter().chain(&slices).cloned().collect()
    })?;
    let mut outer = Graph::new(format!("{}/batch", c.label));
    let mut ids = Vec::new();
    let inputs: Vec<_> = values.iter().copied().map(Some).chain(captures.values()).collect();
    for (i, v) in inputs.iter().flatten().enumerate() {
        let ty = per_sample.get(i).cloned().unwrap_or_else(|| c.fact(*v).ty.clone());
        ids.push(Some(outer.add_input(&format!("in.{i}"), ty)?));
    }
    let mut attrs = Attrs::new().with("num_scan_inputs", scanned).with("carried", states as i64);
    if !directions.is_empty() {
        attrs.set("scan_input_directions", directions);
    }
    let outputs = inner.outputs().len();
    let names: Vec<String> = (0..outputs).map(|i| format!("out.{i}")).collect();
    let wanted: Vec<_> = names.iter().map(|n| Some(n.as_str())).collect();
    let op = deepseek_graph::build_op("Scan", with_graph(attrs, "body", inner))?;
    let results = outer.add_node("sample", op, &ids, &wanted)?;
    for (name, id) in names.iter().zip(results.into_iter().flatten()) {
        outer.add_output(name, id)?;
    }
    let attrs = Attrs::new().with("num_scan_inputs", values.len() as i64).with("carried", 0i64);
    c.last("Scan", with_graph(attrs, "body", outer), &inputs)
}

/// `SequenceMap`: inputs `sequence, additional…, captures…`, attribute `mapped`: how many
/// come before the captures.
pub(super) fn sequence_map(c: &mut Call) -> Result<Outputs> {
    let body = c.need_graph("body")?;
    let values = present(c, 0)?;
    let mut types = Vec::new();
    for (i, v) in values.iter().enumerate() {
        types.push(match &c.fact(*v).ty {
            Type::Sequence(element) => (**element).clone(),
            other if i > 0 => other.clone(),
            other => bail!(DTypeMismatch, "input 0 must be a sequence, got {other}"),
        });
    }
    let captures = Captures::of(c, &[body])?;
    let g = build(c, body, &types, &captures)?;
    let attrs = std::mem::take(&mut c.attrs).with("mapped", values.len() as i64);
    let inputs: Vec<_> = values.iter().copied().map(Some).chain(captures.values()).collect();
    c.last("SequenceMap", with_graph(attrs, "body", g), &inputs)
}

/// `FlexAttention`: each subgraph maps the scores `[batch, q_heads, q_seq, kv_seq]`.
pub(super) fn flex_attention(c: &mut Call) -> Result<Outputs> {
    let (q, k) = (c.input(0)?, c.input(1)?);
    let precision = match (c.attrs.get("softmax_precision"), c.dtype(q)?) {
        (Some(Attr::DType(d)), _) => *d,
        (_, DType::F64) => DType::F64,
        _ => DType::F32,
    };
    let scores = match (c.fact(q).shape(), c.fact(k).shape()) {
        (Some([b, h, s, _]), Some([_, _, t, _])) => {
            Some(vec![b.clone(), h.clone(), s.clone(), t.clone()])
        }
        _ => None,
    };
    let mut attrs = std::mem::take(&mut c.attrs);
    for name in ["score_mod", "prob_mod"] {
        let Some(body) = c.graphs.remove(name) else { continue };
        let captures = Captures::of(c, &[body])?;
        ensure!(
            captures.values().next().is_none(),
            Unsupported,
            "the subgraph '{name}' reads values from outside; only constants can be read there"
        );
        let g = build(c, body, &[Type::Tensor(precision, scores.clone())], &captures)?;
        attrs.insert(name, graph(g));
    }
    let inputs = c.inputs.clone();
    c.last("FlexAttention", attrs, &inputs)
}

fn with_graph(mut attrs: Attrs, name: &str, g: Graph) -> Attrs {
    attrs.insert(name, graph(g));
    attrs
}

/// The inputs from `start` on, none of them absent.
fn present(c: &Call, start: usize) -> Result<Vec<ValueId>> {
    (start..c.inputs.len()).map(|i| c.input(i)).collect()
}

/// Types of carried values before the first iteration. A declaration wins only in
/// kind: what starts as a tensor may be declared an optional.
fn carried_types(
    c: &Call,
    values: &[ValueId],
    inputs: &[&super::proto::ValueInfoProto],
) -> Result<Vec<Type>> {
    let mut types = Vec::new();
    for (i, v) in values.iter().enumerate() {
        let outer = c.fact(*v).ty.clone();
        let own = match inputs.get(i) {
            Some(input) => declared(&input.name, input.r#type.as_ref())?,
            None => None,
        };
        types.push(match (outer, own) {
            (outer @ (Type::Tensor(..) | Type::Sequence(_)), Some(Type::Optional(inner))) => {
                let name = &inputs[i].name;
                Type::Optional(Box::new(join(name, &outer, &inner).unwrap_or(outer)))
            }
            (outer, _) => outer,
        });
    }
    Ok(types)
}

/// Builds a body whose carried values feed back into it: types start as the initial
/// values' and widen until the outputs from `first` on fit the inputs.
fn widen(
    c: &mut Call,
    body: &GraphProto,
    captures: &Captures,
    carried: &mut [Type],
    first: usize,
    inputs: impl Fn(&[Type]) -> Vec<Type>,
) -> Result<Graph> {
    let label = c.label.clone();
    let mut round = 0;
    loop {
        let optional: Vec<bool> = std::iter::repeat_n(false, first)
            .chain(carried.iter().map(|t| matches!(t, Type::Optional(_))))
            .collect();
        let g = build_with(c, body, &inputs(carried), captures, &optional)?;
        ensure!(
            g.outputs().len() >= first + carried.len(),
            InvalidGraph,
            "the subgraph '{}' has {} outputs for {} carried values",
            body.name,
            g.outputs().len(),
            carried.len()
        );
        let mut stable = true;
        for (i, ty) in carried.iter_mut().enumerate() {
            let (name, id) = &g.outputs()[first + i];
            let out = &g.fact(*id).ty;
            let Some(mut wide) = join(&format!("{label}.{name}"), ty, out) else {
                bail!(
                    DTypeMismatch,
                    "the carried value '{name}' starts as {ty} and comes back as {out}"
                );
            };
            if round >= WIDENINGS && wide != *ty {
                wide = unranked(&wide);
            }
            stable &= wide == *ty;
            *ty = wide;
        }
        if stable {
            return Ok(g);
        }
        round += 1;
        ensure!(round <= WIDENINGS + 3, Internal, "carried types do not settle");
    }
}

/// The type without extents.
fn unranked(ty: &Type) -> Type {
    match ty {
        Type::Tensor(d, _) => Type::Tensor(*d, None),
        Type::Sequence(t) => Type::Sequence(Box::new(unranked(t))),
        Type::Optional(t) => Type::Optional(Box::new(unranked(t))),
    }
}

/// A tensor type less one axis.
fn without_axis(ty: &Type, axis: i64) -> Result<Type> {
    match ty {
        Type::Tensor(d, None) => Ok(Type::Tensor(*d, None)),
        Type::Tensor(d, Some(shape)) => {
            let axis = deepseek_graph::ops::util::normalize_axis(axis, shape.len())?;
            let mut shape: Vec<Dim> = shape.clone();
            shape.remove(axis);
            Ok(Type::tensor(*d, shape))
        }
        other => bail!(DTypeMismatch, "only tensors can be scanned, got {other}"),
    }
}
