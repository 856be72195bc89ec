//! A writer of protobuf messages, so that tests can say what no encoder would.

/// A message under construction.
#[derive(Clone, Default)]
pub struct Msg(pub Vec<u8>);

pub fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

impl Msg {
    pub fn new() -> Self {
        Msg::default()
    }

    /// An integer field.
    pub fn int(mut self, tag: u64, n: i64) -> Self {
        varint(tag << 3, &mut self.0);
        varint(n as u64, &mut self.0);
        self
    }

    /// Bytes, text or a message.
    pub fn bytes(mut self, tag: u64, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        varint(tag << 3 | 2, &mut self.0);
        varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Several fields of one tag.
    pub fn all<T: AsRef<[u8]>>(self, tag: u64, items: impl IntoIterator<Item = T>) -> Self {
        items.into_iter().fold(self, |m, item| m.bytes(tag, item))
    }
}

impl AsRef<[u8]> for Msg {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

// Field numbers below are those of onnx.proto3.

pub fn model(graph: Msg) -> Msg {
    model_with(graph, 17, [])
}

pub fn model_with(graph: Msg, opset: i64, functions: impl IntoIterator<Item = Msg>) -> Msg {
    let opset = Msg::new().bytes(1, "").int(2, opset);
    let local = Msg::new().bytes(1, "local").int(2, 1);
    Msg::new().int(1, 8).bytes(8, opset).bytes(8, local).bytes(7, graph).all(25, functions)
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Msg {
    Msg::new().all(1, inputs).all(2, outputs).bytes(4, op)
}

/// `elem` as ONNX numbers it; an extent of `None` is unknown.
pub fn value(name: &str, elem: i64, dims: &[Option<i64>]) -> Msg {
    let dim = |d: &Option<i64>| d.map_or(Msg::new(), |n| Msg::new().int(1, n));
    let shape = Msg::new().all(1, dims.iter().map(dim));
    let ty = Msg::new().bytes(1, Msg::new().int(1, elem).bytes(2, shape));
    Msg::new().bytes(1, name).bytes(2, ty)
}

pub fn tensor(name: &str, elem: i64, dims: &[i64], raw: &[u8]) -> Msg {
    let t = Msg::new().int(2, elem).bytes(8, name).bytes(9, raw);
    dims.iter().fold(t, |t, d| t.int(1, *d))
}

pub fn f32s(name: &str, dims: &[i64], v: &[f32]) -> Msg {
    tensor(name, 1, dims, &v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
}

pub fn i64s(name: &str, v: &[i64]) -> Msg {
    let raw: Vec<u8> = v.iter().flat_map(|x| x.to_le_bytes()).collect();
    tensor(name, 7, &[v.len() as i64], &raw)
}

pub fn attr_int(name: &str, i: i64) -> Msg {
    Msg::new().bytes(1, name).int(3, i).int(20, 2)
}

pub fn attr_ints(name: &str, v: &[i64]) -> Msg {
    v.iter().fold(Msg::new().bytes(1, name).int(20, 7), |m, i| m.int(8, *i))
}

pub fn attr_tensor(name: &str, t: Msg) -> Msg {
    Msg::new().bytes(1, name).bytes(5, t).int(20, 4)
}

pub fn attr_graph(name: &str, g: Msg) -> Msg {
    Msg::new().bytes(1, name).bytes(6, g).int(20, 5)
}

pub fn graph(
    nodes: impl IntoIterator<Item = Msg>,
    initializers: impl IntoIterator<Item = Msg>,
    inputs: impl IntoIterator<Item = Msg>,
    outputs: impl IntoIterator<Item = Msg>,
) -> Msg {
    Msg::new().all(1, nodes).bytes(2, "g").all(5, initializers).all(11, inputs).all(12, outputs)
}

/// A function of domain `local` with one input `x` and one output `y`.
pub fn function(name: &str, nodes: impl IntoIterator<Item = Msg>) -> Msg {
    let opset = Msg::new().bytes(1, "").int(2, 17);
    let local = Msg::new().bytes(1, "local").int(2, 1);
    Msg::new()
        .bytes(1, name)
        .bytes(4, "x")
        .bytes(5, "y")
        .all(7, nodes)
        .bytes(9, opset)
        .bytes(9, local)
        .bytes(10, "local")
}

/// A call of a function.
pub fn call(name: &str, input: &str, output: &str) -> Msg {
    node(name, &[input], &[output]).bytes(7, "local")
}
