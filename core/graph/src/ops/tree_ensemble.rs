//! Decision trees.

use super::util::special::sigmoid;
use super::util::{Kind, cast_from_f64, to_f64, to_i64, vec_for};
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, op};
use deepseek_tensor::{Result, Tensor, bail, ensure, err, num_elements};

op! {
    /// Sends each row of `[n, features]` down every tree and gathers the leaves it reaches:
    /// `[n, n_targets]`. Attributes `nodes_*` describe the inner nodes, `leaf_*` the leaves, as
    /// parallel lists. A row that lacks the feature (NaN) goes the way that
    /// `nodes_missing_value_tracks_true` says. (ONNX ai.onnx.ml TreeEnsemble-5.)
    TreeEnsemble {
        /// How leaves of one target combine: 0 mean over trees, 1 sum, 2 least, 3 greatest.
        aggregate_function: i64 = 1,
        /// Target that each leaf counts for.
        leaf_targetids: Vec<i64> = Vec::new(),
        /// Value of each leaf.
        leaf_weights: Option<Tensor> = None,
        /// Sets of the membership nodes, in node order, with NaN between.
        membership_values: Option<Tensor> = None,
        /// Number of targets.
        n_targets: i64 = 1,
        /// Whether the false branch is a leaf.
        nodes_falseleafs: Vec<i64> = Vec::new(),
        /// Node or leaf that the false branch leads to.
        nodes_falsenodeids: Vec<i64> = Vec::new(),
        /// Feature that is compared.
        nodes_featureids: Vec<i64> = Vec::new(),
        /// How often each node was visited in training; not used.
        nodes_hitrates: Option<Tensor> = None,
        /// Whether a missing feature takes the true branch; false if empty.
        nodes_missing_value_tracks_true: Vec<i64> = Vec::new(),
        /// Comparison: 0 ≤, 1 <, 2 ≥, 3 >, 4 =, 5 ≠, 6 membership.
        nodes_modes: Option<Tensor> = None,
        /// What the feature is compared with.
        nodes_splits: Option<Tensor> = None,
        /// Whether the true branch is a leaf.
        nodes_trueleafs: Vec<i64> = Vec::new(),
        /// Node or leaf that the true branch leads to.
        nodes_truenodeids: Vec<i64> = Vec::new(),
        /// 0 none, 1 softmax, 2 logistic, 3 softmax that leaves zeros alone, 4 probit.
        post_transform: i64 = 0,
        /// Root of each tree.
        tree_roots: Vec<i64> = Vec::new(),
    }
}

#[derive(Clone, Copy)]
enum Next {
    Node(usize),
    Leaf(usize),
}

enum Test {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
    Member(Vec<f64>),
}

struct Branch {
    feature: usize,
    test: Test,
    split: f64,
    missing: bool,
    yes: Next,
    no: Next,
}

impl Branch {
    fn next(&self, x: f64) -> Next {
        let split = self.split;
        let yes = if x.is_nan() {
            self.missing
        } else {
            match &self.test {
                Test::LessOrEqual => x <= split,
                Test::Less => x < split,
                Test::GreaterOrEqual => x >= split,
                Test::Greater => x > split,
                Test::Equal => x == split,
                Test::NotEqual => x != split,
                Test::Member(set) => set.contains(&x),
            }
        };
        if yes { self.yes } else { self.no }
    }
}

/// The attributes, checked and in one list per kind.
struct Forest {
    branches: Vec<Branch>,
    /// Target and value.
    leaves: Vec<(usize, f64)>,
    roots: Vec<usize>,
}

impl TreeEnsemble {
    fn targets(&self) -> Result<usize> {
        usize::try_from(self.n_targets)
            .ok()
            .filter(|&n| n > 0 && num_elements(&[n]).is_ok())
            .ok_or_else(|| err!(InvalidGraph, "n_targets is {}, must be positive", self.n_targets))
    }

    fn check(&self) -> Result<()> {
        ensure!(
            (0..=3).contains(&self.aggregate_function),
            InvalidGraph,
            "aggregate_function {} is not one of 0 to 3",
            self.aggregate_function
        );
        ensure!(
            self.post_transform != 4,
            Unsupported,
            "post_transform PROBIT; apply the inverse normal distribution outside the graph"
        );
        ensure!(
            (0..=3).contains(&self.post_transform),
            InvalidGraph,
            "post_transform {} is not one of 0 to 4",
            self.post_transform
        );
        Ok(())
    }

