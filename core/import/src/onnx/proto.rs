//! The messages of the ONNX file format, declared by hand.
//!
//! Only the fields that the importer reads are declared; a decoder skips the rest
//! without allocating. Field numbers are facts of the format (`onnx.proto3`).
//! `raw_data` is a [`Bytes`]: decoded from a mapped file it is a window of the
//! mapping, not a copy.
//!
//! A message of two bytes on disk takes some hundred in memory, so a hostile file
//! could ask for a hundred times its size. [`decode`] therefore first walks the
//! wire format, without allocating, and counts messages against [`MAX_MESSAGES`].
//! Nesting is limited to 100 levels by the decoder.

use bytes::Bytes;
use deepseek_tensor::{Result, ensure, err};
use prost::Message;

/// Most messages (nodes, attributes, tensors, types, …) a file may hold.
pub const MAX_MESSAGES: usize = 4_000_000;

/// Deepest nesting of messages that the budget check follows; the decoder's own limit.
const MAX_DEPTH: usize = 100;

/// A model file.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the format itself.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// Program that wrote the file.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// The main graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets the nodes refer to.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Functions that nodes may call like operators.
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<FunctionProto>,
}

/// An operator set: domain and version.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Domain; empty is `ai.onnx`.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// A graph or a subgraph.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    /// Nodes, in topological order by convention.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Constants.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// Inputs.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// Outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// Types of inner values.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
    /// Constants stored as coordinates and values.
    #[prost(message, repeated, tag = "15")]
    pub sparse_initializer: Vec<SparseTensorProto>,
}

/// A node.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// Names of values read; empty where an optional input is absent.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of values written; empty where an optional output is not wanted.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Name, possibly empty.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Operator or function.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// Domain of the operator.
    #[prost(string, tag = "7")]
    pub domain: String,
    /// Which of several functions of one name.
    #[prost(string, tag = "8")]
    pub overload: String,
}

/// A function: a graph whose values are local and whose nodes may refer to its attributes.
#[derive(Clone, PartialEq, Message)]
pub struct FunctionProto {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Names of the formal inputs.
    #[prost(string, repeated, tag = "4")]
    pub input: Vec<String>,
    /// Names of the formal outputs.
    #[prost(string, repeated, tag = "5")]
    pub output: Vec<String>,
    /// Attributes without a default.
    #[prost(string, repeated, tag = "6")]
    pub attribute: Vec<String>,
    /// The body.
    #[prost(message, repeated, tag = "7")]
    pub node: Vec<NodeProto>,
    /// Operator sets of the body.
    #[prost(message, repeated, tag = "9")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Domain.
    #[prost(string, tag = "10")]
    pub domain: String,
    /// Attributes with a default.
    #[prost(message, repeated, tag = "11")]
    pub attribute_proto: Vec<AttributeProto>,
    /// Distinguishes functions of one name.
    #[prost(string, tag = "13")]
    pub overload: String,
}

/// A named attribute.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Float.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// Integer.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// String, not necessarily UTF-8.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub s: Option<Bytes>,
    /// Tensor.
    #[prost(message, optional, boxed, tag = "5")]
    pub t: Option<Box<TensorProto>>,
    /// Subgraph.
    #[prost(message, optional, boxed, tag = "6")]
    pub g: Option<Box<GraphProto>>,
    /// Floats.
    #[prost(float, repeated, tag = "7")]
    pub floats: Vec<f32>,
    /// Integers.
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    /// Strings.
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub strings: Vec<Bytes>,
    /// Tensors.
    #[prost(message, repeated, tag = "10")]
    pub tensors: Vec<TensorProto>,
    /// Subgraphs.
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<GraphProto>,
    /// Type.
    #[prost(message, optional, boxed, tag = "14")]
    pub tp: Option<Box<TypeProto>>,
    /// Which field is meant; see [`attribute_type`].
    #[prost(int32, tag = "20")]
    pub r#type: i32,
    /// Inside a function: the name of the function's attribute that this one takes its value from.
    #[prost(string, tag = "21")]
    pub ref_attr_name: String,
    /// Sparse tensor.
    #[prost(message, optional, boxed, tag = "22")]
    pub sparse_tensor: Option<Box<SparseTensorProto>>,
}

/// Numbers of [`AttributeProto::type`].
pub mod attribute_type {
    pub const UNDEFINED: i32 = 0;
    pub const FLOAT: i32 = 1;
    pub const INT: i32 = 2;
    pub const STRING: i32 = 3;
    pub const TENSOR: i32 = 4;
    pub const GRAPH: i32 = 5;
    pub const FLOATS: i32 = 6;
    pub const INTS: i32 = 7;
    pub const STRINGS: i32 = 8;
    pub const SPARSE_TENSOR: i32 = 11;
    pub const TYPE_PROTO: i32 = 13;
}

