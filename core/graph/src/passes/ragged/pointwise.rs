//! Operators that work element by element, with broadcasting.

use super::class::{Axes, Class, Cover, Even, Lead, Places, Step, Stop, refuse};
use super::packer::Packer;
use super::span::Span;
use crate::{Dim, Node, ValueId};
use deepseek_tensor::DType;

/// Operators each element of whose results is made of the elements at its place.
#[rustfmt::skip]
static POINTWISE: &[&str] = &[
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift",
    "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu",
    "Clip", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu",
    "Pow", "Reciprocal", "Region", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
    "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "SwiGLU", "Swish", "Tan", "Tanh",
    "ThresholdedRelu", "Where", "Xor",
];

pub(super) fn is_pointwise(op: &str) -> bool {
    POINTWISE.binary_search(&op).is_ok()
}

impl Packer<'_> {
    /// The rule of pointwise operators.
    pub(super) fn pointwise(
        &mut self,
        node: &Node,
        classes: &[Option<Class>],
    ) -> Step<Vec<Option<Class>>> {
        if node.op.name() == "CastLike" {
            // Only the element type of the second input is read.
            return self.cast_like(node, classes);
        }
        let Some(first) = node.outputs.iter().flatten().next() else { refuse!("nothing reads it") };
        let out = self.shape(*first)?.to_vec();
        let mut operands = Vec::with_capacity(classes.len());
        for (id, class) in node.inputs.iter().zip(classes) {
            if let (Some(id), Some(class)) = (id, class) {
                operands.push(Operand::new(self, *id, class, out.len())?);
            }
        }
        let present = node.inputs.iter().all(Option::is_some);
        let is = |f: fn(&Class) -> bool| operands.iter().any(|o| f(&o.class));
        if is(|c| matches!(c, Class::Extents)) {
            refuse!("it computes with extents, which differ from sequence to sequence");
        }
        let places_axes = operands.iter().any(|o| matches!(&o.class, Class::Places(_)));
        if is(|c| matches!(c, Class::Lead(_))) {
            return self.pointwise_lead(node, &operands, &out, present);
        }
        if is(|c| matches!(c, Class::Cover(_))) {
            return self.pointwise_cover(node, &operands, &out, present);
        }
        debug_assert!(places_axes, "values that are all whole are cloned");
        let places = self.pointwise_places(node, &operands, &out)?;
        Ok(places.into_iter().map(|p| p.map(Class::Places)).collect())
    }

    /// Extents of the one output of a node.
    pub(super) fn output_shape(&self, node: &Node) -> Step<Vec<Dim>> {
        match node.outputs[..] {
            [Some(id)] => Ok(self.shape(id)?.to_vec()),
            _ => refuse!("it has {} outputs, expected one", node.outputs.len()),
        }
    }

    fn cast_like(&mut self, node: &Node, classes: &[Option<Class>]) -> Step<Vec<Option<Class>>> {
        let to = self.old.fact(self.input(node, 1)?).dtype()?;
        let cast = Node {
            op: std::sync::Arc::new(crate::ops::Cast { to, ..Default::default() }),
            inputs: node.inputs[..1].to_vec(),
            ..node.clone()
        };
        match &classes[0] {
            Some(Class::Whole(v)) => {
                let value = self.emit_one(&cast, cast.op.clone(), &[*v])?;
                self.remember_span(&cast, &[self.span(*v)], &[Some(value)]);
                Ok(vec![Some(Class::Whole(value))])
            }
            _ => self.pointwise(&cast, &classes[..1]),
        }
    }

    /// Some operand has packed rows.
    fn pointwise_lead(
        &mut self,
        node: &Node,
        operands: &[Operand],
        out: &[Dim],
        present: bool,
    ) -> Step<Vec<Option<Class>>> {
        let axes = joint_axes(operands)?;
        let mut spans = Vec::with_capacity(operands.len());
        let mut masks: Vec<ValueId> = Vec::new();
        let mut covered = None;
        for o in operands {
            spans.push(match &o.class {
                Class::Whole(v) => self.span(*v),
                Class::Places(p) => self.span(p.value),
                Class::Cover(c) => c.zero,
                Class::Lead(l) => l.pad,
                Class::Extents | Class::Opaque(_) => Span::UNKNOWN,
            });
            match &o.class {
                Class::Cover(c) => {
                    covered = covered.or(c.masks.first().copied());
                    masks.extend(&c.masks);
                }
                Class::Lead(l) => masks.extend(&l.masks),
                _ => {}
            }
        }
        masks.sort_unstable();
        masks.dedup();
        let pads = if masks.is_empty() || !present {
            vec![Span::UNKNOWN; node.outputs.len()]
        } else {
            Span::pointwise(&*node.op, &spans, &self.dtypes(node)?)
        };
        if let Some(input) = covered
            && pads.iter().any(|pad| pad.as_point().is_none())
        {
            let why = "gives different rows, none of them neutral, where it is 0".to_owned();
            return Err(Stop::Data { input, why });
        }
        let values = match self.without_mask(node, operands, out) {
            Some(value) => vec![Some(value)],
            None => {
                let mut inputs = Vec::with_capacity(node.inputs.len());
                let mut next = operands.iter();
                for id in &node.inputs {
                    inputs.push(match id {
                        Some(_) => {
                            let operand = next.next().expect("one operand for each present input");
                            Some(self.spread(operand, axes, out.len())?)
                        }
                        None => None,
                    });
                }
                self.emit(node, node.op.clone(), &inputs)?
            }
        };
        let class = |(value, &pad): (Option<ValueId>, &Span)| {
            value.map(|value| Class::Lead(Lead { axes, value, pad, masks: masks.clone() }))
        };
        Ok(values.into_iter().zip(&pads).map(class).collect())
    }

    fn dtypes(&self, node: &Node) -> Step<Vec<DType>> {
        Ok(node
            .inputs
            .iter()
            .flatten()
            .map(|id| self.old.fact(*id).dtype())
            .collect::<Result<_, _>>()?)
    }

    /// The operand that `x · mask` or `mask ? x : c` is where the mask is 1.
    fn without_mask(&self, node: &Node, operands: &[Operand], out: &[Dim]) -> Option<ValueId> {
        let one = |o: &Operand| match &o.class {
            Class::Cover(Cover { one: Even::Whole(v), .. }) => {
                self.span(*v).as_point() == Some(1.0)
            }
            _ => false,
        };
        let whole_rows = |o: &Operand| match &o.class {
            Class::Lead(l) if *self.shape(o.id).ok()? == *out => Some(l.value),
            _ => None,
        };
        match (node.op.name(), operands) {
            ("Mul", [x, m]) if one(m) => whole_rows(x),
            ("Mul", [m, x]) if one(m) => whole_rows(x),
            ("Where", [m, x, _]) if one(m) => whole_rows(x),
            _ => None,
        }
    }

    /// Some operand is a cover, and none has packed rows.
    fn pointwise_cover(
        &mut self,
        node: &Node,
        operands: &[Operand],
        out: &[Dim],
        present: bool,
    ) -> Step<Vec<Option<Class>>> {
        let covers = operands.iter().filter_map(|o| match &o.class {
            Class::Cover(c) => Some((c.axes.map(|a| a + o.shift), &c.masks)),
            _ => None,
        });
        let covers: Vec<_> = covers.collect();
        // What no mask covers is the same everywhere along both axes.
        let masked = covers.iter().filter(|(_, m)| !m.is_empty());
        let axes = masked.clone().next().unwrap_or(&covers[0]).0;
        if let Some((other, _)) = masked.clone().find(|(a, _)| *a != axes) {
            refuse!("it combines masks along axes {axes:?} and {other:?}");
        }
        let mut masks: Vec<ValueId> = covers.iter().flat_map(|(_, m)| m.iter().copied()).collect();
        masks.sort_unstable();
        masks.dedup();
        let spans: Vec<Span> = operands
            .iter()
            .map(|o| match &o.class {
                Class::Whole(v) => self.span(*v),
                Class::Places(p) => self.span(p.value),
                Class::Cover(c) => c.zero,
                _ => Span::UNKNOWN,
            })
            .collect();
        let zeros = if present {
            Span::pointwise(&*node.op, &spans, &self.dtypes(node)?)
        } else {
            vec![Span::UNKNOWN; node.outputs.len()]
        };
        let ones: Vec<Operand> = operands.iter().map(Operand::where_one).collect();
        let made: Vec<Option<Even>> = if ones.iter().all(|o| matches!(o.class, Class::Whole(_))) {
            let mut inputs = Vec::new();
            let mut next = ones.iter();
            for id in &node.inputs {
                inputs.push(id.and_then(|_| next.next()).and_then(|o| match o.class {
                    Class::Whole(v) => Some(v),
                    _ => None,
                }));
            }
            let spans: Vec<Span> = inputs.iter().flatten().map(|&v| self.span(v)).collect();
            let made = self.emit(node, node.op.clone(), &inputs)?;
            self.remember_span(node, &spans, &made);
            let mut wide = Vec::with_capacity(made.len());
            for value in made {
                wide.push(match value {
                    Some(value) => Some(Even::Whole(self.full_rank(value, out.len())?)),
                    None => None,
                });
            }
            wide
        } else {
            let places = self.pointwise_places(node, &ones, out)?;
            places.into_iter().map(|p| p.map(Even::Places)).collect()
        };
        let class = |(one, &zero): (Option<Even>, &Span)| {
            one.map(|one| Class::Cover(Cover { axes, one, zero, masks: masks.clone() }))
        };
        Ok(made.into_iter().zip(&zeros).map(class).collect())
    }

    /// `value` with axes of extent 1 put before to have `rank` axes.
    fn full_rank(&mut self, value: ValueId, rank: usize) -> Step<ValueId> {
        let have = self.fact(value).rank().unwrap_or(rank);
        let axes: Vec<usize> = (0..rank.saturating_sub(have)).collect();
        let wide = self.unsqueeze(value, &axes)?;
        self.copy_span(value, wide);
        Ok(wide)
    }

    /// All operands are whole or of places; the result has the rank of `out`.
    fn pointwise_places(
        &mut self,
        node: &Node,
        operands: &[Operand],
        out: &[Dim],
    ) -> Step<Vec<Option<Places>>> {
        let mut axes: Vec<usize> = Vec::new();
        let mut inputs = Vec::with_capacity(node.inputs.len());
        let mut next = operands.iter();
        let mut spans = Vec::with_capacity(operands.len());
        for id in &node.inputs {
            let Some(o) = id.and_then(|_| next.next()) else {
                inputs.push(None);
                continue;
            };
            let value = match &o.class {
                Class::Whole(v) => *v,
                Class::Places(p) => {
                    axes.extend(p.axes.iter().map(|a| a + o.shift));
                    p.value
                }
                _ => refuse!("operands of places and of rows cannot be combined here"),
            };
            spans.push(self.span(value));
            inputs.push(Some(value));
        }
        axes.sort_unstable();
        axes.dedup();
        for o in operands {
            self.fits_places(o, &axes)?;
        }
        let made = self.emit(node, node.op.clone(), &inputs)?;
        self.remember_span(node, &spans, &made);
        let rows = match axes[..] {
            [seq] => self.places_rows(node, operands, seq, out.len())?,
            _ => vec![None; made.len()],
        };
        let mut places = Vec::with_capacity(made.len());
        for (value, rows) in made.into_iter().zip(rows) {
            places.push(match value {
                Some(value) => {
                    let value = self.full_rank(value, out.len())?;
                    Some(Places { axes: axes.clone(), value, rows })
                }
                None => None,
            });
        }
        Ok(places)
    }

    /// Fails where an operand without an axis of places has more than one element along it.
    fn fits_places(&self, o: &Operand, axes: &[usize]) -> Step<()> {
        let own: &[usize] = match &o.class {
            Class::Places(p) => &p.axes,
            _ => &[],
        };
        let value = match &o.class {
            Class::Whole(v) | Class::Places(Places { value: v, .. }) => *v,
            _ => return Ok(()),
        };
        let Some(shape) = self.fact(value).shape() else { refuse!("a rank is not known") };
        // Operands of lower rank repeat along the axes they lack.
        let lacking = o.shift + o.rank - shape.len();
        for &axis in axes {
            let Some(at) = axis.checked_sub(lacking) else { continue };
            let is_place = own.contains(&(axis.wrapping_sub(o.shift)));
            if !is_place && shape[at].as_const() != Some(1) {
                refuse!("it combines {} fixed places with those of a sequence", shape[at]);
            }
        }
        Ok(())
    }

    /// The rows of a pointwise result of places along one axis, if those of its operands are at
    /// hand.
    fn places_rows(
        &mut self,
        node: &Node,
        operands: &[Operand],
        seq: usize,
        rank: usize,
    ) -> Step<Vec<Option<ValueId>>> {
        let at_hand = |o: &Operand| match &o.class {
            Class::Places(p) => p.rows.is_some(),
            _ => true,
        };
        if !operands.iter().all(at_hand) {
            return Ok(vec![None; node.outputs.len()]);
        }
        let axes = Axes::new(None, Some(seq));
        let mut inputs = Vec::with_capacity(node.inputs.len());
        let mut next = operands.iter();
        for id in &node.inputs {
            inputs.push(match id.and_then(|_| next.next()) {
                Some(o) => Some(self.spread(o, axes, rank)?),
                None => None,
            });
        }
        self.emit(node, node.op.clone(), &inputs)
    }

    /// An operand in the form that broadcasts against packed rows of a value of rank `rank` whose
    /// batch and sequence axes are `axes`: `[tokens or 1, …]` with trailing axes aligned.
    fn spread(&mut self, o: &Operand, axes: Axes, rank: usize) -> Step<ValueId> {
        let features = axes.features(rank);
        match &o.class {
            Class::Whole(v) => {
                let Some(shape) = self.fact(*v).shape() else { refuse!("a rank is not known") };
                let lacking = rank - shape.len();
                let own: Vec<usize> = [axes.batch, axes.seq]
                    .into_iter()
                    .flatten()
                    .filter_map(|a| a.checked_sub(lacking))
                    .collect();
                if own.iter().any(|&a| shape[a].as_const() != Some(1)) {
                    refuse!("it combines fixed rows {shape:?} with those of a sequence");
                }
                let mut own = own;
                own.sort_unstable();
                own.dedup();
                self.squeeze(*v, &own)
            }
            Class::Lead(l) => {
                let value = if axes.seq.is_some() && l.axes.seq.is_none() {
                    self.tokens_of(l.value)?
                } else {
                    l.value
                };
                self.align(value, o, l.axes, axes, &features)
            }
            Class::Places(p) => {
                let value = self.rows_of(p)?;
                let own = Axes::new(None, p.axes.first().copied());
                self.align(value, o, own, axes, &features)
            }
            Class::Cover(c) => {
                let place = match &c.one {
                    Even::Whole(v) => Class::Whole(*v),
                    Even::Places(p) => Class::Places(p.clone()),
                };
                self.spread(&Operand { class: place, ..o.clone() }, axes, rank)
            }
            Class::Extents | Class::Opaque(_) => refuse!("it computes with extents"),
        }
    }

    /// Packed rows `value` of the operand `o`, whose own axes are `own`, made to broadcast against
    /// rows with the features `features` of a result with the axes `axes`.
    fn align(
        &mut self,
        value: ValueId,
        o: &Operand,
        own: Axes,
        axes: Axes,
        features: &[usize],
    ) -> Step<ValueId> {
        // Axes of the result that the operand has as features, though of extent 1.
        let drop: Vec<usize> = own
            .features(o.rank)
            .into_iter()
            .filter(|a| axes.contains(a + o.shift))
            .map(|a| own.packed(a))
            .collect();
        let value = self.squeeze(value, &drop)?;
        let missing = features.iter().filter(|&&f| f < o.shift).count();
        let fresh: Vec<usize> = (1..=missing).collect();
        self.unsqueeze(value, &fresh)
    }

    /// What `from` may hold, `to` may.
    pub(super) fn copy_span(&mut self, from: ValueId, to: ValueId) {
        let span = self.span(from);
        self.set_span(to, span);
    }
}

