//! Sentence embedding: texts in, one vector each.
//!
//! Texts of all lengths run together, without padding: their tokens lie end to end (see
//! [`deepseek_runtime::Ragged`]). So no work is done that is thrown away, and what a text
//! becomes does not depend on its company: its rows go through the same operations in the
//! same order. Batches are bounded by tokens, which bounds the working memory.
//!
//! An embedder is shared. Each call takes a session from a small stock (or makes one),
//! so calls from several threads run at the same time.

use crate::tokenizer::{Encoding, Tokenizer};
use deepseek_graph::{Graph, Type, Value};
use deepseek_import::hf::{self, EncoderConfig, Object, SentenceConfig};
use deepseek_import::package::{self, SentenceEncoder, TOKENIZER, TOKENIZER_CONFIG};
use deepseek_runtime::{Cancel, Plan, Ragged, RunOptions, Runtime, Session, prepare};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Most tokens that run at once, unless one text has more.
const BATCH_TOKENS: usize = 1024;

/// Sessions that are kept, with their memory, while no call uses them.
const KEPT_SESSIONS: usize = 4;

/// Output of an encoder's graph that holds one vector for each text.
const EMBEDDING: &str = "sentence_embedding";

/// A sentence encoder with its tokenizer, from a Hugging Face directory or a `.deepseek` file.
pub struct Embedder {
    tokenizer: Tokenizer,
    packed: Ragged,
    /// The padded graph, and its plan once a text without a token was met: it runs as a
    /// padding token that is masked, which no packed sequence has.
    graph: Graph,
    masked: Mutex<Option<Arc<Plan>>>,
    encoder: EncoderConfig,
    sentence: SentenceConfig,
    /// Output of the plan that holds the embeddings.
    output: usize,
    /// Sessions that no call uses now.
    idle: Mutex<Vec<Session>>,
}

