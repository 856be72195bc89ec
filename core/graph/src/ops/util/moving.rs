//! Moving elements without looking at them.
//!
//! Gather, Pad, Concat and their kin copy runs of elements from one place to
//! another; what an element is does not matter. A [`Source`] is any tensor laid
//! out one element per slot (packed types are unpacked, one per byte), a [`Sink`]
//! collects runs and packs again at the end. So one implementation serves every
//! element type, strings included.

use deepseek_tensor::{Buffer, DType, Dims, Result, Tensor, bail, ensure, err, num_elements};
use std::sync::Arc;

/// Marks a place in an index map that takes the fill value instead of an element.
pub(crate) const FILL: usize = usize::MAX;

/// The elements of a tensor in row-major order, ready to be copied in runs.
pub(crate) struct Source {
    dtype: DType,
    len: usize,
    slots: Slots,
}

enum Slots {
    Bytes(Tensor),
    Text(Vec<String>),
}

/// Bytes per slot: packed elements take one byte each.
fn slot_width(dtype: DType) -> usize {
    dtype.bits().div_ceil(8)
}

impl Source {
    /// Reads `t`; contiguous tensors of unpacked types are not copied.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub(crate) fn of(t: &Tensor) -> Result<Self> {
        let dtype = t.dtype();
        let slots = match dtype {
            DType::String => Slots::Text(t.as_strings()?.into_iter().map(String::from).collect()),
            _ => {
                let tensor = if dtype.is_packed() { t.unpack()? } else { t.to_contiguous()? };
                Slots::Bytes(tensor)
            }
        };
        Ok(Source { dtype, len: t.len(), slots })
    }
}

/// A tensor being assembled from runs of elements; zeros (empty strings, `false`)
/// where nothing is copied.
pub(crate) struct Sink {
    dtype: DType,
    shape: Dims,
    len: usize,
    slots: SinkSlots,
}

enum SinkSlots {
    Bytes { buffer: Buffer, width: usize },
    Text(Vec<String>),
}

impl Sink {
    /// An all-zero tensor of `shape`.
    ///
    /// # Errors
    /// `ShapeMismatch` if the size overflows, `OutOfMemory`.
    pub(crate) fn zeros(dtype: DType, shape: &[usize]) -> Result<Self> {
        let len = num_elements(shape)?;
        let slots = if dtype == DType::String {
            let mut v = Vec::new();
            v.try_reserve_exact(len)
                .map_err(|_| err!(OutOfMemory, "cannot allocate {len} strings"))?;
            v.resize(len, String::new());
            SinkSlots::Text(v)
        } else {
            let width = slot_width(dtype);
            let bytes = len.checked_mul(width).ok_or_else(|| {
                err!(ShapeMismatch, "shape {shape:?} overflows the address space")
            })?;
            SinkSlots::Bytes { buffer: Buffer::zeroed(bytes)?, width }
        };
        Ok(Sink { dtype, shape: Dims::from_slice(shape), len, slots })
    }

    /// A tensor of `shape` where every element is element `at` of `value`.
    ///
    /// # Errors
    /// As [`Sink::zeros`].
    pub(crate) fn filled(shape: &[usize], value: &Source, at: usize) -> Result<Self> {
        let mut sink = Sink::zeros(value.dtype, shape)?;
        if sink.len == 0 {
            return Ok(sink);
        }
        sink.copy(0, value, at, 1)?;
        match &mut sink.slots {
            SinkSlots::Text(v) => {
                let first = v[0].clone();
                v.fill(first);
            }
            SinkSlots::Bytes { buffer, width } => {
                let bytes = buffer.as_bytes_mut().expect("the sink owns its buffer");
                let (first, rest) = bytes.split_at_mut(*width);
                rest.chunks_exact_mut(*width).for_each(|slot| slot.copy_from_slice(first));
            }
        }
        Ok(sink)
    }

    /// Copies `count` elements of `from`, starting at `at`, to position `to`.
    ///
    /// # Errors
    /// `DTypeMismatch` if the element types differ; `Internal` if a run leaves
    /// either tensor.
    pub(crate) fn copy(&mut self, to: usize, from: &Source, at: usize, count: usize) -> Result<()> {
        ensure!(
            self.dtype == from.dtype,
            DTypeMismatch,
            "cannot put {} elements into a tensor of {}; insert a Cast",
            from.dtype,
            self.dtype
        );
        let inside = |start: usize, len: usize| start.checked_add(count).is_some_and(|e| e <= len);
        ensure!(
            inside(to, self.len) && inside(at, from.len),
            Internal,
            "a run of {count} elements from {at} to {to} leaves tensors of {} and {} elements",
            from.len,
            self.len
        );
        match (&mut self.slots, &from.slots) {
            (SinkSlots::Bytes { buffer, width }, Slots::Bytes(tensor)) => {
                let w = *width;
                let bytes = buffer.as_bytes_mut().expect("the sink owns its buffer");
                bytes[to * w..(to + count) * w]
                    .copy_from_slice(&tensor.as_bytes()?[at * w..(at + count) * w]);
            }
            (SinkSlots::Text(out), Slots::Text(text)) => {
                out[to..to + count].clone_from_slice(&text[at..at + count]);
            }
            _ => bail!(Internal, "a string tensor met a numeric one"),
        }
        Ok(())
    }

