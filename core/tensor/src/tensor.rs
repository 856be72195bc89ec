//! The strided view.

use crate::{Buffer, DType, Element, Result, bail, ensure, err, narrow};
use smallvec::SmallVec;
use std::fmt;
use std::sync::Arc;

/// Most dimensions a tensor may have (numpy's limit).
pub const MAX_RANK: usize = 64;

/// Extents, outermost first.
pub type Dims = SmallVec<[usize; 6]>;

/// Steps between neighbours along each axis, in elements; may be 0 or negative.
pub type Strides = SmallVec<[isize; 6]>;

/// An element type, a shape, strides (in elements) and counted storage.
///
/// Cloning shares the storage. Writing goes through [`Tensor::as_slice_mut`],
/// which copies first where the storage is shared, read-only or not contiguous,
/// so a tensor never changes under another one's feet. Tensors of packed types
/// (4 and 2 bits) and views that cannot be expressed by strides are contiguous.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Dims,
    strides: Strides,
    /// Index of the first element, in elements.
    offset: usize,
    storage: Storage,
}

#[derive(Clone)]
enum Storage {
    Bytes(Arc<Buffer>),
    Text(Arc<Vec<String>>),
}

/// Number of elements of `shape`; 1 for a scalar. The product of the extents that
/// are not zero must fit as well (numpy's rule), so no partial product overflows.
///
/// # Errors
/// `ShapeMismatch` if a product overflows or the rank exceeds [`MAX_RANK`].
pub fn num_elements(shape: &[usize]) -> Result<usize> {
    ensure!(
        shape.len() <= MAX_RANK,
        ShapeMismatch,
        "rank {} exceeds the limit of {MAX_RANK} dimensions",
        shape.len()
    );
    let product = shape
        .iter()
        .filter(|&&d| d != 0)
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= isize::MAX as usize)
        .ok_or_else(|| err!(ShapeMismatch, "shape {shape:?} overflows the address space"))?;
    Ok(if shape.contains(&0) { 0 } else { product })
}

/// Row-major strides of `shape`, in elements.
pub fn contiguous_strides(shape: &[usize]) -> Strides {
    let mut strides: Strides = SmallVec::from_elem(0, shape.len());
    let mut step = 1isize;
    for (s, &d) in strides.iter_mut().zip(shape).rev() {
        *s = step;
        step = step.saturating_mul(d.max(1) as isize);
    }
    strides
}

/// The shape that both `a` and `b` broadcast to under numpy's rules.
///
/// # Errors
/// `ShapeMismatch` naming both shapes and the axis that disagrees.
pub fn broadcast_shapes(a: &[usize], b: &[usize]) -> Result<Dims> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| if i + s.len() < rank { 1 } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            (x, y) => Err(err!(
                ShapeMismatch,
                "shapes {a:?} and {b:?} do not broadcast: axis {i} has {x} against {y}; one of them must be 1"
            )),
        })
        .collect()
}

