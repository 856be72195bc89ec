//! Ragged runs through the Rust API: lists of sequences, padded batches with a mask, what is
//! refused and why.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek::isa::{self, Level};
use deepseek::{
    Attrs, Code, DType, GraphBuilder, Model, ModelOptions, RunOptions, Runtime, RuntimeOptions,
    Session, Tensor, Type, Value,
};
use std::path::Path;

fn runtime() -> Runtime {
    Runtime::new(&RuntimeOptions { threads: 1, ..Default::default() }).unwrap()
}

fn encoder(name: &str) -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/hf").join(name);
    Model::open(dir, &runtime()).unwrap()
}

fn ids(len: usize, seed: i64) -> Vec<i64> {
    (0..len as i64).map(|i| (i * 7 + seed * 3) % 20 + 5).collect()
}

/// The sequences that the tests run.
fn sequences() -> Vec<Vec<i64>> {
    [5, 1, 9, 3].iter().enumerate().map(|(i, &len)| ids(len, i as i64)).collect()
}

fn list(rows: &[Vec<i64>], of: impl Fn(i64) -> i64) -> Vec<Tensor> {
    let tensor = |r: &Vec<i64>| Tensor::from_vec(&[r.len()], r.iter().map(|&x| of(x)).collect());
    rows.iter().map(|r| tensor(r).unwrap()).collect()
}

fn lists(rows: &[Vec<i64>]) -> Vec<(String, Vec<Tensor>)> {
    let (ids, types) = (list(rows, |x| x), list(rows, |_| 0));
    vec![("input_ids".into(), ids), ("token_type_ids".into(), types)]
}

/// A padded batch: ids, mask and types `[batch, longest + 2]`.
fn padded(rows: &[Vec<i64>]) -> Vec<(String, Value)> {
    let seq = rows.iter().map(Vec::len).max().unwrap() + 2;
    let fill = |of: &dyn Fn(i64) -> i64| -> Value {
        let all = rows
            .iter()
            .flat_map(|r| (0..seq).map(|i| r.get(i).map_or(0, |&x| of(x))).collect::<Vec<_>>());
        Tensor::from_vec(&[rows.len(), seq], all.collect()).unwrap().into()
    };
    vec![
        ("input_ids".into(), fill(&|x| x)),
        ("attention_mask".into(), fill(&|_| 1)),
        ("token_type_ids".into(), fill(&|_| 0)),
    ]
}

fn alone(session: &Session, row: &[i64]) -> Vec<Tensor> {
    let tensor = |v: Vec<i64>| -> Value { Tensor::from_vec(&[1, row.len()], v).unwrap().into() };
    let inputs = [
        ("input_ids".to_owned(), tensor(row.to_vec())),
        ("attention_mask".to_owned(), tensor(vec![1; row.len()])),
        ("token_type_ids".to_owned(), tensor(vec![0; row.len()])),
    ];
    let outputs = session.run(inputs, &RunOptions::default()).unwrap();
    outputs.iter().map(|(_, v)| v.tensor().unwrap().clone()).collect()
}

