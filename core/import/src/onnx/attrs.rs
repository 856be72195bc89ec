//! Attributes: from messages to the graph's constants.

use super::proto::{AttributeProto, GraphProto, NodeProto, TypeProto, attribute_type as kind};
use super::tensor::{ExternalFiles, sparse, tensor, text};
use super::types::dtype_from_onnx;
use deepseek_graph::{Attr, Attrs};
use deepseek_tensor::{Result, bail, ensure, err};
use std::collections::{BTreeMap, HashMap};

/// The attributes of one node, references to function attributes resolved.
#[derive(Default)]
pub(super) struct NodeAttrs<'n> {
    /// Those that are constants.
    pub plain: Attrs,
    /// Subgraphs.
    pub graphs: BTreeMap<&'n str, &'n GraphProto>,
    /// The type, for the operators that take one.
    pub ty: Option<&'n TypeProto>,
}

/// Function attributes in force, by name.
pub(super) type Bound = HashMap<String, AttributeProto>;

/// Integer attributes that hold the number of an element type; 0 is "not given".
fn is_dtype(op: &str, name: &str) -> bool {
    match name {
        "dtype" | "output_dtype" | "output_datatype" | "stash_type" | "softmax_precision" => true,
        "precision" => op == "QuantizeLinear",
        "to" => matches!(op, "Cast" | "BitCast"),
        _ => false,
    }
}

/// The attribute that `attr` stands for: itself, or the function attribute it
/// refers to; `None` if that one was not given.
pub(super) fn resolve<'n>(
    attr: &'n AttributeProto,
    bound: Option<&'n Bound>,
) -> Result<Option<&'n AttributeProto>> {
    if attr.ref_attr_name.is_empty() {
        return Ok(Some(attr));
    }
    let Some(bound) = bound else {
        bail!(
            InvalidGraph,
            "attribute '{}' refers to the function attribute '{}' outside of a function",
            attr.name,
            attr.ref_attr_name
        );
    };
    Ok(bound.get(&attr.ref_attr_name))
}

/// Converts the attributes of `node`.
///
/// # Errors
/// `InvalidGraph` for duplicates and dangling references, `InvalidFile` for broken
/// contents, `Unsupported` for kinds that no operator takes.
pub(super) fn convert<'n>(
    node: &'n NodeProto,
    bound: Option<&'n Bound>,
    files: &ExternalFiles,
) -> Result<NodeAttrs<'n>> {
    let mut out = NodeAttrs::default();
    for attr in &node.attribute {
        let name = attr.name.as_str();
        ensure!(
            out.plain.get(name).is_none() && !out.graphs.contains_key(name),
            InvalidGraph,
            "attribute '{name}' is given twice"
        );
        let Some(value) = resolve(attr, bound)? else { continue };
        match kind_of(value) {
            kind::GRAPH => {
                let graph = value.g.as_deref().ok_or_else(|| missing(name))?;
                out.graphs.insert(name, graph);
            }
            kind::TYPE_PROTO => out.ty = value.tp.as_deref(),
            kind::INT if is_dtype(&node.op_type, name) => {
                let n = value.i.unwrap_or(0);
                if n != 0 {
                    let d = i32::try_from(n)
                        .map_err(|_| err!(InvalidFile, "{n} is not the number of an element type"))
                        .and_then(dtype_from_onnx)
                        .map_err(|e| e.context(format_args!("attribute '{name}'")))?;
                    out.plain.set(name, d);
                }
            }
            k => {
                let plain = plain(value, k, files)
                    .map_err(|e| e.context(format_args!("attribute '{name}'")))?;
                out.plain.insert(name, plain);
            }
        }
    }
    Ok(out)
}

fn missing(name: &str) -> deepseek_tensor::Error {
    err!(InvalidFile, "attribute '{name}' lacks the value that its type announces")
}

