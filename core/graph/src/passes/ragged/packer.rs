//! The packed graph under construction, and the walk over the padded one.

use super::class::{Axes, Class, Cover, Even, Lead, Places, Role, Step, Stop, refuse};
use super::span::Span;
use super::{
    InputKind, LONGEST, OFFSETS, OutputKind, Packed, PackedInput, PackedOutput, pointwise,
};
use crate::ops::util::cast_from_i64;
use crate::{
    Attr, Bindings, Dim, Fact, Graph, Known, Node, Operator, Symbol, Type, ValueId, build_op, ops,
};
use deepseek_tensor::{DType, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub(super) struct Packer<'a> {
    pub old: &'a Graph,
    pub new: Graph,
    pub batch: Dim,
    pub seq: Dim,
    pub tokens: Dim,
    longest: Dim,
    classes: Vec<Option<Class>>,
    /// Extents of the old values, with the sequence for what is at most as long.
    shapes: Vec<Option<Arc<[Dim]>>>,
    /// Length beyond which a sequence is longer than a table it needs.
    table_len: Option<i64>,
    /// Node that makes each old value.
    producers: HashMap<ValueId, &'a Node>,
    pub offsets: ValueId,
    pub longest_input: ValueId,
    /// Some packed rows, for their number.
    any_rows: ValueId,
    positions: Option<ValueId>,
    ids: Option<ValueId>,
    rows_of_places: HashMap<(ValueId, usize), ValueId>,
    spans: HashMap<ValueId, Span>,
}

/// Builds the packed graph, with what is known of the roles of its inputs.
pub(super) fn build(graph: &Graph, roles: &BTreeMap<ValueId, Role>) -> Step<Packed> {
    let (batch, seq) = symbols(graph)?;
    let fresh = |base: &str| {
        let taken = |name: &str| {
            let sym = Symbol::new(name);
            let dims = graph.values().iter().filter_map(|v| v.fact.shape()).flatten();
            dims.into_iter().any(|d| d.symbols().contains(&sym))
        };
        let more = (1u32..).map(|i| format!("{base}_{i}"));
        let name = std::iter::once(base.to_owned()).chain(more).find(|n| !taken(n));
        Symbol::new(&name.expect("some number is free"))
    };
    let (tokens, longest) = (fresh("tokens"), fresh("longest"));
    let mut packer = Packer::new(graph, &batch, &seq, &tokens, &longest, roles)?;
    let inputs = packer.inputs_of(roles)?;
    for node in graph.nodes() {
        let at = |stop: Stop| match stop {
            Stop::Reason(why) => {
                Stop::Reason(format!("node '{}' ({}): {why}", node.name, node.op.name()))
            }
            Stop::Data { input, why } => Stop::Data {
                input,
                why: format!("node '{}' ({}) {why}", node.name, node.op.name()),
            },
            Stop::Fault(e) => Stop::Fault(e.at_node(&node.name)),
        };
        match packer.node(node).map_err(at) {
            // It stops the packing only if it is read.
            Err(Stop::Reason(why)) => packer.set_opaque(node, &why),
            other => other?,
        }
    }
    let outputs = packer.outputs()?;
    let lengths = graph.bounds().get(&seq);
    let longest_len = lengths.1.into_iter().chain(packer.table_len).min();
    Ok(Packed {
        graph: packer.new,
        inputs,
        outputs,
        batch,
        seq,
        tokens,
        longest,
        lengths: (lengths.0.max(1), longest_len),
    })
}

/// The symbols of batch and sequence: those that the inputs begin with.
fn symbols(graph: &Graph) -> Step<(Symbol, Symbol)> {
    let lead = |id: &ValueId| match graph.fact(*id).shape()? {
        [b, s, ..] => Some((b.as_symbol()?.clone(), s.as_symbol()?.clone())),
        _ => None,
    };
    let pairs: Vec<_> = graph.inputs().iter().filter_map(lead).filter(|(b, s)| b != s).collect();
    // Where inputs disagree about the order, the one that calls its first axis a batch is right.
    let named = |(b, _): &&(Symbol, Symbol)| {
        let name = b.name().to_lowercase();
        name.contains("batch") || name == "n" || name == "b"
    };
    match pairs.iter().find(named).or(pairs.first()).cloned() {
        Some(found) => Ok(found),
        None => {
            let shown = graph.inputs().iter().map(|id| {
                let def = graph.value(*id);
                format!("'{}' is {}", def.name, def.fact.ty)
            });
            refuse!(
                "no input is [batch, seq, …] with two symbols: {}",
                shown.collect::<Vec<_>>().join(", ")
            )
        }
    }
}

