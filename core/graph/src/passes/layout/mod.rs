//! Where elements lie: what a chain of reshapes, transposes and slices does, as one formula.
//!
//! A [`Layout`] says for a value, the *view*, which axes it has in terms of another value, its
//! *root*. The axes of the root are cut into *atoms*, each an extent; an axis of the view is a
//! list of atoms, outermost first. A transpose permutes the lists, a reshape regroups them and cuts
//! atoms where it must, a slice that keeps one of several equal parts fixes an atom. Extents of 1
//! are no atoms at all, so adding and dropping such axes is nothing.
//!
//! So whether two chains do the same, whether a chain does nothing, and what the shortest chain
//! is that does the same are questions about lists. [`Layout::plan`] answers the last one for any
//! order of the atoms, not only that of the view: attention asks for `[batch, seq, heads·dim]`
//! whatever the exporter did to get its heads apart.

mod emit;
mod lift;
mod motion;
mod trace;

pub use lift::LiftTransposes;
pub use motion::LayoutMotion;

pub(super) use emit::{Plan, weight};
pub(super) use trace::{Rules, trace};

use super::view::View;
use crate::{Dim, ValueId};
use std::collections::VecDeque;

/// Index of an atom in its layout.
pub(super) type AtomId = usize;

#[derive(Clone, Debug)]
pub(super) struct Atom {
    pub extent: Dim,
    pub kind: Kind,
}

/// How an atom relates to the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Part of an axis of the root, all of it in the view.
    Whole,
    /// Part of an axis of the root of which the view has only this index.
    Picked(usize),
    /// Not in the root: the view repeats what it has.
    Repeat,
}

/// A view of a root.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub root: ValueId,
    /// The number that all elements are multiplied by.
    pub scale: f64,
    pub atoms: Vec<Atom>,
    /// The atoms of each axis of the root, outermost first.
    pub order: Vec<Vec<AtomId>>,
    /// The atoms of each axis of the view, outermost first.
    pub axes: Vec<Vec<AtomId>>,
    /// Number of nodes between root and view.
    pub steps: usize,
}

impl Layout {
    /// The root as it is; `None` if its rank is not known or an extent is 0.
    pub fn identity(view: &View, root: ValueId) -> Option<Self> {
        let shape = view.shape(root)?;
        let mut layout = Layout {
            root,
            scale: 1.0,
            atoms: Vec::new(),
            order: Vec::new(),
            axes: Vec::new(),
            steps: 0,
        };
        for dim in shape {
            let axis = match dim.as_const() {
                Some(0) => return None,
                Some(1) => Vec::new(),
                _ => vec![layout.atom(dim.clone(), Kind::Whole)],
            };
            layout.order.push(axis.clone());
            layout.axes.push(axis);
        }
        Some(layout)
    }

    fn atom(&mut self, extent: Dim, kind: Kind) -> AtomId {
        self.atoms.push(Atom { extent, kind });
        self.atoms.len() - 1
    }

    /// The product of the extents of some atoms.
    pub fn extent(&self, atoms: &[AtomId]) -> Dim {
        Dim::product(atoms.iter().map(|&a| &self.atoms[a].extent))
    }

    /// Cuts atom `a` into an outer one of extent `outer`, which keeps the name, and an inner one,
    /// which is returned.
    fn cut(&mut self, a: AtomId, outer: Dim, inner: Dim) -> AtomId {
        let kind = self.atoms[a].kind;
        let new = self.atom(inner, kind);
        self.atoms[a].extent = outer;
        for axis in self.order.iter_mut().chain(&mut self.axes) {
            if let Some(at) = axis.iter().position(|&x| x == a) {
                axis.insert(at + 1, new);
            }
        }
        new
    }

    /// Distributes atoms, in their order, over axes of the extents `dims`; cuts atoms where an
    /// axis ends inside one. `None` if that is not possible.
    pub fn regroup(
        &mut self,
        view: &View,
        atoms: &[AtomId],
        dims: &[Dim],
    ) -> Option<Vec<Vec<AtomId>>> {
        let mut rest: VecDeque<AtomId> = atoms.iter().copied().collect();
        let mut groups = Vec::with_capacity(dims.len());
        for dim in dims {
            if dim.as_const() == Some(0) {
                return None;
            }
            let (mut group, mut need) = (Vec::new(), dim.clone());
            while need.as_const() != Some(1) {
                let a = rest.pop_front()?;
                let have = self.atoms[a].extent.clone();
                if view.same(&have, &need) {
                    need = Dim::from(1);
                } else if let Some(quotient) = exact(&need, &have) {
                    need = quotient;
                } else {
                    let inner = exact(&have, &need)?;
                    rest.push_front(self.cut(a, need, inner));
                    need = Dim::from(1);
                }
                group.push(a);
            }
            groups.push(group);
        }
        rest.is_empty().then_some(groups)
    }

    /// Keeps part `index` of the parts of `size` elements of axis `axis` of the view.
    fn pick(&mut self, view: &View, axis: usize, index: usize, size: usize) -> Option<()> {
        let total = usize::try_from(self.extent(&self.axes[axis]).as_const()?).ok()?;
        if size == 0 || !total.is_multiple_of(size) || index >= total / size {
            return None;
        }
        let atoms = self.axes[axis].clone();
        let dims = [Dim::from(total / size), Dim::from(size)];
        let [outer, inner] = <[_; 2]>::try_from(self.regroup(view, &atoms, &dims)?).ok()?;
        let mut index = index;
        for &a in outer.iter().rev() {
            let n = usize::try_from(self.atoms[a].extent.as_const()?).ok()?;
            match self.atoms[a].kind {
                Kind::Whole => self.atoms[a].kind = Kind::Picked(index % n),
                // Every repetition is the same.
                Kind::Repeat => {}
                Kind::Picked(_) => return None,
            }
            index /= n;
        }
        self.axes[axis] = inner;
        Some(())
    }
}

/// `a / b` if that is a formula and not 1.
fn exact(a: &Dim, b: &Dim) -> Option<Dim> {
    if let (Some(a), Some(b)) = (a.as_const(), b.as_const()) {
        return (b > 1 && a % b == 0 && a > b).then(|| Dim::from(a / b));
    }
    let quotient = a.floor_div(b);
    (quotient.poison().is_none() && quotient.as_const() != Some(1) && &(&quotient * b) == a)
        .then_some(quotient)
}
