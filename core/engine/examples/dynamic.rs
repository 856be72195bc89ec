//! A graph recorded operation by operation, with a leading extent that is not known.
//!
//! One plan serves 50 tensors of 50 to 99 rows of 512 numbers. How many bytes each run takes is
//! known before it starts, as a formula and as a number.

use deepseek::{DType, GraphBuilder, Result, RunOptions, Runtime, Tensor, parse_attrs};

const WIDTH: usize = 512;
const SHORTEST: usize = 50;
const TENSORS: usize = 50;

/// Numbers that every language of this example can make alike.
fn numbers(rows: usize, step: usize) -> Result<Tensor> {
    let number = |i: usize| ((i * step % 101) as i32 - 50) as f32 / 512.0;
    Tensor::from_vec(&[rows, WIDTH], (0..rows * WIDTH).map(number).collect())
}

fn main() -> Result<()> {
    let mut graph = GraphBuilder::new("dynamic");
    let x = graph.input("x", DType::F32, &["rows", "512"])?;
    let w = graph.constant("w", numbers(WIDTH, 7)?)?;
    let mut node = |op: &str, attrs: &str, inputs: &[_]| {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        graph.node(op, "", parse_attrs(attrs)?, &inputs, 1).map(|outputs| outputs[0])
    };
    let h = node("MatMul", "", &[x, w])?;
    let h = node("Gelu", "", &[h])?;
    let h = node("Add", "", &[h, x])?;
    let y = node("Softmax", "axis = -1", &[h])?;
    graph.output("y", y)?;
    let model = graph.build(&Runtime::new(&Default::default())?)?;
    println!("bytes of a run: {}", model.memory_formula());

    let session = model.session();
    for rows in SHORTEST..SHORTEST + TENSORS {
        let planned = model.plan_memory(&[("rows", rows as i64)])?.planned_bytes();
        let x = numbers(rows, rows)?;
        let outputs = session.run([("x".into(), x.into())], &RunOptions::default())?;
        let first = outputs[0].1.tensor()?.as_slice::<f32>()?[0];
        let used = session.observed_bytes();
        let bits = first.to_bits();
        println!(
            "rows {rows}: {planned} bytes planned, {used} used, y[0][0] has the bits {bits:08x}"
        );
    }
    Ok(())
}