impl<'a> Packer<'a> {
    fn new(
        old: &'a Graph,
        batch: &Symbol,
        seq: &Symbol,
        tokens: &Symbol,
        longest: &Symbol,
        roles: &BTreeMap<ValueId, Role>,
    ) -> Step<Self> {
        let mut new = Graph::new(old.name.clone());
        new.copy_bounds(old);
        let (min, max) = old.bounds().get(seq);
        new.set_bound(longest.name(), min.max(1), max)?;
        let sequences = old.bounds().get(batch).1;
        let most = max.zip(sequences).and_then(|(rows, n)| rows.checked_mul(n));
        new.set_bound(tokens.name(), min.max(1), most.filter(|&n| n >= min.max(1)))?;
        let [batch, seq, tokens, longest] = [batch, seq, tokens, longest].map(Dim::from);
        let mut classes = vec![None; old.values().len()];
        let mut any_rows = None;
        for &id in old.inputs() {
            let def = old.value(id);
            let Type::Tensor(dtype, Some(shape)) = &def.fact.ty else {
                refuse!("input '{}' is {}, expected tensors of known rank", def.name, def.fact.ty)
            };
            let role = roles.get(&id).copied().unwrap_or(Role::Mask);
            let related = |d: &Dim| [&batch, &seq].iter().any(|s| mentions(d, s));
            let class = match &shape[..] {
                dims if role != Role::Data
                    && maskable(*dtype)
                    && dims.iter().filter(|d| **d == batch).count() == 1
                    && dims.iter().filter(|d| **d == seq).count() == 1
                    && dims.iter().filter(|d| d.as_const() == Some(1)).count() + 2
                        == dims.len() =>
                {
                    let token = i64::from(role == Role::Mask);
                    let one = cast_from_i64(*dtype, &vec![1; dims.len()], &[token])?;
                    let name = new.unique_name(&format!("{}.token", def.name));
                    let at = |s: &Dim| dims.iter().position(|d| d == s);
                    Class::Cover(Cover {
                        axes: Axes::new(at(&batch), at(&seq)),
                        one: Even::Whole(new.add_constant(&name, one)?),
                        zero: Span::point((1 - token) as f64),
                        masks: vec![id],
                    })
                }
                [b, s, rest @ ..] if (b, s) == (&batch, &seq) && !rest.iter().any(related) => {
                    let shape = [std::slice::from_ref(&tokens), rest].concat();
                    let value = new.add_input(&def.name, Type::tensor(*dtype, shape))?;
                    any_rows = any_rows.or(Some(value));
                    lead(Axes::new(Some(0), Some(1)), value)
                }
                [s, b, rest @ ..] if (b, s) == (&batch, &seq) && !rest.iter().any(related) => {
                    let shape = [std::slice::from_ref(&tokens), rest].concat();
                    let value = new.add_input(&def.name, Type::tensor(*dtype, shape))?;
                    any_rows = any_rows.or(Some(value));
                    lead(Axes::new(Some(1), Some(0)), value)
                }
                [b, rest @ ..] if *b == batch && !rest.iter().any(related) => {
                    let value = new.add_input(&def.name, def.fact.ty.clone())?;
                    lead(Axes::new(Some(0), None), value)
                }
                dims if !dims.iter().any(related) => {
                    Class::Whole(new.add_input(&def.name, def.fact.ty.clone())?)
                }
                dims => refuse!(
                    "input '{}' is {dims:?}, expected [{batch}, {seq}, …], [{batch}, …] or none of both",
                    def.name
                ),
            };
            classes[id.index()] = Some(class);
        }
        let Some(any_rows) = any_rows else {
            // Every candidate was taken for a mask; the first of them is data.
            let role = |id: &ValueId| roles.get(id).copied().unwrap_or(Role::Mask);
            match old.inputs().iter().find(|id| role(id) != Role::Data) {
                Some(&input) => {
                    return Err(Stop::Data { input, why: "no other input has rows".to_owned() });
                }
                None => refuse!("no input has rows for the tokens"),
            }
        };
        for name in [OFFSETS, LONGEST] {
            if new.find(name).is_some() {
                refuse!("an input has the name '{name}', which the packed form needs");
            }
        }
        let offsets = new.add_input(OFFSETS, Type::tensor(DType::I64, [&batch + 1]))?;
        let longest_input = new.add_input(LONGEST, Type::tensor(DType::I64, [longest.clone()]))?;
        for (id, t) in old.constants() {
            let value = new.add_constant(&new.unique_name(&old.value(*id).name), t.clone())?;
            classes[id.index()] = Some(Class::Whole(value));
        }
        let mut table_len: Option<i64> = None;
        let mut shapes = Vec::with_capacity(old.values().len());
        for def in old.values() {
            shapes.push(def.fact.shape().map(|shape| {
                let cut = |d: &Dim| {
                    let (d, limit) = whole_seq(d.clone(), &seq);
                    table_len = table_len.into_iter().chain(limit).min();
                    d
                };
                shape.iter().map(cut).collect::<Arc<[Dim]>>()
            }));
        }
        let mut producers = HashMap::new();
        for node in old.nodes() {
            producers.extend(node.outputs.iter().flatten().map(|id| (*id, node)));
        }
        Ok(Packer {
            shapes,
            table_len,
            producers,
            old,
            new,
            batch,
            seq,
            tokens,
            longest,
            classes,
            offsets,
            longest_input,
            any_rows,
            positions: None,
            ids: None,
            rows_of_places: HashMap::new(),
            spans: HashMap::new(),
        })
    }

