//! The kernel registry: `(operator, element types, shapes, capability) → kernel`.
//!
//! A kernel is registered under the operator it computes. Lowering asks the
//! candidates in order; the first whose `prepare` accepts the node, given all that
//! the compiler knows about its inputs, is bound to it. `prepare` runs once, so
//! this is where constant weights are packed. An operator without a candidate runs
//! on its scalar reference.

use crate::packs::{Packs, Storable};
use deepseek_graph::{Dim, Fact, Graph, Node};
use deepseek_kernels_cpu::gemm::SharedFloats;
use deepseek_kernels_cpu::{Isa, Parallel};
use deepseek_tensor::{DType, Dims, Element, Result, Tensor, ensure, err};
use std::sync::Arc;

/// A registered kernel.
pub struct KernelDef {
    /// Operator the kernel computes.
    pub op: &'static str,
    /// Binds the kernel to a node, or `None` if it does not apply.
    pub prepare: fn(&PrepareArgs) -> Result<Option<Prepared>>,
}

/// What `prepare` may look at.
pub struct PrepareArgs<'a> {
    /// The node.
    pub node: &'a Node,
    /// The graph it belongs to.
    pub graph: &'a Graph,
    /// Instruction set.
    pub isa: Isa,
    /// Computing threads of the runtime.
    pub threads: usize,
    /// Who runs the tasks of packing.
    pub pool: &'a dyn Parallel,
    /// Constants packed already.
    pub packs: &'a Packs,
}

impl<'a> PrepareArgs<'a> {
    /// The operator as `T`, if it is one.
    pub fn op<T: deepseek_graph::Operator>(&self) -> Option<&'a T> {
        self.node.op.downcast::<T>()
    }

    /// Fact of input `i`, if present.
    pub fn input(&self, i: usize) -> Option<&'a Fact> {
        self.node.inputs.get(i).copied().flatten().map(|id| self.graph.fact(id))
    }

    /// Fact of output `i`, if wanted.
    pub fn output(&self, i: usize) -> Option<&'a Fact> {
        self.node.outputs.get(i).copied().flatten().map(|id| self.graph.fact(id))
    }

    /// Element type of input `i`, if it is a tensor.
    pub fn dtype(&self, i: usize) -> Option<DType> {
        self.input(i).and_then(|f| f.dtype().ok())
    }

    /// A constant in the form that a kernel reads; see [`Packs::get`].
    ///
    /// # Errors
    /// Those of `make`.
    pub fn pack<T: Send + Sync + 'static>(
        &self,
        constant: &Tensor,
        form: &str,
        make: impl FnOnce(&Tensor) -> Result<T>,
    ) -> Result<Arc<T>> {
        self.packs.get(constant, form, || make(&constant.to_contiguous()?))
    }

    /// As [`PrepareArgs::pack`], of a form that a model's file may hold; see [`Packs::get_stored`].
    ///
    /// # Errors
    /// Those of `make`.
    pub fn pack_stored<T: Storable>(
        &self,
        constant: &Tensor,
        form: &str,
        restore: impl FnOnce(SharedFloats) -> Option<T>,
        make: impl FnOnce(&Tensor) -> Result<T>,
    ) -> Result<Arc<T>> {
        self.packs.get_stored(constant, form, restore, || make(&constant.to_contiguous()?))
    }

    /// Constant tensor behind input `i`, if it is one.
    pub fn constant(&self, i: usize) -> Option<&'a Tensor> {
        self.node.inputs.get(i).copied().flatten().and_then(|id| self.graph.constant(id))
    }
}

/// A kernel bound to a node.
pub struct Prepared {
    /// Name, `{arch}-{dtypes}-{variant}`, as in the kernel crate.
    pub name: String,
    /// Bytes of scratch that a run needs, a formula over the graph's symbols.
    pub scratch_bytes: Dim,
    /// The kernel, packed weights included.
    pub kernel: Box<dyn Kernel>,
}

/// A kernel bound to a node; immutable and shared by all sessions of a plan.
pub trait Kernel: Send + Sync {
    /// Fills the outputs.
    ///
    /// # Errors
    /// `ShapeMismatch` and errors in the data; the executor adds the node.
    fn run(&self, args: &mut KernelArgs) -> Result<()>;

    /// Inputs whose bytes output 0 may take over, the best first. The planner picks one at
    /// most: an input that nobody reads afterwards and that is just as large as the output.
    /// [`KernelArgs::in_place`] then names it, and it is absent from the inputs: its
    /// elements are those that output 0 holds when the kernel begins.
    fn in_place(&self) -> &[usize] {
        &[]
    }
}

/// What a running kernel gets. Every tensor is contiguous.
pub struct KernelArgs<'a> {
    /// The inputs; `None` where an optional input is absent, or taken over in place.
    pub inputs: &'a [Option<Tensor>],
    /// The input that output 0 holds, for kernels that offer [`Kernel::in_place`].
    pub in_place: Option<usize>,
    /// The outputs, uninitialised (arbitrary bytes) but for an input taken over.
    pub outputs: &'a mut [Output],
    /// Scratch of at least the promised size, arbitrary contents.
    pub scratch: &'a mut [f32],
    /// Who runs the kernel's tasks.
    pub pool: &'a dyn Parallel,
    /// Instruction set.
    pub isa: Isa,
}

impl KernelArgs<'_> {
    /// Input `i`.
    ///
    /// # Errors
    /// `InvalidGraph` if it is absent.
    pub fn input(&self, i: usize) -> Result<&Tensor> {
        self.inputs
            .get(i)
            .and_then(Option::as_ref)
            .ok_or_else(|| err!(InvalidGraph, "required input {i} is missing"))
    }

    /// Input `i`, if present.
    pub fn opt(&self, i: usize) -> Option<&Tensor> {
        self.inputs.get(i).and_then(Option::as_ref)
    }
}

/// A tensor to be written.
pub struct Output {
    pub(crate) dtype: DType,
    pub(crate) shape: Dims,
    pub(crate) ptr: *mut u8,
}

impl Output {
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// The elements, row-major, for writing.
    ///
    /// # Errors
    /// `DTypeMismatch` if `T` is not the element type.
    pub fn as_slice_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        ensure!(
            T::DTYPE == self.dtype && self.dtype != DType::Bool,
            DTypeMismatch,
            "the output holds {} elements, the kernel writes {}",
            self.dtype,
            T::DTYPE
        );
        // SAFETY: the executor points `ptr` at memory for `len` elements of `dtype`, aligned,
        // initialised as bytes (any pattern is a valid number) and disjoint from every input
        // and other output; `&mut self` makes the access exclusive.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.ptr.cast(), self.len()) })
    }

    /// The bytes for writing; those of a `bool` tensor must be set to 0 or 1.
    ///
    /// # Errors
    /// `ShapeMismatch` if the size overflows.
    pub fn as_bytes_mut(&mut self) -> Result<&mut [u8]> {
        let n = self.dtype.bytes_for(self.len())?;
        // SAFETY: as in `as_slice_mut`.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.ptr, n) })
    }
}

/// Candidates for the operator `op`, best first.
pub fn candidates(op: &str) -> impl Iterator<Item = &'static KernelDef> {
    crate::kernels::all().filter(move |def| def.op == op)
}