impl Embedder {
    /// Opens a directory with `config.json`, safetensors weights and `tokenizer.json`, or a
    /// `.deepseek` file made of one.
    ///
    /// Pooling and what follows it come from `modules.json`; without that file a text's
    /// vector is the mean of its tokens' vectors, not normalised. Texts are cut to
    /// `max_seq_length` of `sentence_bert_config.json`, else to `model_max_length` of
    /// `tokenizer_config.json`, and to what the model has positions for.
    ///
    /// # Errors
    /// `NotFound`, `Io`, `InvalidFile`, `Unsupported` naming the file and the field,
    /// tensor or setting; `OutOfMemory`.
    pub fn open(path: impl AsRef<Path>, runtime: &Runtime) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            let model = hf::load(path)?;
            let tokenizer = Tokenizer::open(&model.tokenizer_dir)?;
            return Embedder::new(model.graph, model.encoder, model.sentence, tokenizer, runtime);
        }
        let package = package::open(path)?;
        let Some(SentenceEncoder { encoder, sentence }) = package.encoder else {
            bail!(
                Unsupported,
                "{} is no sentence encoder; embedding needs a Hugging Face directory of one, or a \
                 .deepseek file made of one",
                path.display()
            );
        };
        let file = |name: &str| (format!("{}: {name}", path.display()), package.files.get(name));
        let (name, tokenizer) = file(TOKENIZER);
        let tokenizer = tokenizer.ok_or_else(|| {
            err!(InvalidFile, "{name} is missing; convert the encoder with its tokenizer")
        })?;
        let config = match file(TOKENIZER_CONFIG) {
            (name, Some(bytes)) => Some(Object::parse(&name, bytes)?),
            (_, None) => None,
        };
        let tokenizer = Tokenizer::from_bytes(&name, tokenizer, config.as_ref())?;
        check_signature(&package.graph, sentence.dim).map_err(|e| e.context(path.display()))?;
        Embedder::new(package.graph, encoder, sentence, tokenizer, runtime)
    }

    fn new(
        graph: Graph,
        encoder: EncoderConfig,
        sentence: SentenceConfig,
        mut tokenizer: Tokenizer,
        runtime: &Runtime,
    ) -> Result<Self> {
        let limit = sentence.max_tokens.or(tokenizer.max_tokens()).unwrap_or(usize::MAX);
        tokenizer.set_max_tokens(Some(limit.min(encoder.max_tokens)))?;
        let output = graph
            .outputs()
            .iter()
            .position(|(name, _)| name == EMBEDDING)
            .ok_or_else(|| err!(Internal, "an encoder without a sentence embedding"))?;
        let graph = prepare(graph)?;
        Ok(Embedder {
            tokenizer,
            packed: Ragged::new(&graph, runtime)?,
            graph,
            masked: Mutex::new(None),
            encoder,
            sentence,
            output,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Components of a vector.
    pub fn dim(&self) -> usize {
        self.sentence.dim
    }

    /// Most tokens of a text that are looked at; longer texts are cut.
    pub fn max_tokens(&self) -> usize {
        self.tokenizer.max_tokens().unwrap_or(self.encoder.max_tokens)
    }

    /// The tokenizer. It sees texts as they are given to it: what [`Embedder::config`]
    /// says of a prompt and of lower-casing is done by [`Embedder::embed`].
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What happens to texts before the encoder and to vectors after it.
    pub fn config(&self) -> &SentenceConfig {
        &self.sentence
    }

    /// The plan that runs, for reports.
    pub fn plan(&self) -> &Arc<Plan> {
        self.packed.plan()
    }

    /// One vector for each text, row-major `f32[texts, dim]`, in order. The empty text
    /// is a text. The vector of a text has the same bits whatever else is in the call.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout`, which take effect between texts and inside a run;
    /// `BudgetExceeded`, `OutOfMemory`; `InvalidFile` if tokenizer and model disagree.
    pub fn embed(&self, texts: &[&str], cancel: &Cancel) -> Result<Vec<f32>> {
        let mut encodings = Vec::with_capacity(texts.len());
        for text in texts {
            cancel.check()?;
            encodings.push(self.encode(text)?);
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        // The longest first: they need the most memory, which the others then reuse.
        order.sort_by_key(|&i| std::cmp::Reverse(encodings[i].ids.len()));
        let mut out = Vec::new();
        let total = texts.len().saturating_mul(self.dim());
        out.try_reserve_exact(total).map_err(|_| {
            err!(OutOfMemory, "{total} components of the result; embed fewer texts")
        })?;
        out.resize(total, 0.0f32);
        let empty = order.partition_point(|&i| !encodings[i].ids.is_empty());
        let (order, empty) = order.split_at(empty);
        let mut session = self.take_session();
        let result = batches(order, |i| encodings[i].ids.len())
            .try_for_each(|batch| self.run(&mut session, &encodings, batch, cancel, &mut out));
        self.put_back(session);
        result?;
        if !empty.is_empty() {
            let row = self.run_empty(cancel)?;
            for &i in empty {
                out[i * self.dim()..][..self.dim()].copy_from_slice(&row);
            }
        }
        Ok(out)
    }

    /// Gives back the working memory that no call uses now.
    pub fn trim(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn encode(&self, text: &str) -> Result<Encoding> {
        let mut prepared = format!("{}{text}", self.sentence.prompt);
        if self.sentence.lower_case {
            prepared = prepared.to_lowercase();
        }
        let encoding = self.tokenizer.encode_full(&prepared)?;
        let largest = encoding.ids.iter().copied().max().unwrap_or(0) as usize;
        ensure!(
            largest < self.encoder.vocab_size,
            InvalidFile,
            "{} yields token id {largest}, the model has vectors for {} ids",
            self.tokenizer.file(),
            self.encoder.vocab_size
        );
        let largest = encoding.type_ids.iter().copied().max().unwrap_or(0) as usize;
        ensure!(
            !self.takes_types() || largest < self.encoder.type_rows,
            InvalidFile,
            "{} yields segment {largest}, the model has vectors for {}",
            self.tokenizer.file(),
            self.encoder.type_rows
        );
        Ok(encoding)
    }

    /// Runs the texts `batch`, none without a token, and writes their rows of `out`.
    fn run(
        &self,
        session: &mut Session,
        encodings: &[Encoding],
        batch: &[usize],
        cancel: &Cancel,
        out: &mut [f32],
    ) -> Result<()> {
        let list = |ids: fn(&Encoding) -> &[u32]| -> Result<Vec<Tensor>> {
            let tensor = |&i: &usize| {
                let ids: Vec<i64> = ids(&encodings[i]).iter().map(|&id| id.into()).collect();
                Tensor::from_vec(&[ids.len()], ids)
            };
            batch.iter().map(tensor).collect()
        };
        let mut lists = vec![("input_ids".to_owned(), list(|e| &e.ids)?)];
        if self.takes_types() {
            lists.push(("token_type_ids".to_owned(), list(|e| &e.type_ids)?));
        }
        let packed = self.packed.pack(lists)?;
        let options = RunOptions { cancel: cancel.clone(), ..Default::default() };
        let result = session.run(packed.inputs, &options)?;
        let rows = self.rows(&result.outputs, batch.len())?;
        let dim = self.dim();
        for (row, &i) in rows.as_slice::<f32>()?.chunks_exact(dim).zip(batch) {
            out[i * dim..][..dim].copy_from_slice(row);
        }
        Ok(())
    }

    /// The vector of a text without a token, not even special ones.
    fn run_empty(&self, cancel: &Cancel) -> Result<Vec<f32>> {
        let plan = {
            let mut plan = self.masked.lock().unwrap_or_else(PoisonError::into_inner);
            match &*plan {
                Some(plan) => plan.clone(),
                None => {
                    let runtime = self.packed.plan().runtime();
                    let new = Arc::new(Plan::new(self.graph.clone(), runtime)?);
                    plan.insert(new).clone()
                }
            }
        };
        let one = |x: i64| Tensor::from_vec(&[1, 1], vec![x]).map(Value::Tensor);
        let mut inputs = vec![one(self.encoder.padding_id)?, one(0)?];
        if self.takes_types() {
            inputs.push(one(0)?);
        }
        let options = RunOptions { cancel: cancel.clone(), ..Default::default() };
        let result = Session::new(plan).run(inputs, &options)?;
        self.rows(&result.outputs, 1)?.to_vec()
    }

    /// The embeddings among the outputs of a run, `[texts, dim]`.
    fn rows<'a>(&self, outputs: &'a [Value], texts: usize) -> Result<&'a Tensor> {
        let rows = outputs[self.output].tensor()?;
        ensure!(
            rows.shape() == [texts, self.dim()],
            Internal,
            "embeddings of shape {:?}, expected [{texts}, {}]",
            rows.shape(),
            self.dim()
        );
        Ok(rows)
    }

    /// Whether the graph has the input `token_type_ids`.
    fn takes_types(&self) -> bool {
        self.graph.inputs().len() > 2
    }

    fn take_session(&self) -> Session {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| Session::new(self.packed.plan().clone()))
    }

    /// Keeps the session for the next call, unless enough are kept.
    fn put_back(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT_SESSIONS {
            idle.push(session);
        }
    }
}

/// Whether a graph from a file has the inputs and the output of an encoder with `dim` components.
fn check_signature(graph: &Graph, dim: usize) -> Result<()> {
    let names = ["input_ids", "attention_mask", "token_type_ids"];
    let inputs: Vec<&str> =
        graph.inputs().iter().map(|id| graph.value(*id).name.as_str()).collect();
    ensure!(
        inputs == names || inputs == names[..2],
        InvalidFile,
        "the encoder has the inputs '{}', expected '{}', the last one optional",
        inputs.join("', '"),
        names.join("', '")
    );
    for id in graph.inputs() {
        let ty = &graph.fact(*id).ty;
        ensure!(
            matches!(ty, Type::Tensor(DType::I64, Some(shape)) if shape.len() == 2),
            InvalidFile,
            "the encoder's input '{}' is {ty}, expected i64[batch, seq]",
            graph.value(*id).name
        );
    }
    let output = graph.outputs().iter().find(|(name, _)| name == EMBEDDING);
    let (_, id) =
        output.ok_or_else(|| err!(InvalidFile, "the encoder has no output '{EMBEDDING}'"))?;
    let ty = &graph.fact(*id).ty;
    ensure!(
        matches!(ty, Type::Tensor(DType::F32, Some(shape))
            if shape.len() == 2 && shape[1].as_const() == Some(dim as i64)),
        InvalidFile,
        "the encoder's output '{EMBEDDING}' is {ty}, expected f32[batch, {dim}]"
    );
    Ok(())
}

/// `order` in runs of at most [`BATCH_TOKENS`] tokens, `len(i)` of text `i`, or of one text.
fn batches<'a>(
    order: &'a [usize],
    len: impl Fn(usize) -> usize + 'a,
) -> impl Iterator<Item = &'a [usize]> {
    let mut rest = order;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let fit = rest.iter().take_while(|&&i| {
            tokens += len(i);
            tokens <= BATCH_TOKENS
        });
        let (batch, more) = rest.split_at(fit.count().max(1).min(rest.len()));
        rest = more;
        (!batch.is_empty()).then_some(batch)
    })
}
