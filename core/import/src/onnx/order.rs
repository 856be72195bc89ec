//! Order and scope of names: free names of subgraphs, stable topological order.

use super::proto::{AttributeProto, GraphProto, NodeProto};
use deepseek_tensor::{Result, bail, ensure, err};
use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// Most node visits one import may take; a visit of a node costs one, one for each
/// input and one for each [`NAME_STEP`] bytes of the names it gets. Functions that call
/// functions, and loop bodies inferred again, multiply the nodes of a small file.
pub(super) const MAX_STEPS: usize = 4_000_000;

/// Bytes of names that cost one step.
pub(super) const NAME_STEP: usize = 64;

/// Counts work against [`MAX_STEPS`].
#[derive(Default)]
pub(super) struct Steps(Cell<usize>);

impl Steps {
    /// Takes `n` steps.
    ///
    /// # Errors
    /// `InvalidGraph` when the limit is passed.
    pub fn take(&self, n: usize) -> Result<()> {
        self.0.set(self.0.get().saturating_add(n));
        ensure!(
            self.0.get() <= MAX_STEPS,
            InvalidGraph,
            "functions and subgraphs expand to more than {MAX_STEPS} nodes"
        );
        Ok(())
    }
}

/// What to call a node in messages: its name, else its first output, else its operator.
pub(super) fn label(node: &NodeProto) -> &str {
    [&node.name].into_iter().chain(&node.output).find(|s| !s.is_empty()).unwrap_or(&node.op_type)
}

/// Names that a node reads, from subgraphs too; each at least once.
fn reads<'p>(node: &'p NodeProto, steps: &Steps, out: &mut Vec<&'p str>) -> Result<()> {
    steps.take(1 + node.input.len())?;
    out.extend(node.input.iter().filter(|n| !n.is_empty()).map(String::as_str));
    for graph in node.attribute.iter().filter_map(subgraph) {
        out.extend(free_names(&[graph], steps)?);
    }
    Ok(())
}

fn subgraph(attr: &AttributeProto) -> Option<&GraphProto> {
    attr.g.as_deref()
}

/// Names that any of `graphs` reads without defining them, in order of first use.
pub(super) fn free_names<'p>(graphs: &[&'p GraphProto], steps: &Steps) -> Result<Vec<&'p str>> {
    let (mut free, mut seen) = (Vec::new(), HashSet::new());
    for graph in graphs {
        let mut defined: HashSet<&str> = HashSet::new();
        defined.extend(graph.input.iter().map(|v| v.name.as_str()));
        defined.extend(graph.initializer.iter().map(|t| t.name.as_str()));
        defined.extend(
            graph.sparse_initializer.iter().filter_map(|s| Some(s.values.as_ref()?.name.as_str())),
        );
        defined.extend(graph.node.iter().flat_map(|n| &n.output).map(String::as_str));
        let mut names = Vec::new();
        for node in &graph.node {
            reads(node, steps, &mut names)?;
        }
        names.extend(graph.output.iter().map(|v| v.name.as_str()));
        free.extend(names.into_iter().filter(|n| !defined.contains(n) && seen.insert(*n)));
    }
    Ok(free)
}

/// Indices of `nodes` in topological order; the order of the file where it allows.
/// `defined` tells which names exist before the first node.
///
/// # Errors
/// `InvalidGraph` naming a value that nothing defines or two nodes define, or the
/// nodes of a cycle.
pub(super) fn topological(
    nodes: &[NodeProto],
    defined: impl Fn(&str) -> bool,
    steps: &Steps,
) -> Result<Vec<usize>> {
    let mut producer: HashMap<&str, usize> = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            let twice = defined(name) || producer.insert(name, i).is_some();
            ensure!(!twice, InvalidGraph, "the value '{name}' is defined twice");
        }
    }
    let mut needs: Vec<Vec<usize>> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let mut names = Vec::new();
        reads(node, steps, &mut names)?;
        let mut from = Vec::new();
        for name in names {
            match producer.get(name) {
                Some(&p) => from.push(p),
                None if defined(name) => {}
                None => {
                    return Err(err!(InvalidGraph, "reads '{name}', which nothing defines")
                        .at_node(label(node)));
                }
            }
        }
        from.sort_unstable();
        from.dedup();
        needs.push(from);
    }
    if needs.iter().enumerate().all(|(i, from)| from.iter().all(|&p| p < i)) {
        return Ok((0..nodes.len()).collect());
    }
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut waiting: Vec<usize> = needs.iter().map(Vec::len).collect();
    for (i, from) in needs.iter().enumerate() {
        for &p in from {
            readers[p].push(i);
        }
    }
    let mut ready: BinaryHeap<_> =
        waiting.iter().enumerate().filter(|(_, w)| **w == 0).map(|(i, _)| Reverse(i)).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &r in &readers[i] {
            waiting[r] -= 1;
            if waiting[r] == 0 {
                ready.push(Reverse(r));
            }
        }
    }
    if order.len() < nodes.len() {
        bail!(InvalidGraph, "the nodes {} form a cycle", cycle(nodes, &needs, &waiting));
    }
    Ok(order)
}

