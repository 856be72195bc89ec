//! Values that may be absent.

use super::util::one_element;
use crate::{EvalArgs, Fact, InferArgs, Operator, Type, Value, op};
use deepseek_tensor::{DType, Result, Tensor, bail, err};

op! {
    /// An optional that holds the input; without an input, an empty one of the type that
    /// the attributes say. (ONNX Optional-28; `dtype` and `sequence` stand for its type
    /// attribute.)
    Optional {
        /// Element type of the tensors in an empty optional.
        dtype: Option<DType> = None,
        /// Whether an empty optional is one of a sequence of such tensors.
        sequence: bool = false
    }
}

impl Optional {
    fn empty_type(&self) -> Result<Type> {
        let dtype = self.dtype.ok_or_else(|| {
            err!(InvalidGraph, "an Optional without input needs the type of its element")
        })?;
        let tensor = Type::Tensor(dtype, None);
        Ok(if self.sequence { Type::Sequence(Box::new(tensor)) } else { tensor })
    }
}

impl Operator for Optional {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(0, 1)?;
        let inner = match args.get(0) {
            Some(fact) => fact.ty.clone(),
            None => self.empty_type()?,
        };
        Ok(vec![Fact { ty: Type::Optional(Box::new(inner)), known: None }])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        Ok(vec![match args.inputs {
            [Some(v)] => Value::Optional(v.ty(), Some(Box::new(v.clone()))),
            _ => Value::Optional(self.empty_type()?, None),
        }])
    }
}

op! {
    /// Whether the input holds a value, a `bool` scalar: true for what is no optional, false
    /// without input. (ONNX OptionalHasElement-28.)
    OptionalHasElement {}
}

impl Operator for OptionalHasElement {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(0, 1)?;
        Ok(vec![match args.get(0).map(|f| &f.ty) {
            None => Fact::constant(Tensor::scalar(false)?),
            Some(Type::Optional(_)) => Fact::tensor(DType::Bool, []),
            Some(_) => Fact::constant(Tensor::scalar(true)?),
        }])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let has = match args.inputs {
            [Some(Value::Optional(_, v))] => v.is_some(),
            [Some(_)] => true,
            _ => false,
        };
        Ok(vec![Tensor::scalar(has)?.into()])
    }
}

op! {
    /// What the optional holds; what is no optional is returned as it is.
    /// (ONNX OptionalGetElement-28.)
    OptionalGetElement {}
}

impl Operator for OptionalGetElement {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let fact = args.fact(0)?;
        Ok(vec![match &fact.ty {
            Type::Optional(inner) => Fact { ty: one_element(inner, args, "value"), known: None },
            _ => fact.clone(),
        }])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        Ok(vec![match args.value(0)? {
            Value::Optional(_, Some(v)) => (**v).clone(),
            Value::Optional(inner, None) => bail!(
                InvalidArgument,
                "an optional of {inner} is empty; test it with OptionalHasElement"
            ),
            v => v.clone(),
        }])
    }
}
