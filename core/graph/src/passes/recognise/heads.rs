//! Where batch, heads, sequence and head size of an operand of attention lie.

use crate::passes::layout::{AtomId, Kind, Layout, Plan, Rules, trace};
use crate::passes::view::{View, input};
use crate::passes::{Patch, Wire};
use crate::{Dim, ValueId, ops};
use deepseek_tensor::Result;

/// Extents that queries, keys and values agree on.
#[derive(Clone, Debug)]
pub(super) struct Heads {
    pub batch: Dim,
    /// Number of query heads.
    pub count: Dim,
    /// Length of the keys.
    pub keys: Dim,
}

/// Queries, keys or values.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub layout: Layout,
    batch: Vec<AtomId>,
    heads: Vec<AtomId>,
    seq: Vec<AtomId>,
    dim: Vec<AtomId>,
    /// How many neighbouring query heads read one head.
    pub repeats: i64,
}

impl Operand {
    /// Reads `v`, `[batch, heads, seq, dim]` or `[batch·heads, seq, dim]`, with the last two
    /// exchanged if `swapped`; multiplication by numbers may be taken out of it if `scales`.
    pub fn read(view: &View, v: ValueId, swapped: bool, scales: bool) -> Result<Self, String> {
        let rules = Rules { picks: true, repeats: true, scales };
        match Self::read_by(view, v, swapped, rules) {
            Err(_) => Self::read_by(view, v, swapped, Rules { repeats: false, ..rules }),
            found => found,
        }
    }

    fn read_by(view: &View, v: ValueId, swapped: bool, rules: Rules) -> Result<Self, String> {
        let name = || format!("'{}'", view.graph.value(v).name);
        let mut layout =
            trace(view, v, rules).ok_or_else(|| format!("the rank of {} is not known", name()))?;
        let rank = layout.axes.len();
        if swapped && rank >= 2 {
            layout.axes.swap(rank - 2, rank - 1);
        }
        let (batch, mut heads, seq, dim) = match &layout.axes[..] {
            [batch, heads, seq, dim] => (batch.clone(), heads.clone(), seq.clone(), dim.clone()),
            [outer, seq, dim] => {
                let at = split_heads(&layout, outer, dim);
                (outer[..at].to_vec(), outer[at..].to_vec(), seq.clone(), dim.clone())
            }
            _ => return Err(format!("{} has rank {rank}, not 3 or 4", name())),
        };
        let mut repeats = 1;
        while let Some(&a) = heads.last()
            && layout.atoms[a].kind == Kind::Repeat
            && let Some(n) = layout.atoms[a].extent.as_const()
        {
            repeats *= n;
            heads.pop();
        }
        let all = [&batch, &heads, &seq, &dim];
        if all.iter().any(|g| g.iter().any(|&a| layout.atoms[a].kind == Kind::Repeat)) {
            return Err(format!("{} repeats more than its heads", name()));
        }
        Ok(Operand { layout, batch, heads, seq, dim, repeats })
    }

    pub fn batch(&self) -> Dim {
        self.layout.extent(&self.batch)
    }

    /// Number of heads, repetitions not counted.
    pub fn count(&self) -> Dim {
        self.layout.extent(&self.heads)
    }

    pub fn seq(&self) -> Dim {
        self.layout.extent(&self.seq)
    }

    pub fn dim(&self) -> Dim {
        self.layout.extent(&self.dim)
    }

    /// How to make it: `[batch, seq, heads·dim]` if `flat`, else `[batch, heads, seq, dim]`.
    pub fn make(&self, view: &View, flat: bool) -> Option<Make> {
        let h = &self.heads;
        let groups = |dim: &[AtomId]| match flat {
            true => vec![self.batch.clone(), self.seq.clone(), [h, dim].concat()],
            false => vec![self.batch.clone(), h.clone(), self.seq.clone(), dim.to_vec()],
        };
        let plan = self.layout.plan(view, &groups(&self.dim))?;
        let plain = Make { root: self.layout.root, plan, rotary: None };
        // A rotation of heads is the same before the heads are set apart.
        let rotated = || {
            let (op, node) = view.made_by::<ops::RotaryEmbedding>(self.layout.root)?;
            let x = input(node, 0)?;
            if !flat || !self.is_root() || view.rank(x) != Some(4) {
                return None;
            }
            let inner = Self::read_by(view, x, false, Rules { picks: true, ..Rules::default() });
            let Make { root, plan, rotary: None } = inner.ok()?.make(view, true)? else {
                return None;
            };
            let op = ops::RotaryEmbedding { num_heads: self.count().as_const()?, ..op.clone() };
            let rest = node.inputs[1..].iter().map(|i| i.map(Wire::Old)).collect();
            Some(Make { root, plan, rotary: Some((op, rest)) })
        };
        match rotated() {
            Some(inner) if inner.plan.weight() < plain.plan.weight() => Some(inner),
            _ => Some(plain),
        }
    }

    /// Whether it is its root, axis by axis.
    fn is_root(&self) -> bool {
        let axes = [&self.batch, &self.heads, &self.seq, &self.dim];
        self.layout.order.len() == 4
            && self.layout.order.iter().zip(axes).all(|(a, b)| a == b)
            && self.layout.atoms.iter().all(|a| a.kind != Kind::Repeat)
    }
}

/// Nodes that make an operand.
pub(super) struct Make {
    root: ValueId,
    plan: Plan,
    rotary: Option<(ops::RotaryEmbedding, Vec<Option<Wire>>)>,
}

impl Make {
    pub fn weight(&self) -> u32 {
        self.plan.weight()
    }

    pub fn add(self, patch: &mut Patch, name: &str) -> Result<Wire> {
        let x = self.plan.add(patch, name, self.root.into())?;
        let Some((op, rest)) = self.rotary else { return Ok(x) };
        let inputs: Vec<_> = [Some(x)].into_iter().chain(rest).collect();
        let out = patch.add_node(name, std::sync::Arc::new(op), &inputs, &[true])?;
        Ok(out[0].expect("the output was asked for"))
    }
}

/// Where the heads begin in an axis that holds batch and heads: those atoms at its end whose
/// extents are numbers and that lie in the axis of the root that holds the head size.
fn split_heads(layout: &Layout, outer: &[AtomId], dim: &[AtomId]) -> usize {
    let home = |a: &AtomId| layout.order.iter().position(|axis| axis.contains(a));
    let Some(axis) = dim.first().and_then(home) else { return outer.len() };
    let heads = outer.iter().rev().take_while(|a| {
        let atom = &layout.atoms[**a];
        atom.extent.is_const() && (atom.kind == Kind::Repeat || home(a) == Some(axis))
    });
    outer.len() - heads.count()
}
