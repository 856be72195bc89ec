//! Building the patched graph.
//!
//! Patches of one round are merged where they do not touch the same value and applied together, so
//! a round costs one walk over the graph. The new graph is emitted producer by producer in the old
//! order, new nodes as soon as somebody reads them. Facts of nodes whose inputs did not change are
//! carried over, with everything that was declared about them; where an input changed, the shape
//! rule runs again and may add to what is known, never take away. A symbol that only the old
//! producer of a value bound is replaced everywhere by what the new producer says.

use super::patch::{NewNode, NewValue, Source};
use super::{Patch, Wire};
use crate::{Dim, Fact, Graph, Known, Node, Symbol, Type, ValueId};
use deepseek_tensor::{Result, bail, ensure, err};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The graph of `patches` with them applied. Patches that redirect a value which an earlier one
/// redirects, that introduce a symbol which an earlier one introduces, or that together would make
/// a cycle, are left out: their pass will find them again.
///
/// # Errors
/// `InvalidArgument` if a patch was built against another graph; `InvalidGraph` if a patch makes a
/// cycle or removes something that is still read; what a shape rule reports where an input
/// changed.
pub fn apply(graph: &Graph, patches: &[Patch]) -> Result<Graph> {
    for patch in patches {
        ensure!(
            std::ptr::eq(patch.graph, graph),
            InvalidArgument,
            "a patch of graph '{}' was built against another graph",
            patch.graph.name
        );
    }
    let merged = Edit::merge(graph, patches)?;
    match merged.build() {
        Err(Failure::Cycle(_)) if patches.len() > 1 => {
            Edit::merge(graph, &patches[..1])?.build().map_err(Failure::into_error)
        }
        result => result.map_err(Failure::into_error),
    }
}

enum Failure {
    /// The value behind which the cycle was found.
    Cycle(String),
    Error(deepseek_tensor::Error),
}

impl From<deepseek_tensor::Error> for Failure {
    fn from(e: deepseek_tensor::Error) -> Self {
        Failure::Error(e)
    }
}

impl Failure {
    fn into_error(self) -> deepseek_tensor::Error {
        match self {
            Failure::Cycle(node) => err!(InvalidGraph, "a patch makes node '{node}' read itself"),
            Failure::Error(e) => e,
        }
    }
}

/// Several patches as one; new values and nodes are renumbered.
struct Edit<'g> {
    graph: &'g Graph,
    values: Vec<NewValue>,
    nodes: Vec<NewNode>,
    /// Patch number of each new node.
    owners: Vec<usize>,
    /// What is read in place of a value, and the number of the patch that says so.
    redirects: HashMap<ValueId, (Wire, usize)>,
    removed_nodes: BTreeSet<usize>,
    removed_constants: BTreeSet<ValueId>,
}

/// Something that writes values.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Producer {
    Old(usize),
    New(usize),
}

impl<'g> Edit<'g> {
    fn merge(graph: &'g Graph, patches: &[Patch]) -> Result<Self> {
        let mut edit = Edit {
            graph,
            values: Vec::new(),
            nodes: Vec::new(),
            owners: Vec::new(),
            redirects: HashMap::new(),
            removed_nodes: BTreeSet::new(),
            removed_constants: BTreeSet::new(),
        };
        let mut fresh: BTreeSet<&Symbol> = BTreeSet::new();
        for (number, patch) in patches.iter().enumerate() {
            let (values, nodes) = (edit.values.len(), edit.nodes.len());
            let shift = |w: Wire| match w {
                Wire::New(n) => Wire::New(n + values),
                old => old,
            };
            if patch.redirects.keys().any(|from| edit.redirects.contains_key(from))
                || patch.fresh.iter().any(|s| fresh.contains(s))
            {
                continue;
            }
            for (from, to) in &patch.redirects {
                edit.redirects.insert(*from, (shift(*to), number));
            }
            let ends = |from: &ValueId| edit.resolve(Wire::Old(*from), None).is_some();
            if !patch.redirects.keys().all(ends) {
                ensure!(
                    number > 0,
                    InvalidGraph,
                    "a patch redirects a value to itself through other values"
                );
                for from in patch.redirects.keys() {
                    edit.redirects.remove(from);
                }
                continue;
            }
            fresh.extend(&patch.fresh);
            edit.values.extend(patch.values.iter().cloned().map(|mut v| {
                if let Source::Node(n) = &mut v.source {
                    *n += nodes;
                }
                v
            }));
            edit.nodes.extend(patch.nodes.iter().cloned().map(|mut n| {
                n.inputs.iter_mut().flatten().for_each(|w| *w = shift(*w));
                n.outputs.iter_mut().flatten().for_each(|o| *o += values);
                n
            }));
            edit.owners.resize(edit.nodes.len(), number);
            edit.removed_nodes.extend(&patch.removed_nodes);
            edit.removed_constants.extend(&patch.removed_constants);
        }
        Ok(edit)
    }

