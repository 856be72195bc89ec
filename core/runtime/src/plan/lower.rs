//! Kernels, homes and lifetimes.

use super::pack::{Block, Packing};
use super::{Heap, Home, How, Life, Plan, Step, aligned, tensor_bytes};
use crate::registry::{PrepareArgs, candidates};
use crate::rows::{Blocks, Lent};
use crate::runtime::Runtime;
use deepseek_graph::ops::RowBlocks;
use deepseek_graph::{Dim, Graph, Node, Symbol, ValueId};
use deepseek_kernels_cpu::Parallel;
use deepseek_tensor::Result;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

/// Lowers `graph`; `given` says that each run brings memory for the outputs.
pub(super) fn lower(graph: Graph, runtime: &Runtime, given: bool) -> Result<Plan> {
    let mut lowering = Lowering::new(&graph);
    if given {
        lowering.give_outputs(&graph);
    }
    let mut steps = Vec::with_capacity(graph.nodes().len());
    for (index, node) in graph.nodes().iter().enumerate() {
        let (how, Lent { arena: scratch, heap }) =
            lowering.choose(&graph, node, runtime).map_err(|e| e.at_node(&node.name))?;
        let in_place = lowering.place(&graph, index, &how);
        let heap = (heap.as_const() != Some(0)).then(|| {
            lowering.heap.push((Block { bytes: heap, first: index, last: index }, false));
            lowering.heap.len() - 1
        });
        let scratch = (scratch.as_const() != Some(0)).then(|| {
            lowering.blocks.push(Block { bytes: aligned(&scratch), first: index, last: index });
            lowering.blocks.len() - 1
        });
        let free = std::mem::take(&mut lowering.dying[index]);
        steps.push(Step { node: index, how, free, scratch, heap, in_place });
    }
    if !given {
        lowering.place_copies_of_inputs(&graph);
    }
    let Lowering { homes, blocks, heap, lives, inputs, copies, dynamic_values, .. } = lowering;
    let sizes = || blocks.iter().map(|b| &b.bytes).chain(heap.iter().map(|h| &h.0.bytes));
    let symbols: BTreeSet<Symbol> = sizes().flat_map(Dim::symbols).collect();
    let symbols: Vec<Symbol> = symbols.into_iter().collect();
    let heap = Heap {
        sizes: heap.iter().map(|(b, output)| (b.bytes.compile(&symbols), *output)).collect(),
        spans: heap.iter().map(|(b, _)| (b.first, b.last)).collect(),
        steps: steps.len(),
    };
    let outputs = heap.sizes.iter().filter(|(_, output)| *output);
    let outputs = Dim::sum(outputs.map(|(size, _)| size.source()));
    let packing = Packing::new(blocks, &symbols, graph.bounds());
    Ok(Plan {
        runtime: runtime.clone(),
        graph,
        steps,
        homes,
        packing,
        heap,
        lives,
        inputs,
        copies,
        symbols,
        dynamic_values,
        needs: Mutex::default(),
        arena_formula: OnceLock::new(),
        heap_formula: OnceLock::new(),
        outputs,
        budget: 0,
        unload: None,
    })
}

/// Working state of [`lower`].
struct Lowering {
    homes: Vec<Home>,
    /// For each value, the value whose bytes it shares.
    root: Vec<ValueId>,
    /// Last step that reads a root or its views; absent for outputs.
    last: HashMap<ValueId, usize>,
    /// Values that die with each node.
    dying: Vec<Vec<ValueId>>,
    /// Roots that are graph outputs.
    leaves: BTreeSet<ValueId>,
    /// Symbols that the inputs determine.
    known_symbols: BTreeSet<Symbol>,
    blocks: Vec<Block>,
    /// Values outside the arena with a known size, and whether they are outputs.
    heap: Vec<(Block, bool)>,
    lives: Vec<Life>,
    /// Outputs that are inputs, or views of them.
    inputs: Vec<ValueId>,
    /// Outputs, by number, whose values live in the caller's memory, by root.
    given: HashMap<ValueId, usize>,
    /// Outputs, by number, that are copied there at the end.
    copies: Vec<usize>,
    dynamic_values: usize,
}