fn floats(t: &Tensor) -> Vec<u32> {
    t.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn lists_give_the_bits_of_each_sequence_alone() {
    let session = encoder("bert-mean").session();
    let rows = sequences();
    let got = session.run_ragged(lists(&rows), &RunOptions::default()).unwrap();
    assert_eq!(got[0].0, "last_hidden_state");
    assert_eq!(got[1].0, "sentence_embedding");
    for (i, row) in rows.iter().enumerate() {
        for ((name, list), want) in got.iter().zip(alone(&session, row)) {
            assert_eq!(list[i].shape(), &want.shape()[1..], "{name}");
            assert_eq!(floats(&list[i]), floats(&want), "{name} of sequence {i}");
        }
    }
}

#[test]
fn a_padded_batch_comes_back_in_its_shape_with_zeros() {
    let session = encoder("bert-mean").session();
    let rows = sequences();
    let options = RunOptions { ragged: true, ..Default::default() };
    let got = session.run(padded(&rows), &options).unwrap();
    let (hidden, pooled) = (got[0].1.tensor().unwrap(), got[1].1.tensor().unwrap());
    let (seq, width) = (hidden.shape()[1], hidden.shape()[2]);
    assert_eq!((hidden.shape()[0], seq), (rows.len(), 11));
    for (i, row) in rows.iter().enumerate() {
        let want = alone(&session, row);
        let all = floats(&hidden.slice_axis(0, i, 1, 1).unwrap());
        let (shown, padding) = all.split_at(row.len() * width);
        assert_eq!(shown, floats(&want[0]), "sequence {i}");
        assert!(padding.iter().all(|&x| x == 0), "sequence {i}");
        assert_eq!(floats(&pooled.slice_axis(0, i, 1, 1).unwrap()), floats(&want[1]));
    }
    // The plain run is what the model says: rows of padding are not zero.
    let plain = session.run(padded(&rows), &RunOptions::default()).unwrap();
    assert_ne!(floats(plain[0].1.tensor().unwrap()), floats(hidden));
}

#[test]
fn the_byte_budget_of_a_model_holds_for_its_packed_form() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/hf/bert-mean");
    let open = |memory_budget_bytes| {
        let shapes = ["input_ids", "attention_mask", "token_type_ids"];
        let shapes = shapes.map(|name| (name.to_owned(), vec![4, 9]));
        let options =
            ModelOptions { memory_budget_bytes, shapes: shapes.into(), ..Default::default() };
        Model::open_with(&dir, &runtime(), &options).unwrap()
    };
    let rows = sequences();
    let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    let free = open(0).plan_memory_for_lengths(&[9; 4]).unwrap().planned_bytes();
    let budget =
        free.max(open(0).plan_memory(&[("batch", 4), ("seq", 9)]).unwrap().planned_bytes());
    let model = open(budget);
    assert!(model.plan_memory_for_lengths(&lengths).unwrap().planned_bytes() <= budget);
    let session = model.session();
    session.run_ragged(lists(&rows), &RunOptions::default()).unwrap();
    assert!(session.observed_bytes() <= budget);
    let many: Vec<Vec<i64>> = (0..200).map(|i| ids(9, i)).collect();
    let error = session.run_ragged(lists(&many), &RunOptions::default()).unwrap_err();
    assert_eq!(error.code(), Code::BudgetExceeded);
    assert!(error.to_string().contains(&budget.to_string()), "{error}");
}

#[test]
fn bytes_are_known_before_the_run() {
    let model = encoder("bert-mean");
    let session = model.session();
    let rows = sequences();
    let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    let few = model.plan_memory_for_lengths(&lengths[..1]).unwrap().planned_bytes();
    let all = model.plan_memory_for_lengths(&lengths).unwrap().planned_bytes();
    assert!(few < all);
    session.run_ragged(lists(&rows), &RunOptions::default()).unwrap();
    assert!(session.observed_bytes() <= all, "{} > {all}", session.observed_bytes());
    assert!(session.observed_bytes() > few);
}

