//! Functions of elements that the fused operators apply without a node of their own.
//!
//! A [`Pointwise`] is an operator of this crate whose parameters are constants; its scalar
//! reference is that operator's. In text it is the operator's name and, in braces, its parameters:
//! `Relu`, `Clip{0.0, 6.0}`. Fused operators carry it as an attribute: as the activation of a
//! product, or in the steps of a [`Region`](super::Region).

use super::util::cast_from_f64;
use crate::{Attr, AttrValue, Attrs, EvalArgs, Graph, NoSubgraphs, Node, Operator, build_op};
use deepseek_tensor::{Result, Tensor, ensure, err};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A function of one or two elements with constant parameters.
#[derive(Clone, Copy, Debug)]
pub struct Pointwise {
    def: &'static Def,
    /// As many as the definition names, the rest 0.
    parameters: [f32; 2],
}

#[derive(Debug)]
struct Def {
    /// The operator's, but `GeluTanh` for the approximate form of `Gelu` and `SwishAlpha` for `Swish`
    /// with a factor other than one.
    name: &'static str,
    arity: usize,
    /// Attributes of the operator; the limits of `Clip` are inputs of its.
    parameters: &'static [&'static str],
}

macro_rules! defs {
    ($($name:ident($arity:literal $(, $parameter:ident)*);)*) => {
        /// In name order.
        static DEFS: &[Def] = &[$(Def {
            name: stringify!($name),
            arity: $arity,
            parameters: &[$(stringify!($parameter)),*],
        }),*];
    };
}

defs! {
    Abs(1);
    Add(2);
    Ceil(1);
    Clip(1, min, max);
    Cos(1);
    Div(2);
    Elu(1, alpha);
    Erf(1);
    Exp(1);
    Floor(1);
    Gelu(1);
    GeluTanh(1);
    HardSigmoid(1, alpha, beta);
    HardSwish(1);
    LeakyRelu(1, alpha);
    Log(1);
    Max(2);
    Min(2);
    Mish(1);
    Mul(2);
    Neg(1);
    Pow(2);
    Reciprocal(1);
    Relu(1);
    Round(1);
    Sigmoid(1);
    Sin(1);
    Softplus(1);
    Sqrt(1);
    Sub(2);
    SwiGLU(2);
    Swish(1);
    SwishAlpha(1, alpha);
    Tanh(1);
}

impl Pointwise {
    /// The function `name` (see [`Pointwise::name`]) with its parameters, none of them NaN.
    ///
    /// # Errors
    /// `InvalidGraph` if there is no such function or it takes other parameters.
    pub fn new(name: &str, parameters: &[f32]) -> Result<Self> {
        let at = DEFS.binary_search_by(|d| d.name.cmp(name));
        let def = &DEFS[at.map_err(|_| err!(InvalidGraph, "there is no function '{name}'"))?];
        ensure!(
            parameters.len() == def.parameters.len() && !parameters.iter().any(|p| p.is_nan()),
            InvalidGraph,
            "function {name} takes {} numbers as parameters, got {parameters:?}",
            def.parameters.len()
        );
        let mut all = [0.0; 2];
        all[..parameters.len()].copy_from_slice(parameters);
        Ok(Pointwise { def, parameters: all })
    }

    /// The function that `node` applies to its first [`Pointwise::arity`] inputs, if it is one and
    /// its parameters are constants of type `f32`.
    pub fn of(graph: &Graph, node: &Node) -> Option<Self> {
        let attrs = node.op.attrs();
        let number = |name: &str| match attrs.get(name) {
            Some(Attr::Float(x)) => Some(*x),
            _ => None,
        };
        let limit = |i: usize, open: f32| match node.inputs.get(i).copied().flatten() {
            None => Some(open),
            Some(id) => graph.fact(id).as_constant()?.item::<f32>().ok(),
        };
        if node.outputs.len() != 1 {
            return None;
        }
        let (name, parameters) = match node.op.name() {
            "Clip" => {
                let limits = [limit(1, f32::NEG_INFINITY)?, limit(2, f32::INFINITY)?];
                return Pointwise::new("Clip", &limits).ok();
            }
            "Gelu" => match attrs.get("approximate") {
                Some(Attr::Str(s)) if s == "tanh" => ("GeluTanh", vec![]),
                _ => ("Gelu", vec![]),
            },
            name @ ("Swish" | "SwiGLU") if number("alpha") == Some(1.0) => (name, vec![]),
            "Swish" => ("SwishAlpha", vec![number("alpha")?]),
            "SwiGLU" | "SwishAlpha" => return None,
            name => {
                let def = &DEFS[DEFS.binary_search_by(|d| d.name.cmp(name)).ok()?];
                let parameters = def.parameters.iter().map(|p| number(p));
                (def.name, parameters.collect::<Option<Vec<_>>>()?)
            }
        };
        let function = Pointwise::new(name, &parameters).ok()?;
        (node.inputs.len() == function.arity()).then_some(function)
    }

