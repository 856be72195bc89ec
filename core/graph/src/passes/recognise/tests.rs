//! One table of patterns: what a graph becomes, or why it stays. Every row also runs in the
//! interpreter before and after.
//!
//! To add a row: the body of a graph in text form over the inputs of `graph`, the operators that
//! are left, and a part of the diagnostic ("" if none is expected).

use crate::passes::{Diagnostics, Level, Pipeline};
use crate::{Graph, Value, interpret, text};
use deepseek_tensor::Tensor;
use std::collections::BTreeMap;

struct Case {
    what: &'static str,
    body: &'static str,
    /// Operators after the passes, in any order, Shape aside.
    ops: &'static [&'static str],
    says: &'static str,
}

const fn one(
    what: &'static str,
    body: &'static str,
    ops: &'static [&'static str],
    says: &'static str,
) -> Case {
    Case { what, body, ops, says }
}

/// Inputs and constants that the bodies share. `p` and `k` are queries and keys of 2 heads of 4.
fn graph(body: &str) -> Graph {
    let head = r#"graph "g" where b in 1.., s in 1.., t in 1.. {
  input %x: f32[b, s, 8]
  input %k: f32[b, t, 8]
  input %v: f32[b, t, 8]
  input %mask: bool[b, t]
  input %bias: f32[s, t]
  input %one: f32[1, s, 8]
  const %heads: i64[4] = [0, 0, 2, 4]
  const %hidden: i64[3] = [0, 0, 8]
  const %scale: f32[] = [0.5]
  const %root: f32[] = [0.70710677]
  const %two: f32[] = [2.0]
  const %three: f32[] = [3.0]
  const %half: f32[] = [0.5]
  const %unit: f32[] = [1.0]
  const %zero: f32[] = [0.0]
  const %low: f32[] = [-10000.0]
  const %least: f32[] = [-3.4028235e38]
  const %never: f32[] = [-inf]
  const %last: i64[1] = [-1]
  const %axis12: i64[2] = [1, 2]
  const %axis1: i64[1] = [1]
  const %axis2: i64[1] = [2]
  const %eps: f32[] = [1e-5]
  const %w: f32[8] = [0.5, 1.0, 1.5, 2.0, 0.5, 1.0, 1.5, 2.0]
  const %u: f32[8] = [0.1, 0.2, 0.3, 0.4, -0.1, -0.2, -0.3, -0.4]
"#;
    text::parse(&format!("{head}{body}\n}}"), &BTreeMap::new())
        .unwrap_or_else(|e| panic!("{e}\n{body}"))
}

/// Queries, keys and values set apart, and how attention ends.
const APART: &str = "
  %q1 = Reshape(%x, %heads) %q = Transpose(%q1) {perm = [0, 2, 1, 3]}
  %kr = Reshape(%k, %heads) %kt = Transpose(%kr) {perm = [0, 2, 3, 1]}
  %v1 = Reshape(%v, %heads) %vh = Transpose(%v1) {perm = [0, 2, 1, 3]}
";
const TOGETHER: &str = "
  %p = Softmax(%masked)
  %y0 = MatMul(%p, %vh)
  %y1 = Transpose(%y0) {perm = [0, 2, 1, 3]}
  %y = Reshape(%y1, %hidden)
  output \"y\" = %y
";

fn inputs(g: &Graph, [b, s, t]: [usize; 3]) -> Vec<Value> {
    let extent = |d: &crate::Dim| match (d.as_const(), d.as_symbol().map(|s| s.name().to_owned())) {
        (Some(n), _) => n as usize,
        (_, Some(name)) => match name.as_str() {
            "b" => b,
            "s" => s,
            _ => t,
        },
        _ => 1,
    };
    let mut at = 0u32;
    g.inputs()
        .iter()
        .map(|&v| {
            let fact = g.fact(v);
            let shape: Vec<usize> = fact.shape().unwrap().iter().map(extent).collect();
            let n = shape.iter().product();
            let mut next = || {
                at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (at >> 8) as f32 / (1u32 << 24) as f32
            };
            match fact.dtype().unwrap() {
                deepseek_tensor::DType::Bool => {
                    let row = *shape.last().unwrap();
                    let data: Vec<bool> = (0..n).map(|i| i % row == 0 || next() < 0.5).collect();
                    Tensor::from_vec(&shape, data).unwrap().into()
                }
                _ => {
                    let data: Vec<f32> = (0..n).map(|_| next() * 4.0 - 2.0).collect();
                    Tensor::from_vec(&shape, data).unwrap().into()
                }
            }
        })
        .collect()
}

