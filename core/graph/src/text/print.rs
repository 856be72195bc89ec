//! Printing.

use super::{INLINE_ELEMENTS, is_plain};
use crate::{Attr, Dim, Graph, Node, Type, ValueId};
use deepseek_tensor::{DType, Tensor};
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};

/// The text form of `graph`.
pub fn print(graph: &Graph) -> String {
    Printer::run(graph).out
}

/// The constants that [`print()`] refers to by name, at every nesting. A constant of `graph`
/// itself has its own name; one of a subgraph has a path through its node.
pub fn large_constants(graph: &Graph) -> BTreeMap<String, Tensor> {
    Printer::run(graph).constants
}

#[derive(Default)]
struct Printer {
    out: String,
    constants: BTreeMap<String, Tensor>,
    indent: usize,
}

impl Printer {
    fn run(graph: &Graph) -> Self {
        let mut printer = Printer::default();
        // Names of the outermost constants are taken before any path through a node.
        for (id, tensor) in graph.constants() {
            if tensor.len() > INLINE_ELEMENTS {
                printer.constants.insert(graph.value(*id).name.clone(), tensor.clone());
            }
        }
        printer.graph(graph, None);
        printer.out.push('\n');
        printer
    }

    /// Writes formatted text; a string accepts any.
    fn put(&mut self, text: impl Display) {
        let _ = write!(self.out, "{text}");
    }

    fn line(&mut self) {
        self.out.push('\n');
        (0..self.indent).for_each(|_| self.out.push_str("  "));
    }

    /// `path` leads to a subgraph; `None` is the outermost graph.
    fn graph(&mut self, graph: &Graph, path: Option<&str>) {
        self.put(format_args!("graph {}", Quoted(&graph.name)));
        for (i, (symbol, min, max)) in graph.bounds().iter().enumerate() {
            self.put(format_args!("{} {symbol} in {min}..", if i == 0 { " where" } else { "," }));
            if let Some(max) = max {
                self.put(max);
            }
        }
        self.out.push_str(" {");
        self.indent += 1;
        for &id in graph.inputs() {
            self.line();
            self.put("input ");
            self.typed(graph, id);
        }
        for (&id, tensor) in graph.constants() {
            self.line();
            self.put("const ");
            self.typed(graph, id);
            self.put(" = ");
            let name = &graph.value(id).name;
            match path {
                None if tensor.len() > INLINE_ELEMENTS => self.put(format_args!("@{}", Name(name))),
                None => self.elements(tensor, name),
                Some(path) => self.elements(tensor, &format!("{path}/{name}")),
            }
        }
        for node in graph.nodes() {
            self.line();
            self.node(graph, node, path);
        }
        for (name, id) in graph.outputs() {
            self.line();
            let value = Name(&graph.value(*id).name);
            self.put(format_args!("output {} = %{value}", Quoted(name)));
        }
        self.indent -= 1;
        self.line();
        self.out.push('}');
    }

    fn typed(&mut self, graph: &Graph, id: ValueId) {
        let def = graph.value(id);
        self.put(format_args!("%{}: {}", Name(&def.name), TypeText(&def.fact.ty)));
    }

    fn node(&mut self, graph: &Graph, node: &Node, path: Option<&str>) {
        for (i, output) in node.outputs.iter().enumerate() {
            self.put(if i > 0 { ", " } else { "" });
            match output {
                Some(id) => self.typed(graph, *id),
                None => self.put("_"),
            }
        }
        self.put(if node.outputs.is_empty() { "() = " } else { " = " });
        self.put(node.op.name());
        self.put("(");
        for (i, input) in node.inputs.iter().enumerate() {
            self.put(if i > 0 { ", " } else { "" });
            match input {
                Some(id) => self.put(format_args!("%{}", Name(&graph.value(*id).name))),
                None => self.put("_"),
            }
        }
        self.put(")");
        let attrs = node.op.attrs();
        let mut open = " {";
        for (name, attr) in attrs.iter() {
            self.put(format_args!("{open}{name} = "));
            open = ", ";
            let path = match path {
                Some(path) => format!("{path}/{}/{name}", node.name),
                None => format!("{}/{name}", node.name),
            };
            self.attr(attr, &path);
        }
        if open == ", " {
            self.put("}");
        }
        self.put(format_args!(" {}", Quoted(&node.name)));
    }

    fn attr(&mut self, attr: &Attr, path: &str) {
        match attr {
            Attr::Bool(b) => self.put(b),
            Attr::Int(i) => self.put(i),
            Attr::Float(x) => self.put(FloatText(*x)),
            Attr::Str(s) => self.put(Quoted(s)),
            Attr::DType(d) => self.put(d),
            Attr::Ints(v) => self.list(v.iter()),
            Attr::Floats(v) if v.is_empty() => self.put("floats()"),
            Attr::Floats(v) => self.list(v.iter().map(|x| FloatText(*x))),
            Attr::Strs(v) => self.list(v.iter().map(|s| Quoted(s))),
            Attr::Tensor(t) => {
                let shape: Vec<Dim> = t.shape().iter().map(|&d| Dim::from(d)).collect();
                self.put(format_args!("tensor({}, ", TypeText(&Type::tensor(t.dtype(), shape))));
                self.elements(t, path);
                self.put(")");
            }
            Attr::Graph(g) => self.graph(g, Some(path)),
        }
    }

