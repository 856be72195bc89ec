//! Products, sums of one and their like, whatever the order of their factors.

use crate::passes::view::View;
use crate::{ValueId, ops};

/// Nodes of a product that are taken apart.
const MAX_FACTORS: usize = 8;

/// `coefficient · Π factors`.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub coefficient: f64,
    pub factors: Vec<ValueId>,
}

impl Product {
    /// `v` as a product: multiplications, divisions by numbers and squares and cubes are taken
    /// apart down to values for which `is_atom` holds. Every factor has the shape of `v`.
    pub fn of(view: &View, v: ValueId, is_atom: &dyn Fn(ValueId) -> bool) -> Self {
        let mut product = Product { coefficient: 1.0, factors: Vec::new() };
        let mut open = vec![v];
        let mut budget = MAX_FACTORS;
        while let Some(x) = open.pop() {
            if is_atom(x) || budget == 0 {
                product.factors.push(x);
                continue;
            }
            budget -= 1;
            if let Some((y, c)) = view.scaled(x) {
                product.coefficient *= c;
                open.push(y);
            } else if let Some((a, b)) = view.binary::<ops::Mul>(x)
                && view.same_shape(a, x)
                && view.same_shape(b, x)
            {
                open.extend([a, b]);
            } else if let Some((base, n)) = view.binary::<ops::Pow>(x)
                && let Some(n) = view.number(n).filter(|n| *n == 2.0 || *n == 3.0)
                && view.same_shape(base, x)
            {
                open.extend(std::iter::repeat_n(base, n as usize));
            } else {
                product.factors.push(x);
            }
        }
        product
    }

    /// The other factors, if `x` is among the factors `times` times.
    pub fn without(&self, x: ValueId, times: usize) -> Option<Vec<ValueId>> {
        let rest: Vec<_> = self.factors.iter().copied().filter(|&f| f != x).collect();
        (rest.len() + times == self.factors.len()).then_some(rest)
    }
}
