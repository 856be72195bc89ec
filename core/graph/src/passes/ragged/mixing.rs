//! Operators that pick rows or look across the rows of a sequence.

use super::class::{Axes, Class, Cover, Even, Lead, Places, Step, refuse};
use super::moves::required;
use super::packer::{Packer, int_attr, lead, lead_of, signed, with_attr};
use super::span::Span;
use crate::ops::SegmentReduction;
use crate::ops::util::{normalize_axes, normalize_axis};
use crate::{Attr, Dim, Node, ValueId, ops};
use deepseek_tensor::DType;

/// Numbers below this hide what they stand for.
pub(super) const HIDDEN: f64 = -1e4;

impl Packer<'_> {
    pub(super) fn gather(&mut self, node: &Node, classes: &[Option<Class>]) -> Step<Class> {
        let (data, index) = (required(classes[0].clone())?, required(classes[1].clone())?);
        let (d_id, i_id) = (self.input(node, 0)?, self.input(node, 1)?);
        let (d_shape, i_shape) = (self.shape(d_id)?.to_vec(), self.shape(i_id)?.to_vec());
        let axis = normalize_axis(int_attr(node, "axis").unwrap_or(0), d_shape.len())?;
        if matches!(data, Class::Whole(_)) {
            return self.look_up(node, classes, axis);
        }
        if self.is_own_place(node) {
            return self.gather_own(node, data);
        }
        let Class::Whole(at) = index else {
            refuse!("it looks up rows of a sequence by what differs from sequence to sequence")
        };
        let l = self.lead(data, &d_shape)?;
        if l.axes.seq == Some(axis) && !l.axes.merged() {
            let at = match (&i_shape[..], &self.ints(node, 1)?[..]) {
                ([], &[at]) => (at, false),
                ([_], &[at]) => (at, true),
                _ => refuse!("it takes several rows of each sequence"),
            };
            return self.take_row(&l, at.0, axis, at.1);
        }
        if l.axes.contains(axis) {
            refuse!("it takes some sequences of the batch");
        }
        let op = with_attr(node, "axis", Attr::Int(l.axes.packed(axis) as i64))?;
        let value = self.emit_one(node, op, &[l.value, at])?;
        let moved = |a: usize| if a > axis { a + i_shape.len() - 1 } else { a };
        Ok(Class::Lead(Lead { axes: l.axes.map(moved), value, pad: Span::UNKNOWN, ..l }))
    }

    /// Rows of a whole table.
    fn look_up(&mut self, node: &Node, classes: &[Option<Class>], axis: usize) -> Step<Class> {
        let table = self.whole(classes, 0)?;
        let index = required(classes[1].clone())?;
        let i_shape = self.shape(self.input(node, 1)?)?.to_vec();
        if axis != 0 {
            refuse!("it looks rows up along axis {axis}, expected 0");
        }
        match index {
            Class::Places(p) => self.gather_places(node, table, &p).map(Class::Places),
            Class::Cover(Cover { axes, one, masks, .. }) if masks.is_empty() => {
                let one = match one {
                    Even::Whole(v) => {
                        Even::Whole(self.emit_one(node, node.op.clone(), &[table, v])?)
                    }
                    Even::Places(p) => Even::Places(self.gather_places(node, table, &p)?),
                };
                let zero = self.span(table);
                Ok(Class::Cover(Cover { axes, one, zero, masks }))
            }
            index => {
                let l = self.lead(index, &i_shape)?;
                let value = self.emit_one(node, node.op.clone(), &[table, l.value])?;
                Ok(Class::Lead(Lead { value, pad: Span::UNKNOWN, ..l }))
            }
        }
    }

    /// Rows of a whole table, by places.
    fn gather_places(&mut self, node: &Node, table: ValueId, p: &Places) -> Step<Places> {
        let value = self.emit_one(node, node.op.clone(), &[table, p.value])?;
        self.copy_span(table, value);
        let rows = match p.rows {
            Some(rows) => Some(self.emit_one(node, node.op.clone(), &[table, rows])?),
            None => None,
        };
        Ok(Places { axes: p.axes.clone(), value, rows })
    }

    /// Elements of one lane of a whole table, by places or rows.
    pub(super) fn gather_elements(
        &mut self,
        node: &Node,
        classes: &[Option<Class>],
    ) -> Step<Class> {
        let (data, index) = (required(classes[0].clone())?, required(classes[1].clone())?);
        let rank = self.shape(self.input(node, 0)?)?.len();
        let axis = normalize_axis(int_attr(node, "axis").unwrap_or(0), rank)?;
        let table = match data {
            Class::Whole(v) => v,
            Class::Cover(Cover { one: Even::Whole(v), masks, .. }) if masks.is_empty() => v,
            _ => refuse!("it looks elements up in rows"),
        };
        let lane = self.fact(table).shape().is_some_and(|s| {
            s.iter().enumerate().all(|(a, d)| a == axis || d.as_const() == Some(1))
        });
        if !lane {
            refuse!("it looks elements up in a table of several lanes");
        }
        let all = self.list("shape", &[-1])?;
        let flat = self.add("lane", ops::Reshape::default(), &[table, all])?;
        self.copy_span(table, flat);
        let op: std::sync::Arc<dyn crate::Operator> = std::sync::Arc::new(ops::Gather { axis: 0 });
        let gather = Node { op, ..node.clone() };
        let classes = [Some(Class::Whole(flat)), Some(index)];
        self.look_up(&gather, &classes, 0)
    }

    /// `data[i, j]` for the number `i` of the sequence and its places `j`, which is `data`.
    fn gather_own(&mut self, node: &Node, data: Class) -> Step<Class> {
        let to = self.output_shape(node)?;
        let own = |d: &Dim| -> Step<usize> {
            let mut at = (0..to.len()).filter(|&a| to[a] == *d);
            match (at.next(), at.next()) {
                (Some(a), None) => Ok(a),
                _ => refuse!("its result {to:?} has not one axis of {d}"),
            }
        };
        let axes = Axes::new(Some(own(&self.batch)?), Some(own(&self.seq)?));
        let others = (0..to.len()).filter(|&a| !axes.contains(a));
        if others.clone().any(|a| to[a].as_const() != Some(1)) {
            refuse!("its result {to:?} has further axes");
        }
        let others = others.count();
        match data {
            Class::Cover(Cover { one: Even::Whole(v), zero, masks, .. }) => {
                let wide = self.unsqueeze(v, &(0..others).collect::<Vec<_>>())?;
                self.copy_span(v, wide);
                Ok(Class::Cover(Cover { axes, one: Even::Whole(wide), zero, masks }))
            }
            Class::Lead(l) => {
                let value = self.unsqueeze(l.value, &(1..=others).collect::<Vec<_>>())?;
                Ok(Class::Lead(Lead { axes, value, ..l }))
            }
            _ => refuse!("it picks elements of what has no rows"),
        }
    }

    /// Whether a node picks, for each sequence and place, the element of just these two: of
    /// `[batch, seq]` by the pair, or of `[batch·seq, 1]` by `batch·len + seq`.
    pub(super) fn is_own_place(&self, node: &Node) -> bool {
        let Some(index) = self.producer(node.inputs.get(1).copied().flatten()) else {
            return false;
        };
        let [Some(a), Some(b)] = index.inputs[..] else { return false };
        let counts = |v: ValueId, d: &Dim| self.counts(v).is_some_and(|n| n == *d);
        match (node.op.name(), index.op.name()) {
            ("GatherND", "Concat") => counts(a, &self.batch) && counts(b, &self.seq),
            ("Gather", "Add") => {
                let row = |v: ValueId| {
                    let Some(product) = self.producer(Some(v)).filter(|n| n.op.name() == "Mul")
                    else {
                        return false;
                    };
                    let [Some(x), Some(y)] = product.inputs[..] else { return false };
                    let len = |v: ValueId| self.dims(v).is_some_and(|d| d == [self.seq.clone()]);
                    (counts(x, &self.batch) && len(y)) || (counts(y, &self.batch) && len(x))
                };
                let own = (counts(a, &self.seq) && row(b)) || (counts(b, &self.seq) && row(a));
                let Some(Ok(data)) = node.inputs[0].map(|id| self.shape(id)) else { return false };
                own && data.len() == 2
                    && data[0] == &self.batch * &self.seq
                    && int_attr(node, "axis") == Some(0)
            }
            _ => false,
        }
    }

    /// The extent up to which a value counts from 0 along the one axis of that extent.
    fn counts(&self, value: ValueId) -> Option<Dim> {
        let mut at = value;
        loop {
            let node = self.producer(Some(at))?;
            match node.op.name() {
                "Unsqueeze" | "Squeeze" | "Reshape" | "Identity" | "Cast" | "Expand" => {
                    at = node.inputs[0]?;
                }
                "Range" => {
                    let dim = |i: usize| match self.dims(node.inputs[i]?).as_deref() {
                        Some([d]) => Some(d.clone()),
                        _ => None,
                    };
                    let (start, step) = (dim(0)?.as_const(), dim(2)?.as_const());
                    return if (start, step) == (Some(0), Some(1)) { dim(1) } else { None };
                }
                _ => return None,
            }
        }
    }

    /// One row for each sequence, by an index that its own sequence gives.
    pub(super) fn gather_nd(&mut self, node: &Node, classes: &[Option<Class>]) -> Step<Class> {
        let (d_id, i_id) = (self.input(node, 0)?, self.input(node, 1)?);
        let (d_shape, i_shape) = (self.shape(d_id)?.to_vec(), self.shape(i_id)?.to_vec());
        let axes = match &classes[0] {
            Some(Class::Cover(c)) => Some(c.axes),
            Some(Class::Lead(l)) => Some(l.axes),
            _ => None,
        };
        if d_shape.len() == 2
            && axes == Some(Axes::new(Some(0), Some(1)))
            && int_attr(node, "batch_dims") == Some(0)
            && self.is_own_place(node)
        {
            return self.gather_own(node, required(classes[0].clone())?);
        }
        let by_batch = int_attr(node, "batch_dims") == Some(1)
            && i_shape.len() == 2
            && i_shape[1].as_const() == Some(1);
        let data = self.lead(required(classes[0].clone())?, &d_shape)?;
        let index = self.lead(required(classes[1].clone())?, &i_shape)?;
        let fits =
            data.axes == Axes::new(Some(0), Some(1)) && index.axes == Axes::new(Some(0), None);
        if !by_batch || !fits || self.old.fact(i_id).dtype()? != DType::I64 {
            refuse!("it picks elements other than one row of each sequence");
        }
        let index = self.squeeze(index.value, &[1])?;
        let inputs = [data.value, self.offsets, index];
        let value = self.add(&node.name, ops::SegmentGather {}, &inputs)?;
        Ok(lead(Axes::new(Some(0), None), value))
    }

    /// The first or last place of a mask that holds its greatest value, which is 1.
    pub(super) fn arg_max(&mut self, node: &Node, class: Class) -> Step<Class> {
        let shape = self.shape(self.input(node, 0)?)?.to_vec();
        let axis = normalize_axis(int_attr(node, "axis").unwrap_or(0), shape.len())?;
        let keep = int_attr(node, "keepdims") != Some(0);
        let last = int_attr(node, "select_last_index") == Some(1);
        let Class::Cover(c) = &class else {
            let l = self.rows(node, class)?;
            if l.axes.contains(axis) {
                refuse!("it compares rows of a sequence with one another");
            }
            let op = with_attr(node, "axis", Attr::Int(l.axes.packed(axis) as i64))?;
            let value = self.emit_one(node, op, &[l.value])?;
            let moved = |a: usize| if !keep && a > axis { a - 1 } else { a };
            return Ok(lead(l.axes.map(moved), value));
        };
        let one = match &c.one {
            Even::Whole(v) => self.span(*v).as_point(),
            Even::Places(_) => None,
        };
        let higher = one.is_some_and(|one| match node.op.name() {
            "ArgMax" => one > c.zero.hi,
            _ => one < c.zero.lo,
        });
        let (Some(batch), true, true) = (c.axes.batch, c.axes.seq == Some(axis), higher) else {
            refuse!("it compares places of a mask that is not 0 and 1")
        };
        if !keep || shape.len() != 2 {
            refuse!("it finds places of {shape:?}, expected a mask [batch, seq] and keepdims");
        }
        // The last row of a sequence stands at its length less one.
        let positions = self.positions()?;
        let at = self.list("row", &[if last { -1 } else { 0 }])?;
        let inputs = [positions, self.offsets, at];
        let place = self.add(&node.name, ops::SegmentGather {}, &inputs)?;
        let value = self.unsqueeze(place, &[1])?;
        Ok(lead(Axes::new(Some(batch), None), value))
    }

    pub(super) fn cumulative(&mut self, node: &Node, class: Class) -> Step<Class> {
        let shape = self.shape(self.input(node, 0)?)?.to_vec();
        let axis = match self.ints(node, 1)?[..] {
            [axis] => normalize_axis(axis, shape.len())?,
            _ => refuse!("its axis is not one number"),
        };
        let l = self.part(class, &shape)?;
        if !l.axes.contains(axis) {
            let at = self.new.unique_name("axis");
            let at = self
                .new
                .add_constant(&at, deepseek_tensor::Tensor::scalar(l.axes.packed(axis) as i64)?)?;
            let value = self.emit_one(node, node.op.clone(), &[l.value, at])?;
            return Ok(Class::Lead(Lead { value, pad: Span::UNKNOWN, ..l }));
        }
        let reverse = int_attr(node, "reverse") == Some(1);
        if l.axes.seq != Some(axis) || l.axes.merged() || node.op.name() != "CumSum" {
            refuse!("it runs along axis {axis}, across sequences");
        }
        if reverse && !l.masks.is_empty() && l.pad.as_point() != Some(0.0) {
            refuse!("it sums rows without hiding those where the mask is 0");
        }
        let exclusive = int_attr(node, "exclusive") == Some(1);
        let op = ops::SegmentCumSum { exclusive, reverse };
        let value = self.add(&node.name, op, &[l.value, self.offsets])?;
        Ok(Class::Lead(Lead { value, pad: Span::UNKNOWN, ..l }))
    }

    pub(super) fn reduce(&mut self, node: &Node, class: Class) -> Step<Class> {
        let shape = self.shape(self.input(node, 0)?)?.to_vec();
        let keep = int_attr(node, "keepdims") != Some(0);
        let mut axes = match node.inputs.get(1).copied().flatten() {
            Some(_) => normalize_axes(&self.ints(node, 1)?, shape.len())?,
            None => Vec::new(),
        };
        axes.sort_unstable();
        if axes.is_empty() {
            if int_attr(node, "noop_with_empty_axes") == Some(1) {
                refuse!("it reduces no axis");
            }
            axes = (0..shape.len()).collect();
        }
        let l = self.part(class, &shape)?;
        let gone = |a: usize| if keep { 0 } else { axes.iter().filter(|&&x| x < a).count() };
        if !axes.iter().any(|&a| l.axes.contains(a)) {
            let mapped: Vec<usize> = axes.iter().map(|&a| l.axes.packed(a)).collect();
            let at = self.list("axes", &signed(&mapped))?;
            let value = self.emit_one(node, node.op.clone(), &[l.value, at])?;
            let axes = l.axes.map(|a| a - gone(a));
            return Ok(Class::Lead(Lead { axes, value, pad: Span::UNKNOWN, ..l }));
        }
        let ([axis], Some(batch)) = (&axes[..], l.axes.batch) else {
            refuse!("it reduces the axes {axes:?} of {shape:?} together")
        };
        let axis = *axis;
        if l.axes.seq != Some(axis) || l.axes.merged() {
            refuse!("it reduces the batch");
        }
        let reduction = match node.op.name() {
            "ReduceSum" => SegmentReduction::Sum,
            "ReduceMean" => SegmentReduction::Mean,
            "ReduceMax" => SegmentReduction::Max,
            "ReduceMin" => SegmentReduction::Min,
            _ => refuse!("it reduces the rows of a sequence; sum, mean, max and min are known"),
        };
        let neutral = match reduction {
            SegmentReduction::Sum => l.pad.as_point() == Some(0.0),
            SegmentReduction::Mean => false,
            SegmentReduction::Max => l.pad.hi <= HIDDEN,
            SegmentReduction::Min => l.pad.lo >= -HIDDEN,
        };
        if !l.masks.is_empty() && !neutral {
            refuse!("it reduces rows without hiding those where the mask is 0");
        }
        let op = ops::SegmentReduce { reduction };
        let reduced = self.add(&node.name, op, &[l.value, self.offsets])?;
        if keep {
            let axes = Axes::new(Some(batch), None);
            let value = self.unsqueeze(reduced, &[axes.packed(axis)])?;
            return Ok(Class::Lead(lead_of(axes, value)));
        }
        let axes = Axes::new(Some(batch - gone(batch)), None);
        Ok(Class::Lead(lead_of(axes, reduced)))
    }
}
