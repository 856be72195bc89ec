//! What a model is calibrated with.

use super::PrecisionOptions;
use deepseek_graph::{Graph, Type, Value, ValueId, ops};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err};

/// The inputs of one run, by name.
pub type Sample = Vec<(String, Tensor)>;

/// Where the inputs come from that a model is calibrated with.
#[derive(Clone, Debug, Default)]
pub enum Calibration {
    /// Seeded random ones: floats from a normal distribution, integers uniform over the rows of the
    /// table that they select from. Reports say so.
    #[default]
    Synthetic,
    /// The inputs of single runs.
    Samples(Vec<Sample>),
    /// Inputs with many samples along the first axis of each: of the input itself, or one more than
    /// the input has. Several such sets.
    Stacked(Vec<Sample>),
}

/// Samples that are made up where none are given.
const SYNTHETIC: usize = 8;
/// Extent of a symbolic axis that no shape is given for: of the first axis, and of others.
const UNKNOWN: (usize, usize) = (1, 64);

/// The samples of `options`, checked, or synthetic ones.
///
/// # Errors
/// `InvalidArgument` if there are none in the list that is given, or one holds a NaN or an infinite
/// number; `NotFound`, `DTypeMismatch` and `ShapeMismatch` if one does not fit the inputs.
pub(super) fn samples(graph: &Graph, options: &PrecisionOptions) -> Result<Vec<Sample>> {
    let given = match &options.calibration {
        Calibration::Synthetic => return synthetic(graph, options),
        Calibration::Samples(given) => given.clone(),
        Calibration::Stacked(sets) => {
            let mut all = Vec::new();
            for set in sets {
                all.extend(unstack(graph, set)?);
            }
            all
        }
    };
    ensure!(
        !given.is_empty(),
        InvalidArgument,
        "the calibration data holds no sample; give at least one"
    );
    for (i, sample) in given.iter().enumerate() {
        check(graph, sample).map_err(|e| e.context(format_args!("calibration sample {i}")))?;
    }
    Ok(given)
}

/// The samples along the first axes of `set`.
fn unstack(graph: &Graph, set: &Sample) -> Result<Vec<Sample>> {
    let mut count = None;
    let mut more = Vec::new();
    for (name, tensor) in set {
        let Some(id) = graph.inputs().iter().find(|id| graph.value(**id).name == *name) else {
            let names = graph.inputs().iter().map(|id| graph.value(*id).name.as_str());
            let names = names.collect::<Vec<_>>().join("', '");
            bail!(
                NotFound,
                "calibration data for '{name}', which is no input; the inputs are '{names}'"
            );
        };
        let ty = &graph.fact(*id).ty;
        let rank = graph.fact(*id).rank();
        let rank = rank.ok_or_else(|| err!(Unsupported, "the rank of input '{name}' is open"))?;
        let extra = tensor.rank() == rank + 1;
        ensure!(
            tensor.rank() >= 1 && (extra || tensor.rank() == rank),
            ShapeMismatch,
            "calibration data for '{name}' has shape {:?}; input '{name}' is {ty}, so give samples along \
             its first axis or along one before it",
            tensor.shape()
        );
        let n = tensor.shape()[0];
        ensure!(
            *count.get_or_insert(n) == n,
            ShapeMismatch,
            "calibration data for '{name}' holds {n} samples, for '{}' {}",
            set[0].0,
            count.unwrap_or(n)
        );
        more.push(extra);
    }
    (0..count.unwrap_or(0))
        .map(|i| {
            let one = |((name, tensor), extra): (&(String, Tensor), &bool)| -> Result<_> {
                let mut part = tensor.slice_axis(0, i, 1, 1)?.to_contiguous()?;
                if *extra {
                    part = part.reshape(&tensor.shape()[1..])?;
                }
                Ok((name.clone(), part))
            };
            set.iter().zip(&more).map(one).collect()
        })
        .collect()
}