fn check(cases: &[Case]) {
    let mut failures = Vec::new();
    for case in cases {
        let before = graph(case.body);
        let mut diagnostics = Diagnostics::new(Level::Missed);
        let outcome = Pipeline::recognition().run(&before, &mut diagnostics).unwrap();
        let after = outcome.graph;
        let mut ops: Vec<&str> = after.nodes().iter().map(|n| n.op.name()).collect();
        ops.retain(|op| *op != "Shape");
        ops.sort_unstable();
        let mut want = case.ops.to_vec();
        want.sort_unstable();
        let log: Vec<String> = diagnostics.entries().iter().map(|e| e.to_string()).collect();
        if ops != want {
            failures.push(format!("{}: {ops:?}\n{}", case.what, log.join("\n")));
        }
        if !log.iter().any(|l| l.contains(case.says)) && !case.says.is_empty() {
            failures.push(format!(
                "{}: nothing says '{}'\n{}",
                case.what,
                case.says,
                log.join("\n")
            ));
        }
        if !outcome.converged {
            failures.push(format!("{}: the passes never end", case.what));
        }
        for sizes in [[1, 1, 1], [2, 3, 3], [2, 3, 5], [1, 5, 2]] {
            let a = interpret::run(&before, inputs(&before, sizes));
            let b = interpret::run(&after, inputs(&before, sizes));
            match (a, b) {
                (Ok(a), Ok(b)) => {
                    for (a, b) in a.iter().zip(&b) {
                        let (a, b) = (a.tensor().unwrap(), b.tensor().unwrap());
                        if !near(a, b) {
                            failures
                                .push(format!("{} at {sizes:?}: {a:?} is now {b:?}", case.what));
                        }
                    }
                }
                // What does not fit stays an error, or becomes none.
                (Err(_), _) => {}
                (Ok(_), Err(e)) => failures.push(format!("{} at {sizes:?}: {e}", case.what)),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Each f32 node rounds by 2⁻²⁴; a pattern has at most 20 nodes and values are below 20:
/// 20 · 20 · 2⁻²⁴ ≈ 2.4e-5.
fn near(a: &Tensor, b: &Tensor) -> bool {
    let values = |t: &Tensor| crate::ops::util::to_f64(t).unwrap();
    a.shape() == b.shape()
        && values(a).iter().zip(values(b)).all(|(x, y)| (x - y).abs() <= 2.4e-5 || *x == y)
}

/// A case whose scores are masked by `body`, which defines `%masked`.
fn attention(
    what: &'static str,
    body: &str,
    ops: &'static [&'static str],
    says: &'static str,
) -> Case {
    let body = Box::leak(format!("{APART}{body}{TOGETHER}").into_boxed_str());
    Case { what, body, ops, says }
}

const FUSED: &[&str] = &["Attention"];

#[test]
fn attention_is_one_operator_however_it_is_scaled() {
    let form = "attention of 2 heads over 2 in the form [batch, seq, heads·dim]";
    check(&[
        attention("after", "%s0 = MatMul(%q, %kt) %masked = Mul(%s0, %scale)", FUSED, form),
        attention("divided", "%s0 = MatMul(%q, %kt) %masked = Div(%s0, %two)", FUSED, form),
        attention("before", "%qs = Mul(%q, %scale) %masked = MatMul(%qs, %kt)", FUSED, form),
        attention(
            "both",
            "%qs = Mul(%q, %root) %ks = Mul(%kt, %root) %masked = MatMul(%qs, %ks)",
            FUSED,
            form,
        ),
        attention(
            "capped",
            "%s0 = MatMul(%q, %kt) %s1 = Div(%s0, %two) %s2 = Tanh(%s1) %masked = Mul(%s2, %two)",
            FUSED,
            form,
        ),
        attention(
            "scaled by a vector",
            "const %from: i64[1] = [0] const %four: i64[1] = [4]
             %u4 = Slice(%u, %from, %four) %qs = Mul(%q, %u4) %masked = MatMul(%qs, %kt)",
            &["Reshape", "Mul", "Reshape", "Attention"],
            form,
        ),
    ]);
}

#[test]
fn masks_of_every_kind_go_along() {
    check(&[
        attention("added", "%s0 = MatMul(%q, %kt) %masked = Add(%bias, %s0)", FUSED, ", masked"),
        attention(
            "chosen",
            "%m4 = Unsqueeze(%mask, %axis12) %s0 = MatMul(%q, %kt)
             %masked = Where(%m4, %s0, %never)",
            &["Reshape", "Attention"],
            ", masked",
        ),
        attention(
            "chosen the other way",
            "%m4 = Unsqueeze(%mask, %axis12) %n = Not(%m4) %s0 = MatMul(%q, %kt)
             %masked = Where(%n, %never, %s0)",
            &["Unsqueeze", "Attention"],
            ", masked",
        ),
        attention(
            "replaced by the least number",
            "%m4 = Unsqueeze(%mask, %axis12) %s0 = MatMul(%q, %kt)
             %masked = Where(%m4, %s0, %least)",
            &["Reshape", "Where", "Attention"],
            ", masked",
        ),
        attention(
            "a choice that is added",
            "%m4 = Unsqueeze(%mask, %axis12) %a = Where(%m4, %zero, %never)
             %s0 = MatMul(%q, %kt) %masked = Add(%s0, %a)",
            &["Unsqueeze", "Attention"],
            ", masked",
        ),
        attention(
            "two masks",
            "%m4 = Unsqueeze(%mask, %axis12) %s0 = MatMul(%q, %kt) %s1 = Add(%s0, %bias)
             %masked = Where(%m4, %s1, %never)",
            &["Reshape", "Where", "Attention"],
            ", masked",
        ),
        attention(
            "ten thousand",
            "%m4 = Unsqueeze(%mask, %axis12) %s0 = MatMul(%q, %kt)
             %masked = Where(%m4, %s0, %low)",
            &[
                "Reshape",
                "Transpose",
                "Reshape",
                "Transpose",
                "Reshape",
                "Transpose",
                "Unsqueeze",
                "MatMul",
                "Where",
                "Softmax",
                "MatMul",
                "Transpose",
                "Reshape",
            ],
            "not fused: masked scores become -10000, which is not beyond all others",
        ),
    ]);
}

#[test]
fn causal_masks_become_an_attribute() {
    let triangle = "const %k1: i64[] = [1]
      %xs = Shape(%x) {start = 1, end = 2} %ks = Shape(%k) {start = 1, end = 2}
      %st = Concat(%xs, %ks) {axis = 0}
      %full = Expand(%never, %st) %tri = Trilu(%full, %k1) {upper = true}
      %s0 = MatMul(%q, %kt) %masked = Add(%s0, %tri)";
    let ranges = "const %n0: i64[] = [0] const %n1: i64[] = [1]
      %xs = Shape(%x) {start = 1, end = 2} %ks = Shape(%k) {start = 1, end = 2}
      %sn = Squeeze(%xs) %tn = Squeeze(%ks)
      %i = Range(%n0, %sn, %n1) %j = Range(%n0, %tn, %n1) %i1 = Unsqueeze(%i, %axis1)
      %keep = LessOrEqual(%j, %i1) %m4 = Unsqueeze(%mask, %axis12) %both = And(%keep, %m4)
      %s0 = MatMul(%q, %kt) %masked = Where(%both, %s0, %never)";
    check(&[
        attention("a triangle", triangle, FUSED, ", causal"),
        attention("ranges and padding", ranges, &["Unsqueeze", "Attention"], ", masked, causal"),
    ]);
}

#[test]
fn what_is_not_attention_says_why() {
    const PLAIN: &[&str] = &[
        "Reshape",
        "Transpose",
        "Reshape",
        "Transpose",
        "Reshape",
        "Transpose",
        "MatMul",
        "Softmax",
        "MatMul",
        "Transpose",
        "Reshape",
    ];
    let with = |text: &'static str| {
        let body = format!("{APART}%masked = MatMul(%q, %kt){TOGETHER}{text}");
        &*Box::leak(body.into_boxed_str())
    };
    check(&[
        Case {
            what: "probabilities are an output",
            body: with("output \"p\" = %p"),
            ops: PLAIN,
            says: "not fused: the probabilities are read elsewhere",
        },
        Case {
            what: "queries of one batch",
            body: "
              %q1 = Reshape(%one, %heads) %q = Transpose(%q1) {perm = [0, 2, 1, 3]}
              %k1 = Reshape(%k, %heads) %kt = Transpose(%k1) {perm = [0, 2, 3, 1]}
              %v1 = Reshape(%v, %heads) %vh = Transpose(%v1) {perm = [0, 2, 1, 3]}
              %s = MatMul(%q, %kt) %p = Softmax(%s) %y0 = MatMul(%p, %vh)
              %y1 = Transpose(%y0) {perm = [0, 2, 1, 3]} %y = Reshape(%y1, %hidden)
              output \"y\" = %y",
            ops: PLAIN,
            says: "not fused: the batches of q and k 1 and b are not proven equal",
        },
        attention(
            "a mask for all keys at once",
            "%m = Cast(%mask) {to = f32} %r = ReduceMean(%m, %last)
             %m4 = Unsqueeze(%r, %axis12) %s0 = MatMul(%q, %kt) %masked = Add(%s0, %m4)",
            &[
                "Reshape",
                "Transpose",
                "Reshape",
                "Transpose",
                "Reshape",
                "Transpose",
                "Cast",
                "ReduceMean",
                "Unsqueeze",
                "MatMul",
                "Add",
                "Softmax",
                "MatMul",
                "Transpose",
                "Reshape",
            ],
            "is not proven to reach all t keys",
        ),
        attention(
            "a scale behind the mask",
            "%s0 = MatMul(%q, %kt) %s1 = Add(%s0, %bias) %masked = Mul(%s1, %scale)",
            &[
                "Reshape",
                "Transpose",
                "Reshape",
                "Transpose",
                "Reshape",
                "Transpose",
                "MatMul",
                "Add",
                "Mul",
                "Softmax",
                "MatMul",
                "Transpose",
                "Reshape",
            ],
            "not fused: a scale follows the mask",
        ),
    ]);
}

#[test]
fn other_forms_of_heads() {
    check(&[
        Case {
            what: "batch and heads merged",
            body: "
              const %mh: i64[4] = [-1, 2, 3, 4]
              %q0 = Reshape(%x, %heads) %q1 = Transpose(%q0) {perm = [0, 2, 1, 3]}
              %xs = Shape(%x) {start = 1, end = 2} %ks = Shape(%k) {start = 1, end = 2}
              const %minus: i64[1] = [-1] const %four: i64[1] = [4]
              %qs = Concat(%minus, %xs, %four) {axis = 0} %kk = Concat(%minus, %ks, %four) {axis = 0}
              %q = Reshape(%q1, %qs)
              %k0 = Reshape(%k, %heads) %k1 = Transpose(%k0) {perm = [0, 2, 1, 3]}
              %k2 = Reshape(%k1, %kk) %kt = Transpose(%k2) {perm = [0, 2, 1]}
              %v0 = Reshape(%v, %heads) %v1 = Transpose(%v0) {perm = [0, 2, 1, 3]}
              %vh = Reshape(%v1, %kk)
              %s0 = MatMul(%q, %kt) %s1 = Mul(%s0, %scale) %p = Softmax(%s1)
              %nan = IsNaN(%p) %safe = Where(%nan, %zero, %p)
              %y0 = MatMul(%safe, %vh)
              %bs = Shape(%x) {start = 0, end = 1} const %h: i64[1] = [2]
              %ys = Concat(%bs, %h, %xs, %four) {axis = 0}
              %y1 = Reshape(%y0, %ys) %y2 = Transpose(%y1) {perm = [0, 2, 1, 3]}
              %y = Reshape(%y2, %hidden)
              output \"y\" = %y",
            ops: FUSED,
            says: "in the form [batch, seq, heads·dim]",
        },
        Case {
            what: "one head, no heads apart",
            body: "
              %kt = Transpose(%k) {perm = [0, 2, 1]} %s = MatMul(%x, %kt) %p = Softmax(%s)
              %y = MatMul(%p, %v) output \"y\" = %y",
            ops: FUSED,
            says: "attention of 1 heads",
        },
        Case {
            what: "an operator between transposes",
            body: "
              %q1 = Reshape(%x, %heads) %q = Transpose(%q1) {perm = [0, 2, 1, 3]}
              %k1 = Reshape(%k, %heads) %kh = Transpose(%k1) {perm = [0, 2, 1, 3]}
              %v1 = Reshape(%v, %heads) %vh = Transpose(%v1) {perm = [0, 2, 1, 3]}
              %m4 = Unsqueeze(%mask, %axis12)
              %y0 = Attention(%q, %kh, %vh, %m4) {scale = 0.25}
              %y1 = Transpose(%y0) {perm = [0, 2, 1, 3]} %y = Reshape(%y1, %hidden)
              output \"y\" = %y",
            ops: &["Unsqueeze", "Attention"],
            says: "in the form [batch, seq, heads·dim]",
        },
        Case {
            what: "keys for groups of heads",
            body: "
              const %deep: i64[5] = [0, 0, 1, 2, 4] const %wide: i64[5] = [1, 1, 2, 1, 1]
              const %four: i64[4] = [0, 0, 4, 4] const %h4: i64[4] = [0, 4, -1, 4]
              const %w2: i64[3] = [0, 0, 16]
              %xx = Concat(%x, %x) {axis = 2} %q1 = Reshape(%xx, %four)
              %q = Transpose(%q1) {perm = [0, 2, 1, 3]}
              %k1 = Reshape(%k, %heads) %k2 = Transpose(%k1) {perm = [0, 2, 1, 3]}
              %k3 = Unsqueeze(%k2, %axis2) %k4 = Expand(%k3, %wide) %k5 = Reshape(%k4, %h4)
              %kt = Transpose(%k5) {perm = [0, 1, 3, 2]}
              %v1 = Reshape(%v, %heads) %v2 = Transpose(%v1) {perm = [0, 2, 1, 3]}
              %v3 = Unsqueeze(%v2, %axis2) %v4 = Expand(%v3, %wide) %vh = Reshape(%v4, %h4)
              %s = MatMul(%q, %kt) %p = Softmax(%s) %y0 = MatMul(%p, %vh)
              %y1 = Transpose(%y0) {perm = [0, 2, 1, 3]} %y = Reshape(%y1, %w2)
              output \"y\" = %y",
            ops: &["Concat", "Attention"],
            says: "attention of 4 heads over 2",
        },
    ]);
}

#[test]
fn activations_in_every_order() {
    check(&[
        one(
            "gelu of a product",
            "%a = Mul(%x, %w) const %r2: f32[] = [1.4142135] %d = Div(%a, %r2) %e = Erf(%d)
             %f = Add(%e, %unit) %g = Mul(%a, %f) %y = Mul(%g, %half) output \"y\" = %y",
            &["Mul", "Gelu"],
            "activation: y: Gelu",
        ),
        one(
            "an erf of something else",
            "const %r2: f32[] = [1.5] %d = Div(%x, %r2) %e = Erf(%d)
             %f = Add(%e, %unit) %g = Mul(%x, %f) %y = Mul(%g, %half) output \"y\" = %y",
            &["Div", "Erf", "Add", "Mul", "Mul"],
            "not a Gelu: its erf is of",
        ),
        one(
            "not half",
            "%d = Mul(%x, %root) %e = Erf(%d) %f = Add(%unit, %e) %g = Mul(%x, %f)
             %y = Mul(%g, %two) output \"y\" = %y",
            &["Mul", "Erf", "Add", "Mul", "Mul"],
            "not an activation: the product has the factor 2",
        ),
        one(
            "quick",
            "const %a: f32[] = [1.702] %d = Mul(%x, %a) %e = Sigmoid(%d) %y = Mul(%x, %e)
             output \"y\" = %y",
            &["Swish"],
            "Swish",
        ),
        one(
            "gated",
            "%e = Sigmoid(%k) %s = Mul(%k, %e) %y = Mul(%v, %s) output \"y\" = %y",
            &["SwiGLU"],
            "SwiGLU",
        ),
        one(
            "gated, but the gate is read",
            "%e = Sigmoid(%k) %s = Mul(%k, %e) %y = Mul(%v, %s) output \"y\" = %y output \"s\" = %s",
            &["Swish", "Mul"],
            "Swish",
        ),
        one(
            "hard",
            "const %six: f32[] = [6.0] %a = Add(%x, %three) %c = Clip(%a, %zero, %six)
             %m = Mul(%x, %c) %y = Div(%m, %six) output \"y\" = %y",
            &["HardSwish"],
            "HardSwish",
        ),
    ]);
}

#[test]
fn norms_in_every_order() {
    check(&[
        one(
            "layer",
            "%m = ReduceMean(%x, %last) %d = Sub(%x, %m) %q = Mul(%d, %d)
             %n = ReduceMean(%q, %last) %e = Add(%n, %eps) %r = Sqrt(%e) %i = Div(%d, %r)
             %s = Mul(%i, %w) %y = Add(%u, %s) output \"y\" = %y",
            &["LayerNormalization"],
            "LayerNormalization from axis 2",
        ),
        one(
            "rms, scaled inside",
            "%q = Pow(%x, %two) %n = ReduceMean(%q, %last) %e = Add(%eps, %n) %r = Sqrt(%e)
             %i = Reciprocal(%r) %s = Mul(%i, %w) %y = Mul(%s, %x) output \"y\" = %y",
            &["RMSNormalization"],
            "RMSNormalization from axis 2",
        ),
        one(
            "of another value",
            "%q = Pow(%k, %two) %n = ReduceMean(%q, %last) %e = Add(%eps, %n) %r = Sqrt(%e)
             %y = Div(%v, %r) output \"y\" = %y",
            &["Pow", "ReduceMean", "Add", "Sqrt", "Div"],
            "not a norm: what is divided is not what is squared",
        ),
        one(
            "over an axis of unknown extent",
            "%q = Mul(%bias, %bias) %n = ReduceMean(%q, %last) %e = Add(%eps, %n) %r = Sqrt(%e)
             %y = Div(%bias, %r) output \"y\" = %y",
            &["Mul", "ReduceMean", "Add", "Sqrt", "Div"],
            "are not numbers",
        ),
        one(
            "softmax",
            "%m = ReduceMax(%x, %axis1) %d = Sub(%x, %m) %e = Exp(%d) %t = ReduceSum(%e, %axis1)
             %y = Div(%e, %t) output \"y\" = %y",
            &["Softmax"],
            "Softmax of axis 1",
        ),
    ]);
}

#[test]
fn shapes_move_less() {
    check(&[
        one(
            "transposes compose",
            "%a = Transpose(%x) {perm = [1, 2, 0]} %b = Transpose(%a) {perm = [1, 2, 0]}
             %y = Transpose(%b) {perm = [1, 0, 2]} output \"y\" = %y",
            &["Transpose"],
            "layout: y: 3 steps from 'x' of weight 12 now weigh 4",
        ),
        one(
            "an axis of one element",
            "%a = Unsqueeze(%x, %axis1) %b = Transpose(%a) {perm = [0, 2, 1, 3]}
             %c = Relu(%b) output \"y\" = %c",
            &["Reshape", "Relu"],
            "layout: b: 2 steps from 'x' of weight 5 now weigh 1",
        ),
        one(
            "a shape that is computed",
            "const %tail: i64[2] = [2, 4] %lead = Shape(%x) {start = 0, end = 2}
             %to = Concat(%lead, %tail) {axis = 0} %r = Reshape(%x, %to) %y = Relu(%r)
             output \"y\" = %y",
            &["Reshape", "Relu"],
            "shapes: r: a plain shape",
        ),
        one(
            "a transpose undone after rows",
            "const %rows: i64[2] = [-1, 8] %a = Transpose(%x) {perm = [1, 0, 2]} %n = Shape(%a)
             %r = Reshape(%a, %rows) %q = Mul(%r, %w) %z = Relu(%q) %c = Reshape(%z, %n)
             %y = Transpose(%c) {perm = [1, 0, 2]} output \"y\" = %y",
            &["Reshape", "Mul", "Relu", "Concat", "Reshape"],
            "lift: y: 4 nodes before it",
        ),
        one(
            "a transpose that something else reads",
            "%a = Transpose(%x) {perm = [1, 0, 2]} %r = Mul(%a, %w) %q = Relu(%r)
             %y = Transpose(%q) {perm = [1, 0, 2]} output \"y\" = %y output \"r\" = %r",
            &["Transpose", "Mul", "Relu", "Transpose"],
            "",
        ),
        one(
            "a mask looked up by every index",
            "const %n0: i64[] = [0] const %n1: i64[] = [1] const %flat: i64[1] = [-1]
             const %axes: i64[3] = [1, 2, 3]
             %bs = Shape(%mask) {start = 0, end = 1} %ts = Shape(%mask) {start = 1, end = 2}
             %bn = Squeeze(%bs) %tn = Squeeze(%ts)
             %i = Range(%n0, %bn, %n1) %j = Range(%n0, %tn, %n1) %i4 = Unsqueeze(%i, %axes)
             %far = Mul(%i4, %tn) %at = Add(%j, %far) %f = Reshape(%mask, %flat)
             %g = Gather(%f, %at) {axis = 0} %y = Not(%g) output \"y\" = %y",
            &["Reshape", "Not"],
            "grid: g: a reshape",
        ),
    ]);
}
