//! Constants packed for kernels, shared by every plan of a runtime.
//!
//! A model may have several plans: one for padded batches, one for sequences end to end, bodies of
//! blocks of rows. They read the same constants, and each form that a kernel packs one into exists
//! once. It lives as long as a plan uses it.
//!
//! A form may also be stored with the model ([`packed_constants`]) and be taken up from there
//! ([`Runtime::offer_packed`]): mapped from a file, it costs neither time nor memory of the process.

use crate::lower::{LowerOptions, lower};
use crate::runtime::{Runtime, RuntimeOptions};
use deepseek_graph::{Graph, text};
use deepseek_kernels_cpu::conv::BlockedWeights;
use deepseek_kernels_cpu::gemm::{PackedB, SharedFloats};
use deepseek_kernels_cpu::{Isa, PACKED_FORMAT};
use deepseek_tensor::{Buffer, DType, Dims, Result, Strides, Tensor};
use parking_lot::Mutex;
use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

/// Packed constants that plans of a runtime use, and those that files offer.
#[derive(Default)]
pub struct Packs {
    used: Mutex<HashMap<Key, Entry>>,
    offers: Mutex<Vec<Offer>>,
}

/// Which elements of which memory, in which form.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    buffer: usize,
    first: usize,
    dtype: DType,
    shape: Dims,
    strides: Strides,
    form: String,
}

struct Entry {
    /// Keeps the address in the key from being given to another buffer.
    source: Weak<Buffer>,
    packed: Weak<dyn Any + Send + Sync>,
    /// Its elements, if a file may hold them.
    floats: Option<fn(&(dyn Any + Send + Sync)) -> &[f32]>,
}

/// Stored forms of the constants of a model.
struct Offer {
    constants: Vec<Span>,
    packed: Arc<BTreeMap<String, Tensor>>,
}

/// Where a constant lies in memory.
struct Span {
    source: Weak<Buffer>,
    first: usize,
    bytes: usize,
    name: String,
}

/// A form that may be stored with a model and taken up again.
pub trait Storable: Send + Sync + 'static {
    /// All that there is to store, besides what the constant's shape and the form's name say.
    fn floats(&self) -> &[f32];
}

impl Storable for PackedB {
    fn floats(&self) -> &[f32] {
        self.floats()
    }
}

impl Storable for BlockedWeights {
    fn floats(&self) -> &[f32] {
        self.floats()
    }
}

/// What [`packed_constants`] made suits a machine of the same name alone: version of the library and of its
/// forms, instruction set.
pub fn packed_for(isa: Isa) -> String {
    format!("{}/{PACKED_FORMAT}/{}", env!("CARGO_PKG_VERSION"), isa.level())
}

/// All that kernels pack of the constants of `graph`, as [`prepare`](crate::prepare) has made it, when it is
/// lowered for `runtime`'s instruction set: one-dimensional `f32` tensors under names that
/// [`Runtime::offer_packed`] knows again.
///
/// # Errors
/// Those of lowering.
pub fn packed_constants(
    graph: &Graph,
    runtime: &Runtime,
    options: &LowerOptions,
) -> Result<BTreeMap<String, Tensor>> {
    // Of its own, so that nothing of other models and plans is among them.
    let alone = RuntimeOptions {
        threads: runtime.threads(),
        isa: Some(runtime.isa()),
        memory_budget_bytes: 0,
    };
    let runtime = Runtime::new(&alone)?;
    let _plan = lower(graph, &runtime, options)?;
    let constants = spans(graph);
    let mut packed = BTreeMap::new();
    for (key, entry) in runtime.packs().used.lock().iter() {
        let (Some(name), Some(floats)) = (key.name(&constants), entry.floats) else { continue };
        if let Some(form) = entry.packed.upgrade() {
            let floats = floats(form.as_ref());
            packed.insert(name, Tensor::from_slice(&[floats.len()], floats)?);
        }
    }
    Ok(packed)
}

/// The named constants that lie in memory as they are stored.
fn spans(graph: &Graph) -> Vec<Span> {
    let span = |(name, t): (String, Tensor)| {
        let source = Arc::downgrade(t.buffer().filter(|_| t.is_contiguous())?);
        let bytes = t.as_bytes().ok()?.len();
        Some(Span { source, first: t.as_ptr().addr(), bytes, name })
    };
    text::large_constants(graph).into_iter().filter_map(span).collect()
}