    /// What a reader of `wire` reads in the end; `None` if that goes in circles. Redirects of the
    /// patch `reader` do not count.
    fn resolve(&self, mut wire: Wire, reader: Option<usize>) -> Option<Wire> {
        for _ in 0..=self.redirects.len() {
            match wire {
                Wire::Old(id) => match self.redirects.get(&id) {
                    Some((to, owner)) if Some(*owner) != reader => wire = *to,
                    _ => return Some(wire),
                },
                Wire::New(_) => return Some(wire),
            }
        }
        None
    }

    /// Where readers of an old value look.
    fn target(&self, id: ValueId) -> Wire {
        self.resolve(Wire::Old(id), None).expect("circles were refused when patches were merged")
    }

    /// What new node `n` reads.
    fn new_inputs(&self, n: usize) -> Vec<Option<Wire>> {
        let resolve = |w: Wire| self.resolve(w, Some(self.owners[n])).unwrap_or(w);
        self.nodes[n].inputs.iter().map(|i| i.map(resolve)).collect()
    }

    fn build(&self) -> Result<Graph, Failure> {
        let gone = self.gone()?;
        let mut builder = Builder::new(self, &gone)?;
        for (i, _) in self.graph.nodes().iter().enumerate().filter(|(i, _)| !gone.nodes.contains(i))
        {
            builder.emit(Producer::Old(i))?;
        }
        for (name, id) in self.graph.outputs() {
            let target = self.target(*id);
            if let Some(producer) = builder.producer(target) {
                builder.emit(producer)?;
            }
            let id = builder.id(target)?;
            builder.out.add_output(name, id)?;
        }
        Ok(builder.out)
    }

    /// Which nodes and constants are not part of the new graph.
    fn gone(&self) -> Result<Gone> {
        let graph = self.graph;
        let mut read: HashSet<ValueId> = graph.outputs().iter().map(|(_, v)| *v).collect();
        read.extend(graph.nodes().iter().flat_map(|n| n.inputs.iter().flatten()));
        // Values that a new node of the redirecting patch reads as they were.
        let mut raw: HashSet<ValueId> = HashSet::new();
        for n in 0..self.nodes.len() {
            raw.extend(self.new_inputs(n).into_iter().flatten().filter_map(old));
        }
        read.extend(&raw);
        let replaced = |v: &ValueId| self.redirects.contains_key(v) && !raw.contains(v);
        let unneeded = |node: &Node| {
            let mut outputs = node.outputs.iter().flatten();
            outputs.clone().any(replaced) && outputs.all(|v| replaced(v) || !read.contains(v))
        };
        let mut nodes = self.removed_nodes.clone();
        nodes.extend(graph.nodes().iter().enumerate().filter(|(_, n)| unneeded(n)).map(|(i, _)| i));
        let mut values: HashSet<ValueId> = self.removed_constants.iter().copied().collect();
        values.extend(graph.constants().keys().filter(|v| replaced(v)));
        for &i in &nodes {
            let node = graph.nodes().get(i);
            let node = node.ok_or_else(|| {
                err!(InvalidArgument, "a patch removes node {i} of {}", graph.nodes().len())
            })?;
            values.extend(node.outputs.iter().flatten());
        }
        Ok(Gone { nodes, values })
    }