fn check(graph: &Graph, sample: &Sample) -> Result<()> {
    let mut values = Vec::new();
    for id in graph.inputs() {
        let name = &graph.value(*id).name;
        let (_, tensor) = sample.iter().find(|(n, _)| n == name).ok_or_else(|| {
            let ty = &graph.fact(*id).ty;
            err!(InvalidArgument, "input '{name}' ({ty}) is missing")
        })?;
        ensure!(!tensor.is_empty(), InvalidArgument, "input '{name}' has no elements");
        if tensor.dtype() == DType::F32 {
            let bad = tensor.iter::<f32>()?.position(|x| !x.is_finite());
            if let Some(at) = bad {
                bail!(
                    InvalidArgument,
                    "input '{name}' holds a number that is not finite at element {at}; remove the \
                     sample"
                );
            }
        }
        values.push(Value::Tensor(tensor.clone()));
    }
    for (name, _) in sample {
        let known = graph.inputs().iter().any(|id| graph.value(*id).name == *name);
        ensure!(known, NotFound, "the model has no input '{name}'");
    }
    deepseek_graph::interpret::bind_inputs(graph, values.iter()).map(|_| ())
}

/// Seeded inputs: floats from a normal distribution; integers uniform over the rows of the table that
/// they select from, or 1.
fn synthetic(graph: &Graph, options: &PrecisionOptions) -> Result<Vec<Sample>> {
    let mut state = 0x5eed_u64;
    // SplitMix64 (Steele et al., 2014).
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut all = Vec::new();
    for _ in 0..SYNTHETIC {
        let mut sample = Sample::new();
        for id in graph.inputs() {
            let value = graph.value(*id);
            let Type::Tensor(dtype, Some(dims)) = &value.fact.ty else {
                bail!(
                    Unsupported,
                    "input '{}' ({}) has no synthetic samples; give calibration data",
                    value.name,
                    value.fact.ty
                );
            };
            let given = options.shapes.iter().find(|(n, _)| *n == value.name);
            let shape: Vec<usize> = match given {
                Some((_, shape)) => shape.clone(),
                None => {
                    let bounds = graph.bounds();
                    let extents = dims.iter().enumerate().map(|(i, d)| match d.as_const() {
                        Some(n) => n as usize,
                        None => {
                            let wish = if i == 0 { UNKNOWN.0 } else { UNKNOWN.1 };
                            let limit = d.symbols().iter().next().map(|s| bounds.get(s));
                            let (min, max) = limit.unwrap_or((1, None));
                            (wish as i64).clamp(min, max.unwrap_or(i64::MAX).max(min)) as usize
                        }
                    });
                    extents.collect()
                }
            };
            let n = deepseek_tensor::num_elements(&shape)?;
            let mut unit = || (next() >> 11) as f64 / (1u64 << 53) as f64;
            let tensor = match dtype {
                DType::F32 => {
                    // Box and Muller, 1958.
                    let mut normal = || {
                        let (u, v) = (1.0 - unit(), unit());
                        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
                    };
                    Tensor::from_vec(&shape, (0..n).map(|_| normal()).collect::<Vec<f32>>())?
                }
                DType::I64 | DType::I32 => {
                    let rows = rows_selected(graph, *id);
                    let mut index = || rows.map_or(1, |r| (unit() * r as f64) as i64);
                    let data: Vec<i64> = (0..n).map(|_| index()).collect();
                    match dtype {
                        DType::I64 => Tensor::from_vec(&shape, data)?,
                        _ => {
                            let data = data.into_iter().map(|x| x as i32);
                            Tensor::from_vec(&shape, data.collect::<Vec<i32>>())?
                        }
                    }
                }
                DType::Bool => Tensor::from_bytes(DType::Bool, &shape, &vec![1u8; n])?,
                other => bail!(
                    Unsupported,
                    "input '{}' of {other} has no synthetic samples; give calibration data",
                    value.name
                ),
            };
            sample.push((value.name.clone(), tensor));
        }
        check(graph, &sample).map_err(|e| e.context("synthetic calibration sample"))?;
        all.push(sample);
    }
    Ok(all)
}

/// How many rows a constant table has that `v`, perhaps cast, selects rows of.
fn rows_selected(graph: &Graph, v: ValueId) -> Option<usize> {
    graph.nodes().iter().find_map(|node| {
        let input = |i: usize| node.inputs.get(i).copied().flatten();
        if node.op.downcast::<ops::Gather>().is_some() && input(1) == Some(v) {
            return graph.constant(input(0)?)?.shape().first().copied();
        }
        let cast = node.op.downcast::<ops::Cast>().is_some() && input(0) == Some(v);
        if cast { rows_selected(graph, node.outputs.first().copied().flatten()?) } else { None }
    })
}
