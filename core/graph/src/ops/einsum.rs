//! Einstein summation over any number of operands.
//!
//! The equation is parsed to labels: letters, and one label for each axis that an ellipsis stands
//! for, aligned at the right. An operand first loses its repeated labels (the diagonal is taken),
//! its broadcast axes (extent 1 where another operand has more) and labels that nothing else
//! mentions (they are summed). Then operands are joined from the left: a join is one batched
//! matrix product, with the labels that are still needed in the batch and outer axes and the rest
//! summed away.

use super::matmul::product;
use super::util::{cast_from_f64, filled, to_f64};
use crate::{Dim, EvalArgs, Fact, InferArgs, Num, Operator, Value, for_dtype, op};
use deepseek_tensor::{Result, Tensor, bail, ensure, num_elements};
use std::collections::BTreeMap;

op! {
    /// `y[out] = Σ x₀[term₀] · x₁[term₁] · …`, the sum over all labels that `out` does not have,
    /// for an `equation` such as `"bij,bjk->bik"`. Repeated labels take the diagonal, `...` stands
    /// for axes that broadcast; without `->` the output has the axes of `...` and then every
    /// letter that occurs once, in alphabetical order, upper case first. Floats accumulate in
    /// double precision, integers wrap. (ONNX Einsum-28.)
    Einsum { equation: String = String::new() }
}

impl Operator for Einsum {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        let dtype = args.dtype(0)?;
        for i in 1..args.len() {
            args.expect_same_dtype(0, i)?;
        }
        let equation = Equation::parse(&self.equation, args.len())?;
        let shapes: Option<Vec<&[Dim]>> = (0..args.len()).map(|i| args.shape(i)).collect();
        let Some(shapes) = shapes else { return Ok(vec![Fact::unranked(dtype)]) };
        let ranks: Vec<usize> = shapes.iter().map(|s| s.len()).collect();
        let bound = equation.bind(&ranks)?;
        let mut extents: BTreeMap<Label, Dim> = BTreeMap::new();
        for (term, shape) in bound.terms.iter().zip(&shapes) {
            for (&label, dim) in term.iter().zip(*shape) {
                let joined = match extents.get(&label) {
                    None => dim.clone(),
                    Some(d) if d == dim => continue,
                    Some(d) => match (d.as_const(), dim.as_const()) {
                        (Some(1), _) => dim.clone(),
                        (_, Some(1)) => d.clone(),
                        (Some(a), Some(b)) => return Err(mismatch(label, a, b)),
                        _ => d.broadcast(dim),
                    },
                };
                extents.insert(label, joined);
            }
        }
        let out: Vec<Dim> = bound.output.iter().map(|l| extents[l].clone()).collect();
        Ok(vec![Fact::tensor(dtype, out)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let inputs = (0..args.len()).map(|i| args.tensor(i)).collect::<Result<Vec<_>>>()?;
        let equation = Equation::parse(&self.equation, inputs.len())?;
        let bound = equation.bind(&inputs.iter().map(|t| t.rank()).collect::<Vec<_>>())?;
        let dtype = args.tensor(0)?.dtype();
        ensure!(
            inputs.iter().all(|t| t.dtype() == dtype),
            DTypeMismatch,
            "operands must have one element type; insert a Cast"
        );
        let y = if dtype.is_float() {
            let data = inputs.iter().map(|t| to_f64(t)).collect::<Result<Vec<_>>>()?;
            let (shape, out) = contract(&bound, &inputs, data, |acc, p, q| acc + p * q)?;
            cast_from_f64(dtype, &shape, &out)?
        } else {
            for_dtype!(dtype, T in int => {
                let data = inputs.iter().map(|t| t.to_vec::<T>()).collect::<Result<Vec<_>>>()?;
                let (shape, out) = contract(&bound, &inputs, data, |acc, p, q| acc.add(p.mul(q)))?;
                Tensor::from_vec(&shape, out)?
            })
        };
        Ok(vec![y.into()])
    }
}

/// A letter, or an axis of the ellipsis counted from its right end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis(std::cmp::Reverse<usize>),
    Letter(char),
}

/// A term as written: letters and at most one ellipsis (`None`).
type Term = Vec<Option<char>>;

struct Equation {
    terms: Vec<Term>,
    output: Option<Term>,
}

/// An equation whose ellipses have a rank.
struct Bound {
    terms: Vec<Vec<Label>>,
    output: Vec<Label>,
}

