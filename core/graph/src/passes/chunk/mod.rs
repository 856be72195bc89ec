//! Cutting wide computations into blocks of rows.
//!
//! A feed-forward block takes rows of 768 numbers to rows of 3,072 and back. Run over all rows at
//! once it holds them all at their widest; run block by block it holds one block, and what it
//! holds stays in cache. The pass finds such regions: nodes each of which computes row `r` of its
//! outputs from row `r` of its inputs (the table in [`rules`] says which operators do), between
//! which more is held than goes in and comes out. Each becomes one [`RowBlocks`].
//!
//! Which axes count rows is a matter of the region: all leading axes of a feed-forward block, the
//! batch alone where attention mixes the positions of a sequence. A number of rows is a formula,
//! `batch*seq`; a value has rows if the product of some leading extents is that formula.
//!
//! Of a region, the stretch of nodes is cut that saves most bytes per row: from what is held when
//! it runs at once (the largest sum of values alive, one in place of another where that is
//! possible), to what is held around it when it runs in blocks (what goes in and comes out).
//!
//! What the cut costs is that a block reads all weights of its region again. So regions are cut
//! only where a block of rows is enough work for the weights, unless memory is worth more.

mod rules;
#[cfg(test)]
mod tests;

use super::{Diagnostics, Pass, Patch, Wire};
use crate::ops::RowBlocks;
use crate::{Dim, Fact, Graph, Type, ValueId};
use deepseek_tensor::{Result, ensure};
use rules::{Operand, RowWise, View, row_wise};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Nodes of the longest stretch that is looked at.
const LONGEST: usize = 32;

/// Value of a symbol without an upper bound where two formulas are to be compared.
const NOMINAL: i64 = 512;

/// Rows of a block are a multiple of this: a whole number of register tiles of every matrix
/// kernel, which have 6, 8 or 12 rows.
const TILE_ROWS: u64 = 24;

/// Cuts regions that compute row by row into blocks of rows; see the module's head.
#[derive(Clone, Debug)]
pub struct CutRows {
    /// What a block holds at most, in bytes; it has fewer rows where that takes it.
    pub block_bytes: u64,
    /// Most rows of a block.
    pub max_rows: u64,
    /// Least rows of a block: a region is left whole rather than cut smaller.
    pub min_rows: u64,
    /// Least bytes that a row holds in a region worth cutting.
    pub min_row_bytes: u64,
    /// Least ratio of what is held at once to what is held around blocks.
    pub min_ratio: f64,
    /// Cut along the first axis of the inputs, whole sequences or images, and whatever else
    /// saves bytes: least memory rather than speed.
    pub coarse: bool,
}

impl Default for CutRows {
    /// Where blocks cost no time: wide regions, in blocks that fit the cache and are enough
    /// work for their weights.
    fn default() -> Self {
        CutRows {
            block_bytes: 6 << 20,
            max_rows: 504,
            min_rows: 64,
            min_row_bytes: 4096,
            min_ratio: 2.0,
            coarse: false,
        }
    }
}

impl Pass for CutRows {
    fn name(&self) -> &'static str {
        "cut-rows"
    }

    fn run<'g>(&self, graph: &'g Graph, diagnostics: &mut Diagnostics) -> Result<Vec<Patch<'g>>> {
        let survey = Survey::new(graph, self);
        let mut found = Vec::new();
        for rows in survey.row_counts() {
            survey.stretches(&rows, &mut found, diagnostics);
        }
        found.sort_by(|a, b| {
            let gain = b.gain.cmp(&a.gain);
            let less = a.around.cmp(&b.around).then(a.nodes.len().cmp(&b.nodes.len()));
            gain.then(less).then(a.nodes.cmp(&b.nodes))
        });
        let mut taken = HashSet::new();
        let mut patches = Vec::new();
        for stretch in found {
            if stretch.nodes.iter().any(|n| taken.contains(n)) {
                continue;
            }
            let name = &graph.nodes()[stretch.nodes[0]].name;
            let Some(block) = survey.block(&stretch, diagnostics) else { continue };
            match survey.patch(&stretch, block) {
                Ok(patch) => {
                    diagnostics.fired(self.name(), name, || survey.describe(&stretch, block));
                    patches.push(patch);
                    taken.extend(stretch.nodes);
                }
                Err(e) => diagnostics.missed(self.name(), name, || format!("cut: {}", e.message())),
            }
        }
        Ok(patches)
    }
}

