//! Counting n-grams.

use super::util::to_i64;
use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, op};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err, num_elements};
use std::collections::HashMap;
use std::hash::Hash;

attr_enum! {
    /// What [`TfIdfVectorizer`] makes of counts.
    TermWeighting {
        /// The count.
        Tf = "TF",
        /// The weight of what occurs.
        Idf = "IDF",
        /// Count times weight.
        TfIdf = "TFIDF",
    }
}

op! {
    /// How often each n-gram of a pool occurs in a sequence of tokens `[c]`, or in each row of
    /// `[n, c]`: f32 of shape `[w]` or `[n, w]`, `w` the greatest output coordinate plus one.
    /// An n-gram's tokens may lie up to `max_skip_count` tokens apart, all by the same
    /// distance. (ONNX TfIdfVectorizer-9.)
    TfIdfVectorizer {
        /// Longest n-gram that counts.
        max_gram_length: i64 = 1,
        /// Most tokens left out between two tokens of an n-gram.
        max_skip_count: i64 = 0,
        /// Shortest n-gram that counts.
        min_gram_length: i64 = 1,
        /// What becomes of counts.
        mode: TermWeighting = TermWeighting::Tf,
        /// Where the 1-grams, 2-grams, … begin in the pool.
        ngram_counts: Vec<i64> = Vec::new(),
        /// Output coordinate of each n-gram, in pool order.
        ngram_indexes: Vec<i64> = Vec::new(),
        /// The n-grams one after the other, as integers.
        pool_int64s: Vec<i64> = Vec::new(),
        /// The n-grams one after the other, as text.
        pool_strings: Vec<String> = Vec::new(),
        /// Weight of each n-gram, in pool order; all 1 if empty.
        weights: Vec<f32> = Vec::new(),
    }
}

impl TfIdfVectorizer {
    fn width(&self) -> Result<usize> {
        ensure!(
            self.ngram_indexes.iter().all(|&i| i >= 0),
            InvalidGraph,
            "ngram_indexes has a negative output coordinate"
        );
        let widest = self.ngram_indexes.iter().max().map_or(0, |&i| i as usize + 1);
        num_elements(&[widest])
    }

    /// The lengths of n-grams that count.
    fn lengths(&self) -> Result<std::ops::RangeInclusive<usize>> {
        let (min, max) = (self.min_gram_length, self.max_gram_length);
        ensure!(
            1 <= min && min <= max,
            InvalidGraph,
            "n-gram lengths from {min} to {max}; they must be positive and ascending"
        );
        ensure!(
            max as usize <= self.ngram_counts.len(),
            InvalidGraph,
            "max_gram_length is {max}, but ngram_counts lists {} lengths",
            self.ngram_counts.len()
        );
        Ok(min as usize..=max as usize)
    }

    /// The n-grams of a pool, with their places in pool order.
    fn grams<'a, T: Eq + Hash>(&self, pool: &'a [T]) -> Result<HashMap<&'a [T], usize>> {
        let mut grams = HashMap::new();
        let mut id = 0;
        let starts = self.ngram_counts.iter().map(|&s| usize::try_from(s).unwrap_or(usize::MAX));
        let starts: Vec<usize> = starts.chain([pool.len()]).collect();
        for (n, ends) in (1..).zip(starts.windows(2)) {
            let part = pool.get(ends[0]..ends[1]).filter(|part| part.len() % n == 0);
            let Some(part) = part else {
                bail!(
                    InvalidGraph,
                    "ngram_counts places {n}-grams at {} to {} of a pool of {} tokens",
                    ends[0],
                    ends[1],
                    pool.len()
                );
            };
            for gram in part.chunks_exact(n) {
                grams.entry(gram).or_insert(id);
                id += 1;
            }
        }
        ensure!(
            id == self.ngram_indexes.len() && (self.weights.is_empty() || self.weights.len() == id),
            InvalidGraph,
            "the pool has {id} n-grams, ngram_indexes {} and weights {}",
            self.ngram_indexes.len(),
            self.weights.len()
        );
        Ok(grams)
    }

    /// Adds the counts of one row of tokens.
    fn count<T: Eq + Hash + Clone>(
        &self,
        grams: &HashMap<&[T], usize>,
        row: &[T],
        counts: &mut [f32],
    ) -> Result<()> {
        let mut window = Vec::new();
        for n in self.lengths()? {
            // A single token has no gaps, so it is counted once.
            let skips = if n == 1 { 0 } else { self.max_skip_count.max(0) as usize };
            for step in 1..=skips.saturating_add(1) {
                let Some(span) = (n - 1).checked_mul(step).filter(|&span| span < row.len()) else {
                    break;
                };
                for start in 0..row.len() - span {
                    window.clear();
                    window.extend((0..n).map(|i| row[start + i * step].clone()));
                    if let Some(&id) = grams.get(window.as_slice()) {
                        counts[id] += 1.0;
                    }
                }
            }
        }
        Ok(())
    }

    fn vectorize<T: Eq + Hash + Clone>(
        &self,
        pool: &[T],
        tokens: &[T],
        shape: &[usize],
    ) -> Result<Tensor> {
        let width = self.width()?;
        let grams = self.grams(pool)?;
        let (rows, length) = match *shape {
            [c] => (1, c),
            [n, c] => (n, c),
            _ => bail!(ShapeMismatch, "expected [c] or [n, c], got {shape:?}"),
        };
        let out_shape: Vec<usize> =
            shape[..shape.len() - 1].iter().copied().chain([width]).collect();
        let mut out = Tensor::zeros(DType::F32, &out_shape)?;
        let places = out.as_slice_mut::<f32>()?;
        let mut counts = vec![0f32; self.ngram_indexes.len()];
        for r in 0..rows {
            counts.fill(0.0);
            self.count(&grams, &tokens[r * length..][..length], &mut counts)?;
            for (id, &count) in counts.iter().enumerate().filter(|(_, c)| **c > 0.0) {
                let weight = self.weights.get(id).copied().unwrap_or(1.0);
                places[r * width + self.ngram_indexes[id] as usize] += match self.mode {
                    TermWeighting::Tf => count,
                    TermWeighting::Idf => weight,
                    TermWeighting::TfIdf => count * weight,
                };
            }
        }
        Ok(out)
    }
}

