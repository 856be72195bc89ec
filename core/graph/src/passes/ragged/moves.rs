//! Operators that move elements, rename axes or take parts, and the choice of the rule.

use super::class::{Axes, Class, Cover, Even, Lead, Places, Step, refuse};
use super::packer::{Packer, int_attr, lead, signed, with_attr};
use super::pointwise::is_pointwise;
use super::span::Span;
use crate::ops::util::{cast_from_i64, concrete, normalize_axes, normalize_axis};
use crate::{Attr, Dim, Node, Type, ValueId, ops};
use std::sync::Arc;

/// Ends at least this large mean "to the end of the axis".
const FAR: i64 = i32::MAX as i64;

impl Packer<'_> {
    /// Classes of the outputs of a node, some input of which is not whole.
    pub(super) fn rule(
        &mut self,
        node: &Node,
        classes: Vec<Option<Class>>,
    ) -> Step<Vec<Option<Class>>> {
        let name = node.op.name();
        if is_pointwise(name) {
            return self.pointwise(node, &classes);
        }
        let first = classes.first().cloned().flatten();
        match name {
            "Identity" => Ok(one_of(first)),
            "Dropout" => {
                if node.outputs.get(1).copied().flatten().is_some() || classes.get(2).is_some() {
                    refuse!("it drops elements at random");
                }
                Ok(one_of(first))
            }
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
                self.rename(node, required(first)?).map(one)
            }
            "Transpose" => self.transpose(node, required(first)?).map(one),
            "Expand" => self.expand(node, required(first)?).map(one),
            "ConstantOfShape" => self.filled(node).map(one),
            "Range" => self.range(node).map(one),
            "Slice" => self.slice(node, required(first)?).map(one),
            "Concat" => self.concat(node, &classes).map(one),
            "Split" => self.split(node, required(first)?),
            "Trilu" => self.trilu(node, required(first)?).map(one),
            "Gather" => self.gather(node, &classes).map(one),
            "GatherElements" => self.gather_elements(node, &classes).map(one),
            "GatherND" => self.gather_nd(node, &classes).map(one),
            "MatMul" => self.matmul(node, &classes).map(one),
            "Gemm" => self.gemm(node, &classes).map(one),
            "FusedMatMul" => self.fused_matmul(node, &classes).map(one),
            "MatMulIntegerToFloat" => self.integer_matmul(node, &classes).map(one),
            "DynamicQuantizeRows" => self.quantised_rows(node, &classes),
            "RotaryEmbedding" => self.rotary(node, &classes).map(one),
            "LayerNormalization" | "RMSNormalization" => self.norm(node, &classes).map(one),
            "Softmax" | "LogSoftmax" | "Hardmax" | "LpNormalization" => {
                self.along_axis(node, required(first)?).map(one)
            }
            "ArgMax" | "ArgMin" => self.arg_max(node, required(first)?).map(one),
            "CumSum" | "CumProd" => self.cumulative(node, required(first)?).map(one),
            "Attention" => self.attention(node, &classes).map(one),
            _ if name.starts_with("Reduce") => self.reduce(node, required(first)?).map(one),
            _ => refuse!("there is no rule for it on rows of sequences, so it may mix them"),
        }
    }

    /// Packed rows of input 0, which is neither whole nor made of extents.
    pub(super) fn rows(&mut self, node: &Node, class: Class) -> Step<Lead> {
        let shape = self.shape(self.input(node, 0)?)?;
        self.lead(class, &shape)
    }

    /// Reshape and its special cases.
    fn rename(&mut self, node: &Node, class: Class) -> Step<Class> {
        let from = self.shape(self.input(node, 0)?)?.to_vec();
        let to = self.output_shape(node)?;
        match class {
            Class::Lead(l) => {
                let axes = match unit_moves(&from, &to) {
                    Some(moves) => moves.axes(l.axes),
                    None => self.reshaped_axes(&from, l.axes, &to)?,
                };
                let value = self.reshape_rows(node, &l, from.len(), axes, &to)?;
                Ok(Class::Lead(Lead { axes, value, ..l }))
            }
            Class::Places(p) => {
                let moves = self.unit_moves(&from, &to)?;
                self.rename_places(&p, &moves).map(Class::Places)
            }
            Class::Cover(Cover { axes, one: Even::Whole(v), zero, masks })
                if unit_moves(&from, &to).is_none() =>
            {
                // All sequences on one axis, and nothing else.
                let axes = self.reshaped_axes(&from, axes, &to)?;
                if axes.features(to.len()).iter().any(|&a| to[a].as_const() != Some(1)) {
                    refuse!("it moves elements of {from:?} between rows of {to:?}");
                }
                let ones = self.list("shape", &vec![1; to.len()])?;
                let value = self.add(&node.name, ops::Reshape::default(), &[v, ones])?;
                self.copy_span(v, value);
                Ok(Class::Cover(Cover { axes, one: Even::Whole(value), zero, masks }))
            }
            Class::Cover(c) => {
                let moves = self.unit_moves(&from, &to)?;
                let one = match &c.one {
                    Even::Whole(v) => {
                        let value = self.apply_moves(*v, &moves)?;
                        self.copy_span(*v, value);
                        Even::Whole(value)
                    }
                    Even::Places(p) => Even::Places(self.rename_places(p, &moves)?),
                };
                Ok(Class::Cover(Cover { axes: moves.axes(c.axes), one, ..c }))
            }
            Class::Whole(_) | Class::Extents | Class::Opaque(_) => {
                refuse!("its shape depends on batch or sequence and its elements do not")
            }
        }
    }

    fn unit_moves(&self, from: &[Dim], to: &[Dim]) -> Step<Moves> {
        match unit_moves(from, to) {
            Some(moves) => Ok(moves),
            None => refuse!("it rearranges {from:?} to {to:?} where places or masks are concerned"),
        }
    }

    fn apply_moves(&mut self, value: ValueId, moves: &Moves) -> Step<ValueId> {
        let value = self.squeeze(value, &moves.dropped)?;
        self.unsqueeze(value, &moves.added)
    }

    fn rename_places(&mut self, p: &Places, moves: &Moves) -> Step<Places> {
        let value = self.apply_moves(p.value, moves)?;
        self.copy_span(p.value, value);
        let rows = match p.rows {
            Some(rows) => {
                // Without the sequence axis, which is the first of the rows.
                let own = Axes::new(None, Some(p.axes[0]));
                let new = moves.axes(own);
                let dropped: Vec<usize> = moves.dropped.iter().map(|&a| own.packed(a)).collect();
                let added: Vec<usize> = moves.added.iter().map(|&a| new.packed(a)).collect();
                let rows = self.squeeze(rows, &dropped)?;
                Some(self.unsqueeze(rows, &added)?)
            }
            None => None,
        };
        let axes = p.axes.iter().map(|&a| moves.axis(a)).collect();
        Ok(Places { axes, value, rows })
    }

    /// Where batch and sequence are in `to`, elements of `from` in their order.
    fn reshaped_axes(&self, from: &[Dim], axes: Axes, to: &[Dim]) -> Step<Axes> {
        let both = &self.batch * &self.seq;
        let find = |want: &Dim| {
            let mut found = (0..to.len()).filter(|&a| to[a] == *want);
            (found.next(), found.next().is_some())
        };
        let new = match (axes.batch, axes.seq) {
            (Some(_), Some(_)) => match (find(&both), find(&self.batch), find(&self.seq)) {
                ((Some(a), false), _, _) => {
                    let seq_major =
                        if axes.merged() { axes.seq_major } else { axes.seq < axes.batch };
                    Axes { batch: Some(a), seq: Some(a), seq_major }
                }
                (_, (Some(b), false), (Some(s), false)) => Axes::new(Some(b), Some(s)),
                _ => refuse!("it moves batch and sequence of {from:?} into other axes of {to:?}"),
            },
            (None, Some(_)) => match find(&self.seq) {
                (Some(s), false) => Axes::new(None, Some(s)),
                _ => refuse!("it moves the sequence of {from:?} into other axes of {to:?}"),
            },
            (Some(_), None) => match find(&self.batch) {
                (Some(b), false) => Axes::new(Some(b), None),
                _ => refuse!("it moves the batch of {from:?} into other axes of {to:?}"),
            },
            (None, None) => refuse!("it has neither batch nor sequence"),
        };
        // The elements before and behind must be as many: then each row keeps its elements.
        let around = |shape: &[Dim], axes: Axes| -> Option<(Dim, Dim)> {
            let (b, s) = (axes.batch.or(axes.seq)?, axes.seq.or(axes.batch)?);
            let (first, last) = (b.min(s), b.max(s));
            let between = shape.get(first + 1..last).unwrap_or_default();
            let ordered = between.iter().all(|d| d.as_const() == Some(1));
            ordered.then(|| (Dim::product(&shape[..first]), Dim::product(&shape[last + 1..])))
        };
        match (around(from, axes), around(to, new)) {
            (Some(a), Some(b)) if a == b => Ok(new),
            _ => refuse!("it moves elements of {from:?} between rows of {to:?}"),
        }
    }

    /// The packed value `l` under the shape of the features of `to`.
    fn reshape_rows(
        &mut self,
        node: &Node,
        l: &Lead,
        rank: usize,
        axes: Axes,
        to: &[Dim],
    ) -> Step<ValueId> {
        let features: Vec<Dim> =
            axes.features(to.len()).into_iter().map(|a| to[a].clone()).collect();
        let have = self.fact(l.value).shape();
        if have.is_some_and(|s| s[1..] == features[..]) {
            return Ok(l.value);
        }
        debug_assert!(have.is_none_or(|s| s.len() == 1 + l.axes.features(rank).len()));
        let mut target = vec![0i64];
        for d in &features {
            target.push(match d.as_const() {
                Some(n) => n,
                None if !target.contains(&-1) => -1,
                None => refuse!("extents {features:?} are not numbers"),
            });
        }
        if features.iter().any(|d| d.as_const() == Some(0)) {
            refuse!("an axis of {to:?} is empty");
        }
        let shape = self.list("shape", &target)?;
        self.add(&node.name, ops::Reshape::default(), &[l.value, shape])
    }

    fn transpose(&mut self, node: &Node, class: Class) -> Step<Class> {
        let rank = self.shape(self.input(node, 0)?)?.len();
        let perm: Vec<usize> = match node.op.attrs().get("perm") {
            Some(Attr::Ints(p)) if !p.is_empty() => normalize_axes(p, rank)?,
            _ => (0..rank).rev().collect(),
        };
        let to = |axis: usize| perm.iter().position(|&p| p == axis).unwrap_or(axis);
        match class {
            Class::Lead(l) => {
                let value = self.transpose_rows(node, l.value, l.axes, &perm)?;
                Ok(Class::Lead(Lead { axes: l.axes.map(to), value, ..l }))
            }
            Class::Places(p) => self.transpose_places(node, &p, &perm).map(Class::Places),
            Class::Cover(c) => {
                let one = match &c.one {
                    Even::Whole(v) => Even::Whole(self.transpose_even(*v, &perm)?),
                    Even::Places(p) => Even::Places(self.transpose_places(node, p, &perm)?),
                };
                Ok(Class::Cover(Cover { axes: c.axes.map(to), one, ..c }))
            }
            _ => refuse!("its input has no rows"),
        }
    }

    fn transpose_even(&mut self, value: ValueId, perm: &[usize]) -> Step<ValueId> {
        let moved = self.add("transpose", ops::Transpose { perm: signed(perm) }, &[value])?;
        self.copy_span(value, moved);
        Ok(moved)
    }

    fn transpose_places(&mut self, node: &Node, p: &Places, perm: &[usize]) -> Step<Places> {
        let value = self.transpose_even(p.value, perm)?;
        let own = Axes::new(None, p.axes.first().copied());
        let rows = match p.rows {
            Some(rows) => Some(self.transpose_rows(node, rows, own, perm)?),
            None => None,
        };
        let to = |axis: usize| perm.iter().position(|&q| q == axis).unwrap_or(axis);
        let mut axes: Vec<usize> = p.axes.iter().map(|&a| to(a)).collect();
        axes.sort_unstable();
        Ok(Places { axes, value, rows })
    }

    /// Rows whose features have changed their order as `perm` says; batch and sequence are first
    /// wherever they were.
    fn transpose_rows(
        &mut self,
        node: &Node,
        rows: ValueId,
        axes: Axes,
        perm: &[usize],
    ) -> Step<ValueId> {
        let features = perm.iter().filter(|&&a| !axes.contains(a)).map(|&a| axes.packed(a));
        let order: Vec<usize> = std::iter::once(0).chain(features).collect();
        if order.is_sorted() {
            return Ok(rows);
        }
        self.add(&node.name, ops::Transpose { perm: signed(&order) }, &[rows])
    }

    fn expand(&mut self, node: &Node, class: Class) -> Step<Class> {
        let from = self.shape(self.input(node, 0)?)?.to_vec();
        let to = self.output_shape(node)?;
        let shift = to.len() - from.len();
        let sequences = (0..to.len()).filter(|&a| to[a] == self.seq).collect::<Vec<_>>();
        let batch = to.iter().position(|d| *d == self.batch);
        match class {
            Class::Lead(l) => {
                let mut axes = l.axes.map(|a| a + shift);
                if sequences.iter().any(|&a| axes.seq != Some(a)) {
                    refuse!("it repeats rows of a sequence along the sequence: {from:?} to {to:?}");
                }
                // The batch axis the rows may have had as a feature of extent 1.
                let mut value = l.value;
                if axes.batch.is_none() && batch.is_some() {
                    if let Some(own) = batch.and_then(|b| b.checked_sub(shift)) {
                        value = self.squeeze(value, &[l.axes.packed(own)])?;
                    }
                    axes.batch = batch;
                }
                let missing = axes.features(to.len()).iter().filter(|&&f| f < shift).count();
                value = self.unsqueeze(value, &(1..=missing).collect::<Vec<_>>())?;
                let want: Vec<Dim> =
                    axes.features(to.len()).into_iter().map(|a| to[a].clone()).collect();
                if self.fact(value).shape().is_none_or(|s| s[1..] != want[..]) {
                    let Some(sizes) = concrete(&want) else {
                        refuse!("extents {want:?} are not numbers")
                    };
                    let shape = self.list("shape", &[&[1], &sizes[..]].concat())?;
                    value = self.add(&node.name, ops::Expand {}, &[value, shape])?;
                }
                Ok(Class::Lead(Lead { axes, value, ..l }))
            }
            Class::Whole(v) => {
                let span = self.span(v);
                self.cover_all(Even::Whole(v), span, shift, batch, &sequences, &to)
            }
            Class::Places(p) => {
                let span = self.span(p.value);
                self.cover_all(Even::Places(p), span, shift, batch, &sequences, &to)
            }
            Class::Cover(c) => {
                let all: Vec<usize> = (0..shift).collect();
                let one = self.widen(c.one.clone(), &all)?;
                Ok(Class::Cover(Cover { axes: c.axes.map(|a| a + shift), one, ..c }))
            }
            _ => refuse!("its elements are extents"),
        }
    }

    /// `even` with axes of extent 1 at the places `axes`.
    fn widen(&mut self, even: Even, axes: &[usize]) -> Step<Even> {
        let moves = Moves { dropped: Vec::new(), added: axes.to_vec() };
        Ok(match even {
            Even::Whole(v) => {
                let wide = self.unsqueeze(v, axes)?;
                self.copy_span(v, wide);
                Even::Whole(wide)
            }
            Even::Places(p) => Even::Places(self.rename_places(&p, &moves)?),
        })
    }

    /// A value without rows that repeats along batch or sequence to the shape `to`.
    fn cover_all(
        &mut self,
        even: Even,
        span: Span,
        shift: usize,
        batch: Option<usize>,
        sequences: &[usize],
        to: &[Dim],
    ) -> Step<Class> {
        let one = self.widen(even, &(0..shift).collect::<Vec<_>>())?;
        if to.iter().any(|d| self.related(d) && *d != self.seq && *d != self.batch) {
            refuse!("an axis of {to:?} is neither batch nor sequence");
        }
        let axes = Axes::new(batch, sequences.last().copied());
        Ok(Class::Cover(Cover { axes, one, zero: span, masks: Vec::new() }))
    }

    /// ConstantOfShape.
    fn filled(&mut self, node: &Node) -> Step<Class> {
        let to = self.output_shape(node)?;
        let ones = self.list("shape", &vec![1; to.len()])?;
        let value = self.emit_one(node, node.op.clone(), &[ones])?;
        let span = self.span(value);
        let sequences = (0..to.len()).filter(|&a| to[a] == self.seq).collect::<Vec<_>>();
        let batch = to.iter().position(|d| *d == self.batch);
        self.cover_all(Even::Whole(value), span, 0, batch, &sequences, &to)
    }

    /// The numbers from 0 to the length.
    fn range(&mut self, node: &Node) -> Step<Class> {
        let to = self.output_shape(node)?;
        let scalar = |i: usize| -> Step<Dim> {
            match self.dims(self.input(node, i)?).as_deref() {
                Some([d]) => Ok(d.clone()),
                _ => refuse!("input {i} is not an extent"),
            }
        };
        let (start, limit, step) = (scalar(0)?, scalar(1)?, scalar(2)?);
        let from_zero = (start.as_const(), step.as_const()) == (Some(0), Some(1));
        if from_zero && limit == self.batch && to == [self.batch.clone()] {
            // Alone, a sequence is number 0.
            let name = self.new.unique_name(&node.name);
            let dtype = self.old.fact(self.input(node, 0)?).dtype()?;
            let zero = cast_from_i64(dtype, &[1], &[0])?;
            let one = Even::Whole(self.new.add_constant(&name, zero)?);
            let axes = Axes::new(Some(0), None);
            return Ok(Class::Cover(Cover { axes, one, zero: Span::point(0.0), masks: vec![] }));
        }
        if (start.as_const(), step.as_const()) != (Some(0), Some(1))
            || limit != self.seq
            || to != [self.seq.clone()]
        {
            refuse!("it counts from {start} to {limit} by {step}, expected 0 to the length by 1");
        }
        let dtype = self.old.fact(self.input(node, 0)?).dtype()?;
        let cast = ops::Cast { to: dtype, ..Default::default() };
        let positions = self.positions()?;
        let value = self.add(&node.name, cast.clone(), &[self.longest_input])?;
        let rows = self.add(&node.name, cast, &[positions])?;
        self.set_span(value, Span { lo: 0.0, hi: f64::INFINITY });
        Ok(Class::Places(Places { axes: vec![0], value, rows: Some(rows) }))
    }

    fn slice(&mut self, node: &Node, class: Class) -> Step<Class> {
        let input = self.input(node, 0)?;
        let from = self.shape(input)?.to_vec();
        let to = self.output_shape(node)?;
        let bounds = |i: usize| -> Step<Vec<Dim>> {
            match self.dims(self.input(node, i)?) {
                Some(dims) => Ok(dims),
                None => refuse!("where it starts or ends depends on data"),
            }
        };
        let (starts, ends) = (bounds(1)?, bounds(2)?);
        let axes = match node.inputs.get(3).copied().flatten() {
            Some(_) => normalize_axes(&self.ints(node, 3)?, from.len())?,
            None => (0..starts.len()).collect(),
        };
        let steps = match node.inputs.get(4).copied().flatten() {
            Some(_) => self.ints(node, 4)?,
            None => vec![1; starts.len()],
        };
        if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
            refuse!("it has {} starts and {} axes", starts.len(), axes.len());
        }
        let mut class = class;
        for (i, &axis) in axes.iter().enumerate() {
            let cut = Cut { axis, start: &starts[i], end: &ends[i], step: steps[i] };
            class = self.cut(node, class, &from, &to, &cut)?;
        }
        // What is not read through a cut axis by axis must have come out as promised.
        if let Class::Places(p) = &class {
            let want = self.prefix_shape(&to);
            if self.fact(p.value).shape() != Some(&want[..]) {
                refuse!("it takes {:?} of {from:?}", self.fact(p.value).shape());
            }
        }
        Ok(class)
    }

    /// One axis of a slice.
    fn cut(
        &mut self,
        node: &Node,
        class: Class,
        from: &[Dim],
        to: &[Dim],
        cut: &Cut,
    ) -> Step<Class> {
        let &Cut { axis, start, end, step } = cut;
        let far = end.as_const().is_some_and(|e| e >= FAR) || *end == from[axis];
        let all = start.as_const() == Some(0) && far && step == 1;
        let first_len = start.as_const() == Some(0) && *end == self.seq && step == 1;
        let first_len = first_len && to[axis] == self.seq;
        let part = |packer: &mut Self, value: ValueId, axis: usize| -> Step<ValueId> {
            let (Some(start), Some(end)) = (start.as_const(), end.as_const()) else {
                refuse!("it takes {start} to {end} of an axis of extent {}", from[axis])
            };
            let inputs = [start, end, axis as i64, step].map(|n| packer.list("slice", &[n]));
            let [a, b, c, d] = inputs;
            let out = packer.add(&node.name, ops::Slice {}, &[value, a?, b?, c?, d?])?;
            packer.copy_span(value, out);
            Ok(out)
        };
        match class {
            class if all => Ok(class),
            Class::Whole(v) if first_len => {
                let (zero, at) = (self.list("start", &[0])?, self.list("axis", &[axis as i64])?);
                let len = self.longest_len()?;
                let value = self.add(&node.name, ops::Slice {}, &[v, zero, len, at])?;
                self.cut_to_longest(v, value, axis)?;
                let table = self.axis_first(v, axis)?;
                let positions = self.positions()?;
                let rows = self.add(&node.name, ops::Gather { axis: 0 }, &[table, positions])?;
                Ok(Class::Places(Places { axes: vec![axis], value, rows: Some(rows) }))
            }
            Class::Places(mut p) if first_len && !p.axes.contains(&axis) => {
                let (zero, at) = (self.list("start", &[0])?, self.list("axis", &[axis as i64])?);
                let len = self.longest_len()?;
                let value = self.add(&node.name, ops::Slice {}, &[p.value, zero, len, at])?;
                self.cut_to_longest(p.value, value, axis)?;
                p.axes.push(axis);
                p.axes.sort_unstable();
                Ok(Class::Places(Places { axes: p.axes, value, rows: None }))
            }
            Class::Whole(v) => Ok(Class::Whole(part(self, v, axis)?)),
            Class::Places(p) if !p.axes.contains(&axis) => {
                let value = part(self, p.value, axis)?;
                let own = Axes::new(None, p.axes.first().copied());
                let rows = match p.rows {
                    Some(rows) => Some(part(self, rows, own.packed(axis))?),
                    None => None,
                };
                Ok(Class::Places(Places { value, rows, ..p }))
            }
            Class::Lead(l) if !l.axes.contains(axis) => {
                let value = part(self, l.value, l.axes.packed(axis))?;
                Ok(Class::Lead(Lead { value, ..l }))
            }
            Class::Lead(l) if l.axes.seq == Some(axis) && !l.axes.merged() => {
                let end = if far { None } else { end.as_const() };
                match (start.as_const(), end, step) {
                    (Some(-1), None, 1) => self.take_row(&l, -1, axis, true),
                    (Some(at), Some(end), 1) if end == at + 1 && end != 0 => {
                        self.take_row(&l, at, axis, true)
                    }
                    _ => refuse!("it takes the rows {start} to {} of each sequence", cut.end),
                }
            }
            Class::Lead(_) => refuse!("it takes some sequences of the batch"),
            _ => refuse!("it takes part of an axis of batch, sequence or masks"),
        }
    }

    /// Notes that `value`, cut from `whole`, is as long as the longest sequence along `axis`: the
    /// padded graph has the whole sequence there, so no sequence is longer than `whole`.
    fn cut_to_longest(&mut self, whole: ValueId, value: ValueId, axis: usize) -> Step<()> {
        self.copy_span(whole, value);
        let Some(shape) = self.fact(whole).shape() else { refuse!("a rank is not known") };
        let mut shape = shape.to_vec();
        shape[axis] = self.seq.clone();
        let shape = self.prefix_shape(&shape);
        let dtype = self.fact(whole).dtype()?;
        self.new.refine_type(value, Type::tensor(dtype, shape));
        Ok(())
    }

    /// Row `at` of each sequence; `keep` leaves an axis of extent 1 in its place.
    pub(super) fn take_row(&mut self, l: &Lead, at: i64, axis: usize, keep: bool) -> Step<Class> {
        let Some(batch) = l.axes.batch else { refuse!("it takes a row of what has no batch axis") };
        let index = self.list("row", &[at])?;
        let inputs = [l.value, self.offsets, index];
        let row = self.add("row_of_sequence", ops::SegmentGather {}, &inputs)?;
        if keep {
            let axes = Axes::new(Some(batch), None);
            let value = self.unsqueeze(row, &[axes.packed(axis)])?;
            return Ok(lead(axes, value));
        }
        let batch = if batch > axis { batch - 1 } else { batch };
        Ok(lead(Axes::new(Some(batch), None), row))
    }

    fn concat(&mut self, node: &Node, classes: &[Option<Class>]) -> Step<Class> {
        let to = self.output_shape(node)?;
        let axis = normalize_axis(int_attr(node, "axis").unwrap_or(0), to.len())?;
        if let Some(cover) = self.concat_covers(node, classes, axis)? {
            return Ok(cover);
        }
        if classes.iter().flatten().all(|c| matches!(c, Class::Places(_))) {
            return self.concat_places(node, classes, axis);
        }
        let mut axes = None;
        let mut inputs = Vec::with_capacity(classes.len());
        for (i, class) in classes.iter().enumerate() {
            let id = self.input(node, i)?;
            let shape = self.shape(id)?;
            let l = self.lead(required(class.clone())?, &shape)?;
            if axes.is_some_and(|a| a != l.axes) {
                refuse!("its inputs have batch and sequence at different axes");
            }
            axes = Some(l.axes);
            inputs.push(l.value);
        }
        let Some(axes) = axes else { refuse!("it has no inputs") };
        if axes.contains(axis) {
            refuse!("it joins rows along axis {axis}, the batch or the sequence");
        }
        let op = ops::Concat { axis: axes.packed(axis) as i64 };
        Ok(lead(axes, self.emit_one(node, Arc::new(op), &inputs)?))
    }

    /// Covers without masks, joined along an axis of features.
    fn concat_covers(
        &mut self,
        node: &Node,
        classes: &[Option<Class>],
        axis: usize,
    ) -> Step<Option<Class>> {
        let mut covers = Vec::with_capacity(classes.len());
        for class in classes.iter().flatten() {
            match class {
                Class::Cover(c) if c.masks.is_empty() && !c.axes.contains(axis) => covers.push(c),
                _ => return Ok(None),
            }
        }
        // An axis that one of them repeats along may be one of places in another.
        let Some(axes) = covers.iter().map(|c| c.axes).find(|a| a.seq.is_some()) else {
            return Ok(None);
        };
        let mut values = Vec::with_capacity(covers.len());
        for (i, c) in covers.iter().enumerate() {
            let mut shape = self.shape(self.input(node, i)?)?.to_vec();
            if let Some(b) = axes.batch {
                shape[b] = Dim::from(1i64);
            }
            let value = match &c.one {
                Even::Whole(v) => *v,
                Even::Places(p) => p.value,
            };
            let shape = self.prefix_shape(&shape);
            values.push(self.fill_places(value, &shape)?);
        }
        let value = self.add(&node.name, ops::Concat { axis: axis as i64 }, &values)?;
        let places = (0..self.output_shape(node)?.len())
            .filter(|&a| self.output_shape(node).is_ok_and(|s| s[a] == self.seq))
            .collect();
        let one = Even::Places(Places { axes: places, value, rows: None });
        Ok(Some(Class::Cover(Cover { axes, one, zero: Span::UNKNOWN, masks: Vec::new() })))
    }

    fn concat_places(
        &mut self,
        node: &Node,
        classes: &[Option<Class>],
        axis: usize,
    ) -> Step<Class> {
        let places: Vec<&Places> = classes
            .iter()
            .flatten()
            .filter_map(|c| match c {
                Class::Places(p) => Some(p),
                _ => None,
            })
            .collect();
        let axes = places[0].axes.clone();
        if places.iter().any(|p| p.axes != axes) || axes.contains(&axis) {
            refuse!("it joins places along axis {axis}");
        }
        let op = ops::Concat { axis: axis as i64 };
        let values: Vec<ValueId> = places.iter().map(|p| p.value).collect();
        let value = self.add(&node.name, op, &values)?;
        let rows: Option<Vec<ValueId>> = places.iter().map(|p| p.rows).collect();
        let own = Axes::new(None, axes.first().copied());
        let rows = match rows {
            Some(rows) => {
                let op = ops::Concat { axis: own.packed(axis) as i64 };
                Some(self.add(&node.name, op, &rows)?)
            }
            None => None,
        };
        Ok(Class::Places(Places { axes, value, rows }))
    }

    fn split(&mut self, node: &Node, class: Class) -> Step<Vec<Option<Class>>> {
        let rank = self.shape(self.input(node, 0)?)?.len();
        let axis = normalize_axis(int_attr(node, "axis").unwrap_or(0), rank)?;
        let l = self.rows(node, class)?;
        if l.axes.contains(axis) {
            refuse!("it cuts axis {axis}, the batch or the sequence");
        }
        let op = with_attr(node, "axis", Attr::Int(l.axes.packed(axis) as i64))?;
        let mut inputs = vec![Some(l.value)];
        if node.inputs.get(1).copied().flatten().is_some() {
            let sizes = self.ints(node, 1)?;
            inputs.push(Some(self.list("sizes", &sizes)?));
        }
        let out = self.emit(node, op, &inputs)?;
        Ok(out.into_iter().map(|v| v.map(|v| lead(l.axes, v))).collect())
    }

    /// A triangle of what compares places.
    fn trilu(&mut self, node: &Node, class: Class) -> Step<Class> {
        let rank = self.shape(self.input(node, 0)?)?.len();
        let even = match class {
            Class::Places(p) => Even::Places(p),
            Class::Cover(c) if c.masks.is_empty() => c.one,
            _ => refuse!("it cuts a triangle out of rows"),
        };
        let axes = vec![rank - 2, rank - 1];
        let value = match even {
            Even::Places(p) if p.axes == axes => p.value,
            // A filled square.
            Even::Whole(v) => {
                let shape = self.prefix_shape(&self.output_shape(node)?);
                self.fill_places(v, &shape)?
            }
            Even::Places(_) => refuse!("it cuts a triangle out of rows"),
        };
        let mut inputs = vec![value];
        if node.inputs.get(1).copied().flatten().is_some() {
            let Some(k) = self.old.fact(self.input(node, 1)?).as_constant() else {
                refuse!("the diagonal is not constant")
            };
            let name = self.new.unique_name("diagonal");
            inputs.push(self.new.add_constant(&name, k)?);
        }
        let value = self.emit_one(node, node.op.clone(), &inputs)?;
        Ok(Class::Places(Places { axes, value, rows: None }))
    }

    /// `value` broadcast to `shape`, whose extents are numbers or the length of the longest
    /// sequence.
    pub(super) fn fill_places(&mut self, value: ValueId, shape: &[Dim]) -> Step<ValueId> {
        let mut parts = Vec::with_capacity(shape.len());
        for d in shape {
            parts.push(match d.as_const() {
                Some(n) => self.list("extent", &[n])?,
                None => self.longest_len()?,
            });
        }
        let target = self.add("places.shape", ops::Concat { axis: 0 }, &parts)?;
        let wide = self.add("places", ops::Expand {}, &[value, target])?;
        if self.fact(wide).shape() != Some(shape) {
            refuse!("an extent of {shape:?} is not known");
        }
        self.copy_span(value, wide);
        Ok(wide)
    }
}