    fn forest(&self) -> Result<Forest> {
        let n = self.nodes_featureids.len();
        let values = |what: &str, t: &Option<Tensor>, count: usize| -> Result<Vec<f64>> {
            match t {
                Some(t) if t.len() == count => to_f64(t),
                Some(t) => bail!(InvalidGraph, "{what} is {t:?}, expected {count} elements"),
                None => bail!(InvalidGraph, "{what} is missing"),
            }
        };
        let weights = values("leaf_weights", &self.leaf_weights, self.leaf_targetids.len())?;
        let splits = values("nodes_splits", &self.nodes_splits, n)?;
        let modes = match &self.nodes_modes {
            Some(t) if t.len() == n => to_i64(t)?,
            _ => bail!(InvalidGraph, "nodes_modes must have {n} elements"),
        };
        for (what, list) in [
            ("nodes_falseleafs", &self.nodes_falseleafs),
            ("nodes_falsenodeids", &self.nodes_falsenodeids),
            ("nodes_trueleafs", &self.nodes_trueleafs),
            ("nodes_truenodeids", &self.nodes_truenodeids),
        ] {
            ensure!(
                list.len() == n,
                InvalidGraph,
                "{what} has {} elements for {n} nodes",
                list.len()
            );
        }
        let below = |what: &str, i: i64, count: usize| {
            usize::try_from(i)
                .ok()
                .filter(|&i| i < count)
                .ok_or_else(|| err!(InvalidGraph, "{what} {i} is outside 0 to {count}, exclusive"))
        };
        let next = |leaf: i64, id: i64| {
            Ok(if leaf != 0 {
                Next::Leaf(below("leaf", id, weights.len())?)
            } else {
                Next::Node(below("node", id, n)?)
            })
        };
        let members = self.membership_values.as_ref().map_or(Ok(Vec::new()), to_f64)?;
        let mut sets = members.split(|x| x.is_nan());
        let mut branches = Vec::with_capacity(n);
        for i in 0..n {
            let test = match modes[i] {
                0 => Test::LessOrEqual,
                1 => Test::Less,
                2 => Test::GreaterOrEqual,
                3 => Test::Greater,
                4 => Test::Equal,
                5 => Test::NotEqual,
                6 => match sets.next() {
                    Some(set) => Test::Member(set.to_vec()),
                    None => bail!(InvalidGraph, "membership_values has no set for node {i}"),
                },
                other => bail!(InvalidGraph, "mode {other} of node {i} is not one of 0 to 6"),
            };
            branches.push(Branch {
                feature: below("feature", self.nodes_featureids[i], usize::MAX)?,
                test,
                split: splits[i],
                missing: self.nodes_missing_value_tracks_true.get(i).is_some_and(|&x| x != 0),
                yes: next(self.nodes_trueleafs[i], self.nodes_truenodeids[i])?,
                no: next(self.nodes_falseleafs[i], self.nodes_falsenodeids[i])?,
            });
        }
        let targets = self.targets()?;
        let leaves = self
            .leaf_targetids
            .iter()
            .zip(&weights)
            .map(|(&t, &w)| Ok((below("target", t, targets)?, w)))
            .collect::<Result<_>>()?;
        let roots = self.tree_roots.iter().map(|&r| below("root", r, n)).collect::<Result<_>>()?;
        Ok(Forest { branches, leaves, roots })
    }

    fn post(&self, scores: &mut [f64]) {
        let keeps_zeros = self.post_transform == 3;
        match self.post_transform {
            1 | 3 => {
                let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weight = |x: f64| {
                    if keeps_zeros && x == 0.0 { 0.0 } else { (x - greatest).exp() }
                };
                let total: f64 = scores.iter().map(|&x| weight(x)).sum();
                if total > 0.0 {
                    scores.iter_mut().for_each(|x| *x = weight(*x) / total);
                }
            }
            2 => scores.iter_mut().for_each(|x| *x = sigmoid(*x)),
            _ => {}
        }
    }
}

impl Forest {
    /// The leaf that a row reaches from a root.
    fn descend(&self, root: usize, row: &[f64]) -> Result<(usize, f64)> {
        let mut at = root;
        // A path longer than the number of nodes visits one twice.
        for _ in 0..self.branches.len() {
            let branch = &self.branches[at];
            let Some(&x) = row.get(branch.feature) else {
                bail!(
                    ShapeMismatch,
                    "node {at} compares feature {}, rows have {}",
                    branch.feature,
                    row.len()
                );
            };
            match branch.next(x) {
                Next::Leaf(leaf) => return Ok(self.leaves[leaf]),
                Next::Node(node) => at = node,
            }
        }
        bail!(InvalidGraph, "the nodes below root {root} form a cycle")
    }
}