    fn inputs_of(&self, roles: &BTreeMap<ValueId, Role>) -> Step<Vec<PackedInput>> {
        let kind = |id: ValueId| match self.classes[id.index()] {
            Some(Class::Cover(Cover {
                axes: Axes { batch: Some(batch), seq: Some(seq), .. },
                ..
            })) => {
                let token = roles.get(&id) != Some(&Role::Inverted);
                InputKind::Mask { token, batch, seq }
            }
            Some(Class::Lead(Lead { axes: Axes { seq: Some(seq), .. }, .. })) => {
                InputKind::Rows { seq_first: seq == 0 }
            }
            Some(Class::Lead(_)) => InputKind::PerSequence,
            _ => InputKind::Whole,
        };
        let one = |&id: &ValueId| {
            let def = self.old.value(id);
            Ok(PackedInput { name: def.name.clone(), dtype: def.fact.dtype()?, kind: kind(id) })
        };
        self.old.inputs().iter().map(one).collect()
    }

    fn outputs(&mut self) -> Step<Vec<PackedOutput>> {
        let mut outputs = Vec::new();
        for (name, id) in self.old.outputs() {
            let at = |stop: Stop| match stop {
                Stop::Reason(why) if why.starts_with("node ") => Stop::Reason(why),
                Stop::Reason(why) => Stop::Reason(format!("output '{name}': {why}")),
                Stop::Data { input, why } => {
                    Stop::Data { input, why: format!("output '{name}' {why}") }
                }
                other => other,
            };
            let (value, kind) = self.output(*id).map_err(at)?;
            self.new.add_output(name, value)?;
            outputs.push(PackedOutput { name: name.clone(), kind });
        }
        Ok(outputs)
    }

    fn output(&mut self, id: ValueId) -> Step<(ValueId, OutputKind)> {
        match self.class(id)?.clone() {
            Class::Whole(v) => Ok((v, OutputKind::Whole)),
            Class::Extents => refuse!("it holds extents, which differ from sequence to sequence"),
            Class::Opaque(why) => Err(Stop::Reason(why)),
            class => {
                let l = self.lead(class, &self.shape(id)?)?;
                let kind = match l.axes {
                    Axes { seq_major: true, .. } if l.axes.merged() => {
                        refuse!("its rows of different sequences are neighbours on one axis")
                    }
                    Axes { batch, seq: Some(seq), .. } => OutputKind::Rows { batch, seq },
                    Axes { batch: Some(batch), .. } => OutputKind::PerSequence { batch },
                    Axes { .. } => OutputKind::Whole,
                };
                Ok((l.value, kind))
            }
        }
    }

    /// Class of a value of the padded graph.
    pub fn class(&self, id: ValueId) -> Step<&Class> {
        match &self.classes[id.index()] {
            Some(class) => Ok(class),
            None => refuse!("'{}' is no tensor", self.old.value(id).name),
        }
    }

