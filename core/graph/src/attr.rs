//! Attributes: the named constants of an operator.
//!
//! An operator is a plain struct with typed fields. The [`op!`](crate::op) macro
//! declares the struct and derives from its field list the two conversions that
//! make it printable, parseable, importable and comparable: to an [`Attrs`] map
//! and back. Each field has a default; unknown names and wrong kinds are errors.

use crate::Graph;
use deepseek_tensor::{DType, Result, Tensor, bail, err};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One attribute value.
#[derive(Clone, Debug)]
pub enum Attr {
    /// A truth value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// A string.
    Str(String),
    /// An element type.
    DType(DType),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A list of floats.
    Floats(Vec<f32>),
    /// A list of strings.
    Strs(Vec<String>),
    /// A constant tensor.
    Tensor(Tensor),
    /// A subgraph.
    Graph(Arc<Graph>),
}

impl Attr {
    /// What kind of value this is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Attr::Bool(_) => "bool",
            Attr::Int(_) => "int",
            Attr::Float(_) => "float",
            Attr::Str(_) => "string",
            Attr::DType(_) => "element type",
            Attr::Ints(_) => "ints",
            Attr::Floats(_) => "floats",
            Attr::Strs(_) => "strings",
            Attr::Tensor(_) => "tensor",
            Attr::Graph(_) => "graph",
        }
    }

    /// Whether two attributes denote the same constant. Floats compare by bits;
    /// graphs by identity.
    pub fn same(&self, other: &Attr) -> bool {
        match (self, other) {
            (Attr::Bool(a), Attr::Bool(b)) => a == b,
            (Attr::Int(a), Attr::Int(b)) => a == b,
            (Attr::Float(a), Attr::Float(b)) => a.to_bits() == b.to_bits(),
            (Attr::Str(a), Attr::Str(b)) => a == b,
            (Attr::DType(a), Attr::DType(b)) => a == b,
            (Attr::Ints(a), Attr::Ints(b)) => a == b,
            (Attr::Floats(a), Attr::Floats(b)) => {
                a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()))
            }
            (Attr::Strs(a), Attr::Strs(b)) => a == b,
            (Attr::Tensor(a), Attr::Tensor(b)) => same_tensor(a, b),
            (Attr::Graph(a), Attr::Graph(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// Whether two tensors have the same element type, shape and bits.
pub fn same_tensor(a: &Tensor, b: &Tensor) -> bool {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return false;
    }
    if a.dtype() == DType::String {
        return matches!((a.as_strings(), b.as_strings()), (Ok(a), Ok(b)) if a == b);
    }
    match (a.to_contiguous(), b.to_contiguous()) {
        (Ok(a), Ok(b)) => matches!((a.as_bytes(), b.as_bytes()), (Ok(a), Ok(b)) if a == b),
        _ => false,
    }
}

/// Named attributes, in name order.
#[derive(Clone, Debug, Default)]
pub struct Attrs(BTreeMap<String, Attr>);

impl Attrs {
    /// No attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets an attribute; `None` values (see [`AttrValue`]) are left out.
    pub fn set(&mut self, name: &str, value: impl AttrValue) {
        if let Some(attr) = value.into_attr() {
            self.0.insert(name.to_owned(), attr);
        }
    }

    /// Sets an attribute, builder style.
    pub fn with(mut self, name: &str, value: impl AttrValue) -> Self {
        self.set(name, value);
        self
    }

    /// Inserts a ready-made attribute.
    pub fn insert(&mut self, name: impl Into<String>, attr: Attr) {
        self.0.insert(name.into(), attr);
    }

    /// The attribute `name`, if set.
    pub fn get(&self, name: &str) -> Option<&Attr> {
        self.0.get(name)
    }

    /// Removes and converts the attribute `name`, or gives the default.
    ///
    /// # Errors
    /// `InvalidGraph` if the attribute is there but of another kind.
    pub fn take<T: AttrValue>(&mut self, name: &str, default: impl FnOnce() -> T) -> Result<T> {
        match self.0.remove(name) {
            None => Ok(default()),
            Some(attr) => {
                let kind = attr.kind();
                T::from_attr(attr).ok_or_else(|| {
                    err!(
                        InvalidGraph,
                        "attribute '{name}' is of kind {kind}, expected {}",
                        T::EXPECTED
                    )
                })
            }
        }
    }

    /// Fails if attributes are left over.
    ///
    /// # Errors
    /// `Unsupported` naming the first unknown attribute.
    pub fn finish(self, op: &str) -> Result<()> {
        if let Some((name, _)) = self.0.first_key_value() {
            bail!(Unsupported, "operator {op} has no attribute '{name}'");
        }
        Ok(())
    }

    /// The attributes in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Attr)> {
        self.0.iter().map(|(n, a)| (n.as_str(), a))
    }

    /// Whether both maps hold the same constants under the same names.
    pub fn same(&self, other: &Attrs) -> bool {
        self.0.len() == other.0.len()
            && self.iter().zip(other.iter()).all(|((n, a), (m, b))| n == m && a.same(b))
    }
}