impl Operator for TreeEnsemble {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        let dtype = Kind::Float.expect(args, 0)?;
        self.check()?;
        self.forest()?;
        let rows = match args.shape(0) {
            Some([rows, _]) => rows.clone(),
            Some(other) => {
                let rank = other.len();
                return Err(err!(ShapeMismatch, "expected [n, features], got rank {rank}"));
            }
            None => args.fresh("rows"),
        };
        Ok(vec![Fact::tensor(dtype, vec![rows, Dim::from(self.targets()?)])])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        self.check()?;
        let forest = self.forest()?;
        let &[rows, features] = x.shape() else {
            bail!(ShapeMismatch, "expected [n, features], got {x:?}");
        };
        let targets = self.targets()?;
        let data = to_f64(x)?;
        let mut out: Vec<f64> = vec_for(&[rows, targets])?;
        for r in 0..rows {
            args.env.check()?;
            let row = &data[r * features..][..features];
            let mut scores: Vec<Option<f64>> = vec![None; targets];
            for &root in &forest.roots {
                let (target, value) = forest.descend(root, row)?;
                let score = &mut scores[target];
                *score = Some(match (*score, self.aggregate_function) {
                    (None, _) => value,
                    (Some(old), 2) => old.min(value),
                    (Some(old), 3) => old.max(value),
                    (Some(old), _) => old + value,
                });
            }
            let trees = forest.roots.len().max(1) as f64;
            let mean = if self.aggregate_function == 0 { trees } else { 1.0 };
            out.extend(scores.iter().map(|s| s.unwrap_or(0.0) / mean));
            self.post(&mut out[r * targets..]);
        }
        Ok(vec![cast_from_f64(x.dtype(), &[rows, targets], &out)?.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    /// Two stumps over one feature, both for target 0.
    fn stumps() -> TreeEnsemble {
        TreeEnsemble {
            leaf_targetids: vec![0; 4],
            leaf_weights: Some(Tensor::from_slice(&[4], &[1f32, 2.0, 10.0, 20.0]).unwrap()),
            nodes_modes: Some(Tensor::from_slice(&[2], &[0u8, 1]).unwrap()),
            nodes_splits: Some(Tensor::from_slice(&[2], &[0f32, 5.0]).unwrap()),
            nodes_featureids: vec![0, 0],
            nodes_missing_value_tracks_true: vec![0, 1],
            nodes_trueleafs: vec![1, 1],
            nodes_falseleafs: vec![1, 1],
            nodes_truenodeids: vec![0, 2],
            nodes_falsenodeids: vec![1, 3],
            tree_roots: vec![0, 1],
            ..Default::default()
        }
    }

    fn run(op: &TreeEnsemble) -> Result<Vec<f32>> {
        let x = Tensor::from_slice(&[3, 1], &[0f32, 5.0, f32::NAN]).unwrap();
        let inputs = [Some(x.into())];
        let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
        op.eval(&args)?[0].tensor()?.to_vec::<f32>()
    }

    #[test]
    fn leaves_combine_by_function() {
        for (function, want) in [
            (0, [5.5, 11.0, 6.0]),
            (1, [11.0, 22.0, 12.0]),
            (2, [1.0, 2.0, 2.0]),
            (3, [10.0, 20.0, 10.0]),
        ] {
            let op = TreeEnsemble { aggregate_function: function, ..stumps() };
            assert_eq!(run(&op).unwrap(), want, "{function}");
        }
    }

    #[test]
    fn broken_trees_are_errors_not_loops() {
        let cycle = TreeEnsemble {
            nodes_trueleafs: vec![0, 0],
            nodes_falseleafs: vec![0, 0],
            nodes_truenodeids: vec![1, 0],
            nodes_falsenodeids: vec![1, 0],
            ..stumps()
        };
        assert!(run(&cycle).unwrap_err().message().contains("cycle"));
        assert!(run(&TreeEnsemble { tree_roots: vec![2], ..stumps() }).is_err());
        assert!(run(&TreeEnsemble { nodes_featureids: vec![0, 3], ..stumps() }).is_err());
        assert!(run(&TreeEnsemble { leaf_targetids: vec![0, 0, 0, 1], ..stumps() }).is_err());
        assert!(run(&TreeEnsemble { post_transform: 4, ..stumps() }).is_err());
    }
}