impl Operator for TfIdfVectorizer {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        self.lengths()?;
        let dtype = args.dtype(0)?;
        let expected = if self.pool_strings.is_empty() {
            matches!(dtype, DType::I32 | DType::I64)
        } else {
            dtype == DType::String
        };
        ensure!(
            expected && (self.pool_strings.is_empty() || self.pool_int64s.is_empty()),
            DTypeMismatch,
            "tokens of type {dtype} against a pool of {} strings and {} integers",
            self.pool_strings.len(),
            self.pool_int64s.len()
        );
        let width = Dim::from(self.width()?);
        let shape = match args.shape(0) {
            None => None,
            Some([_]) => Some(vec![width]),
            Some([n, _]) => Some(vec![n.clone(), width]),
            Some(other) => {
                let rank = other.len();
                return Err(err!(ShapeMismatch, "expected [c] or [n, c], got rank {rank}"));
            }
        };
        Ok(vec![Fact::maybe_ranked(DType::F32, shape)])
    }

    fn eval(&self, args: &EvalArgs) -> Result<Vec<Value>> {
        let x = args.tensor(0)?;
        let out = if x.dtype() == DType::String {
            let pool: Vec<&str> = self.pool_strings.iter().map(String::as_str).collect();
            self.vectorize(&pool, &x.as_strings()?, x.shape())?
        } else {
            self.vectorize(&self.pool_int64s, &to_i64(x)?, x.shape())?
        };
        Ok(vec![out.into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoSubgraphs;

    fn op(mode: TermWeighting) -> TfIdfVectorizer {
        TfIdfVectorizer {
            min_gram_length: 1,
            max_gram_length: 2,
            max_skip_count: 1,
            mode,
            ngram_counts: vec![0, 2],
            ngram_indexes: vec![2, 0, 1],
            pool_strings: ["a", "b", "a", "b"].map(String::from).into(),
            weights: vec![10.0, 1.0, 0.5],
            ..Default::default()
        }
    }

    #[test]
    fn counts_are_weighted_by_mode() {
        let words = ["a", "c", "b", "a", "b"].map(String::from).to_vec();
        let x: Value = Tensor::from_strings(&[5], words).unwrap().into();
        let inputs = [Some(x)];
        let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
        for (mode, want) in [
            (TermWeighting::Tf, [2.0, 2.0, 2.0]),
            (TermWeighting::Idf, [1.0, 0.5, 10.0]),
            (TermWeighting::TfIdf, [2.0, 1.0, 20.0]),
        ] {
            let got = op(mode).eval(&args).unwrap();
            assert_eq!(got[0].tensor().unwrap().to_vec::<f32>().unwrap(), want, "{mode:?}");
        }
    }

    #[test]
    fn contradictory_pools_are_errors() {
        let bad = TfIdfVectorizer { ngram_counts: vec![0, 3], ..op(TermWeighting::Tf) };
        assert!(bad.grams(&["a", "b", "a", "b"]).is_err());
        let bad = TfIdfVectorizer { ngram_counts: vec![-1, 2], ..op(TermWeighting::Tf) };
        assert!(bad.grams(&["a", "b", "a", "b"]).is_err());
        let bad = TfIdfVectorizer { ngram_indexes: vec![-1], ..op(TermWeighting::Tf) };
        assert!(bad.width().is_err());
    }
}