impl Lowering {
    fn new(graph: &Graph) -> Self {
        let mut homes = vec![Home::Nowhere; graph.values().len()];
        for id in graph.inputs() {
            homes[id.index()] = Home::Input;
        }
        for (id, t) in graph.constants() {
            homes[id.index()] = Home::Constant(t.clone());
        }
        let known_symbols = graph
            .inputs()
            .iter()
            .filter_map(|id| graph.fact(*id).shape())
            .flatten()
            .flat_map(Dim::symbols)
            .collect();
        let root = roots(graph);
        let leaves: BTreeSet<_> = graph.outputs().iter().map(|(_, id)| root[id.index()]).collect();
        let mut last: HashMap<ValueId, usize> = HashMap::new();
        let mut sharing: HashMap<ValueId, Vec<ValueId>> = HashMap::new();
        for (i, node) in graph.nodes().iter().enumerate() {
            for id in node.inputs.iter().chain(&node.outputs).flatten() {
                let root = root[id.index()];
                last.insert(root, i);
                let all = sharing.entry(root).or_default();
                if !all.contains(id) {
                    all.push(*id);
                }
            }
        }
        last.retain(|id, _| !leaves.contains(id));
        let mut dying = vec![Vec::new(); graph.nodes().len()];
        for (id, &i) in &last {
            dying[i].extend(sharing.remove(id).unwrap_or_default());
        }
        dying.iter_mut().for_each(|d| d.sort_unstable());
        Lowering {
            homes,
            root,
            last,
            dying,
            leaves,
            known_symbols,
            blocks: Vec::new(),
            heap: Vec::new(),
            lives: Vec::new(),
            inputs: Vec::new(),
            given: HashMap::new(),
            copies: Vec::new(),
            dynamic_values: 0,
        }
    }

    /// Lets each output that a node makes live in the caller's memory; the others, and a
    /// value that is an output twice, are copied there.
    fn give_outputs(&mut self, graph: &Graph) {
        for (i, (_, id)) in graph.outputs().iter().enumerate() {
            let root = self.root[id.index()];
            let made = matches!(self.homes[root.index()], Home::Nowhere);
            if !made || self.given.contains_key(&root) {
                self.copies.push(i);
            } else {
                self.given.insert(root, i);
            }
        }
    }

    /// How a node runs, and the bytes it needs during its step: scratch and beside the arena.
    fn choose(&self, graph: &Graph, node: &Node, runtime: &Runtime) -> Result<(How, Lent)> {
        let lent = |arena: Dim| Lent { arena, heap: Dim::from(0i64) };
        let none = Dim::from(0i64);
        if is_view(node) {
            return Ok((How::View, lent(none)));
        }
        if let Some(op) = node.op.downcast::<RowBlocks>()
            && let Some((blocks, lent)) =
                Blocks::lower(graph, node, op, runtime, &self.known_symbols)?
        {
            return Ok((How::Rows(Box::new(blocks)), lent));
        }
        let ranked = node.outputs.iter().flatten().all(|id| graph.fact(*id).rank().is_some());
        if ranked {
            let pool = runtime.pool();
            let args = PrepareArgs {
                node,
                graph,
                isa: runtime.isa(),
                threads: pool.threads(),
                pool,
                packs: runtime.packs(),
            };
            for def in candidates(node.op.name()) {
                if let Some(p) = (def.prepare)(&args)?
                    && p.scratch_bytes.symbols().is_subset(&self.known_symbols)
                {
                    return Ok((How::Kernel(p.name, p.kernel), lent(p.scratch_bytes)));
                }
            }
        }
        let plans = node.op.subgraphs().into_iter().map(|g| lower((**g).clone(), runtime, false));
        Ok((How::Reference(plans.collect::<Result<_>>()?), lent(none)))
    }