impl Tensor {
    /// A contiguous tensor of zeros (of empty strings, of `false`).
    ///
    /// # Errors
    /// `ShapeMismatch` if the size overflows, `OutOfMemory`.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self> {
        let n = num_elements(shape)?;
        let storage = match dtype {
            DType::String => {
                let mut v = Vec::new();
                v.try_reserve_exact(n)
                    .map_err(|_| err!(OutOfMemory, "cannot allocate {n} strings"))?;
                v.resize(n, String::new());
                Storage::Text(Arc::new(v))
            }
            _ => Storage::Bytes(Arc::new(Buffer::zeroed(dtype.bytes_for(n)?)?)),
        };
        Ok(Self::assemble(dtype, shape, storage))
    }

    /// A contiguous tensor that takes over `data`.
    ///
    /// # Errors
    /// `ShapeMismatch` if `data` does not have as many elements as `shape`.
    pub fn from_vec<T: Element>(shape: &[usize], data: Vec<T>) -> Result<Self> {
        expect_elements(shape, data.len())?;
        let storage = Storage::Bytes(Arc::new(Buffer::from_vec(data)?));
        Ok(Self::assemble(T::DTYPE, shape, storage))
    }

    /// A contiguous tensor with a copy of `data`.
    ///
    /// # Errors
    /// `ShapeMismatch` if `data` does not have as many elements as `shape`; `OutOfMemory`.
    pub fn from_slice<T: Element>(shape: &[usize], data: &[T]) -> Result<Self> {
        expect_elements(shape, data.len())?;
        let mut t = Tensor::zeros(T::DTYPE, shape)?;
        t.as_slice_mut::<T>()?.copy_from_slice(data);
        Ok(t)
    }

    /// A tensor of rank 0.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn scalar<T: Element>(value: T) -> Result<Self> {
        Tensor::from_slice(&[], &[value])
    }

    /// A tensor of strings.
    ///
    /// # Errors
    /// `ShapeMismatch` if `data` does not have as many elements as `shape`.
    pub fn from_strings(shape: &[usize], data: Vec<String>) -> Result<Self> {
        expect_elements(shape, data.len())?;
        Ok(Self::assemble(DType::String, shape, Storage::Text(Arc::new(data))))
    }

    /// A contiguous tensor with a copy of little-endian `bytes`. Bytes of a
    /// `bool` tensor other than 0 and 1 become 1.
    ///
    /// # Errors
    /// `ShapeMismatch` if the length is not what `dtype` and `shape` need,
    /// `DTypeMismatch` for strings, `OutOfMemory`.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Self> {
        expect_bytes(dtype, shape, bytes.len())?;
        let mut t = Tensor::zeros(dtype, shape)?;
        t.bytes_mut()?.copy_from_slice(bytes);
        if dtype == DType::Bool {
            t.bytes_mut()?.iter_mut().for_each(|b| *b = (*b != 0) as u8);
        }
        Ok(t)
    }

    /// A contiguous tensor over part of `buffer`, from `byte_offset` on, without a
    /// copy where the bytes are aligned for `dtype` and, for `bool`, all 0 or 1;
    /// with a copy otherwise.
    ///
    /// # Errors
    /// `ShapeMismatch` if the buffer is too short, `DTypeMismatch` for strings.
    pub fn from_buffer(
        dtype: DType,
        shape: &[usize],
        buffer: Arc<Buffer>,
        byte_offset: usize,
    ) -> Result<Self> {
        ensure!(dtype != DType::String, DTypeMismatch, "strings are not stored as bytes");
        let need = dtype.bytes_for(num_elements(shape)?)?;
        let end = byte_offset.checked_add(need).filter(|&end| end <= buffer.len());
        let Some(end) = end else {
            bail!(
                ShapeMismatch,
                "{dtype}{shape:?} at byte {byte_offset} needs {need} bytes, the buffer has {}",
                buffer.len()
            );
        };
        let width = dtype.bits().div_ceil(8);
        let bytes = &buffer.as_bytes()[byte_offset..end];
        let aligned = bytes.as_ptr().addr().is_multiple_of(width)
            && byte_offset.is_multiple_of(width)
            && (!dtype.is_packed() || byte_offset == 0);
        if !aligned || (dtype == DType::Bool && bytes.iter().any(|b| *b > 1)) {
            return Tensor::from_bytes(dtype, shape, bytes);
        }
        let mut t = Self::assemble(dtype, shape, Storage::Bytes(buffer));
        t.offset = byte_offset / width;
        Ok(t)
    }

    /// As [`Tensor::from_buffer`], but never looks at the bytes and never copies: for
    /// memory that is written after the tensor over it was made, such as an arena.
    ///
    /// # Safety
    /// The range must lie in the buffer and be aligned for `dtype`. Nobody may read
    /// elements before they hold valid values (0 or 1 for `bool`).
    ///
    /// # Errors
    /// `DTypeMismatch` for strings, `ShapeMismatch` if the size overflows.
    pub unsafe fn from_buffer_unchecked(
        dtype: DType,
        shape: &[usize],
        buffer: Arc<Buffer>,
        byte_offset: usize,
    ) -> Result<Self> {
        ensure!(dtype != DType::String, DTypeMismatch, "strings are not stored as bytes");
        debug_assert!(byte_offset + dtype.bytes_for(num_elements(shape)?)? <= buffer.len());
        let mut t = Self::assemble(dtype, shape, Storage::Bytes(buffer));
        t.offset = byte_offset / dtype.bits().div_ceil(8);
        Ok(t)
    }

    /// Packs one-per-byte elements (`u8`, or `i8` for signed types) into a tensor
    /// of a packed type.
    ///
    /// # Errors
    /// `InvalidArgument` if `dtype` is not packed; `ShapeMismatch` on a wrong count.
    pub fn from_unpacked(dtype: DType, shape: &[usize], elements: &[u8]) -> Result<Self> {
        expect_elements(shape, elements.len())?;
        Tensor::from_bytes(dtype, shape, &narrow::pack(dtype, elements)?)
    }

    fn assemble(dtype: DType, shape: &[usize], storage: Storage) -> Self {
        let strides = contiguous_strides(shape);
        Tensor { dtype, shape: Dims::from_slice(shape), strides, offset: 0, storage }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Strides in elements, outermost first.
    pub fn strides(&self) -> &[isize] {
        &self.strides
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Bytes that the elements take when contiguous; 0 for strings.
    pub fn size_bytes(&self) -> usize {
        (self.len() * self.dtype.bits()).div_ceil(8)
    }

    /// Whether the elements lie row-major without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut step = 1isize;
        self.is_empty()
            || self.shape.iter().zip(&self.strides).rev().all(|(&d, &s)| {
                let ok = d == 1 || s == step;
                step *= d as isize;
                ok
            })
    }

    /// The elements, row-major.
    ///
    /// # Errors
    /// `DTypeMismatch` if `T` is not the element type; `InvalidState` if the view
    /// is not contiguous (call [`Tensor::to_contiguous`] first).
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.expect_dtype(T::DTYPE)?;
        ensure!(
            self.is_contiguous(),
            InvalidState,
            "a {}{:?} view with strides {:?} is not contiguous; copy it with to_contiguous",
            self.dtype,
            &self.shape[..],
            &self.strides[..]
        );
        let n = self.len();
        Ok(&self.base::<T>()[self.offset..][..n])
    }

    /// The elements for writing, row-major. Copies first if the storage is shared,
    /// read-only or not contiguous.
    ///
    /// # Errors
    /// `DTypeMismatch` if `T` is not the element type; `OutOfMemory`.
    pub fn as_slice_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        self.expect_dtype(T::DTYPE)?;
        let (n, offset) = {
            self.make_unique()?;
            (self.len(), self.offset)
        };
        let bytes = self.unique_bytes()?;
        let start = offset * size_of::<T>();
        let bytes = &mut bytes[start..start + n * size_of::<T>()];
        // SAFETY: the constructors keep element data aligned for its type; `T` is the
        // element type, any bit pattern in the buffer is a valid `T` (bool bytes are
        // normalised on entry), and the length was cut to whole elements.
        Ok(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), n) })
    }

    /// The strings, row-major.
    ///
    /// # Errors
    /// `DTypeMismatch` if the elements are not strings.
    pub fn as_strings(&self) -> Result<Vec<&str>> {
        match &self.storage {
            Storage::Text(text) => Ok(self.offsets().map(|i| text[i].as_str()).collect()),
            Storage::Bytes(_) => bail!(DTypeMismatch, "expected strings, got {}", self.dtype),
        }
    }

    /// One string, by its index in row-major order.
    ///
    /// # Errors
    /// `DTypeMismatch` if the elements are not strings; `InvalidArgument` if there are
    /// not so many.
    pub fn string_at(&self, index: usize) -> Result<&str> {
        let Storage::Text(text) = &self.storage else {
            bail!(DTypeMismatch, "expected strings, got {}", self.dtype);
        };
        let at = match self.is_contiguous() {
            true => (index < self.len()).then(|| self.offset + index),
            false => self.offsets().nth(index),
        };
        at.map(|i| text[i].as_str())
            .ok_or_else(|| err!(InvalidArgument, "no string {index} among {}", self.len()))
    }

    /// The bytes of a contiguous tensor, packed types included.
    ///
    /// # Errors
    /// `DTypeMismatch` for strings, `InvalidState` if the view is not contiguous.
    pub fn as_bytes(&self) -> Result<&[u8]> {
        let Storage::Bytes(buffer) = &self.storage else {
            bail!(DTypeMismatch, "strings are not stored as bytes");
        };
        ensure!(self.is_contiguous(), InvalidState, "the view is not contiguous");
        let start = self.offset * self.dtype.bits() / 8;
        Ok(&buffer.as_bytes()[start..start + self.size_bytes()])
    }

    /// Address of the first element for writing, copied first if shared: for kernels
    /// that fill a tensor through a pointer while nobody else holds it.
    ///
    /// # Errors
    /// `DTypeMismatch` for strings, `OutOfMemory`.
    pub fn as_mut_ptr(&mut self) -> Result<*mut u8> {
        Ok(self.bytes_mut()?.as_mut_ptr())
    }

    /// The bytes of a contiguous tensor for writing, copied first if shared. Bytes
    /// of a `bool` tensor must stay 0 or 1.
    fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        self.make_unique()?;
        let (start, n) = (self.offset * self.dtype.bits() / 8, self.size_bytes());
        Ok(&mut self.unique_bytes()?[start..start + n])
    }

    /// The storage, which other tensors may share; `None` for strings.
    pub fn buffer(&self) -> Option<&Arc<Buffer>> {
        match &self.storage {
            Storage::Bytes(b) => Some(b),
            Storage::Text(_) => None,
        }
    }

    /// Address of the first element, for kernels and foreign callers; null for strings.
    pub fn as_ptr(&self) -> *const u8 {
        match &self.storage {
            Storage::Bytes(b) => b.as_ptr().wrapping_add(self.offset * self.dtype.bits() / 8),
            Storage::Text(_) => std::ptr::null(),
        }
    }

    /// The elements in row-major order, whatever the strides.
    ///
    /// # Errors
    /// `DTypeMismatch` if `T` is not the element type.
    pub fn iter<T: Element>(&self) -> Result<impl Iterator<Item = T> + '_> {
        self.expect_dtype(T::DTYPE)?;
        let base = self.base::<T>();
        Ok(self.offsets().map(move |i| base[i]))
    }

    /// A copy of the elements in row-major order.
    ///
    /// # Errors
    /// `DTypeMismatch` if `T` is not the element type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.dtype == T::DTYPE && self.is_contiguous() {
            return Ok(self.as_slice::<T>()?.to_vec());
        }
        Ok(self.iter::<T>()?.collect())
    }

    /// The only element of a tensor that has one, of any rank.
    ///
    /// # Errors
    /// `DTypeMismatch`, or `ShapeMismatch` if there is not exactly one element.
    pub fn item<T: Element>(&self) -> Result<T> {
        ensure!(
            self.len() == 1,
            ShapeMismatch,
            "expected one element, got shape {:?}",
            &self.shape[..]
        );
        Ok(self.iter::<T>()?.next().expect("the length is one"))
    }

    /// Elements of a packed type, one per byte: `i8` for signed integers, `u8` (raw
    /// patterns for floats) otherwise. Same shape.
    ///
    /// # Errors
    /// `InvalidArgument` if the type is not packed.
    pub fn unpack(&self) -> Result<Tensor> {
        let raw = narrow::unpack(self.dtype, self.as_bytes()?, self.len())?;
        let to = if self.dtype.is_signed_int() { DType::I8 } else { DType::U8 };
        Tensor::from_bytes(to, &self.shape, &raw)
    }

    /// The same bytes under another element type of the same width.
    ///
    /// # Errors
    /// `DTypeMismatch` if the widths differ or either type is `string` or `bool`.
    pub fn bitcast(&self, dtype: DType) -> Result<Tensor> {
        let fixed = |d: DType| !matches!(d, DType::String | DType::Bool);
        ensure!(
            dtype.bits() == self.dtype.bits() && fixed(dtype) && fixed(self.dtype),
            DTypeMismatch,
            "cannot reinterpret {} as {dtype}: the widths differ or are not fixed",
            self.dtype
        );
        Ok(Tensor { dtype, ..self.clone() })
    }

    /// This tensor if contiguous, else a contiguous copy.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn to_contiguous(&self) -> Result<Tensor> {
        if self.is_contiguous() { Ok(self.clone()) } else { self.deep_copy() }
    }

    /// A contiguous copy with storage of its own.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn deep_copy(&self) -> Result<Tensor> {
        let mut out = Tensor::zeros(self.dtype, &self.shape)?;
        match (&self.storage, &mut out.storage) {
            (Storage::Text(from), Storage::Text(to)) => {
                let to = Arc::get_mut(to).expect("the copy was just made");
                for (to, i) in to.iter_mut().zip(self.offsets()) {
                    to.clone_from(&from[i]);
                }
            }
            (Storage::Bytes(from), _) if self.is_contiguous() => {
                let start = self.offset * self.dtype.bits() / 8;
                let n = self.size_bytes();
                out.bytes_mut()?.copy_from_slice(&from.as_bytes()[start..start + n]);
            }
            (Storage::Bytes(from), _) => {
                let width = self.dtype.bits() / 8;
                let from = from.as_bytes();
                for (to, i) in out.bytes_mut()?.chunks_exact_mut(width).zip(self.offsets()) {
                    to.copy_from_slice(&from[i * width..(i + 1) * width]);
                }
            }
            (Storage::Text(_), Storage::Bytes(_)) => unreachable!("same element type"),
        }
        Ok(out)
    }

    /// The same elements in row-major order under another shape; a view where the
    /// tensor is contiguous, a copy otherwise.
    ///
    /// # Errors
    /// `ShapeMismatch` if the element counts differ.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        expect_elements(shape, self.len())?;
        let t = self.to_contiguous()?;
        Ok(Tensor { shape: Dims::from_slice(shape), strides: contiguous_strides(shape), ..t })
    }

    /// A view with axes in the order `axes` (`axes[i]` is the source of axis `i`).
    ///
    /// # Errors
    /// `InvalidArgument` unless `axes` is a permutation.
    pub fn permute(&self, axes: &[usize]) -> Result<Tensor> {
        let mut seen: SmallVec<[bool; 8]> = SmallVec::from_elem(false, self.rank());
        let valid = axes.len() == self.rank()
            && axes.iter().all(|&a| a < seen.len() && !std::mem::replace(&mut seen[a], true));
        ensure!(
            valid,
            InvalidArgument,
            "{axes:?} is not a permutation of the {} axes of shape {:?}",
            self.rank(),
            &self.shape[..]
        );
        let mut t = self.unpacked_layout("transpose")?;
        t.shape = axes.iter().map(|&a| self.shape[a]).collect();
        t.strides = axes.iter().map(|&a| self.strides[a]).collect();
        Ok(t)
    }

    /// A view of `count` elements along `axis`, from `start` in steps of `step`
    /// (which may be negative).
    ///
    /// # Errors
    /// `InvalidArgument` if the range leaves the axis.
    pub fn slice_axis(
        &self,
        axis: usize,
        start: usize,
        step: isize,
        count: usize,
    ) -> Result<Tensor> {
        let extent = *self.shape.get(axis).ok_or_else(|| {
            err!(InvalidArgument, "axis {axis} is outside shape {:?}", &self.shape[..])
        })?;
        let last = (count as i128 - 1) * step as i128 + start as i128;
        ensure!(
            count == 0 || (start < extent && (0..extent as i128).contains(&last)),
            InvalidArgument,
            "{count} elements from {start} in steps of {step} leave axis {axis} of extent {extent}"
        );
        let mut t = self.unpacked_layout("slice")?;
        if count > 0 {
            t.offset = t.offset.wrapping_add_signed(self.strides[axis] * start as isize);
        }
        t.shape[axis] = count;
        t.strides[axis] = self.strides[axis].saturating_mul(step);
        Ok(t)
    }

    /// A view with `shape`, to which this tensor's shape broadcasts (numpy's rules).
    ///
    /// # Errors
    /// `ShapeMismatch` naming both shapes.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Tensor> {
        num_elements(shape)?;
        let lead = shape.len().checked_sub(self.rank());
        let fits = lead.is_some_and(|lead| {
            self.shape.iter().zip(&shape[lead..]).all(|(&from, &to)| from == to || from == 1)
        });
        let Some(lead) = lead.filter(|_| fits) else {
            bail!(ShapeMismatch, "shape {:?} does not broadcast to {shape:?}", &self.shape[..]);
        };
        if self.shape[..] == *shape {
            return Ok(self.clone());
        }
        let mut t = self.unpacked_layout("broadcast")?;
        t.strides = SmallVec::from_elem(0, shape.len());
        for i in 0..self.rank() {
            if self.shape[i] == shape[lead + i] {
                t.strides[lead + i] = self.strides[i];
            }
        }
        t.shape = Dims::from_slice(shape);
        Ok(t)
    }

    /// Index in the storage of each element, in row-major order.
    pub fn offsets(&self) -> Offsets<'_> {
        Offsets {
            tensor: self,
            index: SmallVec::from_elem(0, self.rank()),
            next: self.offset,
            left: self.len(),
        }
    }

    fn unpacked_layout(&self, what: &str) -> Result<Tensor> {
        ensure!(
            !self.dtype.is_packed(),
            Unsupported,
            "cannot {what} a view of {} elements, which share bytes; unpack it first",
            self.dtype
        );
        Ok(self.clone())
    }

    fn expect_dtype(&self, dtype: DType) -> Result<()> {
        ensure!(
            self.dtype == dtype,
            DTypeMismatch,
            "expected {dtype} elements, the tensor holds {}",
            self.dtype
        );
        Ok(())
    }

    /// All elements of the storage; `T` must be the element type.
    fn base<T: Element>(&self) -> &[T] {
        debug_assert_eq!(T::DTYPE, self.dtype);
        let Storage::Bytes(buffer) = &self.storage else {
            unreachable!("`T: Element` is never a string")
        };
        let bytes = buffer.as_bytes();
        // SAFETY: as in `as_slice_mut`, for shared reading.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
    }

    fn make_unique(&mut self) -> Result<()> {
        let unique = self.is_contiguous()
            && match &mut self.storage {
                Storage::Bytes(b) => Arc::get_mut(b).and_then(Buffer::as_bytes_mut).is_some(),
                Storage::Text(t) => Arc::get_mut(t).is_some(),
            };
        if !unique {
            *self = self.deep_copy()?;
        }
        Ok(())
    }

    fn unique_bytes(&mut self) -> Result<&mut [u8]> {
        match &mut self.storage {
            Storage::Bytes(b) => Ok(Arc::get_mut(b)
                .and_then(Buffer::as_bytes_mut)
                .expect("make_unique was called just before")),
            Storage::Text(_) => bail!(DTypeMismatch, "strings are not stored as bytes"),
        }
    }
}

