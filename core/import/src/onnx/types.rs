//! Types: element type numbers, shapes with named extents.

use super::proto::{TensorTypeProto, TypeProto};
use deepseek_graph::{Dim, Type};
use deepseek_tensor::{DType, MAX_RANK, Result, bail, ensure};

/// ONNX's number of each element type, at the index that ONNX gives it.
const NUMBERS: [Option<DType>; 27] = [
    None,
    Some(DType::F32),
    Some(DType::U8),
    Some(DType::I8),
    Some(DType::U16),
    Some(DType::I16),
    Some(DType::I32),
    Some(DType::I64),
    Some(DType::String),
    Some(DType::Bool),
    Some(DType::F16),
    Some(DType::F64),
    Some(DType::U32),
    Some(DType::U64),
    None, // complex64
    None, // complex128
    Some(DType::BF16),
    Some(DType::F8E4M3FN),
    Some(DType::F8E4M3FNUZ),
    Some(DType::F8E5M2),
    Some(DType::F8E5M2FNUZ),
    Some(DType::U4),
    Some(DType::I4),
    Some(DType::F4E2M1),
    Some(DType::F8E8M0),
    Some(DType::U2),
    Some(DType::I2),
];

/// The element type with ONNX's number `n`.
///
/// # Errors
/// `InvalidFile` for 0 and unknown numbers, `Unsupported` for complex and 6-bit types.
pub fn dtype_from_onnx(n: i32) -> Result<DType> {
    match n {
        14 | 15 => bail!(Unsupported, "complex elements; store real and imaginary parts apart"),
        27 | 28 => bail!(Unsupported, "6-bit floats; use an 8-bit or wider type"),
        _ => match usize::try_from(n).ok().and_then(|n| NUMBERS.get(n).copied().flatten()) {
            Some(d) => Ok(d),
            None => bail!(InvalidFile, "{n} is not the number of an element type"),
        },
    }
}

/// Converts a declared type. `name` is the value's, from which unnamed unknown
/// extents take their symbols. `None` if nothing is declared.
///
/// # Errors
/// `Unsupported` for maps, opaque and sparse types; `InvalidFile` for bad extents.
pub(super) fn declared(name: &str, ty: Option<&TypeProto>) -> Result<Option<Type>> {
    let Some(ty) = ty else { return Ok(None) };
    let inner = |elem: &Option<Box<TypeProto>>, what: &str| match declared(name, elem.as_deref())? {
        Some(t) => Ok(Box::new(t)),
        None => bail!(InvalidFile, "the {what} '{name}' has no element type"),
    };
    if let Some(t) = &ty.tensor_type {
        return tensor_type(name, t);
    }
    if let Some(s) = &ty.sequence_type {
        return Ok(Some(Type::Sequence(inner(&s.elem_type, "sequence")?)));
    }
    if let Some(o) = &ty.optional_type {
        return Ok(Some(Type::Optional(inner(&o.elem_type, "optional")?)));
    }
    for (there, what) in [
        (ty.map_type.is_some(), "a map"),
        (ty.opaque_type.is_some(), "an opaque value"),
        (ty.sparse_tensor_type.is_some(), "a sparse tensor"),
    ] {
        ensure!(!there, Unsupported, "the value '{name}' is {what}; use dense tensors");
    }
    Ok(None)
}

fn tensor_type(name: &str, t: &TensorTypeProto) -> Result<Option<Type>> {
    if t.elem_type == 0 {
        return Ok(None);
    }
    let dtype = dtype_from_onnx(t.elem_type)
        .map_err(|e| e.context(format_args!("the type of '{name}'")))?;
    let Some(shape) = &t.shape else { return Ok(Some(Type::Tensor(dtype, None))) };
    ensure!(
        shape.dim.len() <= MAX_RANK,
        InvalidFile,
        "the value '{name}' has rank {}, the limit is {MAX_RANK}",
        shape.dim.len()
    );
    let dims = shape.dim.iter().enumerate().map(|(axis, d)| match (d.dim_value, &d.dim_param) {
        (Some(n), _) if n >= 0 => Ok(Dim::from(n)),
        (None, Some(symbol)) if !symbol.is_empty() => Ok(Dim::sym(symbol)),
        // -1 is how several exporters say "unknown".
        (None | Some(-1), _) => Ok(Dim::sym(&format!("{name}.{axis}"))),
        (Some(n), _) => bail!(InvalidFile, "the value '{name}' has extent {n} on axis {axis}"),
    });
    Ok(Some(Type::Tensor(dtype, Some(dims.collect::<Result<_>>()?))))
}

/// Whether `inferred` and `declared` can describe one value: same kind, element
/// type and, where both are known, rank.
pub(super) fn compatible(inferred: &Type, declared: &Type) -> bool {
    match (inferred, declared) {
        (Type::Tensor(a, s), Type::Tensor(b, t)) => {
            a == b && s.as_ref().zip(t.as_ref()).is_none_or(|(s, t)| s.len() == t.len())
        }
        (Type::Sequence(a), Type::Sequence(b)) | (Type::Optional(a), Type::Optional(b)) => {
            compatible(a, b)
        }
        _ => false,
    }
}

/// The narrowest type that admits every value of `a` and `b`, or `None` if they
/// differ in kind or element type. An extent on which they differ becomes the symbol
/// `{name}.{axis}`.
pub(super) fn join(name: &str, a: &Type, b: &Type) -> Option<Type> {
    Some(match (a, b) {
        (Type::Tensor(d, s), Type::Tensor(e, t)) if d == e => {
            let shape = match (s, t) {
                (Some(s), Some(t)) if s.len() == t.len() => Some(
                    s.iter()
                        .zip(t)
                        .enumerate()
                        .map(|(i, (x, y))| match x == y {
                            true => x.clone(),
                            false => Dim::sym(&format!("{name}.{i}")),
                        })
                        .collect(),
                ),
                _ => None,
            };
            Type::Tensor(*d, shape)
        }
        (Type::Sequence(a), Type::Sequence(b)) => Type::Sequence(Box::new(join(name, a, b)?)),
        (Type::Optional(a), Type::Optional(b)) => Type::Optional(Box::new(join(name, a, b)?)),
        // A value is also an optional that holds it.
        (Type::Optional(o), v) | (v, Type::Optional(o)) => {
            Type::Optional(Box::new(join(name, o, v)?))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_widens_only_what_differs() {
        let t = |a: i64, b: &str| Type::tensor(DType::F32, [Dim::from(a), Dim::sym(b)]);
        assert_eq!(join("x", &t(1, "n"), &t(1, "n")).unwrap(), t(1, "n"));
        let wide = join("x", &t(1, "n"), &t(2, "n")).unwrap();
        assert_eq!(wide.to_string(), "f32[x.0, n]");
        assert_eq!(join("x", &wide, &t(3, "n")).unwrap(), wide);
        let unranked = Type::Tensor(DType::F32, None);
        assert_eq!(join("x", &t(1, "n"), &Type::tensor(DType::F32, [])).unwrap(), unranked);
        assert!(join("x", &unranked, &Type::Tensor(DType::I64, None)).is_none());
        let opt = Type::Optional(Box::new(t(1, "n")));
        assert_eq!(join("x", &opt, &t(1, "n")).unwrap(), opt);
    }

    #[test]
    fn unknown_element_types_are_errors() {
        assert_eq!(dtype_from_onnx(26).unwrap(), DType::I2);
        for n in [-1, 0, 14, 15, 27, 28, 29, i32::MIN] {
            assert!(dtype_from_onnx(n).is_err(), "{n}");
        }
    }
}
