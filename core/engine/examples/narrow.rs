//! Writes a model with the weights of its products and convolutions in 16 bits:
//! `cargo run --release -p deepseek --example narrow -- IN OUT.deepseek [bf16|f16]`

use deepseek::{DType, Result};
use deepseek_graph::passes::{narrow_products, narrows};
use deepseek_import::package;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, rest @ ..] = &args[..] else {
        eprintln!("usage: narrow IN OUT.deepseek [bf16|f16]");
        std::process::exit(2);
    };
    let dtype = DType::parse(rest.first().map_or("bf16", String::as_str))?;
    let mut model = package::open(input)?;
    let graph = deepseek_runtime::prepare(model.graph)?;
    let takes = graph.nodes().iter().filter(|n| narrows(&graph, n, dtype)).count();
    model.graph = narrow_products(&graph, &|_| Some(dtype))?;
    package::save(&model, output)?;
    println!("{takes} of {} nodes have weights in {dtype}", graph.nodes().len());
    Ok(())
}