    /// Replacements of symbols that lose their meaning because the node that bound them is gone.
    fn symbols(&self) -> BTreeMap<Symbol, Dim> {
        let mut fixed = BTreeSet::new();
        for id in self.graph.inputs() {
            let dims = self.graph.fact(*id).shape().unwrap_or_default();
            fixed.extend(dims.iter().flat_map(Dim::symbols));
        }
        let mut map: BTreeMap<Symbol, Dim> = BTreeMap::new();
        let mut froms: Vec<_> = self.redirects.keys().copied().collect();
        froms.sort_unstable();
        for from in froms {
            let target = self.target(from);
            let to = self.fact(target);
            let (Some(a), Some(b)) = (self.graph.fact(from).shape(), to.shape()) else { continue };
            for (a, b) in a.iter().zip(b) {
                let (a, b) = (a.substitute(&map), b.substitute(&map));
                let free = |d: &Dim| d.as_symbol().filter(|s| !fixed.contains(*s)).cloned();
                if a == b {
                    continue;
                }
                // Between two names, the one that the graph already has stays.
                let renames = |s: &Symbol, d: &Dim| !d.symbols().contains(s);
                let (symbol, dim) = match (free(&a), free(&b), target) {
                    (_, Some(s), Wire::New(_)) if renames(&s, &a) => (s, a),
                    (Some(s), _, _) if renames(&s, &b) => (s, b),
                    (_, Some(s), _) if renames(&s, &a) => (s, a),
                    _ => continue,
                };
                let step = BTreeMap::from([(symbol.clone(), dim.clone())]);
                map.values_mut().for_each(|d| *d = d.substitute(&step));
                map.insert(symbol, dim);
            }
        }
        map
    }

    fn fact(&self, wire: Wire) -> &Fact {
        match wire {
            Wire::Old(id) => self.graph.fact(id),
            Wire::New(n) => &self.values[n].fact,
        }
    }
}

fn old(wire: Wire) -> Option<ValueId> {
    match wire {
        Wire::Old(id) => Some(id),
        Wire::New(_) => None,
    }
}

/// What is not part of the new graph.
struct Gone {
    nodes: BTreeSet<usize>,
    values: HashSet<ValueId>,
}

struct Builder<'e, 'g> {
    edit: &'e Edit<'g>,
    out: Graph,
    /// The values of `out` that wires have become.
    ids: HashMap<Wire, ValueId>,
    /// Values of `out` about which more is known than about what they were.
    changed: HashSet<ValueId>,
    /// Who writes an old value.
    writers: HashMap<ValueId, usize>,
    /// Facts about values that are replaced, by what replaces them.
    inherited: HashMap<Wire, Vec<ValueId>>,
    symbols: BTreeMap<Symbol, Dim>,
    taken: HashSet<String>,
    taken_nodes: HashSet<String>,
    gone: &'e Gone,
}

impl<'e, 'g> Builder<'e, 'g> {
    fn new(edit: &'e Edit<'g>, gone: &'e Gone) -> Result<Self> {
        let graph = edit.graph;
        let mut writers = HashMap::new();
        for (i, node) in graph.nodes().iter().enumerate() {
            writers.extend(node.outputs.iter().flatten().map(|&v| (v, i)));
        }
        let mut inherited: HashMap<Wire, Vec<ValueId>> = HashMap::new();
        let mut froms: Vec<_> = edit.redirects.keys().copied().collect();
        froms.sort_unstable();
        for from in froms {
            inherited.entry(edit.target(from)).or_default().push(from);
        }
        let live = |v: &ValueId| !gone.values.contains(v);
        let kept_nodes = graph.nodes().iter().enumerate().filter(|(i, _)| !gone.nodes.contains(i));
        let all = (0..graph.values().len()).map(|i| ValueId(i as u32));
        let mut builder = Builder {
            edit,
            out: Graph::new(&graph.name),
            ids: HashMap::new(),
            changed: HashSet::new(),
            writers,
            inherited,
            symbols: edit.symbols(),
            taken: all.filter(live).map(|v| graph.value(v).name.clone()).collect(),
            taken_nodes: kept_nodes.map(|(_, n)| n.name.clone()).collect(),
            gone,
        };
        builder.out.copy_bounds(graph);
        for &id in graph.inputs() {
            let def = graph.value(id);
            let new = builder.out.add_input(&def.name, def.fact.ty.clone())?;
            builder.ids.insert(Wire::Old(id), new);
        }
        for (&id, tensor) in graph.constants().iter().filter(|(id, _)| live(id)) {
            let new = builder.out.add_constant(&graph.value(id).name, tensor.clone())?;
            builder.ids.insert(Wire::Old(id), new);
        }
        for (n, value) in edit.values.iter().enumerate() {
            if let Source::Constant(tensor) = &value.source {
                let name = builder.value_name(n);
                let new = builder.out.add_constant(&name, tensor.clone())?;
                builder.ids.insert(Wire::New(n), new);
                builder.changed.insert(new);
            }
        }
        Ok(builder)
    }