impl Equation {
    fn parse(text: &str, operands: usize) -> Result<Self> {
        let text: String = text.chars().filter(|c| *c != ' ').collect();
        let (left, right) = match text.split_once("->") {
            Some((l, r)) => (l, Some(r)),
            None => (&text[..], None),
        };
        let term = |part: &str| -> Result<Term> {
            let mut out = Term::new();
            let mut rest = part;
            while let Some(c) = rest.chars().next() {
                if let Some(tail) = rest.strip_prefix("...") {
                    ensure!(
                        !out.contains(&None),
                        InvalidGraph,
                        "equation '{text}' has two ellipses in the term '{part}'"
                    );
                    out.push(None);
                    rest = tail;
                } else if c.is_ascii_alphabetic() {
                    out.push(Some(c));
                    rest = &rest[1..];
                } else {
                    bail!(InvalidGraph, "equation '{text}' has an unexpected '{c}'");
                }
            }
            Ok(out)
        };
        let terms = left.split(',').map(term).collect::<Result<Vec<_>>>()?;
        ensure!(
            terms.len() == operands,
            InvalidGraph,
            "equation '{text}' has {} terms for {operands} operands",
            terms.len()
        );
        let output = right.map(term).transpose()?;
        if let Some(output) = &output {
            for (i, label) in output.iter().enumerate() {
                let what = label.map_or("...".to_owned(), String::from);
                ensure!(
                    !output[..i].contains(label),
                    InvalidGraph,
                    "equation '{text}' repeats '{what}' in its output"
                );
                ensure!(
                    label.is_none() || terms.iter().any(|t| t.contains(label)),
                    InvalidGraph,
                    "equation '{text}' has '{what}' in its output but in no term"
                );
            }
        }
        Ok(Equation { terms, output })
    }

    /// Gives every ellipsis its rank. Ellipses of different rank broadcast.
    fn bind(&self, ranks: &[usize]) -> Result<Bound> {
        let mut widest = 0;
        let mut terms = Vec::with_capacity(self.terms.len());
        for (i, (term, &rank)) in self.terms.iter().zip(ranks).enumerate() {
            let letters = term.iter().flatten().count();
            let dots = term.contains(&None);
            ensure!(
                if dots { letters <= rank } else { letters == rank },
                ShapeMismatch,
                "operand {i} has rank {rank}, its term names {letters} axes"
            );
            let axes = if dots { rank - letters } else { 0 };
            widest = widest.max(axes);
            terms.push(expand(term, axes));
        }
        let output = match &self.output {
            Some(term) => expand(term, widest),
            None => {
                let mut count = BTreeMap::new();
                for c in self.terms.iter().flatten().flatten() {
                    *count.entry(*c).or_insert(0) += 1;
                }
                let once = count.into_iter().filter(|(_, n)| *n == 1).map(|(c, _)| Some(c));
                expand(&std::iter::once(None).chain(once).collect(), widest)
            }
        };
        Ok(Bound { terms, output })
    }
}

fn expand(term: &Term, axes: usize) -> Vec<Label> {
    let mut out = Vec::new();
    for label in term {
        match label {
            Some(c) => out.push(Label::Letter(*c)),
            None => out.extend((0..axes).rev().map(|i| Label::Ellipsis(std::cmp::Reverse(i)))),
        }
    }
    out
}

fn mismatch(label: Label, a: i64, b: i64) -> deepseek_tensor::Error {
    let label = match label {
        Label::Letter(c) => format!("label '{c}'"),
        Label::Ellipsis(i) => format!("axis {} from the right of the ellipsis", i.0),
    };
    deepseek_tensor::err!(ShapeMismatch, "{label} is {a} in one operand and {b} in another")
}

/// An intermediate result: row-major data with a label for each axis, all different.
struct Factor<T> {
    labels: Vec<Label>,
    shape: Vec<usize>,
    data: Vec<T>,
}