    /// Extents of a value of the padded graph.
    pub fn shape(&self, id: ValueId) -> Step<Arc<[Dim]>> {
        match &self.shapes[id.index()] {
            Some(shape) => Ok(shape.clone()),
            None => refuse!("the rank of '{}' is not known", self.old.value(id).name),
        }
    }

    /// Known integer contents of a value of the padded graph.
    pub fn dims(&self, id: ValueId) -> Option<Vec<Dim>> {
        let dims = self.old.fact(id).as_dims()?;
        Some(dims.into_iter().map(|d| whole_seq(d, &self.seq).0).collect())
    }

    /// The node that makes a value of the padded graph.
    pub fn producer(&self, id: Option<ValueId>) -> Option<&'a Node> {
        self.producers.get(&id?).copied()
    }

    /// Input `i` of a node.
    pub fn input(&self, node: &Node, i: usize) -> Step<ValueId> {
        match node.inputs.get(i).copied().flatten() {
            Some(id) => Ok(id),
            None => refuse!("input {i} is missing"),
        }
    }

    /// Constant integers that input `i` of a node holds.
    pub fn ints(&self, node: &Node, i: usize) -> Step<Vec<i64>> {
        let id = self.input(node, i)?;
        let dims = self.old.fact(id).as_dims();
        let ints = dims.and_then(|d| d.iter().map(Dim::as_const).collect::<Option<Vec<_>>>());
        match ints {
            Some(ints) => Ok(ints),
            None => refuse!("input {i} is not constant"),
        }
    }

    fn set_opaque(&mut self, node: &Node, why: &str) {
        for id in node.outputs.iter().flatten() {
            self.classes[id.index()] = Some(Class::Opaque(why.to_owned()));
        }
    }

    fn node(&mut self, node: &Node) -> Step<()> {
        let outputs: Vec<ValueId> = node.outputs.iter().flatten().copied().collect();
        if outputs.iter().all(|&id| self.holds_extents(id)) {
            for id in outputs {
                let class = match self.old.fact(id).as_constant() {
                    Some(t) => {
                        let name = self.new.unique_name(&self.old.value(id).name);
                        Class::Whole(self.new.add_constant(&name, t)?)
                    }
                    None => Class::Extents,
                };
                self.classes[id.index()] = Some(class);
            }
            return Ok(());
        }
        let mut classes = Vec::with_capacity(node.inputs.len());
        for id in &node.inputs {
            classes.push(id.map(|id| self.class(id).cloned()).transpose()?);
        }
        let opaque = classes.iter().flatten().find_map(|c| match c {
            Class::Opaque(why) => Some(why.clone()),
            _ => None,
        });
        if let Some(why) = opaque
            && !self.is_own_place(node)
        {
            self.set_opaque(node, &why);
            return Ok(());
        }
        let whole = classes.iter().flatten().all(|c| matches!(c, Class::Whole(_)));
        let results = if whole {
            self.clone_whole(node, &classes)?.into_iter().map(|v| v.map(Class::Whole)).collect()
        } else if !node.op.subgraphs().is_empty() || !node.op.is_pure() {
            refuse!("what it does with rows is not known")
        } else {
            self.rule(node, classes)?
        };
        for (id, class) in node.outputs.iter().zip(results) {
            if let Some(id) = id {
                self.check(*id, class.as_ref())?;
                self.classes[id.index()] = class;
            }
        }
        Ok(())
    }

    /// Whether a value's contents are extents, known as numbers or formulas over the two symbols.
    fn holds_extents(&self, id: ValueId) -> bool {
        let fact = self.old.fact(id);
        match &fact.known {
            Some(Known::Dims(dims)) => {
                fact.as_constant().is_some() || dims.iter().any(|d| self.related(d))
            }
            Some(Known::Tensor(_)) => true,
            None => false,
        }
    }

    /// Whether a formula mentions batch or sequence.
    pub fn related(&self, d: &Dim) -> bool {
        mentions(d, &self.batch) || mentions(d, &self.seq)
    }

    /// Fails unless the packed value has just the extents that its class promises.
    fn check(&self, id: ValueId, class: Option<&Class>) -> Step<()> {
        let Some(Class::Lead(lead)) = class else { return Ok(()) };
        let shape = self.shape(id)?;
        let first = if lead.axes.seq.is_some() { &self.tokens } else { &self.batch };
        let rest = lead.axes.features(shape.len()).into_iter().map(|a| &shape[a]);
        let want: Vec<&Dim> = std::iter::once(first).chain(rest).collect();
        let got = self.new.fact(lead.value).shape();
        let fits = got.is_some_and(|got| got.iter().collect::<Vec<_>>() == want)
            && want[1..].iter().all(|d| !self.related(d));
        if !fits {
            refuse!("the result would be {got:?} where {want:?} is expected");
        }
        Ok(())
    }

    // ---- building ----

    /// Adds a node that the padded graph does not have.
    pub fn add(&mut self, name: &str, op: impl Operator, inputs: &[ValueId]) -> Step<ValueId> {
        Ok(self.new.add(name, op, inputs)?)
    }

    /// Adds a node like `node` with other inputs and operator; its outputs keep their names.
    pub fn emit(
        &mut self,
        node: &Node,
        op: Arc<dyn Operator>,
        inputs: &[Option<ValueId>],
    ) -> Step<Vec<Option<ValueId>>> {
        let names: Vec<Option<String>> = node
            .outputs
            .iter()
            .map(|o| o.map(|id| self.new.unique_name(&self.old.value(id).name)))
            .collect();
        let names: Vec<Option<&str>> = names.iter().map(Option::as_deref).collect();
        Ok(self.new.add_node(&node.name, op, inputs, &names)?)
    }

    /// As [`Packer::emit`] for nodes of one output.
    pub fn emit_one(
        &mut self,
        node: &Node,
        op: Arc<dyn Operator>,
        inputs: &[ValueId],
    ) -> Step<ValueId> {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let out = self.emit(node, op, &inputs)?;
        match out[..] {
            [Some(value)] => Ok(value),
            _ => refuse!("it has {} outputs, expected one", out.len()),
        }
    }

    /// The node on values that are the same for all sequences, as it is.
    fn clone_whole(
        &mut self,
        node: &Node,
        classes: &[Option<Class>],
    ) -> Step<Vec<Option<ValueId>>> {
        let inputs: Vec<Option<ValueId>> = classes
            .iter()
            .map(|c| match c {
                Some(Class::Whole(v)) => Some(*v),
                _ => None,
            })
            .collect();
        let spans: Vec<Span> = inputs.iter().flatten().map(|&v| self.span(v)).collect();
        let out = self.emit(node, node.op.clone(), &inputs)?;
        self.remember_span(node, &spans, &out);
        Ok(out)
    }

    /// Notes what a value made by `node` may hold.
    pub fn remember_span(&mut self, node: &Node, inputs: &[Span], out: &[Option<ValueId>]) {
        let name = node.op.name();
        let spans = if pointwise::is_pointwise(name) && inputs.len() == node.inputs.len() {
            let dtypes = node.inputs.iter().flatten().map(|id| self.old.fact(*id).dtype());
            match dtypes.collect::<Result<Vec<_>, _>>() {
                Ok(dtypes) => Span::pointwise(&*node.op, inputs, &dtypes),
                Err(_) => Vec::new(),
            }
        } else if MOVES.contains(&name) {
            vec![inputs.first().copied().unwrap_or(Span::UNKNOWN); out.len()]
        } else {
            Vec::new()
        };
        for (id, span) in out.iter().zip(spans) {
            if let Some(id) = id {
                self.spans.insert(*id, span);
            }
        }
    }

    /// What a whole value, or one of places, may hold.
    pub fn span(&self, value: ValueId) -> Span {
        match self.new.fact(value).as_constant() {
            Some(t) => Span::of(&t),
            None => self.spans.get(&value).copied().unwrap_or(Span::UNKNOWN),
        }
    }

    pub fn set_span(&mut self, value: ValueId, span: Span) {
        self.spans.insert(value, span);
    }

    /// Adds a list of integers.
    pub fn list(&mut self, name: &str, values: &[i64]) -> Step<ValueId> {
        let name = self.new.unique_name(name);
        Ok(self.new.add_constant(&name, Tensor::from_slice(&[values.len()], values)?)?)
    }

    /// The packed or other value without the axes `axes`, each of extent 1.
    pub fn squeeze(&mut self, value: ValueId, axes: &[usize]) -> Step<ValueId> {
        if axes.is_empty() {
            return Ok(value);
        }
        let axes = self.list("axes", &signed(axes))?;
        self.add("squeeze", ops::Squeeze {}, &[value, axes])
    }

    /// The value with axes of extent 1 inserted at the places `axes` of the result.
    pub fn unsqueeze(&mut self, value: ValueId, axes: &[usize]) -> Step<ValueId> {
        if axes.is_empty() {
            return Ok(value);
        }
        let axes = self.list("axes", &signed(axes))?;
        self.add("unsqueeze", ops::Unsqueeze {}, &[value, axes])
    }

    /// `i64[1]`, the length of the longest sequence.
    pub fn longest_len(&mut self) -> Step<ValueId> {
        self.add("longest.len", ops::Shape::default(), &[self.longest_input])
    }

    /// `i64[tokens]`, the place of each row in its sequence.
    pub fn positions(&mut self) -> Step<ValueId> {
        if let Some(v) = self.positions {
            return Ok(v);
        }
        let inputs = [self.offsets, self.any_rows];
        let v = self.add("positions", ops::SegmentPositions {}, &inputs)?;
        self.positions = Some(v);
        Ok(v)
    }

    /// `i64[tokens]`, the sequence of each row.
    fn ids(&mut self) -> Step<ValueId> {
        if let Some(v) = self.ids {
            return Ok(v);
        }
        let v = self.add("sequence_ids", ops::SegmentIds {}, &[self.offsets, self.any_rows])?;
        self.ids = Some(v);
        Ok(v)
    }

    /// `value`, broadcast to `[tokens, features…]`.
    fn fill_rows(&mut self, value: ValueId, features: &[Dim]) -> Step<ValueId> {
        let Some(sizes) = ops::util::concrete(features) else {
            refuse!("extents {features:?} are not numbers")
        };
        let shape = ops::Shape { start: 0, end: Some(1) };
        let tokens = self.add("tokens", shape, &[self.any_rows])?;
        let rest = self.list("features", &sizes)?;
        let shape = self.add("rows.shape", ops::Concat { axis: 0 }, &[tokens, rest])?;
        self.add("rows", ops::Expand {}, &[value, shape])
    }

    // ---- changing representation ----

    /// A value of the padded shape `shape` as packed rows, or as a row for each sequence if it has
    /// no sequence axis.
    pub fn lead(&mut self, class: Class, shape: &[Dim]) -> Step<Lead> {
        match class {
            Class::Lead(l) => Ok(l),
            Class::Places(p) => {
                let [seq] = p.axes[..] else {
                    refuse!("it compares places of a sequence with one another")
                };
                Ok(lead_of(Axes::new(None, Some(seq)), self.rows_of(&p)?))
            }
            Class::Cover(c) => {
                if let Some(&input) = c.masks.first() {
                    let why = "reads it as data".to_owned();
                    return Err(Stop::Data { input, why });
                }
                self.cover_rows(&c, shape)
            }
            Class::Whole(_) => refuse!("it is the same for all sequences"),
            Class::Opaque(why) => Err(Stop::Reason(why)),
            Class::Extents => {
                refuse!("it computes with extents, which differ from sequence to sequence")
            }
        }
    }

    /// A cover where its masks are 1, as packed rows.
    pub fn cover_rows(&mut self, c: &Cover, shape: &[Dim]) -> Step<Lead> {
        if c.axes.seq.is_none() {
            refuse!("it is one value for each sequence, the same for all");
        }
        let features: Vec<Dim> =
            c.axes.features(shape.len()).into_iter().map(|a| shape[a].clone()).collect();
        let value = match &c.one {
            Even::Whole(v) => {
                let axes: Vec<usize> = (0..shape.len()).filter(|&a| c.axes.contains(a)).collect();
                self.squeeze(*v, &axes)?
            }
            Even::Places(p) if p.axes.len() == 1 && c.axes.seq == Some(p.axes[0]) => {
                let rows = self.rows_of(p)?;
                match c.axes.batch {
                    Some(b) if !c.axes.merged() => {
                        // The rows keep the batch axis, of extent 1, among their features.
                        let at = 1 + b - usize::from(p.axes[0] < b);
                        self.squeeze(rows, &[at])?
                    }
                    _ => rows,
                }
            }
            Even::Places(_) => refuse!("it compares places of a sequence with one another"),
        };
        let value = self.fill_rows(value, &features)?;
        let pad = if c.masks.is_empty() { Span::UNKNOWN } else { c.zero };
        Ok(Lead { axes: c.axes, value, pad, masks: c.masks.clone() })
    }

    /// The rows `[tokens, …]` of a value with one sequence axis, the other axes in their order.
    pub fn rows_of(&mut self, p: &Places) -> Step<ValueId> {
        if let Some(rows) = p.rows {
            return Ok(rows);
        }
        let axis = p.axes[0];
        if let Some(&rows) = self.rows_of_places.get(&(p.value, axis)) {
            return Ok(rows);
        }
        let table = self.axis_first(p.value, axis)?;
        let positions = self.positions()?;
        let rows = self.add("by_place", ops::Gather { axis: 0 }, &[table, positions])?;
        self.rows_of_places.insert((p.value, axis), rows);
        Ok(rows)
    }

    /// `value` with `axis` first.
    pub fn axis_first(&mut self, value: ValueId, axis: usize) -> Step<ValueId> {
        if axis == 0 {
            return Ok(value);
        }
        let Some(rank) = self.new.fact(value).rank() else { refuse!("a rank is not known") };
        let rest = (0..rank).filter(|&a| a != axis);
        let perm = std::iter::once(axis).chain(rest).map(|a| a as i64).collect();
        self.add("axis_first", ops::Transpose { perm }, &[value])
    }

    /// Packed rows, one for each token, of rows that are one for each sequence.
    pub fn tokens_of(&mut self, value: ValueId) -> Step<ValueId> {
        let ids = self.ids()?;
        self.add("by_sequence", ops::Gather { axis: 0 }, &[value, ids])
    }

    /// Extents of a value of places for the longest sequence.
    pub fn prefix_shape(&self, shape: &[Dim]) -> Vec<Dim> {
        let swap = |d: &Dim| if *d == self.seq { self.longest.clone() } else { d.clone() };
        shape.iter().map(swap).collect()
    }

    /// The fact of a value of the new graph.
    pub fn fact(&self, value: ValueId) -> &Fact {
        self.new.fact(value)
    }
}