#[test]
fn what_contradicts_itself_is_refused_with_both_sides() {
    let model = encoder("bert-mean");
    let session = model.session();
    let rows = sequences();
    type Change = fn(&mut Vec<(String, Vec<Tensor>)>);
    let t = |n: usize, x: i64| Tensor::from_vec(&[n], vec![x; n]).unwrap();
    let cases: [(Change, Code, &[&str]); 10] = [
        (|l| l[1].1[2] = ones(4), Code::ShapeMismatch, &["sequence 2", "token_type_ids", "4", "9"]),
        (|l| drop(l[1].1.pop()), Code::ShapeMismatch, &["3 sequences", "input_ids", "4"]),
        (|l| drop(l.pop()), Code::InvalidArgument, &["token_type_ids", "missing"]),
        (|l| l[0].0 = "ids".into(), Code::NotFound, &["ids", "input_ids"]),
        (|l| l[1].0 = "input_ids".into(), Code::InvalidArgument, &["input_ids", "twice"]),
        (
            |l| l.iter_mut().for_each(|(_, l)| l[1] = Tensor::zeros(DType::I64, &[0]).unwrap()),
            Code::InvalidArgument,
            &["sequence 1", "empty"],
        ),
        (|l| l.iter_mut().for_each(|(_, l)| l.clear()), Code::InvalidArgument, &["no sequence"]),
        (
            |l| l.iter_mut().for_each(|(_, l)| l[3] = ones(99)),
            Code::ShapeMismatch,
            &["sequence 3", "99", "seq"],
        ),
        (
            |l| l[0].1[0] = Tensor::zeros(DType::F32, &[5]).unwrap(),
            Code::DTypeMismatch,
            &["input_ids", "f32", "i64"],
        ),
        (
            |l| {
                let mut mask: Vec<Tensor> = l[0].1.iter().map(|t| ones(t.len())).collect();
                mask[2] = Tensor::zeros(DType::I64, &[9]).unwrap();
                l.push(("attention_mask".into(), mask));
            },
            Code::InvalidArgument,
            &["attention_mask", "sequence 2", "0"],
        ),
    ];
    for (change, code, words) in cases {
        let mut given = lists(&rows);
        change(&mut given);
        let e = session.run_ragged(given, &RunOptions::default()).unwrap_err();
        assert_eq!(e.code(), code, "{e}");
        for word in words {
            assert!(e.message().contains(word), "'{word}' in: {e}");
        }
    }
    let mut given = lists(&rows);
    given.push(("attention_mask".into(), rows.iter().map(|r| t(r.len(), 1)).collect()));
    assert!(session.run_ragged(given, &RunOptions::default()).is_ok());

    let options = RunOptions { ragged: true, ..Default::default() };
    let mut given = padded(&rows);
    let mut mask = vec![1i64; 44];
    mask[3] = 0;
    given[1].1 = Tensor::from_vec(&[4, 11], mask).unwrap().into();
    let e = session.run(given, &options).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(e.message().contains("row 0") && e.message().contains("attention_mask"), "{e}");
    let mut given = padded(&rows);
    given[1].1 = Tensor::zeros(DType::I64, &[4, 11]).unwrap().into();
    let e = session.run(given, &options).unwrap_err();
    assert!(e.message().contains("sequence 0 is empty"), "{e}");
}

fn ones(n: usize) -> Tensor {
    Tensor::from_vec(&[n], vec![1i64; n]).unwrap()
}

#[test]
fn a_model_that_mixes_rows_says_where_and_why() {
    let mut b = GraphBuilder::new("mixer");
    let x = b.input("x", DType::F32, &["batch", "seq", "4"]).unwrap();
    let y = b.node("Relu", "first", Attrs::new(), &[Some(x)], 1).unwrap()[0];
    let attrs = Attrs::new().with("axis", 1i64);
    let y = b.node("Softmax", "over_tokens", attrs, &[Some(y)], 1).unwrap()[0];
    b.output("y", y).unwrap();
    let model = b.build(&runtime()).unwrap();
    let e = model.ragged().err().unwrap();
    assert_eq!(e.code(), Code::Unsupported);
    for word in ["over_tokens", "Softmax", "sequence"] {
        assert!(e.message().contains(word), "'{word}' in: {e}");
    }
    let x = Tensor::zeros(DType::F32, &[3, 4]).unwrap();
    let e = model.session().run_ragged(vec![("x".into(), vec![x])], &RunOptions::default());
    assert_eq!(e.unwrap_err().code(), Code::Unsupported);
}

/// Numbers for an input of type `dtype`.
fn numbers(dtype: DType, shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let ints = (0..n).map(|i| ((i * 31 + seed * 17) % 5) as i64);
    match dtype {
        DType::F32 => Tensor::from_vec(shape, ints.map(|x| x as f32 / 3.0 - 0.7).collect()),
        DType::I32 => Tensor::from_vec(shape, ints.map(|x| x as i32).collect()),
        _ => Tensor::from_vec(shape, ints.collect()),
    }
    .unwrap()
}