    /// Who writes a wire, if a node does.
    fn producer(&self, wire: Wire) -> Option<Producer> {
        match wire {
            Wire::Old(id) => self.writers.get(&id).map(|&i| Producer::Old(i)),
            Wire::New(n) => match self.edit.values[n].source {
                Source::Node(node) => Some(Producer::New(node)),
                Source::Constant(_) => None,
            },
        }
    }

    fn id(&self, wire: Wire) -> Result<ValueId> {
        match self.ids.get(&wire) {
            Some(id) => Ok(*id),
            None => {
                let name = match wire {
                    Wire::Old(id) => &self.edit.graph.value(id).name,
                    Wire::New(n) => &self.edit.values[n].name,
                };
                bail!(InvalidGraph, "a patch removes '{name}', which is still read")
            }
        }
    }

    fn inputs(&self, producer: Producer) -> Vec<Option<Wire>> {
        match producer {
            Producer::Old(i) => {
                let inputs = &self.edit.graph.nodes()[i].inputs;
                inputs.iter().map(|v| v.map(|v| self.edit.target(v))).collect()
            }
            Producer::New(n) => self.edit.new_inputs(n),
        }
    }

    fn name(&self, producer: Producer) -> &str {
        match producer {
            Producer::Old(i) => &self.edit.graph.nodes()[i].name,
            Producer::New(n) => &self.edit.nodes[n].name,
        }
    }

    fn emitted(&self, producer: Producer) -> bool {
        let wire = match producer {
            Producer::Old(i) => {
                self.edit.graph.nodes()[i].outputs.iter().flatten().next().map(|v| Wire::Old(*v))
            }
            Producer::New(n) => {
                self.edit.nodes[n].outputs.iter().flatten().next().map(|n| Wire::New(*n))
            }
        };
        wire.is_some_and(|w| self.ids.contains_key(&w))
    }

    /// Emits a node after everything it reads.
    fn emit(&mut self, root: Producer) -> Result<(), Failure> {
        // An entry is a producer and whether its inputs were pushed above it.
        let mut stack = vec![(root, false)];
        let mut open = HashSet::new();
        while let Some((producer, ready)) = stack.pop() {
            if self.emitted(producer) {
                continue;
            }
            if ready {
                open.remove(&producer);
                self.write(producer)?;
                continue;
            }
            if let Producer::Old(i) = producer
                && self.gone.nodes.contains(&i)
            {
                // Reading it fails in `write` of the reader, which can name the value.
                continue;
            }
            if !open.insert(producer) {
                return Err(Failure::Cycle(self.name(producer).to_owned()));
            }
            stack.push((producer, true));
            for input in self.inputs(producer).into_iter().flatten() {
                if let Some(p) = self.producer(input)
                    && !self.emitted(p)
                {
                    if open.contains(&p) {
                        return Err(Failure::Cycle(self.name(p).to_owned()));
                    }
                    stack.push((p, false));
                }
            }
        }
        Ok(())
    }