    /// The operator's name, or `GeluTanh` or `SwishAlpha`.
    pub fn name(&self) -> &'static str {
        self.def.name
    }

    /// How many elements it takes.
    pub fn arity(&self) -> usize {
        self.def.arity
    }

    /// The parameters, in the order of the text form.
    pub fn parameters(&self) -> &[f32] {
        &self.parameters[..self.def.parameters.len()]
    }

    /// The function of tensors of one float type, which broadcast.
    ///
    /// # Errors
    /// What the operator reports.
    pub fn eval(&self, args: &[Tensor]) -> Result<Tensor> {
        let mut inputs: Vec<_> = args.iter().map(|t| Some(t.clone().into())).collect();
        let mut attrs = Attrs::new();
        let mut name = self.name();
        match name {
            "Clip" => {
                let dtype = args[0].dtype();
                for &limit in self.parameters() {
                    inputs.push(Some(cast_from_f64(dtype, &[], &[f64::from(limit)])?.into()));
                }
            }
            "GeluTanh" => {
                name = "Gelu";
                attrs.set("approximate", "tanh".to_owned());
            }
            "SwishAlpha" => {
                name = "Swish";
                attrs.set("alpha", self.parameters()[0]);
            }
            _ => {
                for (name, &value) in self.def.parameters.iter().zip(self.parameters()) {
                    attrs.set(name, value);
                }
            }
        }
        let op: Arc<dyn Operator> = build_op(name, attrs)?;
        op.eval(&EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs })?[0].tensor().cloned()
    }
}

/// Parameters compare by bits.
impl PartialEq for Pointwise {
    fn eq(&self, other: &Self) -> bool {
        let bits = |p: &Pointwise| p.parameters.map(f32::to_bits);
        self.name() == other.name() && bits(self) == bits(other)
    }
}

impl fmt::Display for Pointwise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        for (i, p) in self.parameters().iter().enumerate() {
            write!(f, "{}{p:?}", if i == 0 { "{" } else { ", " })?;
        }
        f.write_str(if self.parameters().is_empty() { "" } else { "}" })
    }
}

impl FromStr for Pointwise {
    type Err = deepseek_tensor::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, parameters) = match text.split_once('{') {
            None => (text, vec![]),
            Some((name, rest)) => {
                let list = rest.strip_suffix('}').ok_or_else(|| {
                    err!(InvalidGraph, "the parameters of '{text}' have no closing brace")
                })?;
                let number = |p: &str| {
                    p.trim().parse::<f32>().map_err(|e| err!(InvalidGraph, "'{text}': {e}"))
                };
                (name, list.split(',').map(number).collect::<Result<Vec<_>>>()?)
            }
        };
        Pointwise::new(name, &parameters)
    }
}

impl AttrValue for Pointwise {
    const EXPECTED: &'static str = "a function such as 'Relu' or 'Clip{0.0, 6.0}'";
    fn into_attr(self) -> Option<Attr> {
        Some(Attr::Str(self.to_string()))
    }
    fn from_attr(attr: Attr) -> Option<Self> {
        match attr {
            Attr::Str(s) => s.parse().ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_has_a_text_and_an_operator() {
        assert!(DEFS.windows(2).all(|w| w[0].name < w[1].name), "the table is sorted");
        let x = Tensor::from_slice(&[3], &[0.25f32, 0.5, 2.0]).unwrap();
        for def in DEFS {
            let numbers = [0.125f32, f32::INFINITY];
            let f = Pointwise::new(def.name, &numbers[..def.parameters.len()]).unwrap();
            assert_eq!(f.to_string().parse::<Pointwise>().unwrap(), f);
            let y = f.eval(&vec![x.clone(); f.arity()]).unwrap();
            assert_eq!(y.shape(), x.shape(), "{f}");
        }
        for text in ["relu", "Relu{1.0}", "Clip{0.0}", "Clip{0.0, nan}", "Clip{0.0, 1.0", ""] {
            assert!(text.parse::<Pointwise>().is_err(), "{text}");
        }
    }
}