/// A tensor.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Extents.
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    /// Element type, numbered as in `TensorProto.DataType`.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Position in a tensor stored in parts (no writer is known to use it).
    #[prost(message, optional, tag = "3")]
    pub segment: Option<SegmentProto>,
    /// Elements of float and complex tensors.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// Elements of 8-, 16- and 32-bit integers, bools and narrow floats, one each; of 4-
    /// and 2-bit types one byte each.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    /// Strings.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub string_data: Vec<Bytes>,
    /// Elements of 64-bit integers.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// Name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Elements in little-endian order.
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub raw_data: Option<Bytes>,
    /// Elements of double tensors.
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// Elements of `u32` and `u64` tensors.
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    /// Where the elements lie, if `data_location` is 1.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// 0: in this message; 1: in another file.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

/// Part of a tensor.
#[derive(Clone, PartialEq, Message)]
pub struct SegmentProto {}

/// A tensor as coordinates and values.
#[derive(Clone, PartialEq, Message)]
pub struct SparseTensorProto {
    /// The values, `[count]`; its name is the tensor's.
    #[prost(message, optional, tag = "1")]
    pub values: Option<TensorProto>,
    /// Positions: `[count]` linear or `[count, rank]`.
    #[prost(message, optional, tag = "2")]
    pub indices: Option<TensorProto>,
    /// Extents of the dense tensor.
    #[prost(int64, repeated, tag = "3")]
    pub dims: Vec<i64>,
}

/// A key and its value.
#[derive(Clone, PartialEq, Message)]
pub struct StringStringEntryProto {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A value's name and type.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

/// A type: one of the fields is set.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    /// A tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
    /// A sequence.
    #[prost(message, optional, boxed, tag = "4")]
    pub sequence_type: Option<Box<ElementTypeProto>>,
    /// A map.
    #[prost(message, optional, tag = "5")]
    pub map_type: Option<OtherTypeProto>,
    /// An opaque type.
    #[prost(message, optional, tag = "7")]
    pub opaque_type: Option<OtherTypeProto>,
    /// A sparse tensor.
    #[prost(message, optional, tag = "8")]
    pub sparse_tensor_type: Option<TensorTypeProto>,
    /// An optional.
    #[prost(message, optional, boxed, tag = "9")]
    pub optional_type: Option<Box<ElementTypeProto>>,
}

/// A tensor's type.
#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    /// Element type, numbered as in `TensorProto.DataType`.
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Extents; absent where the rank is unknown.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// The type inside a sequence or an optional.
#[derive(Clone, PartialEq, Message)]
pub struct ElementTypeProto {
    /// The type.
    #[prost(message, optional, boxed, tag = "1")]
    pub elem_type: Option<Box<TypeProto>>,
}

/// A type that is known to exist and not read.
#[derive(Clone, PartialEq, Message)]
pub struct OtherTypeProto {}

/// A shape.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// Extents.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// An extent: a number, a name or unknown.
#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    /// Number.
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
    /// Name.
    #[prost(string, optional, tag = "2")]
    pub dim_param: Option<String>,
}

/// A stored sequence (test data, not part of a model).
#[derive(Clone, PartialEq, Message)]
pub struct SequenceProto {
    /// Kind of the elements: 1 tensor, 3 sequence, 5 optional.
    #[prost(int32, tag = "2")]
    pub elem_type: i32,
    /// Tensors.
    #[prost(message, repeated, tag = "3")]
    pub tensor_values: Vec<TensorProto>,
    /// Sequences.
    #[prost(message, repeated, tag = "5")]
    pub sequence_values: Vec<SequenceProto>,
    /// Optionals.
    #[prost(message, repeated, tag = "7")]
    pub optional_values: Vec<OptionalProto>,
}

/// A stored optional (test data, not part of a model).
#[derive(Clone, PartialEq, Message)]
pub struct OptionalProto {
    /// Kind of the content: 0 nothing, 1 tensor, 3 sequence, 5 optional.
    #[prost(int32, tag = "2")]
    pub elem_type: i32,
    /// Tensor.
    #[prost(message, optional, boxed, tag = "3")]
    pub tensor_value: Option<Box<TensorProto>>,
    /// Sequence.
    #[prost(message, optional, boxed, tag = "5")]
    pub sequence_value: Option<Box<SequenceProto>>,
    /// Optional.
    #[prost(message, optional, boxed, tag = "7")]
    pub optional_value: Option<Box<OptionalProto>>,
}