fn flags(dtype: DType, shape: &[usize], x: bool) -> Tensor {
    let n: usize = shape.iter().product();
    match dtype {
        DType::Bool => Tensor::from_vec(shape, vec![x; n]),
        DType::F32 => Tensor::from_vec(shape, vec![f32::from(u8::from(x)); n]),
        DType::I32 => Tensor::from_vec(shape, vec![i32::from(x); n]),
        _ => Tensor::from_vec(shape, vec![i64::from(x); n]),
    }
    .unwrap()
}

/// The exporter corpus on kernels: what packs gives the bits of each sequence alone, at every
/// instruction-set level.
#[test]
fn exported_models_give_the_bits_of_each_sequence_alone() {
    use deepseek::{InputKind, OutputKind};
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/exporters");
    let table = std::fs::read_to_string(corpus.join("ragged.tsv")).unwrap();
    let names = table.lines().filter_map(|l| l.split_once("\tpacked").map(|(name, _)| name));
    let names: Vec<&str> = names.collect();
    assert!(names.len() > 30, "{names:?}");
    for level in Level::available_vectors() {
        let isa = Some(isa::at(level).unwrap());
        let options = RuntimeOptions { threads: 2, isa, ..Default::default() };
        let runtime = Runtime::new(&options).unwrap();
        for name in &names {
            let model = Model::open(corpus.join(format!("{name}.onnx")), &runtime).unwrap();
            let session = model.session();
            let ragged = model.ragged().unwrap();
            let lengths = [3, 1, 7, 2];
            let rest = |at: &str, from: usize| -> Vec<usize> {
                let spec = model.inputs().iter().find(|s| s.name == at).unwrap();
                let Type::Tensor(_, Some(dims)) = &spec.ty else { panic!("{name}: {at}") };
                dims[from..].iter().map(|d| d.as_const().unwrap_or(3) as usize).collect()
            };
            let mut lists = Vec::new();
            for input in ragged.inputs() {
                let part = |(i, &len): (usize, &usize)| match input.kind {
                    InputKind::PerSequence => numbers(input.dtype, &rest(&input.name, 1), i),
                    _ => numbers(input.dtype, &[&[len], &rest(&input.name, 2)[..]].concat(), i),
                };
                let list: Vec<Tensor> = match input.kind {
                    InputKind::Mask { .. } => continue,
                    InputKind::Whole => vec![numbers(input.dtype, &rest(&input.name, 0), 0)],
                    _ => lengths.iter().enumerate().map(part).collect(),
                };
                lists.push((input.name.clone(), list));
            }
            let got = session.run_ragged(lists.clone(), &RunOptions::default()).unwrap();
            for (i, &len) in lengths.iter().enumerate() {
                let mut given = lists.iter();
                let alone = ragged.inputs().iter().map(|input| {
                    let t = match input.kind {
                        InputKind::Mask { token, batch, seq } => {
                            let mut shape = vec![1; rest(&input.name, 0).len()];
                            (shape[batch], shape[seq]) = (1, len);
                            flags(input.dtype, &shape, token)
                        }
                        InputKind::Whole => given.next().unwrap().1[0].clone(),
                        kind => {
                            let t = &given.next().unwrap().1[i];
                            let seq_first = matches!(kind, InputKind::Rows { seq_first: true });
                            let mut shape = t.shape().to_vec();
                            shape.insert(usize::from(seq_first), 1);
                            t.reshape(&shape).unwrap()
                        }
                    };
                    (input.name.clone(), Value::Tensor(t))
                });
                let want = session.run(alone.collect::<Vec<_>>(), &RunOptions::default()).unwrap();
                let both = ragged.outputs().iter().zip(got.iter().zip(&want));
                for (output, ((_, list), (_, want))) in both {
                    let want = want.tensor().unwrap().to_contiguous().unwrap();
                    let got = match output.kind {
                        OutputKind::Whole => &list[0],
                        _ => &list[i],
                    };
                    let got = got.to_contiguous().unwrap();
                    assert_eq!(got.len(), want.len(), "{name} {}", output.name);
                    let same = got.as_bytes().unwrap() == want.as_bytes().unwrap();
                    assert!(same, "{name} {} of {len} rows at {level}", output.name);
                }
            }
        }
    }
}
