//! Constants packed for kernels, shared by every plan of a runtime.
//!
//! A model may have several plans: one for padded batches, one for sequences end to end, bodies of
//! blocks of rows. They read the same constants, and each form that a kernel packs one into exists
//! once. It lives as long as a plan uses it.

use deepseek_tensor::{Buffer, DType, Dims, Result, Strides, Tensor};
use parking_lot::Mutex;
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// Packed constants that plans of a runtime use.
#[derive(Default)]
pub struct Packs(Mutex<HashMap<Key, Entry>>);

/// Which elements of which memory, in which form.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    buffer: usize,
    first: usize,
    dtype: DType,
    shape: Dims,
    strides: Strides,
    form: String,
    packed: TypeId,
}

struct Entry {
    /// Keeps the address in the key from being given to another buffer.
    source: Weak<Buffer>,
    packed: Weak<dyn Any + Send + Sync>,
}

impl Packs {
    /// `constant` in `form`, which names all that `make` depends on besides the elements;
    /// made unless a plan uses it already.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get<T: Send + Sync + 'static>(
        &self,
        constant: &Tensor,
        form: &str,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let Some(buffer) = constant.buffer() else { return make().map(Arc::new) };
        let key = Key {
            buffer: Arc::as_ptr(buffer).addr(),
            first: constant.as_ptr().addr(),
            dtype: constant.dtype(),
            shape: Dims::from_slice(constant.shape()),
            strides: Strides::from_slice(constant.strides()),
            form: form.to_owned(),
            packed: TypeId::of::<T>(),
        };
        let known = self.0.lock().get(&key).and_then(|e| e.packed.upgrade());
        if let Some(Ok(packed)) = known.map(Arc::downcast::<T>) {
            return Ok(packed);
        }
        // Not under the lock: packing takes long, and the worst of a race is a second copy.
        let packed = Arc::new(make()?);
        let any: Arc<dyn Any + Send + Sync> = packed.clone();
        let entry = Entry { source: Arc::downgrade(buffer), packed: Arc::downgrade(&any) };
        let mut entries = self.0.lock();
        entries.retain(|_, e| e.packed.strong_count() > 0 && e.source.strong_count() > 0);
        entries.insert(key, entry);
        Ok(packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(packs: &Packs, constant: &Tensor, form: &str) -> Arc<Vec<f32>> {
        packs.get(constant, form, || constant.to_vec::<f32>()).unwrap()
    }

    #[test]
    fn a_form_of_a_constant_exists_once_and_only_while_it_is_used() {
        let packs = Packs::default();
        let a = Tensor::from_vec(&[2, 2], vec![1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let first = packed(&packs, &a, "rows");
        assert!(Arc::ptr_eq(&first, &packed(&packs, &a.clone(), "rows")));
        assert!(!Arc::ptr_eq(&first, &packed(&packs, &a, "columns")));
        let turned = packed(&packs, &a.permute(&[1, 0]).unwrap(), "rows");
        assert_eq!(*turned, [1.0, 3.0, 2.0, 4.0]);
        let row = packed(&packs, &a.slice_axis(0, 1, 1, 1).unwrap(), "rows");
        assert_eq!(*row, [3.0, 4.0]);
        let other = Tensor::from_vec(&[2, 2], vec![1.0f32, 2.0, 3.0, 4.0]).unwrap();
        assert!(!Arc::ptr_eq(&first, &packed(&packs, &other, "rows")));

        let gone = Arc::downgrade(&first);
        drop(first);
        assert!(gone.upgrade().is_none());
        assert_eq!(*packed(&packs, &a, "rows"), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn dead_constants_are_forgotten_and_errors_are_not_kept() {
        let packs = Packs::default();
        let kept = Tensor::from_vec(&[1], vec![1.0f32]).unwrap();
        let _kept = packed(&packs, &kept, "rows");
        for i in 0..100 {
            let t = Tensor::from_vec(&[1], vec![i as f32]).unwrap();
            assert_eq!(*packed(&packs, &t, "rows"), [i as f32]);
        }
        assert!(packs.0.lock().len() <= 2);
        let failed =
            packs.get(&kept, "bad", || Err::<u8, _>(deepseek_tensor::err!(Internal, "no")));
        assert!(failed.is_err());
        assert_eq!(*packs.get(&kept, "bad", || Ok(3u8)).unwrap(), 3);
    }
}