/// Values that have a certain number of rows.
#[derive(Clone)]
struct Over {
    rows: Dim,
    /// What is known of each value that has them.
    values: Arc<[Option<RowsOf>]>,
}

/// How many leading axes of a value count its rows, and bytes of a row if they are known.
type RowsOf = (usize, Option<u64>);

impl Over {
    fn leading(&self, id: ValueId) -> Option<usize> {
        self.values[id.index()].map(|(lead, _)| lead)
    }

    fn bytes(&self, id: ValueId) -> Option<u64> {
        self.values[id.index()]?.1
    }
}

/// A stretch of nodes that can run in blocks.
struct Stretch {
    over: Over,
    /// In order.
    nodes: Vec<usize>,
    parts: Vec<RowWise>,
    /// Values with rows that come from outside.
    cut: Vec<ValueId>,
    /// Values that every block reads whole, constants not among them.
    whole: Vec<ValueId>,
    /// Values that are read outside.
    outputs: Vec<ValueId>,
    /// Bytes of a row while the stretch runs at once, and around it while it runs in blocks.
    at_once: u64,
    around: u64,
    /// Bytes of all rows that blocks save.
    gain: u64,
}

/// What a graph looks like to the pass.
struct Survey<'g, 'p> {
    graph: &'g Graph,
    pass: &'p CutRows,
    writer: HashMap<ValueId, usize>,
    readers: HashMap<ValueId, Vec<usize>>,
    outputs: HashSet<ValueId>,
}

impl<'g, 'p> Survey<'g, 'p> {
    fn new(graph: &'g Graph, pass: &'p CutRows) -> Self {
        let mut writer = HashMap::new();
        let mut readers: HashMap<ValueId, Vec<usize>> = HashMap::new();
        for (i, node) in graph.nodes().iter().enumerate() {
            writer.extend(node.outputs.iter().flatten().map(|&id| (id, i)));
            for &id in node.inputs.iter().flatten() {
                readers.entry(id).or_default().push(i);
            }
        }
        let outputs = graph.outputs().iter().map(|(_, id)| *id).collect();
        Survey { graph, pass, writer, readers, outputs }
    }

    /// The most that a formula can be, or its value at nominal extents.
    fn size(&self, d: &Dim) -> Option<u64> {
        let bounds = self.graph.bounds();
        if let Some(max) = d.range(bounds).max {
            return u64::try_from(max).ok();
        }
        let nominal = |s: &crate::Symbol| {
            let (min, max) = bounds.get(s);
            Dim::from(NOMINAL.max(min).min(max.unwrap_or(i64::MAX)))
        };
        let at: BTreeMap<_, _> =
            d.symbols().into_iter().map(|s| (s.clone(), nominal(&s))).collect();
        u64::try_from(d.substitute(&at).as_const()?).ok()
    }

