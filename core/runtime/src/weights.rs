//! Weights in the layout of a kernel, made once for all plans that read them.
//!
//! A model has a plan for its padded and one for its packed form, and the search for a cut that
//! fits a budget makes several: they read the same constants, so kernels share what they made of
//! them. What no plan uses any more is gone.

use deepseek_tensor::{Dims, Result, Tensor};
use parking_lot::Mutex;
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// The bytes a constant lies at, how it is read, and what was made of it in which way.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    address: usize,
    shape: Dims,
    strides: Vec<isize>,
    made: TypeId,
    how: u32,
}

/// Weights in use, by the constants they were made from.
#[derive(Default)]
pub(crate) struct Weights(Mutex<HashMap<Key, Weak<dyn Any + Send + Sync>>>);

/// What a kernel made of a constant.
pub(crate) struct Weight<T> {
    made: T,
    /// Keeps the address from being that of another constant.
    _source: Tensor,
}

impl<T> std::ops::Deref for Weight<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.made
    }
}

impl Weights {
    /// What `make` makes of `source`; `how` tells different ways to make the same type apart.
    ///
    /// # Errors
    /// What `make` reports.
    pub fn shared<T: Send + Sync + 'static>(
        &self,
        source: &Tensor,
        how: u32,
        make: impl FnOnce(&Tensor) -> Result<T>,
    ) -> Result<Arc<Weight<T>>> {
        let key = || Key {
            address: source.as_ptr().addr(),
            shape: Dims::from_slice(source.shape()),
            strides: source.strides().to_vec(),
            made: TypeId::of::<T>(),
            how,
        };
        let known = self.0.lock().get(&key()).and_then(Weak::upgrade);
        if let Some(Ok(known)) = known.map(Arc::downcast::<Weight<T>>) {
            return Ok(known);
        }
        let made = Arc::new(Weight { made: make(source)?, _source: source.clone() });
        let shared: Arc<dyn Any + Send + Sync> = made.clone();
        let mut all = self.0.lock();
        if all.len() == all.capacity() {
            all.retain(|_, weight| weight.strong_count() > 0);
        }
        all.insert(key(), Arc::downgrade(&shared));
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_of_a_constant_is_shared_while_it_is_in_use() {
        let weights = Weights::default();
        let constant = Tensor::from_slice(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let mut made = 0;
        let mut get = |t: &Tensor, how| {
            weights.shared(t, how, |t| {
                made += 1;
                t.to_contiguous()?.to_vec::<f32>()
            })
        };
        let first = get(&constant, 0).unwrap();
        let again = get(&constant.clone(), 0).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        // Another way, another view of the same bytes, another constant with the same elements.
        let other = get(&constant, 1).unwrap();
        let turned = get(&constant.permute(&[1, 0]).unwrap(), 0).unwrap();
        assert_eq!(**turned, [1.0, 3.0, 2.0, 4.0]);
        let copy = get(&constant.deep_copy().unwrap(), 0).unwrap();
        assert_eq!((**copy).as_slice(), (**first).as_slice());
        drop((first, again, other, turned, copy));
        get(&constant, 0).unwrap();
        assert_eq!(made, 5);
    }

    #[test]
    fn an_error_is_not_remembered() {
        let weights = Weights::default();
        let constant = Tensor::from_slice(&[1], &[1.0f32]).unwrap();
        let fail = weights.shared(&constant, 0, |t| t.reshape(&[7]));
        assert!(fail.is_err());
        assert!(weights.shared(&constant, 0, |t| t.reshape(&[1, 1])).is_ok());
    }
}