/// Decodes a message after checking its budget.
///
/// # Errors
/// `InvalidFile` if the bytes are not such a message, nest too deeply or hold too
/// many messages.
pub fn decode<M: Message + Default>(bytes: Bytes, kind: Kind) -> Result<M> {
    let mut messages = 0;
    count(&bytes, kind, 0, &mut messages)?;
    M::decode(bytes).map_err(|e| err!(InvalidFile, "not a valid ONNX file: {e}"))
}

/// The messages that the budget check tells apart: those with messages inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`ModelProto`].
    Model,
    /// [`GraphProto`].
    Graph,
    /// [`NodeProto`].
    Node,
    /// [`FunctionProto`].
    Function,
    /// [`AttributeProto`].
    Attribute,
    /// [`TensorProto`].
    Tensor,
    /// [`SparseTensorProto`].
    Sparse,
    /// [`ValueInfoProto`], [`TypeProto`] and what is inside.
    Type,
    /// [`SequenceProto`] and [`OptionalProto`].
    Value,
    /// Messages without further messages.
    Leaf,
}

impl Kind {
    /// The message in field `tag` of a message of this kind, if it is one we declare.
    fn field(self, tag: u64) -> Option<Kind> {
        Some(match (self, tag) {
            (Kind::Model, 7) => Kind::Graph,
            (Kind::Model, 25) => Kind::Function,
            (Kind::Graph, 1) | (Kind::Function, 7) => Kind::Node,
            (Kind::Graph, 5) => Kind::Tensor,
            (Kind::Graph, 11..=13) => Kind::Type,
            (Kind::Graph, 15) => Kind::Sparse,
            (Kind::Node, 5) | (Kind::Function, 11) => Kind::Attribute,
            (Kind::Attribute, 5 | 10) => Kind::Tensor,
            (Kind::Attribute, 6 | 11) => Kind::Graph,
            (Kind::Attribute, 14) => Kind::Type,
            (Kind::Attribute, 22) => Kind::Sparse,
            (Kind::Sparse, 1 | 2) => Kind::Tensor,
            // Value info, type, tensor type, shape and dimension share low field numbers;
            // text there may be counted as if it were a message, which errs on the safe side.
            (Kind::Type, 1 | 2 | 4 | 9) => Kind::Type,
            (Kind::Value, 3) => Kind::Tensor,
            (Kind::Value, 5 | 7) => Kind::Value,
            (Kind::Model, 8) | (Kind::Function, 9) | (Kind::Tensor, 13) => Kind::Leaf,
            _ => return None,
        })
    }
}

/// Walks the wire format and counts messages. Malformed input ends the walk; the
/// decoder reports it.
fn count(mut bytes: &[u8], kind: Kind, depth: usize, messages: &mut usize) -> Result<()> {
    *messages += 1;
    ensure!(
        *messages <= MAX_MESSAGES,
        InvalidFile,
        "the file holds more than {MAX_MESSAGES} messages"
    );
    if kind == Kind::Leaf || depth > MAX_DEPTH {
        return Ok(());
    }
    while !bytes.is_empty() {
        let Some(key) = varint(&mut bytes) else { return Ok(()) };
        let skip = match key & 7 {
            0 => {
                if varint(&mut bytes).is_none() {
                    return Ok(());
                }
                continue;
            }
            1 => 8,
            5 => 4,
            2 => match varint(&mut bytes) {
                Some(n) => n,
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        let Some((inner, rest)) =
            usize::try_from(skip).ok().and_then(|n| bytes.split_at_checked(n))
        else {
            return Ok(());
        };
        if key & 7 == 2
            && let Some(field) = kind.field(key >> 3)
        {
            count(inner, field, depth + 1, messages)?;
        }
        bytes = rest;
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_data_is_a_window_of_the_input() {
        let model = ModelProto {
            graph: Some(GraphProto {
                initializer: vec![TensorProto {
                    raw_data: Some(Bytes::from_static(&[7; 64])),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let bytes = Bytes::from(model.encode_to_vec());
        let back: ModelProto = decode(bytes.clone(), Kind::Model).unwrap();
        assert_eq!(back, model);
        let raw = back.graph.unwrap().initializer[0].raw_data.clone().unwrap();
        assert!(bytes.as_ptr_range().contains(&raw.as_ptr()));
    }

    #[test]
    fn message_bombs_are_refused_before_decoding() {
        // A graph (field 7) of empty nodes (field 1): two bytes each on the wire.
        let nodes = vec![[0x0a, 0x00]; MAX_MESSAGES].concat();
        let mut file = vec![0x3a];
        prost::encoding::encode_varint(nodes.len() as u64, &mut file);
        file.extend(nodes);
        let e = decode::<ModelProto>(Bytes::from(file), Kind::Model).unwrap_err();
        assert!(e.message().contains("messages"), "{e}");
    }
}