/// Shape and elements of the output.
fn contract<T: Num>(
    bound: &Bound,
    inputs: &[&Tensor],
    data: Vec<Vec<T>>,
    fma: impl Fn(T, T, T) -> T + Copy,
) -> Result<(Vec<usize>, Vec<T>)> {
    let mut extents: BTreeMap<Label, usize> = BTreeMap::new();
    for (term, t) in bound.terms.iter().zip(inputs) {
        for (&label, &n) in term.iter().zip(t.shape()) {
            match extents.get(&label) {
                Some(&m) if m != n && m != 1 && n != 1 => {
                    return Err(mismatch(label, m as i64, n as i64));
                }
                Some(&m) if m != 1 => {}
                _ => {
                    extents.insert(label, n);
                }
            }
        }
    }
    let mut factors = Vec::with_capacity(data.len());
    for ((term, t), data) in bound.terms.iter().zip(inputs).zip(data) {
        factors.push(canonical(term, t.shape(), data, &extents)?);
    }
    let mut factors = factors.into_iter();
    let Some(mut left) = factors.next() else {
        bail!(InvalidGraph, "an equation needs an operand");
    };
    while let Some(right) = factors.next() {
        let needed = |l: &Label| {
            bound.output.contains(l) || factors.as_slice().iter().any(|f| f.labels.contains(l))
        };
        left = join(left, right, needed, fma)?;
    }
    // A product with 1 sums the labels that the output lacks.
    let one = Factor { labels: vec![], shape: vec![], data: vec![T::ONE] };
    let result = join(left, one, |l| bound.output.contains(l), fma)?;
    let result = arrange(result, &bound.output)?;
    Ok((result.shape, result.data))
}

/// The operand without repeated and broadcast labels.
fn canonical<T: Num>(
    term: &[Label],
    shape: &[usize],
    data: Vec<T>,
    extents: &BTreeMap<Label, usize>,
) -> Result<Factor<T>> {
    let mut steps: Vec<(Label, usize, usize)> = Vec::new();
    let mut step = 1;
    for (&label, &n) in term.iter().zip(shape).rev() {
        let broadcast = n == 1 && extents[&label] != 1;
        if !broadcast {
            match steps.iter_mut().find(|(l, ..)| *l == label) {
                Some((_, _, s)) => *s += step,
                None => steps.push((label, n, step)),
            }
        }
        step = num_elements(&[step, n])?;
    }
    steps.reverse();
    let labels = steps.iter().map(|s| s.0).collect();
    let shape: Vec<usize> = steps.iter().map(|s| s.1).collect();
    let strides: Vec<usize> = steps.iter().map(|s| s.2).collect();
    Ok(Factor { labels, data: gather(&data, &shape, &strides)?, shape })
}

/// The factor with its axes in the order of `labels`, which are its own.
fn arrange<T: Num>(f: Factor<T>, labels: &[Label]) -> Result<Factor<T>> {
    if f.labels == labels {
        return Ok(f);
    }
    let at = |l: &Label| f.labels.iter().position(|m| m == l);
    let axes: Option<Vec<usize>> = labels.iter().map(at).collect();
    let Some(axes) = axes else {
        bail!(Internal, "a label of the output was summed away");
    };
    let shape: Vec<usize> = axes.iter().map(|&a| f.shape[a]).collect();
    let strides = axes.iter().map(|&a| num_elements(&f.shape[a + 1..]));
    let strides = strides.collect::<Result<Vec<_>>>()?;
    Ok(Factor { labels: labels.to_vec(), data: gather(&f.data, &shape, &strides)?, shape })
}