/// The declared kind; files of the first format version leave it out.
fn kind_of(a: &AttributeProto) -> i32 {
    match a.r#type {
        kind::UNDEFINED if a.g.is_some() => kind::GRAPH,
        kind::UNDEFINED if a.t.is_some() => kind::TENSOR,
        kind::UNDEFINED if a.sparse_tensor.is_some() => kind::SPARSE_TENSOR,
        kind::UNDEFINED if a.tp.is_some() => kind::TYPE_PROTO,
        kind::UNDEFINED if a.s.is_some() => kind::STRING,
        kind::UNDEFINED if a.f.is_some() => kind::FLOAT,
        kind::UNDEFINED if a.i.is_some() => kind::INT,
        kind::UNDEFINED if !a.strings.is_empty() => kind::STRINGS,
        kind::UNDEFINED if !a.floats.is_empty() => kind::FLOATS,
        kind::UNDEFINED => kind::INTS,
        known => known,
    }
}

fn plain(a: &AttributeProto, k: i32, files: &ExternalFiles) -> Result<Attr> {
    // Writers leave out a scalar that has its zero value.
    Ok(match k {
        kind::FLOAT => Attr::Float(a.f.unwrap_or(0.0)),
        kind::INT => Attr::Int(a.i.unwrap_or(0)),
        kind::STRING => Attr::Str(a.s.as_ref().map_or(Ok(String::new()), text)?),
        kind::FLOATS => Attr::Floats(a.floats.clone()),
        kind::INTS => Attr::Ints(a.ints.clone()),
        kind::STRINGS => Attr::Strs(a.strings.iter().map(text).collect::<Result<_>>()?),
        kind::TENSOR => {
            Attr::Tensor(tensor(a.t.as_deref().ok_or_else(|| missing(&a.name))?, files)?)
        }
        kind::SPARSE_TENSOR => {
            let s = a.sparse_tensor.as_deref().ok_or_else(|| missing(&a.name))?;
            Attr::Tensor(sparse(s, files)?)
        }
        other => {
            bail!(Unsupported, "attributes of kind {other} (a list of tensors, graphs or types)")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(name: &str, i: i64) -> AttributeProto {
        AttributeProto { name: name.into(), i: Some(i), r#type: kind::INT, ..Default::default() }
    }

    fn node(op: &str, attribute: Vec<AttributeProto>) -> NodeProto {
        NodeProto { op_type: op.into(), attribute, ..Default::default() }
    }

    #[test]
    fn element_type_numbers_become_element_types() {
        let n = node("Cast", vec![int("to", 16)]);
        let got = convert(&n, None, &ExternalFiles::default()).unwrap();
        assert!(matches!(got.plain.get("to"), Some(Attr::DType(deepseek_tensor::DType::BF16))));
        let n = node("Cast", vec![int("to", 1 << 40)]);
        assert!(convert(&n, None, &ExternalFiles::default()).is_err());
        let n = node("X", vec![int("to", 16), int("output_dtype", 0)]);
        let got = convert(&n, None, &ExternalFiles::default()).unwrap();
        assert!(matches!(got.plain.get("to"), Some(Attr::Int(16))));
        assert!(got.plain.get("output_dtype").is_none());
    }

    #[test]
    fn references_take_the_callers_value_or_vanish() {
        let reference = |to: &str| AttributeProto {
            name: "axis".into(),
            ref_attr_name: to.into(),
            r#type: kind::INT,
            ..Default::default()
        };
        let bound = Bound::from([("a".to_owned(), int("a", 3))]);
        let files = ExternalFiles::default();
        let n = node("X", vec![reference("a")]);
        assert!(matches!(
            convert(&n, Some(&bound), &files).unwrap().plain.get("axis"),
            Some(Attr::Int(3))
        ));
        assert!(convert(&n, None, &files).is_err());
        let n = node("X", vec![reference("b")]);
        assert!(convert(&n, Some(&bound), &files).unwrap().plain.get("axis").is_none());
        let n = node("X", vec![int("a", 1), int("a", 1)]);
        assert!(convert(&n, None, &files).is_err());
    }
}