    /// Numbers of rows that values have, the largest first. A number of rows that is never more
    /// than a block's is none.
    fn row_counts(&self) -> Vec<Dim> {
        let mut counts: Vec<(u64, Dim)> = Vec::new();
        let mut add = |d: Dim| {
            let most = d.range(self.graph.bounds()).max.map_or(u64::MAX, |n| n.max(0) as u64);
            let least = if self.pass.coarse { 2 } else { 2 * self.pass.min_rows };
            if most >= least
                && d.poison().is_none()
                && let Some(size) = self.size(&d)
                && !counts.iter().any(|(_, c)| *c == d)
            {
                counts.push((size, d));
            }
        };
        for node in self.graph.nodes() {
            let values = node.outputs.iter().flatten();
            for shape in values.filter_map(|id| self.graph.fact(*id).shape()) {
                for k in 1..shape.len() {
                    if !shape[..k].iter().all(|d| d.as_const() == Some(1)) {
                        add(Dim::product(&shape[..k]));
                    }
                }
            }
        }
        counts.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp_structure(&b.1)));
        counts.into_iter().map(|(_, d)| d).collect()
    }

    /// The values with `rows` rows.
    fn over(&self, rows: &Dim) -> Over {
        let values = self.graph.values().iter().enumerate();
        let values = values.map(|(i, def)| {
            let shape = def.fact.shape()?;
            let lead = (1..=shape.len()).find(|&k| Dim::product(&shape[..k]) == *rows)?;
            let rest = Dim::product(&shape[lead..]);
            let told = self.pass.coarse || rest.is_const();
            let bits = def.fact.dtype().ok()?.bits() as u64;
            let bytes = self.size(&rest).filter(|_| told).map(|n| n.saturating_mul(bits) / 8);
            Some((lead, if self.is_constant(i) { Some(0) } else { bytes }))
        });
        Over { rows: rows.clone(), values: values.collect() }
    }

    fn is_constant(&self, value: usize) -> bool {
        self.graph.constants().contains_key(&ValueId(value as u32))
    }

    /// Every stretch of nodes over `rows` rows that is worth cutting.
    fn stretches(&self, rows: &Dim, found: &mut Vec<Stretch>, diagnostics: &mut Diagnostics) {
        let over = self.over(rows);
        let leading = |id: ValueId| over.leading(id);
        let parts: Vec<Option<RowWise>> = self
            .graph
            .nodes()
            .iter()
            .map(|node| {
                let ranked = node.outputs.iter().all(Option::is_some);
                let part = row_wise(&View { graph: self.graph, node, leading: &leading });
                let sized = |id: &ValueId| over.bytes(*id).is_some();
                match part {
                    Ok(p) if ranked && node.outputs.iter().flatten().all(sized) => Some(p),
                    Ok(_) => None,
                    Err(why) => {
                        if node.outputs.iter().flatten().any(|id| leading(*id).is_some()) {
                            diagnostics.missed(self.pass.name(), &node.name, || {
                                format!("row by row over {rows} rows: {why}")
                            });
                        }
                        None
                    }
                }
            })
            .collect();
        for first in (0..parts.len()).filter(|&i| parts[i].is_some()) {
            let mut best: Option<Stretch> = None;
            self.grow(first, &parts, &over, |nodes| {
                if let Some(s) = self.weigh(&over, nodes, &parts)
                    && best.as_ref().is_none_or(|b| s.gain > b.gain)
                {
                    best = Some(s);
                }
            });
            found.extend(best);
        }
    }

    /// Calls `each` with stretches that begin with node `first`: nodes that share rows, and between
    /// which no other node stands. The longest alone, if the cut is coarse.
    fn grow(
        &self,
        first: usize,
        parts: &[Option<RowWise>],
        over: &Over,
        mut each: impl FnMut(&[usize]),
    ) {
        let mut nodes = Vec::new();
        let mut widest = 0;
        // Values that the stretch makes or cuts, and values that depend on it from outside.
        let (mut made, mut cut) = (HashSet::new(), HashSet::new());
        let mut outside: HashSet<ValueId> = HashSet::new();
        for (i, part) in parts.iter().enumerate().skip(first) {
            let node = &self.graph.nodes()[i];
            let reads = || node.inputs.iter().flatten();
            let depends = reads().any(|id| outside.contains(id));
            let joins = part.as_ref().is_some_and(|p| {
                let mut rows = p.inputs.iter().filter_map(rows_of);
                nodes.is_empty() || rows.any(|id| made.contains(&id) || cut.contains(&id))
            });
            let whole = part.iter().flat_map(|p| &p.inputs).any(|o| match o {
                Operand::Whole(id) => made.contains(id),
                _ => false,
            });
            if joins && !depends && !whole {
                let part = part.iter().flat_map(|p| &p.inputs);
                cut.extend(part.filter_map(rows_of).filter(|id| !made.contains(id)));
                made.extend(node.outputs.iter().flatten().copied());
                nodes.push(i);
                if self.pass.coarse {
                    continue;
                }
                // Nothing is saved before rows get narrower again.
                let width = node.outputs.iter().flatten().filter_map(|id| over.bytes(*id)).max();
                let width = width.unwrap_or(0);
                if width < widest {
                    each(&nodes);
                }
                widest = widest.max(width);
                if nodes.len() >= LONGEST {
                    return;
                }
            } else if depends || reads().any(|id| made.contains(id)) {
                outside.extend(node.outputs.iter().flatten().copied());
            }
        }
        if self.pass.coarse {
            each(&nodes);
        }
    }

    /// What cutting the nodes saves, if it is worth it.
    fn weigh(&self, over: &Over, nodes: &[usize], parts: &[Option<RowWise>]) -> Option<Stretch> {
        let within: HashSet<usize> = nodes.iter().copied().collect();
        // Who reads a value before the stretch begins does not keep it alive.
        let later = |n: &usize| !within.contains(n) && *n > nodes[0];
        let left = |id: &ValueId| {
            self.outputs.contains(id) || self.readers.get(id).is_some_and(|r| r.iter().any(later))
        };
        let parts: Vec<&RowWise> =
            nodes.iter().map(|&n| parts[n].as_ref()).collect::<Option<_>>()?;
        let mut last: HashMap<ValueId, usize> = HashMap::new();
        for (at, part) in parts.iter().enumerate() {
            last.extend(part.inputs.iter().filter_map(rows_of).map(|id| (id, at)));
        }
        // What a view is a view of lives as long as the view, which has no bytes of its own.
        let mut views = HashSet::new();
        for (at, part) in parts.iter().enumerate().rev().filter(|(_, part)| part.view) {
            let from = part.inputs.iter().find_map(rows_of);
            let to = self.graph.nodes()[nodes[at]].outputs.first().copied().flatten();
            if let (Some(from), Some(to)) = (from, to)
                && !left(&to)
            {
                let end = last.get(&to).copied().unwrap_or(at);
                last.entry(from).and_modify(|l| *l = end.max(*l));
                views.insert(to);
            }
        }
        let (mut cut, mut whole, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        let mut made = HashSet::new();
        let mut alive: u64 = 0;
        let mut bytes: HashMap<ValueId, u64> = HashMap::new();
        for (at, part) in parts.iter().enumerate() {
            for operand in &part.inputs {
                match operand {
                    Operand::Rows(id) if !made.contains(id) && !cut.contains(id) => {
                        let n = over.bytes(*id)?;
                        bytes.insert(*id, n);
                        alive += n;
                        cut.push(*id);
                    }
                    Operand::Whole(id)
                        if self.graph.constant(*id).is_none() && !whole.contains(id) =>
                    {
                        whole.push(*id);
                    }
                    _ => {}
                }
            }
            for id in self.graph.nodes()[nodes[at]].outputs.iter().flatten() {
                let n = over.bytes(*id)?;
                bytes.insert(*id, if views.contains(id) { 0 } else { n });
                made.insert(*id);
                if left(id) {
                    outputs.push(*id);
                }
            }
        }
        let mut at_once = alive;
        for (at, part) in parts.iter().enumerate() {
            let node = &self.graph.nodes()[nodes[at]];
            let written: u64 = node.outputs.iter().flatten().map(|id| bytes[id]).sum();
            let ends: BTreeSet<ValueId> = part
                .inputs
                .iter()
                .filter_map(rows_of)
                .filter(|id| last[id] == at && !left(id) && !self.graph.inputs().contains(id))
                .collect();
            let freed: u64 = ends.iter().map(|id| bytes[id]).sum();
            let reused = part.in_place && ends.iter().any(|id| bytes[id] == written);
            at_once = at_once.max(alive + if reused { 0 } else { written });
            alive = alive + written - freed;
            let unread = |id: &&ValueId| !last.contains_key(id) && !left(id);
            alive -= node.outputs.iter().flatten().filter(unread).map(|id| bytes[id]).sum::<u64>();
        }
        let first = *outputs.first()?;
        let written = nodes.iter().position(|&n| Some(&n) == self.writer.get(&first))?;
        // Output 0 takes over the bytes of an input that is read before it is written.
        let credit = cut.iter().any(|id| {
            bytes[id] == bytes[&first]
                && last[id] < written
                && !left(id)
                && !self.graph.inputs().contains(id)
        });
        let around: u64 = cut.iter().chain(&outputs).map(|id| bytes[id]).sum();
        let around = around - if credit { bytes[&first] } else { 0 };
        let saved = at_once.checked_sub(around).filter(|&n| n > 0)?;
        let enough = at_once as f64 >= self.pass.min_ratio * around as f64;
        if !enough || at_once < self.pass.min_row_bytes {
            return None;
        }
        Some(Stretch {
            over: over.clone(),
            nodes: nodes.to_vec(),
            parts: parts.into_iter().cloned().collect(),
            cut,
            whole,
            outputs,
            at_once,
            around,
            gain: saved.saturating_mul(self.size(&over.rows)?),
        })
    }

    /// Rows of a block of the stretch; `None` if it is better left whole.
    fn block(&self, s: &Stretch, diagnostics: &mut Diagnostics) -> Option<u64> {
        let pass = self.pass;
        let fit = (pass.block_bytes / s.at_once.max(1)).min(pass.max_rows);
        let fit = if fit > TILE_ROWS { fit - fit % TILE_ROWS } else { fit.max(1) };
        let most = s.over.rows.range(self.graph.bounds()).max.map_or(u64::MAX, |n| n.max(0) as u64);
        let name = &self.graph.nodes()[s.nodes[0]].name;
        if fit < pass.min_rows {
            diagnostics.missed(pass.name(), name, || {
                format!(
                    "cut: a row holds {} bytes, so {} bytes are {fit} rows, fewer than {}",
                    s.at_once, pass.block_bytes, pass.min_rows
                )
            });
            return None;
        }
        if most <= fit || (!pass.coarse && most < 2 * fit) {
            diagnostics.missed(pass.name(), name, || {
                format!("cut: {} rows are {most} at most, a block has {fit}", s.over.rows)
            });
            return None;
        }
        Some(fit)
    }

    fn describe(&self, s: &Stretch, block: u64) -> String {
        format!(
            "{} nodes in blocks of {block} of {} rows: {} bytes a row at once, {} around blocks",
            s.nodes.len(),
            s.over.rows,
            s.at_once,
            s.around
        )
    }

    /// The stretch as one node.
    fn patch(&self, s: &Stretch, block: u64) -> Result<Patch<'g>> {
        let (body, leads) = self.body(s, block)?;
        let lead = |id: &ValueId| s.over.leading(*id).unwrap_or(1) as i64;
        let extents = |id: ValueId| {
            let n = s.over.leading(id)?;
            self.graph.fact(id).shape().map(|shape| shape[..n].to_vec())
        };
        let like = s.outputs.iter().map(|&id| {
            let same = leads.iter().position(|lead| Some(lead) == extents(id).as_ref());
            same.map(|n| n as i64)
        });
        let like: Option<Vec<i64>> = like.collect();
        ensure!(like.is_some(), Unsupported, "an output counts its rows as no input does");
        let op = RowBlocks {
            body: Arc::new(body),
            rows: block as i64,
            axes: s.cut.iter().map(lead).collect(),
            like: like.unwrap_or_default(),
        };
        let mut patch = Patch::new(self.graph);
        let inputs: Vec<_> = s.cut.iter().chain(&s.whole).map(|id| Some(Wire::Old(*id))).collect();
        let name = format!("{}.blocks", self.graph.nodes()[s.nodes[0]].name);
        let wanted = vec![true; s.outputs.len()];
        let new = patch.add_node(&name, Arc::new(op), &inputs, &wanted)?;
        for (old, new) in s.outputs.iter().zip(new.into_iter().flatten()) {
            let (was, is) = (&self.graph.fact(*old).ty, patch.fact(new)?.ty.clone());
            ensure!(*was == is, ShapeMismatch, "'{}' would be {is} for {was}", name);
            patch.redirect(*old, new)?;
        }
        Ok(patch)
    }

    /// The nodes as a graph over rows, and the leading extents of each cut input.
    fn body(&self, s: &Stretch, block: u64) -> Result<(Graph, Vec<Vec<Dim>>)> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for shape in self.graph.values().iter().filter_map(|v| v.fact.shape()) {
            names.extend(shape.iter().flat_map(Dim::symbols).map(|s| s.name().to_owned()));
        }
        let mut rows = "rows".to_owned();
        while names.contains(&rows) {
            rows.push('_');
        }
        let mut body = Graph::new(self.graph.nodes()[s.nodes[0]].name.clone());
        body.copy_bounds(self.graph);
        body.set_bound(&rows, 0, i64::try_from(block).ok())?;
        let mut ids: HashMap<ValueId, ValueId> = HashMap::new();
        let mut leads = Vec::new();
        for &id in &s.cut {
            let def = self.graph.value(id);
            let shape = def.fact.shape().unwrap_or_default();
            let (lead, rest) = shape.split_at(s.over.leading(id).unwrap_or(0));
            leads.push(lead.to_vec());
            let shape: Vec<Dim> =
                std::iter::once(Dim::sym(&rows)).chain(rest.iter().cloned()).collect();
            let ty = Type::tensor(def.fact.dtype()?, shape);
            ids.insert(id, body.add_input(&def.name, ty)?);
        }
        for &id in &s.whole {
            let Fact { ty, .. } = self.graph.fact(id).clone();
            ids.insert(id, body.add_input(&self.graph.value(id).name, ty)?);
        }
        for (&n, part) in s.nodes.iter().zip(&s.parts) {
            let node = &self.graph.nodes()[n];
            let mut inputs = Vec::with_capacity(part.inputs.len());
            for (i, operand) in part.inputs.iter().enumerate() {
                inputs.push(match operand {
                    Operand::Absent => None,
                    Operand::Constant(t) => {
                        let name = body.unique_name(&format!("{}.{i}", node.name));
                        Some(body.add_constant(&name, t.clone())?)
                    }
                    Operand::Rows(id) | Operand::Whole(id) => {
                        if let (None, Some(t)) = (ids.get(id), self.graph.constant(*id)) {
                            let name = body.unique_name(&self.graph.value(*id).name);
                            ids.insert(*id, body.add_constant(&name, t.clone())?);
                        }
                        ids.get(id).copied()
                    }
                });
            }
            let outputs: Vec<String> = node
                .outputs
                .iter()
                .flatten()
                .map(|id| body.unique_name(&self.graph.value(*id).name))
                .collect();
            let wanted: Vec<Option<&str>> = outputs.iter().map(|n| Some(n.as_str())).collect();
            let new = body.add_node(&node.name, part.op.clone(), &inputs, &wanted)?;
            for (old, new) in node.outputs.iter().flatten().zip(new.into_iter().flatten()) {
                ids.insert(*old, new);
            }
        }
        for id in &s.outputs {
            let new = ids.get(id).copied();
            let name = &self.graph.value(*id).name;
            ensure!(new.is_some(), Internal, "nothing makes '{name}' in the body");
            body.add_output(name, new.unwrap_or(*id))?;
        }
        Ok((body, leads))
    }
}

fn rows_of(operand: &Operand) -> Option<ValueId> {
    match operand {
        Operand::Rows(id) => Some(*id),
        _ => None,
    }
}
