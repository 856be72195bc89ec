//! Matrix product by weights of a few bits with scales for groups of terms.

use super::matmul::{MatMul, matmul};
use super::util::{cast_from_f64, to_f64};
use super::{Add, util::filled};
use crate::{Dim, EvalArgs, Fact, InferArgs, NoSubgraphs, Operator, Value, op};
use deepseek_tensor::{DType, Result, Tensor, ensure, num_elements};

op! {
    /// `y[…, n] = Σ_k a[…, k] · w[k, n] + bias[n]`, `w[k, n] = (q[n, k] − zero) · scale` rounded to the type of
    /// the scales. Inputs:
    /// 0. `a` `[…, k]`, floats;
    /// 1. `q` `u8[n, groups, block_size · bits / 8]`: integers of `bits` bits, 4 or 8, the first in the low
    ///    bits; `groups` is `⌈k / block_size⌉`, what a last group has beyond `k` has no meaning;
    /// 2. scales, floats of the type of `a`, `n · groups` of them;
    /// 3. optional zero points: of the type of `a`, `n · groups` of them, or `u8` packed as `q` is, each row of
    ///    `groups` in whole bytes; without them `2^(bits − 1)`;
    /// 4. optional bias `[n]`.
    ///
    /// (ONNX Runtime MatMulNBits, with the bias next.)
    MatMulNBits {
        /// Bits of a weight.
        bits: i64 = 4,
        /// Terms of a group.
        block_size: i64 = 32,
        /// Rows of the weights.
        k: i64 = 0,
    }
}

/// The weights of a [`MatMulNBits`], checked.
#[derive(Clone, Copy, Debug)]
pub struct GroupedWeights<'a> {
    /// Terms and columns.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Bits of an integer, 4 or 8.
    pub bits: u32,
    /// Terms of a group.
    pub group: usize,
    /// Groups of a column.
    pub groups: usize,
    q: &'a [u8],
}

impl<'a> GroupedWeights<'a> {
    /// The integer of a term and column.
    pub fn integer(&self, k: usize, n: usize) -> u8 {
        let row = self.groups * self.group * self.bits as usize / 8;
        element(&self.q[n * row..], k, self.bits)
    }
}

/// Element `i` of packed integers of 4 or 8 bits.
fn element(bytes: &[u8], i: usize, bits: u32) -> u8 {
    match bits {
        8 => bytes[i],
        _ => bytes[i / 2] >> (i % 2 * 4) & 15,
    }
}

impl MatMulNBits {
    fn sizes(&self) -> Result<(u32, usize, usize)> {
        ensure!(
            self.bits == 4 || self.bits == 8,
            Unsupported,
            "weights of {} bits; 4 and 8 are supported",
            self.bits
        );
        ensure!(
            self.block_size >= 16
                && self.block_size.count_ones() == 1
                && self.block_size <= 1 << 20,
            InvalidGraph,
            "block_size is {}, expected a power of 2 from 16 on",
            self.block_size
        );
        ensure!((1..=1 << 40).contains(&self.k), InvalidGraph, "k is {}, expected a size", self.k);
        Ok((self.bits as u32, self.block_size as usize, self.k as usize))
    }

    /// The weights in `q`.
    ///
    /// # Errors
    /// `ShapeMismatch`, `InvalidGraph`, `DTypeMismatch`, `Unsupported` where they are not as the operator says.
    pub fn weights<'a>(&self, q: &'a Tensor) -> Result<GroupedWeights<'a>> {
        let (bits, group, k) = self.sizes()?;
        let groups = k.div_ceil(group);
        let blob = group * bits as usize / 8;
        ensure!(
            q.rank() == 3 && q.shape()[1..] == [groups, blob],
            ShapeMismatch,
            "weights of shape {:?}, expected [n, {groups}, {blob}] for {k} rows in groups of {group}",
            q.shape()
        );
        Ok(GroupedWeights { k, n: q.shape()[0], bits, group, groups, q: q.as_slice::<u8>()? })
    }

    /// A number for each column and group: the scales.
    ///
    /// # Errors
    /// `ShapeMismatch` naming both sizes.
    pub fn scales(w: &GroupedWeights, scales: &Tensor) -> Result<Vec<f32>> {
        let want = w.n * w.groups;
        ensure!(
            scales.len() == want,
            ShapeMismatch,
            "{} scales for {} columns in {} groups, expected {want}",
            scales.len(),
            w.n,
            w.groups
        );
        Ok(to_f64(scales)?.into_iter().map(|s| s as f32).collect())
    }

    /// A zero point for each column and group.
    ///
    /// # Errors
    /// `ShapeMismatch` naming both sizes.
    pub fn zeros(w: &GroupedWeights, zeros: Option<&Tensor>) -> Result<Vec<f32>> {
        let count = w.n * w.groups;
        let Some(zeros) = zeros else { return Ok(vec![(1u32 << (w.bits - 1)) as f32; count]) };
        let row = (w.groups * w.bits as usize).div_ceil(8);
        let packed = zeros.dtype() == DType::U8;
        let want = if packed { w.n * row } else { count };
        ensure!(
            zeros.len() == want,
            ShapeMismatch,
            "{} zero points of {} for {} columns in {} groups, expected {want}",
            zeros.len(),
            zeros.dtype(),
            w.n,
            w.groups
        );
        if !packed {
            return Ok(to_f64(zeros)?.into_iter().map(|z| z as f32).collect());
        }
        let zeros = zeros.to_contiguous()?;
        let bytes = zeros.as_slice::<u8>()?;
        let at = |i: usize| element(&bytes[i / w.groups * row..], i % w.groups, w.bits);
        Ok((0..count).map(|i| f32::from(at(i))).collect())
    }
}

