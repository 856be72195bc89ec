//! Operations on the bits of integers; shapes broadcast.

use super::arith::infer_broadcast;
use super::util::{Kind, map, shaped_like, zip};
use crate::{EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, for_dtype, op};
use deepseek_tensor::Result;

fn infer_bits(args: &InferArgs) -> Result<Vec<Fact>> {
    args.expect_inputs(2, 2)?;
    Kind::Int.expect(args, 0)?;
    let dtype = args.expect_same_dtype(0, 1)?;
    Ok(vec![infer_broadcast(args, dtype)?])
}

/// Declares bitwise operators of two integers.
macro_rules! bitwise_ops {
    ($($(#[$doc:meta])* $name:ident => $op:tt;)*) => {$(
        op! { $(#[$doc])* $name {} }
        impl Operator for $name {
            fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
                infer_bits(args)
            }
            fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
                let (a, b) = (args.tensor(0)?, args.tensor(1)?);
                let out = for_dtype!(a.dtype(), T in int => zip(a, b, |x: T, y: T| x $op y))?;
                Ok(vec![out.into()])
            }
        }
    )*};
}

bitwise_ops! {
    /// The bits set in both. (ONNX BitwiseAnd-18.)
    BitwiseAnd => &;
    /// The bits set in either. (ONNX BitwiseOr-18.)
    BitwiseOr => |;
    /// The bits set in one of the two. (ONNX BitwiseXor-18.)
    BitwiseXor => ^;
}

op! {
    /// The bits not set. (ONNX BitwiseNot-18.)
    BitwiseNot {}
}
impl Operator for BitwiseNot {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = Kind::Int.expect(args, 0)?;
        Ok(vec![shaped_like(args, 0, dtype)?])
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let t = args.tensor(0)?;
        Ok(vec![for_dtype!(t.dtype(), T in int => map(t, |x: T| !x))?.into()])
    }
}

attr_enum! {
    /// Where [`BitShift`] moves bits to.
    ShiftDirection {
        /// To the more significant side.
        Left = "LEFT",
        /// To the less significant side; the sign is kept.
        Right = "RIGHT",
    }
}

op! {
    /// The bits of a moved by b places. Signed integers keep their sign to the right and drop
    /// bits beyond it to the left. A negative b, or one not below the width, leaves only the
    /// sign's extension: −1 for a negative a to the right, else 0. (ONNX BitShift-28.)
    BitShift { direction: ShiftDirection = ShiftDirection::Right }
}
impl Operator for BitShift {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        infer_bits(args)
    }
    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let (a, b) = (args.tensor(0)?, args.tensor(1)?);
        let left = self.direction == ShiftDirection::Left;
        let out = for_dtype!(a.dtype(), T in int => zip(a, b, |x: T, y: T| {
            let n = i128::from(y);
            match left {
                true if (0..i128::from(T::BITS)).contains(&n) => x << n,
                false if (0..i128::from(T::BITS)).contains(&n) => x >> n,
                true => 0,
                false => x >> (T::BITS - 1) >> 1,
            }
        }))?;
        Ok(vec![out.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;
    use deepseek_tensor::Tensor;

    #[test]
    fn shifts_beyond_the_width_leave_the_sign() {
        let shift = |direction, x: &[i8], n: &[i8]| {
            let t = |v: &[i8]| Some(Tensor::from_slice(&[v.len()], v).unwrap().into());
            let inputs = [t(x), t(n)];
            let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
            BitShift { direction }.eval(&args).unwrap()[0].tensor().unwrap().to_vec::<i8>().unwrap()
        };
        let (x, n) = ([-16i8, -16, 16, -1, -16, 100], [2i8, 8, 8, -1, 7, 1]);
        assert_eq!(shift(ShiftDirection::Right, &x, &n), [-4, -1, 0, -1, -1, 50]);
        assert_eq!(shift(ShiftDirection::Left, &x, &n), [-64, 0, 0, 0, 0, -56]);
        let u = Some(Tensor::from_slice(&[2], &[255u8, 255]).unwrap().into());
        let n = Some(Tensor::from_slice(&[2], &[8u8, 4]).unwrap().into());
        let args = EvalArgs { inputs: &[u, n], outputs: 1, env: &NoSubgraphs };
        let got = BitShift::default().eval(&args).unwrap();
        assert_eq!(got[0].tensor().unwrap().to_vec::<u8>().unwrap(), [0, 15]);
    }
}