impl Key {
    /// The form by the name of its constant, if that is one of these.
    fn name(&self, constants: &[Span]) -> Option<String> {
        let span = constants.iter().find(|s| {
            s.source.as_ptr().addr() == self.buffer
                && s.source.strong_count() > 0
                && (s.first..s.first + s.bytes).contains(&self.first)
        })?;
        let (name, at) = (&span.name, self.first - span.first);
        let (form, shape, strides) = (&self.form, &self.shape, &self.strides);
        Some(format!("{name}+{at} {} {shape:?} {strides:?} {form}", self.dtype))
    }
}

impl Runtime {
    /// Offers the constants of `graph` in forms that [`packed_constants`] made for a runtime of the same
    /// [`packed_for`]: who packs such a constant takes the offered form instead. Offers end with the
    /// memory of the constants.
    pub fn offer_packed(&self, graph: &Graph, packed: BTreeMap<String, Tensor>) {
        let mut offers = self.packs().offers.lock();
        offers.retain(|o| o.constants.iter().any(|s| s.source.strong_count() > 0));
        offers.push(Offer { constants: spans(graph), packed: Arc::new(packed) });
    }
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
        self.find(constant, form, None, |_| make())
    }

    /// As [`Packs::get`], of a form that may be stored: `restore` makes it of stored elements, or says that they are
    /// none of it.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get_stored<T: Storable>(
        &self,
        constant: &Tensor,
        form: &str,
        restore: impl FnOnce(SharedFloats) -> Option<T>,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        self.find(constant, form, Some(floats_of::<T>), |key| {
            match key.and_then(|key| self.offered(key)).and_then(restore) {
                Some(restored) => Ok(restored),
                None => make(),
            }
        })
    }

    fn find<T: Send + Sync + 'static>(
        &self,
        constant: &Tensor,
        form: &str,
        floats: Option<fn(&(dyn Any + Send + Sync)) -> &[f32]>,
        make: impl FnOnce(Option<&Key>) -> Result<T>,
    ) -> Result<Arc<T>> {
        let Some(buffer) = constant.buffer() else { return make(None).map(Arc::new) };
        let key = Key {
            buffer: Arc::as_ptr(buffer).addr(),
            first: constant.as_ptr().addr(),
            dtype: constant.dtype(),
            shape: Dims::from_slice(constant.shape()),
            strides: Strides::from_slice(constant.strides()),
            form: form.to_owned(),
        };
        let known = self.used.lock().get(&key).and_then(|e| e.packed.upgrade());
        if let Some(Ok(packed)) = known.map(Arc::downcast::<T>) {
            return Ok(packed);
        }
        // Not under the lock: packing takes long, and the worst of a race is a second copy.
        let packed = Arc::new(make(Some(&key))?);
        let any: Arc<dyn Any + Send + Sync> = packed.clone();
        let entry = Entry { source: Arc::downgrade(buffer), packed: Arc::downgrade(&any), floats };
        let mut used = self.used.lock();
        used.retain(|_, e| e.packed.strong_count() > 0 && e.source.strong_count() > 0);
        used.insert(key, entry);
        Ok(packed)
    }

    fn offered(&self, key: &Key) -> Option<SharedFloats> {
        let offers = self.offers.lock();
        let find = |o: &Offer| o.packed.get(&key.name(&o.constants)?).cloned();
        let tensor = offers.iter().rev().find_map(find)?;
        tensor.as_slice::<f32>().ok()?;
        Some(SharedFloats::new(Floats(tensor)))
    }
}

fn floats_of<T: Storable>(form: &(dyn Any + Send + Sync)) -> &[f32] {
    form.downcast_ref::<T>().map_or(&[], Storable::floats)
}

/// A contiguous tensor of `f32`.
struct Floats(Tensor);

impl AsRef<[f32]> for Floats {
    fn as_ref(&self) -> &[f32] {
        self.0.as_slice().unwrap_or_default()
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
        assert!(packs.used.lock().len() <= 2);
        let failed =
            packs.get(&kept, "bad", || Err::<u8, _>(deepseek_tensor::err!(Internal, "no")));
        assert!(failed.is_err());
        assert_eq!(*packs.get(&kept, "bad", || Ok(3u8)).unwrap(), 3);
    }
}
