//! Masks as attention takes them: one, bool or added, broadcastable to
//! `[batch, heads, queries, keys]`.

use super::causal::{Literal, Triangle, conjunction, filled, is_causal, triangle};
use super::heads::Heads;
use crate::passes::layout::{Layout, Rules, trace};
use crate::passes::view::{View, input};
use crate::passes::{Patch, Wire};
use crate::{ValueId, ops};
use deepseek_tensor::{DType, Tensor};

/// Replacing a score by a number at or below this equals adding the number: a score is rounded
/// away, in `f64` too.
const ABSORBS: f64 = -1e30;

/// One mask on the way from the product to the softmax.
#[derive(Clone, Debug)]
pub(super) struct Term {
    pub value: ValueId,
    pub kind: TermKind,
    /// The masked scores.
    pub at: ValueId,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum TermKind {
    /// Added to the scores.
    Added,
    /// A condition that keeps scores where it `keeps`, others become `value`.
    Chosen { keeps: bool, value: f64 },
}

/// Masks in the making.
#[derive(Default)]
pub(super) struct Mask {
    /// True where attention is allowed.
    keep: Option<Wire>,
    /// Added to the scores.
    add: Option<Wire>,
    /// Whether later keys are hidden.
    pub causal: bool,
}

impl Mask {
    /// Takes in one more mask of the scores of these heads.
    pub fn take(
        &mut self,
        view: &View,
        patch: &mut Patch,
        name: &str,
        term: &Term,
        heads: &Heads,
    ) -> Result<(), String> {
        let level = view.rank(term.at).ok_or("the rank of the scores is not known")?;
        match simplify(view, term)? {
            Kind::Added(layout) => {
                let hides = |t: Triangle| t.hides_later() && t.value <= ABSORBS;
                if keeps_matrices(&layout) && triangle(view, layout.root).is_some_and(hides) {
                    self.causal = true;
                    return Ok(());
                }
                let wire = spread(view, patch, name, &layout, level, heads)?;
                self.and_add(patch, name, wire)
            }
            Kind::Hidden { literals, layout } => {
                let (causal, rest): (Vec<_>, Vec<_>) = literals
                    .into_iter()
                    .partition(|&l| keeps_matrices(&layout) && is_causal(view, l));
                self.causal |= !causal.is_empty();
                for literal in rest {
                    let wire = condition(view, patch, name, literal, &layout, level, heads)?;
                    self.keep = Some(conjoin(patch, name, self.keep, wire)?);
                }
                Ok(())
            }
            Kind::Replaced { literals, layout, value } => {
                let mut all = None;
                for literal in literals {
                    let wire = condition(view, patch, name, literal, &layout, level, heads)?;
                    all = Some(conjoin(patch, name, all, wire)?);
                }
                let Some(cond) = all else { return Ok(()) };
                let scalar = |x: f32| Tensor::scalar(x).map_err(Self::told);
                let zero = patch.constant(&format!("{name}.zero"), scalar(0.0)?);
                let least = patch.constant(&format!("{name}.least"), scalar(value as f32)?);
                let added = patch.add(name, ops::Where {}, &[cond, zero, least]);
                self.and_add(patch, name, added.map_err(Self::told)?)
            }
        }
    }

    fn told(e: deepseek_tensor::Error) -> String {
        e.message().to_owned()
    }

    fn and_add(&mut self, patch: &mut Patch, name: &str, wire: Wire) -> Result<(), String> {
        self.add = Some(match self.add {
            None => wire,
            Some(other) => patch.add(name, ops::Add {}, &[other, wire]).map_err(Self::told)?,
        });
        Ok(())
    }

