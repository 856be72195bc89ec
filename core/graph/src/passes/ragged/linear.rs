//! Matrix products and normalisations, which treat rows alike.

use super::class::{Axes, Class, Lead, Step, refuse};
use super::moves::required;
use super::packer::{Packer, int_attr, lead, with_attr};
use super::span::Span;
use crate::ops::util::normalize_axis;
use crate::{Attr, Node, ValueId, ops};

impl Packer<'_> {
    /// Input `i` if it is the same for all sequences.
    pub(super) fn whole(&self, classes: &[Option<Class>], i: usize) -> Step<ValueId> {
        match classes.get(i) {
            Some(Some(Class::Whole(v))) => Ok(*v),
            Some(Some(_)) => refuse!("input {i} is not the same for all sequences"),
            _ => refuse!("input {i} is missing"),
        }
    }

    pub(super) fn matmul(&mut self, node: &Node, classes: &[Option<Class>]) -> Step<Class> {
        let (a, b) = (required(classes[0].clone())?, required(classes[1].clone())?);
        let (ia, ib) = (self.input(node, 0)?, self.input(node, 1)?);
        let (sa, sb) = (self.shape(ia)?.to_vec(), self.shape(ib)?.to_vec());
        if let (Class::Whole(weights), false) = (&b, matches!(a, Class::Whole(_))) {
            let l = self.lead(a, &sa)?;
            if sb.len() != 2 || sa.len() < 2 || l.axes.contains(sa.len() - 1) {
                refuse!("it multiplies {sa:?} by {sb:?}, expected rows by a matrix");
            }
            let value = self.emit_one(node, node.op.clone(), &[l.value, *weights])?;
            return Ok(Class::Lead(Lead { value, pad: Span::UNKNOWN, ..l }));
        }
        // [batch, m, seq] · [batch, seq, n]: sums over the rows of each sequence.
        let sums = sa.len() == 3 && sb.len() == 3 && sa[2] == self.seq && sb[1] == self.seq;
        if !sums || matches!(a, Class::Whole(_)) {
            refuse!("it multiplies rows of a sequence with one another");
        }
        let a = self.part(a, &sa)?;
        let b = self.part(b, &sb)?;
        let want = |seq| Axes::new(Some(0), Some(seq));
        if a.axes != want(2) || b.axes != want(1) {
            refuse!("it multiplies rows of a sequence with one another");
        }
        let masked = !a.masks.is_empty() || !b.masks.is_empty();
        let zero = |l: &Lead| l.pad.as_point() == Some(0.0);
        if masked && !zero(&a) && !zero(&b) {
            refuse!("it sums rows without hiding those where the mask is 0");
        }
        let inputs = [a.value, b.value, self.offsets];
        let value = self.add(&node.name, ops::SegmentMatMul {}, &inputs)?;
        Ok(lead(Axes::new(Some(0), None), value))
    }

    /// As [`Packer::lead`], for a reader that looks at what masks hide.
    pub(super) fn part(&mut self, class: Class, shape: &[crate::Dim]) -> Step<Lead> {
        match &class {
            Class::Cover(c) => self.cover_rows(c, shape),
            _ => self.lead(class, shape),
        }
    }

    /// A product of rows and a matrix with its bias and residual.
    pub(super) fn fused_matmul(&mut self, node: &Node, classes: &[Option<Class>]) -> Step<Class> {
        let a = required(classes[0].clone())?;
        let shape = self.shape(self.input(node, 0)?)?.to_vec();
        let matrix = self.shape(self.input(node, 1)?)?.len() == 2;
        if !matrix || matches!(a, Class::Whole(_)) {
            refuse!("it multiplies rows of a sequence with one another");
        }
        let l = self.lead(a, &shape)?;
        if shape.len() < 2 || l.axes.contains(shape.len() - 1) {
            refuse!("it sums over batch or sequence");
        }
        let mut inputs = vec![Some(l.value), Some(self.whole(classes, 1)?)];
        if classes.len() > 2 {
            inputs.push(match classes[2] {
                Some(_) => Some(self.whole(classes, 2)?),
                None => None,
            });
        }
        if let Some(Some(residual)) = classes.get(3) {
            let shape = self.shape(self.input(node, 3)?)?;
            let r = self.lead(residual.clone(), &shape)?;
            if r.axes != l.axes {
                refuse!("what it adds has other rows");
            }
            inputs.push(Some(r.value));
        }
        let value = self.emit(node, node.op.clone(), &inputs)?[0];
        let Some(value) = value else { refuse!("nothing reads it") };
        Ok(Class::Lead(Lead { value, pad: Span::UNKNOWN, ..l }))
    }

    /// Rows of bytes by a matrix of bytes, with one scale for all rows or one for each.
    pub(super) fn integer_matmul(&mut self, node: &Node, classes: &[Option<Class>]) -> Step<Class> {
        let shape = self.shape(self.input(node, 0)?)?.to_vec();
        let l = self.lead(required(classes[0].clone())?, &shape)?;
        let matrix = self.shape(self.input(node, 1)?)?.len() == 2;
        if !matrix || shape.len() < 2 || l.axes.contains(shape.len() - 1) {
            refuse!("it sums over batch or sequence");
        }
        let mut inputs = vec![Some(l.value)];
        for (i, class) in classes.iter().enumerate().skip(1) {
            inputs.push(match class {
                None => None,
                Some(Class::Whole(v)) => Some(*v),
                Some(class) if i == 2 => {
                    let shape = self.shape(self.input(node, 2)?)?.to_vec();
                    let scales = self.lead(class.clone(), &shape)?;
                    if scales.axes != l.axes {
                        refuse!("its scales are for other rows");
                    }
                    Some(scales.value)
                }
                Some(_) => refuse!("input {i} is not the same for all sequences"),
            });
        }
        let value = self.emit(node, node.op.clone(), &inputs)?[0];
        let Some(value) = value else { refuse!("nothing reads it") };
        Ok(Class::Lead(Lead { value, pad: Span::UNKNOWN, ..l }))
    }

    /// Rows quantised one by one: bytes and scales.
    pub(super) fn quantised_rows(
        &mut self,
        node: &Node,
        classes: &[Option<Class>],
    ) -> Step<Vec<Option<Class>>> {
        let shape = self.shape(self.input(node, 0)?)?.to_vec();
        let l = self.lead(required(classes[0].clone())?, &shape)?;
        if l.axes.contains(shape.len() - 1) {
            refuse!("it quantises along batch or sequence");
        }
        let mut inputs = vec![Some(l.value)];
        if classes.len() > 1 {
            inputs.push(Some(self.whole(classes, 1)?));
        }
        let values = self.emit(node, node.op.clone(), &inputs)?;
        let class = |v| Class::Lead(Lead { value: v, pad: Span::UNKNOWN, ..l.clone() });
        Ok(values.into_iter().map(|v| v.map(class)).collect())
    }

    pub(super) fn gemm(&mut self, node: &Node, classes: &[Option<Class>]) -> Step<Class> {
        let rank = self.shape(self.input(node, 0)?)?.len();
        let l = self.rows(node, required(classes[0].clone())?)?;
        let axis = l.axes.batch.or(l.axes.seq);
        if rank != 2 || axis != Some(0) || l.axes.contains(1) || int_attr(node, "transA") == Some(1)
        {
            refuse!("its rows are not those of its first input");
        }
        let mut inputs = vec![l.value, self.whole(classes, 1)?];
        match classes.get(2).cloned().flatten() {
            None => {}
            Some(Class::Whole(c)) => {
                let rows = self.fact(c).shape().filter(|s| s.len() == 2).map(|s| s[0].as_const());
                if rows.is_some_and(|n| n != Some(1)) {
                    refuse!("what it adds has rows of its own");
                }
                inputs.push(c);
            }
            Some(class) => {
                let shape = self.shape(self.input(node, 2)?)?;
                let c = self.lead(class, &shape)?;
                if c.axes != l.axes {
                    refuse!("what it adds has other rows");
                }
                inputs.push(c.value);
            }
        }
        let value = self.emit_one(node, node.op.clone(), &inputs)?;
        Ok(Class::Lead(Lead { value, pad: Span::UNKNOWN, ..l }))
    }

    /// Layer norm and its like: everything from `axis` on is one row.
    pub(super) fn norm(&mut self, node: &Node, classes: &[Option<Class>]) -> Step<Class> {
        let rank = self.shape(self.input(node, 0)?)?.len();
        let axis = normalize_axis(int_attr(node, "axis").unwrap_or(-1), rank)?;
        let l = self.rows(node, required(classes[0].clone())?)?;
        if (axis..rank).any(|a| l.axes.contains(a)) {
            refuse!("it normalises along axis {axis}, over batch or sequence");
        }
        let mut inputs = vec![l.value];
        for i in 1..classes.len() {
            if classes[i].is_none() {
                continue;
            }
            let parameter = self.whole(classes, i)?;
            if self.fact(parameter).rank().is_none_or(|r| r > rank - axis) {
                refuse!("input {i} has axes beyond the normalised ones");
            }
            inputs.push(parameter);
        }
        if node.outputs.iter().skip(1).any(Option::is_some) {
            refuse!("its statistics are read");
        }
        let op = with_attr(node, "axis", Attr::Int(l.axes.packed(axis) as i64))?;
        let name = node.outputs[0].map(|id| self.new.unique_name(&self.old.value(id).name));
        let inputs: Vec<_> = inputs.into_iter().map(Some).collect();
        let out = self.new.add_node(&node.name, op, &inputs, &[name.as_deref()])?;
        let Some(value) = out[0] else { refuse!("nothing reads it") };
        Ok(Class::Lead(Lead { value, pad: Span::UNKNOWN, ..l }))
    }

    /// Softmax and its like along an axis of features.
    pub(super) fn along_axis(&mut self, node: &Node, class: Class) -> Step<Class> {
        let rank = self.shape(self.input(node, 0)?)?.len();
        let axis = normalize_axis(int_attr(node, "axis").unwrap_or(-1), rank)?;
        let l = self.rows(node, class)?;
        if l.axes.contains(axis) {
            refuse!("it runs along axis {axis}, the batch or the sequence");
        }
        let op = with_attr(node, "axis", Attr::Int(l.axes.packed(axis) as i64))?;
        let value = self.emit_one(node, op, &[l.value])?;
        Ok(Class::Lead(Lead { value, pad: Span::UNKNOWN, ..l }))
    }
}
