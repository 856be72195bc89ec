//! Types of values that are one of several.
//!
//! The result of an `If`, a loop-carried value and an element of a sequence have one
//! type for all that they may be. Extents that differ become a fresh symbol where one
//! value is meant; inside a sequence, whose elements may each have another extent, they
//! become the symbol [`VARIES`], which is replaced when an element is taken out.

use crate::{Dim, InferArgs, Symbol, Type};
use deepseek_tensor::{Result, bail};
use std::collections::BTreeSet;

/// Symbol of an extent that need not be the same in each element of a sequence.
pub(crate) const VARIES: &str = "?";

/// The least general type that admits both. Extents that differ become `extent(axis)`.
///
/// # Errors
/// `DTypeMismatch` naming both types if no type admits both.
pub(crate) fn join(a: &Type, b: &Type, extent: &dyn Fn(usize) -> Dim) -> Result<Type> {
    let varies = |_: usize| Dim::sym(VARIES);
    Ok(match (a, b) {
        (Type::Tensor(x, s), Type::Tensor(y, t)) if x == y => {
            let shape = match (s, t) {
                (Some(s), Some(t)) if s.len() == t.len() => {
                    let both = s.iter().zip(t).enumerate();
                    Some(
                        both.map(|(i, (a, b))| if a == b { a.clone() } else { extent(i) })
                            .collect(),
                    )
                }
                _ => None,
            };
            Type::Tensor(*x, shape)
        }
        (Type::Sequence(x), Type::Sequence(y)) => Type::Sequence(Box::new(join(x, y, &varies)?)),
        (Type::Optional(x), Type::Optional(y)) => Type::Optional(Box::new(join(x, y, &varies)?)),
        _ => bail!(DTypeMismatch, "one value cannot be both {a} and {b}"),
    })
}

/// [`join`] for elements of one sequence.
///
/// # Errors
/// As [`join`].
pub(crate) fn join_elements(a: &Type, b: &Type) -> Result<Type> {
    join(a, b, &|_| Dim::sym(VARIES))
}

/// `ty` with extents that mention a symbol for which `foreign` holds replaced by
/// `extent(axis)`, or by [`VARIES`] inside sequences and optionals.
pub(crate) fn replace_extents(
    ty: &Type,
    foreign: &dyn Fn(&Symbol) -> bool,
    extent: &dyn Fn(usize) -> Dim,
) -> Type {
    let varies = |_: usize| Dim::sym(VARIES);
    match ty {
        Type::Tensor(dtype, shape) => {
            let one = |(i, d): (usize, &Dim)| {
                if d.symbols().iter().any(foreign) { extent(i) } else { d.clone() }
            };
            Type::Tensor(*dtype, shape.as_ref().map(|s| s.iter().enumerate().map(one).collect()))
        }
        Type::Sequence(t) => Type::Sequence(Box::new(replace_extents(t, foreign, &varies))),
        Type::Optional(t) => Type::Optional(Box::new(replace_extents(t, foreign, &varies))),
    }
}

/// The type of one element taken out of a sequence or optional: extents that vary
/// become fresh symbols named after `what`.
pub(crate) fn one_element(element: &Type, args: &InferArgs, what: &str) -> Type {
    let varies = |s: &Symbol| s.name() == VARIES;
    replace_extents(element, &varies, &|i| args.fresh(&format!("{what}.d{i}")))
}

/// `ty` without any extents.
pub(crate) fn erase_shape(ty: &Type) -> Type {
    match ty {
        Type::Tensor(dtype, _) => Type::Tensor(*dtype, None),
        Type::Sequence(t) => Type::Sequence(Box::new(erase_shape(t))),
        Type::Optional(t) => Type::Optional(Box::new(erase_shape(t))),
    }
}

/// Every symbol that the extents of `ty` mention.
pub(crate) fn collect_symbols(ty: &Type, into: &mut BTreeSet<Symbol>) {
    match ty {
        Type::Tensor(_, Some(shape)) => into.extend(shape.iter().flat_map(Dim::symbols)),
        Type::Tensor(_, None) => {}
        Type::Sequence(t) | Type::Optional(t) => collect_symbols(t, into),
    }
}