/// Spells a cycle out: from some node that still waits, back along what it waits for.
fn cycle(nodes: &[NodeProto], needs: &[Vec<usize>], waiting: &[usize]) -> String {
    let mut path: Vec<usize> = Vec::new();
    let mut at = waiting.iter().position(|&w| w > 0).unwrap_or(0);
    while !path.contains(&at) && path.len() < 1000 {
        path.push(at);
        match needs[at].iter().find(|&&p| waiting[p] > 0) {
            Some(&p) => at = p,
            None => break,
        }
    }
    let start = path.iter().position(|&i| i == at).unwrap_or(0);
    let ring = &path[start..];
    let names: Vec<_> = ring.iter().rev().take(8).map(|&i| label(&nodes[i])).collect();
    let more = if ring.len() > 8 { " → …" } else { "" };
    format!("'{}'{more}", names.join("' → '"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, input: &[&str], output: &[&str]) -> NodeProto {
        NodeProto {
            name: name.into(),
            input: input.iter().map(|s| s.to_string()).collect(),
            output: output.iter().map(|s| s.to_string()).collect(),
            ..Default::default()
        }
    }

    fn order(nodes: &[NodeProto]) -> Result<Vec<usize>> {
        topological(nodes, |n| n == "x", &Steps::default())
    }

    #[test]
    fn order_is_that_of_the_file_unless_a_value_comes_later() {
        let a = node("a", &["x"], &["p"]);
        let b = node("b", &["q"], &["r"]);
        let c = node("c", &["p", "", "x"], &["q"]);
        let d = node("d", &["x"], &["s"]);
        assert_eq!(order(&[a.clone(), c.clone(), b.clone(), d.clone()]).unwrap(), [0, 1, 2, 3]);
        assert_eq!(order(&[a, b, c, d]).unwrap(), [0, 2, 1, 3]);
    }

    #[test]
    fn faults_are_named() {
        let fails = |nodes: &[NodeProto], text: &str| {
            let e = order(nodes).unwrap_err().to_string();
            assert!(e.contains(text), "{e}");
        };
        fails(&[node("a", &["y"], &["p"])], "'y'");
        fails(&[node("a", &["x"], &["x"])], "'x' is defined twice");
        fails(&[node("a", &[], &["p"]), node("b", &[], &["p"])], "'p' is defined twice");
        fails(&[node("a", &["p"], &["p"])], "'a' form a cycle");
        let ring = [
            node("start", &["x"], &["s"]),
            node("a", &["r", "s"], &["p"]),
            node("b", &["p"], &["q"]),
            node("c", &["q"], &["r"]),
        ];
        let e = order(&ring).unwrap_err().to_string();
        for name in ["'a'", "'b'", "'c'"] {
            assert!(e.contains(name), "{e}");
        }
        assert!(!e.contains("start"), "{e}");
    }

    #[test]
    fn free_names_see_through_nested_graphs() {
        let inner =
            GraphProto { node: vec![node("n", &["deep", "local"], &["o"])], ..Default::default() };
        let mut holder = node("if", &["cond"], &["local2"]);
        holder.attribute = vec![AttributeProto { g: Some(Box::new(inner)), ..Default::default() }];
        let outer = GraphProto {
            node: vec![node("m", &["outer"], &["local"]), holder],
            output: vec![super::super::proto::ValueInfoProto { name: "seen".into(), r#type: None }],
            ..Default::default()
        };
        let free = free_names(&[&outer], &Steps::default()).unwrap();
        assert_eq!(free, ["outer", "cond", "deep", "seen"]);
    }
}