    /// The tensor.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub(crate) fn finish(self) -> Result<Tensor> {
        match self.slots {
            SinkSlots::Text(v) => Tensor::from_strings(&self.shape, v),
            SinkSlots::Bytes { buffer, .. } if self.dtype.is_packed() => {
                Tensor::from_unpacked(self.dtype, &self.shape, buffer.as_bytes())
            }
            SinkSlots::Bytes { buffer, .. } => {
                Tensor::from_buffer(self.dtype, &self.shape, Arc::new(buffer), 0)
            }
        }
    }
}

/// Applies `f`, which makes a view, to `t`; packed types, whose elements share
/// bytes and have no strided views, are unpacked before and packed after.
///
/// # Errors
/// Those of `f`, `OutOfMemory`.
pub(crate) fn through_views(
    t: &Tensor,
    f: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    if !t.dtype().is_packed() {
        return f(t);
    }
    let out = f(&t.unpack()?)?.to_contiguous()?;
    Tensor::from_unpacked(t.dtype(), out.shape(), out.as_bytes()?)
}

/// `[outer, extent, inner]`: the shape folded around `axis`.
pub(crate) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// The tensor whose slice `i` along `axis` is slice `map[i]` of `t`, or the fill
/// value (zero where there is none) for [`FILL`].
///
/// # Errors
/// `Internal` if the map leaves the axis; as [`Sink::zeros`].
pub(crate) fn take_axis(
    t: &Tensor,
    axis: usize,
    map: &[usize],
    fill: Option<&Source>,
) -> Result<Tensor> {
    let mut shape = Dims::from_slice(t.shape());
    shape[axis] = map.len();
    let mut sink = match fill {
        Some(value) if map.contains(&FILL) => Sink::filled(&shape, value, 0)?,
        _ => Sink::zeros(t.dtype(), &shape)?,
    };
    if sink.len > 0 {
        let source = Source::of(t)?;
        let (outer, extent, inner) = around(t.shape(), axis);
        for o in 0..outer {
            for (i, &from) in map.iter().enumerate() {
                if from != FILL {
                    ensure!(from < extent, Internal, "index {from} leaves an axis of {extent}");
                    let to = (o * map.len() + i) * inner;
                    sink.copy(to, &source, (o * extent + from) * inner, inner)?;
                }
            }
        }
    }
    sink.finish()
}

/// Calls `f` with every index of `shape`, the last axis fastest.
///
/// # Errors
/// Those of `f`.
pub(crate) fn each_index(shape: &[usize], mut f: impl FnMut(&[usize]) -> Result<()>) -> Result<()> {
    if shape.contains(&0) {
        return Ok(());
    }
    let mut index = vec![0; shape.len()];
    loop {
        f(&index)?;
        let Some(axis) = (0..shape.len()).rev().find(|&a| index[a] + 1 < shape[a]) else {
            return Ok(());
        };
        index[axis] += 1;
        index[axis + 1..].fill(0);
    }
}

/// A position along an axis of `extent` slices, negative ones counted from the end.
///
/// # Errors
/// `InvalidArgument` naming index, axis and extent.
pub(crate) fn wrap_index(index: i64, extent: usize, axis: usize) -> Result<usize> {
    let n = extent as i64;
    let at = if index < 0 { index.saturating_add(n) } else { index };
    ensure!(
        (0..n).contains(&at),
        InvalidArgument,
        "index {index} is outside axis {axis} of extent {extent}; valid are {} to {}",
        -n,
        n - 1
    );
    Ok(at as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_move_alike_for_every_element_type() {
        for dtype in DType::ALL {
            let t = Tensor::zeros(dtype, &[2, 3, 1]).unwrap();
            let out = take_axis(&t, 1, &[2, FILL, 0, 1], None).unwrap();
            assert_eq!((out.dtype(), out.shape()), (dtype, &[2, 4, 1][..]));
        }
        let t = Tensor::from_unpacked(DType::I4, &[3], &[0xf, 2, 3]).unwrap();
        let fill = Source::of(&Tensor::from_unpacked(DType::I4, &[], &[7]).unwrap()).unwrap();
        let out = take_axis(&t, 0, &[1, FILL, 0], Some(&fill)).unwrap();
        assert_eq!(out.unpack().unwrap().to_vec::<i8>().unwrap(), [2, 7, -1]);
        let t = Tensor::from_strings(&[2], vec!["a".into(), "b".into()]).unwrap();
        assert_eq!(
            take_axis(&t, 0, &[1, 1, 0], None).unwrap().as_strings().unwrap(),
            ["b", "b", "a"]
        );
    }

    #[test]
    fn runs_that_leave_a_tensor_are_errors() {
        let s = Source::of(&Tensor::from_slice(&[2], &[1u8, 2]).unwrap()).unwrap();
        let mut sink = Sink::zeros(DType::U8, &[2]).unwrap();
        assert!(sink.copy(1, &s, 0, 2).is_err());
        assert!(sink.copy(0, &s, usize::MAX, 2).is_err());
        assert!(Sink::zeros(DType::I8, &[2]).unwrap().copy(0, &s, 0, 1).is_err());
    }
}