/// Operators whose result holds elements of their first input.
const MOVES: [&str; 11] = [
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Expand",
    "Slice",
    "Gather",
    "Identity",
    "Split",
    "Tile",
];

fn maskable(dtype: DType) -> bool {
    matches!(
        dtype,
        DType::I64 | DType::I32 | DType::Bool | DType::F32 | DType::F16 | DType::BF16 | DType::F64
    )
}

/// `d`, or the sequence if `d` is the sequence cut to a constant length, which is given too: a
/// slice of a table, say. Longer sequences than that do not fit the rest of the graph.
fn whole_seq(d: Dim, seq: &Dim) -> (Dim, Option<i64>) {
    if d.is_const() || d == *seq || !mentions(&d, seq) {
        return (d, None);
    }
    let mut far = Bindings::default();
    let limit = far.unify(seq, 1 << 40).ok().and_then(|()| d.eval(&far).ok());
    match limit {
        Some(c) if d == Dim::from(c).min(seq) => (seq.clone(), Some(c)),
        _ => (d, None),
    }
}

/// Whether formula `d` mentions the symbol that `symbol` is.
pub(super) fn mentions(d: &Dim, symbol: &Dim) -> bool {
    symbol.as_symbol().is_some_and(|s| d.symbols().contains(s))
}

/// The class of packed rows of which no more is known.
pub(super) fn lead(axes: Axes, value: ValueId) -> Class {
    Class::Lead(lead_of(axes, value))
}

/// Packed rows of which no more is known.
pub(super) fn lead_of(axes: Axes, value: ValueId) -> Lead {
    Lead { axes, value, pad: Span::UNKNOWN, masks: Vec::new() }
}

/// Axes as operators take them.
pub(super) fn signed(axes: &[usize]) -> Vec<i64> {
    axes.iter().map(|&a| a as i64).collect()
}

/// The operator of a node with one attribute replaced.
pub(super) fn with_attr(node: &Node, name: &str, attr: Attr) -> Step<Arc<dyn Operator>> {
    let mut attrs = node.op.attrs();
    attrs.insert(name, attr);
    Ok(build_op(node.op.name(), attrs)?)
}

/// An integer attribute of a node.
pub(super) fn int_attr(node: &Node, name: &str) -> Option<i64> {
    match node.op.attrs().get(name) {
        Some(Attr::Int(i)) => Some(*i),
        Some(Attr::Bool(b)) => Some(i64::from(*b)),
        _ => None,
    }
}