/// The elements at `Σ index · strides`, for all indices of `shape` in row-major order.
fn gather<T: Num>(data: &[T], shape: &[usize], strides: &[usize]) -> Result<Vec<T>> {
    let mut out = filled(num_elements(shape)?, T::ZERO)?;
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for o in &mut out {
        *o = data[at];
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    Ok(out)
}

/// The product of two factors, summed over the labels that are not `needed`.
fn join<T: Num>(
    a: Factor<T>,
    b: Factor<T>,
    needed: impl Fn(&Label) -> bool,
    fma: impl Fn(T, T, T) -> T + Copy,
) -> Result<Factor<T>> {
    let a = drop_lonely(a, |l| needed(l) || b.labels.contains(l), fma)?;
    let b = drop_lonely(b, |l| needed(l) || a.labels.contains(l), fma)?;
    let pick = |f: &Factor<T>, keep: &dyn Fn(&Label) -> bool| -> Vec<Label> {
        f.labels.iter().copied().filter(keep).collect()
    };
    let batch = pick(&a, &|l| b.labels.contains(l) && needed(l));
    let summed = pick(&a, &|l| b.labels.contains(l) && !needed(l));
    let rows = pick(&a, &|l| !b.labels.contains(l));
    let columns = pick(&b, &|l| !a.labels.contains(l));
    let a = arrange(a, &[&batch[..], &rows, &summed].concat())?;
    let b = arrange(b, &[&batch[..], &summed, &columns].concat())?;
    let (nb, nr, nk) = (batch.len(), rows.len(), summed.len());
    let sizes = [&a.shape[..nb], &a.shape[nb..nb + nr], &a.shape[nb + nr..], &b.shape[nb + nk..]];
    let [count, m, k, n] = sizes.map(num_elements);
    let shape = [&a.shape[..nb + nr], &b.shape[nb + nk..]].concat();
    let mut data = filled(num_elements(&shape)?, T::ZERO)?;
    product(&a.data, &b.data, &mut data, [count?, m?, k?, n?], fma);
    Ok(Factor { labels: [batch, rows, columns].concat(), shape, data })
}

/// The factor summed over the labels that are not to be kept.
fn drop_lonely<T: Num>(
    f: Factor<T>,
    keep: impl Fn(&Label) -> bool,
    fma: impl Fn(T, T, T) -> T,
) -> Result<Factor<T>> {
    let (kept, lonely): (Vec<Label>, Vec<Label>) = f.labels.iter().partition(|l| keep(l));
    if lonely.is_empty() {
        return Ok(f);
    }
    let f = arrange(f, &[&kept[..], &lonely].concat())?;
    let shape = f.shape[..kept.len()].to_vec();
    let k = num_elements(&f.shape[kept.len()..])?;
    let mut data = filled(num_elements(&shape)?, T::ZERO)?;
    for (i, o) in data.iter_mut().enumerate() {
        *o = f.data[i * k..][..k].iter().fold(T::ZERO, |acc, &x| fma(acc, x, T::ONE));
    }
    Ok(Factor { labels: kept, shape, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    fn run(equation: &str, inputs: &[Tensor]) -> Result<Tensor> {
        let inputs: Vec<_> = inputs.iter().map(|t| Some(t.clone().into())).collect();
        let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
        Einsum { equation: equation.to_owned() }.eval(&args)?[0].tensor().cloned()
    }

    fn iota(shape: &[usize]) -> Tensor {
        Tensor::from_vec(shape, (0..shape.iter().product::<usize>() as i32).collect()).unwrap()
    }

    #[test]
    fn every_form_of_equation() {
        struct Case(&'static str, &'static [&'static [usize]], &'static [usize], &'static [i32]);
        for Case(equation, shapes, shape, want) in [
            Case("ij->ji", &[&[2, 2]], &[2, 2], &[0, 2, 1, 3]),
            Case("ba", &[&[2, 2]], &[2, 2], &[0, 2, 1, 3]),
            Case("ii", &[&[3, 3]], &[], &[12]),
            Case("ii->i", &[&[3, 3]], &[3], &[0, 4, 8]),
            Case("->", &[&[]], &[], &[0]),
            Case("ij,jk", &[&[1, 2], &[2, 2]], &[1, 2], &[2, 3]),
            Case("i,j,k->kji", &[&[2], &[2], &[1]], &[1, 2, 2], &[0; 4]),
            Case("...i,i->...", &[&[2, 2], &[2]], &[2], &[1, 3]),
            Case("i...->...", &[&[2, 3]], &[3], &[3, 5, 7]),
            Case("a...,...", &[&[2, 2], &[1]], &[2, 2], &[0; 4]),
            Case("ij,ij->j", &[&[2, 2], &[1, 2]], &[2], &[0, 4]),
            Case("ij,kl->", &[&[0, 2], &[2, 2]], &[], &[0]),
        ] {
            let inputs: Vec<_> = shapes.iter().map(|s| iota(s)).collect();
            let got = run(equation, &inputs).unwrap();
            assert_eq!(got.shape(), shape, "{equation}");
            if got.len() > 4 || want.iter().any(|x| *x != 0) || equation == "->" {
                assert_eq!(got.to_vec::<i32>().unwrap(), want, "{equation}");
            }
        }
        let y = run("a...,...", &[iota(&[2, 2]), Tensor::from_slice(&[1], &[2]).unwrap()]).unwrap();
        assert_eq!((y.shape(), y.to_vec::<i32>().unwrap()), (&[2, 2][..], vec![0, 4, 2, 6]));
    }

    #[test]
    fn bad_equations_say_why() {
        for (equation, part) in [
            ("i,j", "2 terms for 1 operands"),
            ("i->j", "in no term"),
            ("i->ii", "repeats 'i'"),
            ("ijk", "names 3 axes"),
            ("i1", "unexpected '1'"),
            ("i..j", "unexpected '.'"),
        ] {
            let e = run(equation, &[iota(&[2, 3])]).unwrap_err();
            assert!(e.message().contains(part), "{equation}: {e}");
        }
        let e = run("ij,ik->jk", &[iota(&[2, 3]), iota(&[4, 3])]).unwrap_err();
        assert!(e.message().contains("'i' is 2 in one operand and 4"), "{e}");
    }
}