fn expect_elements(shape: &[usize], got: usize) -> Result<()> {
    let need = num_elements(shape)?;
    ensure!(need == got, ShapeMismatch, "shape {shape:?} has {need} elements, got {got}");
    Ok(())
}

fn expect_bytes(dtype: DType, shape: &[usize], got: usize) -> Result<()> {
    ensure!(dtype != DType::String, DTypeMismatch, "strings are not stored as bytes");
    let need = dtype.bytes_for(num_elements(shape)?)?;
    ensure!(need == got, ShapeMismatch, "{dtype}{shape:?} takes {need} bytes, got {got}");
    Ok(())
}

/// Storage indices of a tensor's elements, row-major; see [`Tensor::offsets`].
pub struct Offsets<'a> {
    tensor: &'a Tensor,
    index: Dims,
    next: usize,
    left: usize,
}

impl Iterator for Offsets<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        let at = self.next;
        self.left -= 1;
        let (shape, strides) = (&self.tensor.shape, &self.tensor.strides);
        for axis in (0..shape.len()).rev() {
            self.index[axis] += 1;
            if self.index[axis] < shape[axis] {
                self.next = self.next.wrapping_add_signed(strides[axis]);
                break;
            }
            self.index[axis] = 0;
            let back = strides[axis].wrapping_mul(shape[axis] as isize - 1);
            self.next = self.next.wrapping_sub(back as usize);
        }
        Some(at)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Offsets<'_> {}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, &self.shape[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iota(shape: &[usize]) -> Tensor {
        let n = num_elements(shape).unwrap();
        Tensor::from_vec(shape, (0..n as i32).collect()).unwrap()
    }

    #[test]
    fn views_share_bytes_and_read_in_row_major_order() {
        let t = iota(&[2, 3]);
        assert_eq!(t.permute(&[1, 0]).unwrap().to_vec::<i32>().unwrap(), [0, 3, 1, 4, 2, 5]);
        let reversed = t.slice_axis(1, 2, -1, 3).unwrap();
        assert_eq!(reversed.to_vec::<i32>().unwrap(), [2, 1, 0, 5, 4, 3]);
        let b = t.slice_axis(0, 1, 1, 1).unwrap().broadcast_to(&[2, 2, 3]).unwrap();
        assert_eq!(b.to_vec::<i32>().unwrap(), [3, 4, 5, 3, 4, 5, 3, 4, 5, 3, 4, 5]);
        assert_eq!(b.as_ptr(), t.as_ptr().wrapping_add(12));
    }

    #[test]
    fn writing_to_a_shared_tensor_copies_first() {
        let a = iota(&[4]);
        let mut b = a.clone();
        b.as_slice_mut::<i32>().unwrap()[0] = 9;
        assert_eq!(a.to_vec::<i32>().unwrap(), [0, 1, 2, 3]);
        assert_eq!(b.to_vec::<i32>().unwrap(), [9, 1, 2, 3]);
        let at = b.as_ptr();
        b.as_slice_mut::<i32>().unwrap()[1] = 8;
        assert_eq!(b.as_ptr(), at, "a unique tensor is written in place");
    }

    #[test]
    fn misaligned_and_invalid_bytes_are_copied_never_reinterpreted() {
        let buffer = Arc::new(Buffer::from_vec((0u8..16).collect::<Vec<_>>()).unwrap());
        let t = Tensor::from_buffer(DType::U32, &[2], buffer.clone(), 1).unwrap();
        assert_eq!(t.to_vec::<u32>().unwrap(), [0x0403_0201, 0x0807_0605]);
        let t = Tensor::from_buffer(DType::Bool, &[3], buffer.clone(), 0).unwrap();
        assert_eq!(t.to_vec::<bool>().unwrap(), [false, true, true]);
        assert!(Tensor::from_buffer(DType::U32, &[5], buffer.clone(), 0).is_err());
        assert!(Tensor::from_buffer(DType::U32, &[1], buffer, usize::MAX).is_err());
    }

    #[test]
    fn absurd_shapes_are_errors() {
        assert!(num_elements(&[usize::MAX, 2]).is_err());
        assert!(num_elements(&[1 << 40, 1 << 40]).is_err());
        assert!(num_elements(&[usize::MAX, 0]).is_err());
        assert_eq!(num_elements(&[1 << 40, 0]).unwrap(), 0);
        assert!(Tensor::zeros(DType::F32, &[1; MAX_RANK + 1]).is_err());
        assert!(Tensor::zeros(DType::F64, &[1 << 60]).is_err());
        assert!(Tensor::from_slice(&[3], &[1f32]).is_err());
    }

    #[test]
    fn ranges_outside_an_axis_are_errors() {
        let t = iota(&[4]);
        for (start, step, count) in [(4, 1, 1), (0, 1, 5), (3, -1, 5), (1, 2, 3)] {
            assert!(t.slice_axis(0, start, step, count).is_err(), "{start} {step} {count}");
        }
        assert!(t.slice_axis(0, 4, 1, 0).unwrap().is_empty());
        assert!(t.slice_axis(1, 0, 1, 0).is_err());
        assert!(t.permute(&[1]).is_err());
        assert!(t.broadcast_to(&[3]).is_err());
    }

    #[test]
    fn broadcasting_follows_numpy() {
        assert_eq!(broadcast_shapes(&[2, 1], &[3]).unwrap().as_slice(), [2, 3]);
        assert_eq!(broadcast_shapes(&[0], &[1]).unwrap().as_slice(), [0]);
        let e = broadcast_shapes(&[2, 3], &[4]).unwrap_err();
        assert!(e.message().contains("[2, 3]") && e.message().contains("[4]"));
    }

    #[test]
    fn packed_tensors_unpack_and_refuse_strided_views() {
        let t = Tensor::from_unpacked(DType::I4, &[3], &[0xff, 1, 0xf8]).unwrap();
        assert_eq!(t.unpack().unwrap().to_vec::<i8>().unwrap(), [-1, 1, -8]);
        assert_eq!(t.size_bytes(), 2);
        assert!(t.slice_axis(0, 0, 2, 2).is_err());
        assert_eq!(t.reshape(&[1, 3]).unwrap().deep_copy().unwrap().as_bytes().unwrap(), [0x1f, 8]);
    }

    #[test]
    fn strings_are_viewed_like_numbers() {
        let t =
            Tensor::from_strings(&[2, 2], ["a", "b", "c", "d"].map(String::from).into()).unwrap();
        assert_eq!(t.permute(&[1, 0]).unwrap().as_strings().unwrap(), ["a", "c", "b", "d"]);
        assert!(t.as_bytes().is_err() && t.as_slice::<u8>().is_err());
        assert_eq!(t.string_at(2).unwrap(), "c");
        assert_eq!(t.permute(&[1, 0]).unwrap().string_at(2).unwrap(), "b");
        assert!(t.string_at(4).is_err() && iota(&[1]).string_at(0).is_err());
    }
}
