//! Encoders on sequences of different lengths without padding: the bits of each sequence alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Golden, Random, TINY, inputs};
use deepseek_import::hf::{self, HfModel};
use deepseek_runtime::{
    Isa, Level, LowerOptions, Plan, Ragged, Runtime, RuntimeOptions, Session, prepare,
};
use deepseek_tensor::Tensor;
use std::sync::Arc;

/// A model, planned as it is and packed.
struct Both {
    model: HfModel,
    plain: Session,
    ragged: Ragged,
    packed: Session,
}

impl Both {
    fn open(golden: &Golden, runtime: &Runtime) -> Both {
        let model = hf::load(&golden.dir).unwrap();
        let graph = prepare(model.graph.clone()).unwrap();
        let ragged = Ragged::new(&graph, runtime, &LowerOptions::default())
            .unwrap_or_else(|e| panic!("{}: {e}", golden.name));
        let plain = Session::new(Arc::new(Plan::new(graph, runtime).unwrap()));
        let packed = Session::new(ragged.plan().clone());
        Both { model, plain, ragged, packed }
    }

    fn alone(&mut self, ids: &[u32]) -> Vec<Tensor> {
        let inputs = inputs(&self.model, &[ids], |_| 0);
        let result = self.plain.run(inputs, &Default::default()).unwrap();
        result.outputs.iter().map(|v| v.tensor().unwrap().clone()).collect()
    }

    fn together(&mut self, rows: &[Vec<u32>]) -> Vec<(String, Vec<Tensor>)> {
        let lists = self.lists(rows);
        let batch = self.ragged.pack(lists).unwrap();
        let result = self.packed.run(batch.inputs, &Default::default()).unwrap();
        self.ragged.unpack(&result.outputs, &batch.lengths).unwrap()
    }

    fn lists(&self, rows: &[Vec<u32>]) -> Vec<(String, Vec<Tensor>)> {
        let list = |of: &dyn Fn(u32) -> i64| -> Vec<Tensor> {
            rows.iter()
                .map(|r| Tensor::from_vec(&[r.len()], r.iter().map(|&x| of(x)).collect()).unwrap())
                .collect()
        };
        let mut lists = vec![("input_ids".to_owned(), list(&|x| x.into()))];
        if self.model.graph.inputs().len() > 2 {
            lists.push(("token_type_ids".to_owned(), list(&|_| 0)));
        }
        lists
    }
}

fn bits(t: &Tensor) -> Vec<u8> {
    t.to_contiguous().unwrap().as_bytes().unwrap().to_vec()
}

/// Every instruction-set level, on one and on two threads.
fn runtimes() -> Vec<Runtime> {
    let levels =
        Level::available_vectors().flat_map(|level| [1, 2].map(|threads| (level, threads)));
    levels
        .map(|(level, threads)| {
            let isa = Isa::at(level);
            Runtime::new(&RuntimeOptions { threads, isa, ..Default::default() }).unwrap()
        })
        .collect()
}

/// Sequences of 1 to 24 tokens.
fn random_rows(random: &mut Random, vocab: usize) -> Vec<Vec<u32>> {
    let count = 1 + random.below(6);
    (0..count)
        .map(|_| {
            let len = 1 + random.below(24);
            (0..len).map(|_| random.below(vocab) as u32).collect()
        })
        .collect()
}

#[test]
fn packed_encoders_give_the_bits_of_each_sequence_alone() {
    for name in TINY {
        let golden = Golden::tiny(name);
        for runtime in runtimes() {
            let mut both = Both::open(&golden, &runtime);
            let mut random = Random(0x2545_f491);
            let mut batches = vec![golden.ids.iter().filter(|r| !r.is_empty()).cloned().collect()];
            for _ in 0..4 {
                batches.push(random_rows(&mut random, both.model.encoder.vocab_size));
            }
            for rows in batches {
                let got = both.together(&rows);
                for (i, row) in rows.iter().enumerate() {
                    for ((name, list), want) in got.iter().zip(both.alone(row)) {
                        assert_eq!(list[i].shape(), &want.shape()[1..], "{name}");
                        let same = bits(&list[i]) == bits(&want);
                        assert!(same, "{} {name} of {} tokens", golden.name, row.len());
                    }
                }
            }
        }
    }
}
