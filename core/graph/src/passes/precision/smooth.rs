//! Factors that even out the columns of what products read (Xiao et al., *SmoothQuant*, 2023).

use super::{Kind, Layer};
use crate::Graph;
use deepseek_tensor::Result;
use std::collections::BTreeMap;

/// Columns that are larger than others by more than this are not evened out further.
const MOST: f32 = 1e4;

/// Names of the values whose rows products of `graph` quantise.
pub fn rows(graph: &Graph) -> Vec<String> {
    let layers = graph.nodes().iter().filter_map(|n| Layer::of(graph, n));
    let rows = layers.filter(|l| l.kind != Kind::Conv);
    let mut names: Vec<String> = rows.map(|l| graph.value(l.x).name.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// For each value of [`rows`] in `columns`, given the greatest magnitude that each of its columns was seen
/// to take: factors by which half of the difference between columns moves into the weights that read
/// them, migration strength 0.5 in the paper.
///
/// # Errors
/// What reading a constant reports.
pub fn factors(
    graph: &Graph,
    columns: &BTreeMap<String, Vec<f32>>,
) -> Result<BTreeMap<String, Vec<f32>>> {
    let mut weights: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for layer in graph.nodes().iter().filter_map(|n| Layer::of(graph, n)) {
        let name = graph.value(layer.x).name.as_str();
        let Some(seen) = columns.get(name).filter(|_| layer.kind != Kind::Conv) else { continue };
        let Some(w) = graph.constant(layer.w) else { continue };
        let (w, cols) = (w.to_vec::<f32>()?, w.shape()[1]);
        let greatest = weights.entry(name).or_insert_with(|| vec![0.0; seen.len()]);
        for (i, w) in w.iter().enumerate() {
            let k = match layer.kind {
                Kind::Gemm { transposed: true } => i % cols,
                _ => i / cols,
            };
            if let Some(g) = greatest.get_mut(k) {
                *g = g.max(w.abs());
            }
        }
    }
    let factor = |(seen, weight): (&f32, &f32)| {
        let f = (weight / seen).sqrt();
        // A column or a row of zeros has nothing to even out.
        if f.is_normal() { f.clamp(1.0 / MOST, MOST) } else { 1.0 }
    };
    let named = weights.into_iter();
    Ok(named
        .map(|(n, w)| (n.to_owned(), columns[n].iter().zip(&w).map(factor).collect()))
        .collect())
}