    /// The one mask that says it all, which must reach all keys.
    pub fn finish(
        self,
        view: &View,
        patch: &mut Patch,
        name: &str,
        heads: &Heads,
    ) -> Result<Option<Wire>, String> {
        let mask = match (self.keep, self.add) {
            (Some(keep), Some(add)) => {
                let never = Tensor::scalar(f32::NEG_INFINITY).map_err(Self::told)?;
                let never = patch.constant(&format!("{name}.never"), never);
                Some(patch.add(name, ops::Where {}, &[keep, add, never]).map_err(Self::told)?)
            }
            (keep, add) => keep.or(add),
        };
        let Some(wire) = mask else { return Ok(None) };
        let fact = patch.fact(wire).map_err(Self::told)?;
        let last = fact.shape().and_then(|s| s.last());
        if !last.is_some_and(|d| view.same(d, &heads.keys)) {
            let keys = &heads.keys;
            return Err(format!("the mask {fact} is not proven to reach all {keys} keys"));
        }
        Ok(mask)
    }
}

/// What a term does.
enum Kind {
    /// This is added to the scores.
    Added(Layout),
    /// Scores are hidden where the literals do not all hold. Their roots lie as `layout` says.
    Hidden { literals: Vec<Literal>, layout: Layout },
    /// Scores become `value`, or are lost in it, where the literals do not all hold: a row of which
    /// all are replaced still has probabilities.
    Replaced { literals: Vec<Literal>, layout: Layout, value: f64 },
}

fn place(view: &View, v: ValueId) -> Result<Layout, String> {
    let rules = Rules { repeats: true, ..Rules::default() };
    trace(view, v, rules).ok_or_else(|| "the rank of the mask is not known".to_owned())
}

/// What the term says of a choice between scores, or 0, and a number.
fn simplify(view: &View, term: &Term) -> Result<Kind, String> {
    let layout = place(view, term.value)?;
    let choose = |cond: ValueId, keeps: bool, value: f64| {
        let whole = Literal { value: cond, negated: !keeps };
        let mut literals = conjunction(view, cond, !keeps);
        // Parts of a condition that is moved as a whole must lie as it does.
        if layout.steps > 0 && !literals.iter().all(|l| view.same_shape(l.value, layout.root)) {
            literals = vec![whole];
        }
        // A number that is not −∞ counts in a row all of which is hidden; a causal mask leaves
        // something in every row.
        let causal = keeps_matrices(&layout) && literals.iter().all(|&l| is_causal(view, l));
        let layout = layout.clone();
        match value == f64::NEG_INFINITY || causal && value <= ABSORBS {
            true => Kind::Hidden { literals, layout },
            false => Kind::Replaced { literals, layout, value },
        }
    };
    match term.kind {
        TermKind::Chosen { keeps, value } if value <= ABSORBS => {
            Ok(choose(layout.root, keeps, value))
        }
        TermKind::Chosen { value, .. } => {
            Err(format!("masked scores become {value}, which is not beyond all others"))
        }
        TermKind::Added => {
            let choice = view.made_by::<ops::Where>(layout.root).and_then(|(_, node)| {
                let number = |i: usize| input(node, i).and_then(|v| filled(view, v));
                let cond = input(node, 0).filter(|&c| view.same_shape(c, layout.root))?;
                let (keeps, value) = match (number(1)?, number(2)?) {
                    (0.0, value) => (true, value),
                    (value, 0.0) => (false, value),
                    _ => return None,
                };
                match choose(cond, keeps, value) {
                    // Nothing is won by choosing again what is chosen already.
                    Kind::Replaced { literals, .. }
                        if literals == [Literal { value: cond, negated: !keeps }] =>
                    {
                        None
                    }
                    kind => Some(kind),
                }
            });
            Ok(choice.unwrap_or(Kind::Added(layout)))
        }
    }
}

/// A literal as a mask of these scores; its root lies as `layout` says, if it has the shape.
fn condition(
    view: &View,
    patch: &mut Patch,
    name: &str,
    literal: Literal,
    layout: &Layout,
    level: usize,
    heads: &Heads,
) -> Result<Wire, String> {
    let Literal { value, negated } = literal;
    if view.dtype(value) != Some(DType::Bool) {
        return Err("the mask's condition is not bool".to_owned());
    }
    let own = match view.same_shape(value, layout.root) {
        true => Layout { root: value, ..layout.clone() },
        false => Layout::identity(view, value).ok_or("the rank of the mask is not known")?,
    };
    let wire = spread(view, patch, name, &own, level, heads)?;
    match negated {
        true => patch.add(name, ops::Not {}, &[wire]).map_err(Mask::told),
        false => Ok(wire),
    }
}

fn conjoin(patch: &mut Patch, name: &str, all: Option<Wire>, more: Wire) -> Result<Wire, String> {
    match all {
        None => Ok(more),
        Some(all) => patch.add(name, ops::And {}, &[all, more]).map_err(Mask::told),
    }
}

/// Whether the last two axes of the view are those of the root.
fn keeps_matrices(layout: &Layout) -> bool {
    let tail = |axes: &[Vec<usize>]| axes.len().checked_sub(2).map(|n| axes[n..].to_vec());
    tail(&layout.order).is_some() && tail(&layout.order) == tail(&layout.axes)
}

/// A mask of scores of rank 4 without its repetitions; one of `[batch·heads, queries, keys]`,
/// level 3, taken apart.
fn spread(
    view: &View,
    patch: &mut Patch,
    name: &str,
    layout: &Layout,
    level: usize,
    heads: &Heads,
) -> Result<Wire, String> {
    let mut layout = layout.clone();
    let shape = view.shape(layout.root).unwrap_or_default();
    let matrix = layout.steps == 0 && shape.iter().rev().skip(2).all(|d| d.as_const() == Some(1));
    if matrix || level == 4 && layout.steps == 0 {
        return Ok(layout.root.into());
    }
    let merged = "the mask's batch and heads cannot be told apart";
    while layout.axes.len() < level {
        layout.axes.insert(0, Vec::new());
    }
    let groups: Vec<_> = match &layout.axes.clone()[..] {
        [outer, queries, keys] => {
            let dims = [heads.batch.clone(), heads.count.clone()];
            let split = match outer.is_empty() {
                true => vec![Vec::new(), Vec::new()],
                false => layout.regroup(view, outer, &dims).ok_or(merged)?,
            };
            vec![split[0].clone(), split[1].clone(), queries.clone(), keys.clone()]
        }
        axes => axes.to_vec(),
    };
    // A key axis that is repeated must be there: a short mask hides the rest.
    let repeats = |a: &usize| layout.atoms[*a].kind == crate::passes::layout::Kind::Repeat;
    if groups.last().is_none_or(|keys| keys.iter().any(repeats)) {
        return Err("the mask is the same for all keys".to_owned());
    }
    let plan = layout.plan(view, &groups).ok_or(merged)?;
    plan.add(patch, name, layout.root.into()).map_err(|e| e.message().to_owned())
}