    /// Gives the outputs of a node their homes, and says which input's bytes output 0
    /// takes over.
    fn place(&mut self, graph: &Graph, index: usize, how: &How) -> Option<usize> {
        let node = &graph.nodes()[index];
        if let How::Reference(subplans) = how {
            self.dynamic_values += usize::from(!subplans.is_empty());
        }
        let mut in_place = None;
        for (i, id) in node.outputs.iter().enumerate() {
            let Some(id) = *id else { continue };
            let root = self.root[id.index()];
            let leaf = self.leaves.contains(&root);
            let last = if leaf { graph.nodes().len() } else { self.last[&root] };
            let bytes = self.bytes(graph, id);
            let home = match (how, bytes) {
                (How::View, _) => Home::View,
                (how, Some(bytes)) if self.given.contains_key(&root) => {
                    if matches!(how, How::Reference(_)) {
                        // Its result is copied to the caller's memory.
                        self.hold(id, bytes, (index, index), false);
                    }
                    Home::Given(self.given[&root])
                }
                (How::Kernel(..) | How::Rows(_), Some(bytes)) if !leaf => {
                    let over = (i == 0)
                        .then(|| self.take_over(graph, index, in_place_inputs(how), &bytes))
                        .flatten();
                    let block = match over {
                        Some((input, block)) => {
                            in_place = Some(input);
                            self.blocks[block].last = last;
                            let mut before = self.lives.iter_mut().rev();
                            if let Some(life) = before.find(|l| l.block == Some(block)) {
                                life.last = index - 1;
                            }
                            block
                        }
                        None => {
                            let block = Block { bytes: aligned(&bytes), first: index, last };
                            self.blocks.push(block);
                            self.blocks.len() - 1
                        }
                    };
                    let life =
                        Life { value: id, first: index, last, block: Some(block), heap: None };
                    self.lives.push(life);
                    Home::Arena(block)
                }
                (_, Some(bytes)) => {
                    self.hold(id, bytes, (index, last), leaf);
                    Home::Heap
                }
                (_, None) => {
                    self.dynamic_values += 1;
                    Home::Heap
                }
            };
            self.homes[id.index()] = home;
        }
        in_place
    }

    /// The first of `inputs` whose bytes a result of `bytes` may take over, and its block:
    /// it dies with the node, nothing else the node reads shares its bytes, and it is just
    /// as large for every shape.
    fn take_over(
        &self,
        graph: &Graph,
        index: usize,
        inputs: &[usize],
        bytes: &Dim,
    ) -> Option<(usize, usize)> {
        let node = &graph.nodes()[index];
        let root_of =
            |i: usize| node.inputs.get(i).copied().flatten().map(|id| self.root[id.index()]);
        inputs.iter().find_map(|&i| {
            let root = root_of(i)?;
            let Home::Arena(block) = self.homes[root.index()] else { return None };
            let shared = (0..node.inputs.len()).any(|j| j != i && root_of(j) == Some(root));
            let same = self.bytes(graph, root).is_some_and(|b| b == *bytes);
            (self.last.get(&root) == Some(&index) && !shared && same).then_some((i, block))
        })
    }

    /// Outputs that are inputs are copied at the end of the run.
    fn place_copies_of_inputs(&mut self, graph: &Graph) {
        let end = graph.nodes().len();
        for (_, id) in graph.outputs() {
            if matches!(self.homes[self.root[id.index()].index()], Home::Input) {
                self.inputs.push(*id);
                match self.bytes(graph, *id) {
                    Some(bytes) => self.hold(*id, bytes, (end, end), true),
                    None => self.dynamic_values += 1,
                }
            }
        }
    }

    fn hold(&mut self, value: ValueId, bytes: Dim, (first, last): (usize, usize), output: bool) {
        let heap = Some(self.heap.len());
        self.lives.push(Life { value, first, last, block: None, heap });
        self.heap.push((Block { bytes, first, last }, output));
    }

    /// Bytes of a value, if they follow from the inputs.
    fn bytes(&self, graph: &Graph, id: ValueId) -> Option<Dim> {
        let bytes = tensor_bytes(&graph.fact(id).ty)?;
        bytes.symbols().is_subset(&self.known_symbols).then_some(bytes)
    }
}

/// Inputs whose bytes output 0 may take over.
fn in_place_inputs(how: &How) -> &[usize] {
    match how {
        How::Kernel(_, kernel) => kernel.in_place(),
        How::Rows(blocks) => blocks.in_place(),
        How::Reference(_) | How::View => &[],
    }
}

/// Whether a node's output has the bytes of its first input.
fn is_view(node: &Node) -> bool {
    matches!(node.op.name(), "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Identity")
}

/// For each value, the value whose bytes it shares.
fn roots(graph: &Graph) -> Vec<ValueId> {
    let ids = graph.nodes().iter().flat_map(|n| n.outputs.iter().flatten().copied());
    let mut all: Vec<ValueId> = ids
        .chain(graph.inputs().iter().copied())
        .chain(graph.constants().keys().copied())
        .collect();
    all.sort_unstable();
    let mut root = all;
    debug_assert_eq!(root.len(), graph.values().len(), "every value has one origin");
    for node in graph.nodes() {
        if is_view(node)
            && let (Some(Some(from)), Some(Some(to))) = (node.inputs.first(), node.outputs.first())
        {
            root[to.index()] = root[from.index()];
        }
    }
    root
}