/// A Rust type that an operator's field may have.
pub trait AttrValue: Sized {
    /// What [`AttrValue::from_attr`] accepts, for messages.
    const EXPECTED: &'static str;
    /// The attribute, or `None` where the field is absent.
    fn into_attr(self) -> Option<Attr>;
    /// The value, or `None` if the attribute is of another kind.
    fn from_attr(attr: Attr) -> Option<Self>;
}

macro_rules! attr_values {
    ($($ty:ty, $variant:ident, $expected:literal);* $(;)?) => {$(
        impl AttrValue for $ty {
            const EXPECTED: &'static str = $expected;
            fn into_attr(self) -> Option<Attr> {
                Some(Attr::$variant(self))
            }
            fn from_attr(attr: Attr) -> Option<Self> {
                match attr {
                    Attr::$variant(v) => Some(v),
                    _ => None,
                }
            }
        }
    )*};
}

attr_values! {
    i64, Int, "int";
    f32, Float, "float";
    String, Str, "string";
    DType, DType, "element type";
    Vec<f32>, Floats, "floats";
    Tensor, Tensor, "tensor";
    Arc<Graph>, Graph, "graph";
}

impl AttrValue for bool {
    const EXPECTED: &'static str = "bool or int 0/1";
    fn into_attr(self) -> Option<Attr> {
        Some(Attr::Bool(self))
    }
    fn from_attr(attr: Attr) -> Option<Self> {
        match attr {
            Attr::Bool(b) => Some(b),
            Attr::Int(i) => Some(i != 0),
            _ => None,
        }
    }
}

/// An empty list has no element kind, so either list type accepts it.
impl AttrValue for Vec<i64> {
    const EXPECTED: &'static str = "ints";
    fn into_attr(self) -> Option<Attr> {
        Some(Attr::Ints(self))
    }
    fn from_attr(attr: Attr) -> Option<Self> {
        match attr {
            Attr::Ints(v) => Some(v),
            Attr::Floats(v) if v.is_empty() => Some(Vec::new()),
            _ => None,
        }
    }
}

impl AttrValue for Vec<String> {
    const EXPECTED: &'static str = "strings";
    fn into_attr(self) -> Option<Attr> {
        Some(Attr::Strs(self))
    }
    fn from_attr(attr: Attr) -> Option<Self> {
        match attr {
            Attr::Strs(v) => Some(v),
            Attr::Ints(v) if v.is_empty() => Some(Vec::new()),
            _ => None,
        }
    }
}

impl<T: AttrValue> AttrValue for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn into_attr(self) -> Option<Attr> {
        self.and_then(T::into_attr)
    }
    fn from_attr(attr: Attr) -> Option<Self> {
        T::from_attr(attr).map(Some)
    }
}

/// Declares an enum whose variants travel as strings:
/// `attr_enum! { /// doc … Mode { Linear = "linear", Cubic = "cubic" } }`.
#[macro_export]
macro_rules! attr_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$vdoc])* #[doc = concat!("Spelled `", $text, "`.")] $variant),*
        }
        impl $crate::AttrValue for $name {
            const EXPECTED: &'static str = concat!("one of", $(" '", $text, "'"),*);
            fn into_attr(self) -> Option<$crate::Attr> {
                let text = match self { $($name::$variant => $text),* };
                Some($crate::Attr::Str(text.to_owned()))
            }
            fn from_attr(attr: $crate::Attr) -> Option<Self> {
                match attr {
                    $crate::Attr::Str(s) => match s.as_str() {
                        $($text => Some($name::$variant),)*
                        _ => None,
                    },
                    _ => None,
                }
            }
        }
    };
}

/// Declares an operator: its struct, its defaults and its attribute conversions.
///
/// ```
/// use deepseek_graph::{op, Fact, EvalArgs, InferArgs, Operator, Value};
/// use deepseek_tensor::Result;
///
/// op! {
///     /// Returns its input.
///     Echo { times: i64 = 1 }
/// }
/// impl Operator for Echo {
///     fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
///         Ok(vec![args.fact(0)?.clone()])
///     }
///     fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
///         Ok(vec![args.value(0)?.clone()])
///     }
/// }
/// ```
#[macro_export]
macro_rules! op {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$fdoc:meta])* $field:ident : $ty:ty = $default:expr),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name {
            $($(#[$fdoc])* #[doc = concat!("Attribute `", stringify!($field), "`.")] pub $field: $ty),*
        }
        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default),* }
            }
        }
        impl $crate::OpInfo for $name {
            fn name(&self) -> &'static str {
                stringify!($name)
            }
            fn attrs(&self) -> $crate::Attrs {
                $crate::Attrs::new()$(.with(stringify!($field), self.$field.clone()))*
            }
            fn as_any(&self) -> &dyn std::any::Any {
                self
            }
        }
        impl $crate::FromAttrs for $name {
            const NAME: &'static str = stringify!($name);
            fn from_attrs(attrs: $crate::Attrs) -> deepseek_tensor::Result<Self> {
                let left = &mut attrs.clone();
                let op = $name { $($field: left.take(stringify!($field), || $default)?),* };
                std::mem::take(left).finish(stringify!($name))?;
                Ok(op)
            }
        }
    };
}