impl Operator for MatMulNBits {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(3, 5)?;
        let (_, _, k) = self.sizes()?;
        let dtype = args.dtype(0)?;
        ensure!(dtype.is_float(), DTypeMismatch, "expected floats, got {dtype}; insert a Cast");
        ensure!(
            args.dtype(1)? == DType::U8,
            DTypeMismatch,
            "weights of {}, expected u8",
            args.dtype(1)?
        );
        args.expect_same_dtype(0, 2)?;
        if args.get(4).is_some() {
            args.expect_same_dtype(0, 4)?;
        }
        if args.get(3).is_some() {
            let zero = args.dtype(3)?;
            ensure!(
                zero == DType::U8 || zero == dtype,
                DTypeMismatch,
                "zero points of {zero}, expected u8 or {dtype}"
            );
        }
        let (Some(a), Some(q)) = (args.shape(0), args.shape(1)) else {
            return Ok(vec![Fact::unranked(dtype)]);
        };
        ensure!(q.len() == 3, ShapeMismatch, "weights of rank {}, expected 3", q.len());
        let w = Fact::tensor(dtype, [Dim::from(k), q[0].clone()]);
        ensure!(!a.is_empty(), ShapeMismatch, "a scalar has no rows; use Mul");
        let operands = [args.get(0), Some(&w)];
        MatMul::default().infer(&InferArgs { node: args.node, inputs: &operands, outputs: 1 })
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, q) = (args.tensor(0)?, args.tensor(1)?.to_contiguous()?);
        let w = self.weights(&q)?;
        let scales = MatMulNBits::scales(&w, args.tensor(2)?)?;
        let zeros = MatMulNBits::zeros(&w, args.opt(3)?)?;
        let mut wide = filled(num_elements(&[w.k, w.n])?, 0.0)?;
        for (i, to) in wide.iter_mut().enumerate() {
            let (k, n) = (i / w.n, i % w.n);
            let at = n * w.groups + k / w.group;
            *to = f64::from((f32::from(w.integer(k, n)) - zeros[at]) * scales[at]);
        }
        let wide = cast_from_f64(a.dtype(), &[w.k, w.n], &wide)?;
        let y = matmul(a, &wide)?;
        let Some(bias) = args.opt(4)? else { return Ok(vec![y.into()]) };
        let inputs = [Some(y.into()), Some(bias.clone().into())];
        Add::default().eval(&EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_lie_low_bits_first_and_zero_points_in_whole_bytes() {
        // One column of 17 terms in two groups: the second has one term that counts.
        let op = MatMulNBits { bits: 4, block_size: 16, k: 17 };
        let mut bytes = vec![0u8; 16];
        (bytes[0], bytes[8]) = (0x21, 0xf3);
        let q = Tensor::from_vec(&[1, 2, 8], bytes).unwrap();
        let scales = Tensor::from_slice(&[2], &[0.5f32, 2.0]).unwrap();
        let mut a = vec![0.0f32; 17];
        (a[0], a[1], a[16]) = (1.0, 10.0, 100.0);
        let a = Tensor::from_vec(&[1, 17], a).unwrap();
        let run = |zeros: Option<Tensor>| -> Result<f32> {
            let mut inputs: Vec<Option<Value>> =
                [&a, &q, &scales].map(|t| Some(t.clone().into())).to_vec();
            inputs.push(zeros.map(Value::from));
            let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
            op.eval(&args)?[0].tensor()?.item::<f32>()
        };
        // Without zero points these are 8: (1-8)/2 + 10 (2-8)/2 + 100 (3-8) 2.
        assert_eq!(run(None).unwrap(), -3.5 - 30.0 - 1000.0);
        let packed = Tensor::from_slice(&[1], &[0x10u8]).unwrap();
        assert_eq!(run(Some(packed)).unwrap(), 0.5 + 10.0 + 400.0);
        let floats = Tensor::from_slice(&[2], &[0.5f32, 3.0]).unwrap();
        assert_eq!(run(Some(floats)).unwrap(), 0.25 + 7.5);
        let wrong = Tensor::from_slice(&[3], &[0u8; 3]).unwrap();
        assert!(run(Some(wrong)).unwrap_err().message().contains("expected 1"));
        assert!(MatMulNBits { bits: 3, ..op.clone() }.weights(&q).is_err());
        assert!(MatMulNBits { k: 40, ..op.clone() }.weights(&q).is_err());
    }
}