/// A present input of a pointwise node.
#[derive(Clone)]
struct Operand {
    id: ValueId,
    class: Class,
    rank: usize,
    /// Axis `a` of the operand is axis `a + shift` of the result.
    shift: usize,
}

impl Operand {
    fn new(packer: &Packer, id: ValueId, class: &Class, rank: usize) -> Step<Self> {
        let own = packer.shape(id)?.len();
        Ok(Operand { id, class: class.clone(), rank: own, shift: rank.saturating_sub(own) })
    }

    /// The operand where masks are 1.
    fn where_one(&self) -> Operand {
        match &self.class {
            Class::Cover(c) => Operand { class: c.one.clone().into(), ..self.clone() },
            _ => self.clone(),
        }
    }
}

/// Batch and sequence axes of the result of operands some of which have packed rows.
fn joint_axes(operands: &[Operand]) -> Step<Axes> {
    let order = operands.iter().find_map(|o| match &o.class {
        Class::Lead(l) if l.axes.merged() => Some(l.axes.seq_major),
        _ => None,
    });
    let mut joint = Axes { batch: None, seq: None, seq_major: order.unwrap_or(false) };
    let join = |what: &str, have: &mut Option<usize>, more: Option<usize>| -> Step<()> {
        if let Some(more) = more {
            if have.is_some_and(|h| h != more) {
                refuse!(
                    "it combines values whose {what} axes differ: rows of a sequence meet one another"
                );
            }
            *have = Some(more);
        }
        Ok(())
    };
    for o in operands {
        let axes = match &o.class {
            Class::Lead(l) => l.axes,
            Class::Cover(c) if c.masks.is_empty() => continue,
            Class::Cover(c) => c.axes,
            Class::Places(p) => match p.axes[..] {
                [seq] => Axes { batch: None, seq: Some(seq), ..joint },
                _ => refuse!("it combines rows with what compares places with one another"),
            },
            _ => continue,
        };
        if let Class::Cover(Cover { one: Even::Places(p), axes, .. }) = &o.class
            && p.axes.iter().any(|&a| axes.seq != Some(a))
        {
            refuse!("it combines rows with what compares places with one another");
        }
        let axes = axes.map(|a| a + o.shift);
        join("batch", &mut joint.batch, axes.batch)?;
        join("sequence", &mut joint.seq, axes.seq)?;
    }
    // What no mask covers adds axes that the others lack.
    for o in operands {
        let Class::Cover(c) = &o.class else { continue };
        if !c.masks.is_empty() {
            continue;
        }
        let axes = c.axes.map(|a| a + o.shift);
        joint.batch = joint.batch.or(axes.batch);
        let place = match &c.one {
            Even::Places(p) => match p.axes[..] {
                [seq] => Some(seq + o.shift),
                _ => refuse!("it combines rows with what compares places with one another"),
            },
            Even::Whole(_) => None,
        };
        match place {
            Some(place) => join("sequence", &mut joint.seq, Some(place))?,
            None => joint.seq = joint.seq.or(axes.seq),
        }
    }
    Ok(joint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_known() {
        assert!(POINTWISE.windows(2).all(|w| w[0] < w[1]));
        assert!(POINTWISE.iter().all(|name| crate::ops::find(name).is_some()));
    }
}