    fn list(&mut self, items: impl Iterator<Item = impl Display>) {
        self.put("[");
        for (i, item) in items.enumerate() {
            self.put(if i > 0 { ", " } else { "" });
            self.put(item);
        }
        self.put("]");
    }

    /// The elements, or a name for them if they are many or cannot be read.
    fn elements(&mut self, tensor: &Tensor, name: &str) {
        if tensor.len() <= INLINE_ELEMENTS
            && let Ok(items) = element_texts(tensor)
        {
            return self.list(items.iter());
        }
        let mut key = name.to_owned();
        for i in 1u64.. {
            if !self.constants.contains_key(&key) {
                break;
            }
            key = format!("{name}_{i}");
        }
        self.put(format_args!("@{}", Name(&key)));
        self.constants.insert(key, tensor.clone());
    }
}

/// The text of one attribute.
#[cfg(test)]
pub(super) fn attr_text(attr: &Attr) -> String {
    let mut printer = Printer::default();
    printer.attr(attr, "");
    printer.out
}

/// Each element as the parser reads it.
fn element_texts(t: &Tensor) -> deepseek_tensor::Result<Vec<String>> {
    fn all<T>(items: impl Iterator<Item = T>, f: impl Fn(T) -> String) -> Vec<String> {
        items.map(f).collect()
    }
    Ok(match t.dtype() {
        DType::String => all(t.as_strings()?.into_iter(), |s| Quoted(s).to_string()),
        DType::Bool => all(t.iter::<bool>()?, |x| x.to_string()),
        DType::F32 => all(t.iter::<f32>()?, |x| FloatText(x).to_string()),
        DType::F64 => all(t.iter::<f64>()?, |x| match x {
            x if !x.is_nan() => format!("{x:?}"),
            x if x.to_bits() == f64::NAN.to_bits() => "nan".to_owned(),
            x => format!("nan({:#x})", x.to_bits()),
        }),
        DType::F16 => all(t.iter::<f16>()?, |x| short(x.to_f32(), x.to_bits(), f16::NAN.to_bits())),
        DType::BF16 => {
            all(t.iter::<bf16>()?, |x| short(x.to_f32(), x.to_bits(), bf16::NAN.to_bits()))
        }
        d if d.is_packed() && d.is_float() => {
            all(t.unpack()?.iter::<u8>()?, |x| format!("{x:#04x}"))
        }
        d if d.is_float8() => all(t.bitcast(DType::U8)?.iter::<u8>()?, |x| format!("{x:#04x}")),
        DType::U64 => all(t.iter::<u64>()?, |x| x.to_string()),
        _ => crate::ops::util::to_i64(t)?.iter().map(i64::to_string).collect(),
    })
}

/// A 16-bit float through its exact 32-bit value.
fn short(x: f32, bits: u16, nan: u16) -> String {
    match x.is_nan() {
        false => format!("{x:?}"),
        true if bits == nan => "nan".to_owned(),
        true => format!("nan({bits:#x})"),
    }
}

/// A float that parses back to the same bits, and never looks like an integer.
struct FloatText(f32);

impl Display for FloatText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            x if !x.is_nan() => write!(f, "{x:?}"),
            x if x.to_bits() == f32::NAN.to_bits() => f.write_str("nan"),
            x => write!(f, "nan({:#x})", x.to_bits()),
        }
    }
}

/// A name, quoted where it is not plain.
struct Name<'a>(&'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && self.0.chars().all(is_plain) {
            f.write_str(self.0)
        } else {
            Quoted(self.0).fmt(f)
        }
    }
}

/// A string in double quotes.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\u{{{:x}}}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// A type, extents that have no value as `!`.
struct TypeText<'a>(&'a Type);

impl Display for TypeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Type::Tensor(dtype, None) => write!(f, "{dtype}[...]"),
            Type::Tensor(dtype, Some(shape)) => {
                write!(f, "{dtype}[")?;
                for (i, d) in shape.iter().enumerate() {
                    f.write_str(if i > 0 { ", " } else { "" })?;
                    match d.poison() {
                        Some(_) => f.write_str("!")?,
                        None => d.fmt(f)?,
                    }
                }
                f.write_str("]")
            }
            Type::Sequence(t) => write!(f, "seq({})", TypeText(t)),
            Type::Optional(t) => write!(f, "optional({})", TypeText(t)),
        }
    }
}