/// One axis of a slice.
struct Cut<'a> {
    axis: usize,
    start: &'a Dim,
    end: &'a Dim,
    step: i64,
}

/// Axes of extent 1 dropped from the input, then others added to the result.
pub(super) struct Moves {
    dropped: Vec<usize>,
    added: Vec<usize>,
}

impl Moves {
    /// Where an axis that is not dropped has gone.
    fn axis(&self, axis: usize) -> usize {
        let mut at = axis - self.dropped.iter().filter(|&&d| d < axis).count();
        for &a in &self.added {
            if a <= at {
                at += 1;
            }
        }
        at
    }

    fn axes(&self, axes: Axes) -> Axes {
        axes.map(|a| self.axis(a))
    }
}

/// How `to` comes from `from` by dropping and adding axes of extent 1, if it does.
fn unit_moves(from: &[Dim], to: &[Dim]) -> Option<Moves> {
    let unit = |d: &Dim| d.as_const() == Some(1);
    let (mut dropped, mut added) = (Vec::new(), Vec::new());
    let (mut i, mut j) = (0, 0);
    while i < from.len() || j < to.len() {
        if i < from.len() && j < to.len() && from[i] == to[j] {
            (i, j) = (i + 1, j + 1);
        } else if i < from.len() && unit(&from[i]) {
            dropped.push(i);
            i += 1;
        } else if j < to.len() && unit(&to[j]) {
            added.push(j);
            j += 1;
        } else {
            return None;
        }
    }
    Some(Moves { dropped, added })
}

pub(super) fn required(class: Option<Class>) -> Step<Class> {
    match class {
        Some(class) => Ok(class),
        None => refuse!("a required input is missing"),
    }
}

fn one(class: Class) -> Vec<Option<Class>> {
    vec![Some(class)]
}

fn one_of(class: Option<Class>) -> Vec<Option<Class>> {
    vec![class]
}