    /// Adds a node whose inputs are there.
    fn write(&mut self, producer: Producer) -> Result<()> {
        let wires = self.inputs(producer);
        let inputs = wires
            .iter()
            .map(|w| w.map(|w| self.id(w)).transpose())
            .collect::<Result<Vec<_>>>()
            .map_err(|e| e.at_node(self.name(producer)))?;
        let edit = self.edit;
        let (op, outputs, before): (_, Vec<Option<Wire>>, _) = match producer {
            Producer::Old(i) => {
                let node = &edit.graph.nodes()[i];
                let outputs = node.outputs.iter().map(|o| o.map(Wire::Old)).collect();
                (node.op.clone(), outputs, Some(&node.inputs))
            }
            Producer::New(n) => {
                let node = &edit.nodes[n];
                let outputs = node.outputs.iter().map(|o| o.map(Wire::New)).collect();
                (node.op.clone(), outputs, None)
            }
        };
        let same =
            before.is_some_and(|b| b.iter().zip(&wires).all(|(b, w)| b.map(Wire::Old) == *w));
        let dirty = !same || inputs.iter().flatten().any(|id| self.changed.contains(id));
        let name = match producer {
            Producer::Old(i) => edit.graph.nodes()[i].name.clone(),
            Producer::New(n) => free(&edit.nodes[n].name, &mut self.taken_nodes),
        };
        let inferred = if dirty {
            let facts = self.out.infer(&name, &*op, &inputs, outputs.len());
            Some(facts.map_err(|e| e.at_node(&name))?)
        } else {
            None
        };
        let mut defs = Vec::with_capacity(outputs.len());
        for (slot, wire) in outputs.iter().enumerate() {
            let Some(wire) = *wire else {
                defs.push(None);
                continue;
            };
            let before = edit.fact(wire);
            let mut fact = before.clone();
            if let Some(inferred) = &inferred {
                refine(&mut fact, &inferred[slot]);
            }
            for from in self.inherited.get(&wire).into_iter().flatten() {
                refine(&mut fact, edit.graph.fact(*from));
            }
            substitute(&mut fact, &self.symbols);
            let more = fact.ty != before.ty || fact.known.is_some() != before.known.is_some();
            let name = match wire {
                Wire::Old(id) => edit.graph.value(id).name.clone(),
                Wire::New(n) => self.value_name(n),
            };
            defs.push(Some((name, fact, wire, more)));
        }
        let named = defs.iter().map(|d| d.as_ref().map(|(n, f, ..)| (n.clone(), f.clone())));
        let ids = self.out.push_node(name, op, inputs, named.collect())?;
        for (id, def) in ids.into_iter().zip(defs) {
            if let (Some(id), Some((_, _, wire, more))) = (id, def) {
                self.ids.insert(wire, id);
                if more || matches!(wire, Wire::New(_)) {
                    self.changed.insert(id);
                }
            }
        }
        Ok(())
    }

    /// The name of a new value: that of the value it replaces, where that name is free.
    fn value_name(&mut self, n: usize) -> String {
        let replaced = self.inherited.get(&Wire::New(n)).and_then(|v| v.first()).copied();
        let base = match replaced {
            Some(id) if self.gone.values.contains(&id) => &self.edit.graph.value(id).name,
            _ => &self.edit.values[n].name,
        };
        free(base, &mut self.taken)
    }
}

/// A name derived from `base` that is not taken; it is then.
fn free(base: &str, taken: &mut HashSet<String>) -> String {
    let mut name = base.to_owned();
    let mut i = 0u64;
    while !taken.insert(name.clone()) {
        i += 1;
        name = format!("{base}_{i}");
    }
    name
}

/// Adds to `fact` what `other`, about the same value, knows better.
fn refine(fact: &mut Fact, other: &Fact) {
    refine_type(&mut fact.ty, &other.ty);
    match (&fact.known, &other.known) {
        (None, Some(_)) | (Some(Known::Dims(_)), Some(Known::Tensor(_))) => {
            fact.known = other.known.clone();
        }
        _ => {}
    }
}

fn refine_type(ty: &mut Type, other: &Type) {
    match (ty, other) {
        (Type::Tensor(_, shape), Type::Tensor(_, Some(better))) => match shape {
            None => *shape = Some(better.clone()),
            Some(dims) if dims.len() == better.len() => {
                for (d, b) in dims.iter_mut().zip(better) {
                    if !d.is_const() && b.is_const() {
                        *d = b.clone();
                    }
                }
            }
            Some(_) => {}
        },
        (Type::Sequence(a), Type::Sequence(b)) | (Type::Optional(a), Type::Optional(b)) => {
            refine_type(a, b);
        }
        _ => {}
    }
}

fn substitute(fact: &mut Fact, symbols: &BTreeMap<Symbol, Dim>) {
    if symbols.is_empty() {
        return;
    }
    substitute_type(&mut fact.ty, symbols);
    if let Some(Known::Dims(dims)) = &mut fact.known {
        dims.iter_mut().for_each(|d| *d = d.substitute(symbols));
    }
}

fn substitute_type(ty: &mut Type, symbols: &BTreeMap<Symbol, Dim>) {
    match ty {
        Type::Tensor(_, Some(dims)) => dims.iter_mut().for_each(|d| *d = d.substitute(symbols)),
        Type::Tensor(_, None) => {}
        Type::Sequence(t) | Type::Optional(t) => substitute_type(t, symbols),
    }
}
