//! The shortest chain of nodes from a root to a layout.

use super::{AtomId, Kind, Layout};
use crate::passes::extents::{self, Part};
use crate::passes::view::View;
use crate::passes::{Patch, Wire};
use crate::{Dim, ops};
use deepseek_tensor::{Result, Tensor};
use std::collections::BTreeSet;

/// What a chain costs: transposes move every element, slices those that stay.
pub(in crate::passes) mod weight {
    pub const RESHAPE: u32 = 1;
    pub const SLICE: u32 = 2;
    pub const TRANSPOSE: u32 = 4;
}

/// Nodes that make a tensor of some layout: at most a reshape, a slice, a reshape, a transpose and a
/// reshape, each only where it is needed.
#[derive(Clone, Debug, Default)]
pub(in crate::passes) struct Plan {
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Reshape(Vec<Part>),
    /// Axis, start and end.
    Slice(Vec<(usize, usize, usize)>),
    Transpose(Vec<usize>),
}

impl Plan {
    /// What it costs, by [`weight`].
    pub fn weight(&self) -> u32 {
        let weigh = |s: &Step| match s {
            Step::Reshape(_) => weight::RESHAPE,
            Step::Slice(_) => weight::SLICE,
            Step::Transpose(_) => weight::TRANSPOSE,
        };
        self.steps.iter().map(weigh).sum()
    }

    /// Adds its nodes behind `root`.
    pub fn add(&self, patch: &mut Patch, name: &str, root: Wire) -> Result<Wire> {
        let mut at = root;
        let steps = name;
        for (i, step) in self.steps.iter().enumerate() {
            // The last node is the result; the others are on the way.
            let on_the_way = format!("{steps}.moved");
            let name = if i + 1 == self.steps.len() { steps } else { &on_the_way };
            at = match step {
                Step::Reshape(parts) => {
                    let shape = extents::add(patch, &format!("{name}.shape"), parts)?;
                    patch.add(name, ops::Reshape::default(), &[at, shape])?
                }
                Step::Slice(cuts) => {
                    let mut list = |what: &str, of: fn(&(usize, usize, usize)) -> usize| {
                        let values: Vec<i64> = cuts.iter().map(|c| of(c) as i64).collect();
                        let t = Tensor::from_vec(&[values.len()], values)?;
                        Ok::<_, deepseek_tensor::Error>(
                            patch.constant(&format!("{name}.{what}"), t),
                        )
                    };
                    let (starts, ends) = (list("starts", |c| c.1)?, list("ends", |c| c.2)?);
                    let axes = list("axes", |c| c.0)?;
                    patch.add(name, ops::Slice {}, &[at, starts, ends, axes])?
                }
                Step::Transpose(perm) => {
                    let perm = perm.iter().map(|&a| a as i64).collect();
                    patch.add(name, ops::Transpose { perm }, &[at])?
                }
            };
        }
        Ok(at)
    }
}

impl Layout {
    /// How to make a tensor whose axes are `groups` of atoms, from the root. Repetitions are left
    /// out. `None` if the groups are not all the atoms of the root that the view has, or some
    /// extent cannot be read where it is needed.
    pub fn plan(&self, view: &View, groups: &[Vec<AtomId>]) -> Option<Plan> {
        let mut plan = Plan::default();
        let mut shape: Vec<Dim> = view.shape(self.root)?.to_vec();
        let mut order = self.order.clone();
        self.pick_out(view, &mut plan, &mut shape, &mut order)?;

        let whole = |a: &AtomId| self.atoms[*a].kind == Kind::Whole;
        let kept: Vec<Vec<AtomId>> =
            groups.iter().map(|g| g.iter().copied().filter(whole).collect()).collect();
        let want: Vec<Dim> = kept.iter().map(|g| self.extent(g)).collect();
        let (have, target) = (order.concat(), kept.concat());
        let at = |a: AtomId| have.iter().position(|&x| x == a);
        if target.len() != have.len() {
            return None;
        }
        // Runs of atoms that stay together, as the axes that they are on both sides.
        let starts = |groups: &[Vec<AtomId>]| -> BTreeSet<usize> {
            groups.iter().scan(0, |n, g| Some(std::mem::replace(n, *n + g.len()))).collect()
        };
        let (from, to) = (starts(&order), starts(&kept));
        let mut blocks: Vec<(usize, Vec<AtomId>)> = Vec::new();
        for (i, &a) in target.iter().enumerate() {
            let position = at(a)?;
            let axis = from.contains(&position) && to.contains(&i);
            match blocks.last_mut() {
                Some((start, run)) if *start + run.len() == position && !axis => run.push(a),
                _ => blocks.push((position, vec![a])),
            }
        }
        if !blocks.is_sorted() {
            let mut sorted = blocks.clone();
            sorted.sort_unstable();
            let dims: Vec<Dim> = sorted.iter().map(|(_, run)| self.extent(run)).collect();
            self.reshape(view, &mut plan, &mut shape, &dims)?;
            let place = |b: &(usize, Vec<AtomId>)| sorted.iter().position(|s| s.0 == b.0);
            let perm = blocks.iter().map(place).collect::<Option<Vec<_>>>()?;
            shape = perm.iter().map(|&p| dims[p].clone()).collect();
            plan.steps.push(Step::Transpose(perm));
        }
        self.reshape(view, &mut plan, &mut shape, &want)?;
        Some(plan)
    }

    /// Slices the root so that picked atoms are gone.
    fn pick_out(
        &self,
        view: &View,
        plan: &mut Plan,
        shape: &mut Vec<Dim>,
        order: &mut Vec<Vec<AtomId>>,
    ) -> Option<()> {
        let picked = |a: &AtomId| matches!(self.atoms[*a].kind, Kind::Picked(_));
        let leads = |axis: &Vec<AtomId>| {
            let rest = axis.iter().skip_while(|a| picked(a));
            rest.clone().all(|a| !picked(a))
                && (!axis.iter().any(picked) || self.extent(axis).is_const())
        };
        if !order.iter().all(leads) {
            *order = order.iter().flatten().map(|&a| vec![a]).collect();
            let dims: Vec<Dim> = order.iter().map(|axis| self.extent(axis)).collect();
            self.reshape(view, plan, shape, &dims)?;
        }
        let mut cuts = Vec::new();
        for (i, axis) in order.iter_mut().enumerate().filter(|(_, axis)| axis.iter().any(picked)) {
            let mut index = 0;
            let extent = |a: AtomId| usize::try_from(self.atoms[a].extent.as_const()?).ok();
            while let Some(&a) = axis.first()
                && let Kind::Picked(at) = self.atoms[a].kind
            {
                index = index * extent(a)? + at;
                axis.remove(0);
            }
            let size = usize::try_from(self.extent(axis).as_const()?).ok()?;
            cuts.push((i, index * size, (index + 1) * size));
            shape[i] = Dim::from(size);
        }
        if !cuts.is_empty() {
            plan.steps.push(Step::Slice(cuts));
        }
        Some(())
    }

    fn reshape(
        &self,
        view: &View,
        plan: &mut Plan,
        shape: &mut Vec<Dim>,
        to: &[Dim],
    ) -> Option<()> {
        if !view.same_dims(shape, to) {
            plan.steps.push(Step::Reshape(extents::reshape(view, self.root, shape, to)?));
            *shape = to.to_vec();
        }
        Some(())
    }
}
