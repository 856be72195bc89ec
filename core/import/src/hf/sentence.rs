//! From token vectors to one vector a text, as sentence-transformers describes it.
//!
//! `modules.json` lists the stages: the transformer, then pooling, then any number of
//! dense layers and normalisations. A directory without it gets mean pooling and no
//! normalisation, which is also what sentence-transformers makes of one.

use super::encoder::{Linear, Net};
use super::json::Object;
use super::weights::Checkpoint;
use deepseek_graph::{ValueId, ops};
use deepseek_tensor::{DType, Result, Tensor, bail, ensure, err};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// Names under which the transformer stage's settings were written over time.
const SETTINGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// Most stages that are believed.
const MAX_STAGES: usize = 64;

/// Least divisor of a mean, as in sentence-transformers.
const MIN_COUNT: f32 = 1e-9;

/// How token vectors become one vector. Masked tokens contribute nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The first token.
    Cls,
    /// The largest value of each component.
    Max,
    /// The mean.
    Mean,
    /// The sum divided by the root of the number of tokens.
    MeanSqrtLen,
    /// The mean, with the place in the text (from 1) as weight. (Muennighoff, "SGPT:
    /// GPT Sentence Embeddings for Semantic Search", 2022.)
    WeightedMean,
    /// The last token.
    LastToken,
}

impl Pooling {
    /// All modes, in the order in which several are concatenated, each with the flag
    /// that asks for it.
    const ALL: [(Pooling, &str); 6] = [
        (Pooling::Cls, "pooling_mode_cls_token"),
        (Pooling::Max, "pooling_mode_max_tokens"),
        (Pooling::Mean, "pooling_mode_mean_tokens"),
        (Pooling::MeanSqrtLen, "pooling_mode_mean_sqrt_len_tokens"),
        (Pooling::WeightedMean, "pooling_mode_weightedmean_tokens"),
        (Pooling::LastToken, "pooling_mode_lasttoken"),
    ];
}

/// The short name, as the field `pooling_mode` spells it.
impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pooling::Cls => "cls",
            Pooling::Max => "max",
            Pooling::Mean => "mean",
            Pooling::MeanSqrtLen => "mean_sqrt_len_tokens",
            Pooling::WeightedMean => "weightedmean",
            Pooling::LastToken => "lasttoken",
        })
    }
}

/// What a sentence encoder does around its transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentenceConfig {
    /// Whether the directory says so itself, in `modules.json`.
    pub declared: bool,
    /// Most tokens of a text, special ones included, where a limit is set.
    pub max_tokens: Option<usize>,
    /// Whether texts are lower-cased before the tokenizer sees them.
    pub lower_case: bool,
    /// What is put before each text; empty for nothing.
    pub prompt: String,
    /// Pooling modes, in the order of concatenation.
    pub pooling: Vec<Pooling>,
    /// Components of an embedding.
    pub dim: usize,
    /// Whether embeddings have unit length.
    pub normalized: bool,
}

/// A stage after pooling.
enum Stage {
    Dense(Box<Dense>),
    Normalize,
}

/// A linear layer and the function after it.
struct Dense {
    layer: Linear,
    activation: DenseActivation,
}

#[derive(Clone, Copy)]
enum DenseActivation {
    Identity,
    Tanh,
    Relu,
    Sigmoid,
    Gelu,
}

/// The stages of a directory, checked.
pub(super) struct Stages {
    /// Where the transformer's files are.
    pub transformer: PathBuf,
    declared: bool,
    include_prompt: bool,
    pooling: Vec<Pooling>,
    width: Option<usize>,
    tail: Vec<Stage>,
}

impl Stages {
    /// Reads `modules.json` and the settings of each stage, if there is one.
    pub fn read(dir: &Path) -> Result<Self> {
        let mut stages = Stages {
            transformer: dir.to_owned(),
            declared: false,
            include_prompt: true,
            pooling: vec![Pooling::Mean],
            width: None,
            tail: Vec::new(),
        };
        let file = dir.join("modules.json");
        if file.try_exists().is_ok_and(|there| !there) {
            return Ok(stages);
        }
        let modules = Object::read_list(&file)?;
        ensure!(
            (2..=MAX_STAGES).contains(&modules.len()),
            InvalidFile,
            "{} lists {} modules, expected 2 to {MAX_STAGES}: Transformer, Pooling, …",
            file.display(),
            modules.len()
        );
        stages.declared = true;
        for (i, module) in modules.iter().enumerate() {
            let path = inside(dir, module)?;
            let kind = module.str("type")?.rsplit('.').next().unwrap_or_default();
            match (i, kind) {
                (0, "Transformer") => stages.transformer = path,
                (1, "Pooling") => stages.read_pooling(&path)?,
                (2.., "Dense") => stages.tail.push(read_dense(&path)?),
                (2.., "Normalize") => stages.tail.push(Stage::Normalize),
                (_, "Transformer" | "Pooling" | "Dense" | "Normalize") => bail!(
                    InvalidFile,
                    "{}: {kind} is module {i}; the order is Transformer, Pooling, then Dense and Normalize",
                    file.display()
                ),
                _ => bail!(
                    Unsupported,
                    "{}: module type '{kind}' is not implemented; Transformer, Pooling, Dense and Normalize are",
                    file.display()
                ),
            }
        }
        Ok(stages)
    }

    fn read_pooling(&mut self, dir: &Path) -> Result<()> {
        let config = Object::read(dir.join("config.json"))?;
        for field in ["word_embedding_dimension", "embedding_dimension"] {
            self.width = self.width.or(config.opt_int(field, 1..=1 << 24)?.map(|n| n as usize));
        }
        self.include_prompt = config.opt_bool("include_prompt")?.unwrap_or(true);
        let by_name = match config.opt_str("pooling_mode")? {
            None => None,
            Some(name) => {
                let name = name.to_lowercase();
                let mode = Pooling::ALL.into_iter().find(|(mode, _)| mode.to_string() == name);
                let (mode, _) = mode.ok_or_else(|| {
                    err!(Unsupported, "{}: pooling_mode '{name}' is not known", config.file())
                })?;
                Some(mode)
            }
        };
        self.pooling.clear();
        for (mode, flag) in Pooling::ALL {
            let set = match by_name {
                Some(name) => mode == name,
                // A file that says nothing of the mean means to have it.
                None => config.opt_bool(flag)?.unwrap_or(mode == Pooling::Mean),
            };
            if set {
                self.pooling.push(mode);
            }
        }
        ensure!(!self.pooling.is_empty(), InvalidFile, "{} sets no pooling mode", config.file());
        Ok(())
    }

    /// Adds pooling and what follows to the graph of an encoder whose token vectors
    /// are `hidden [batch, seq, width]`; returns `[batch, dim]` and the settings.
    pub fn build(
        self,
        dir: &Path,
        net: &mut Net,
        hidden: ValueId,
        width: usize,
    ) -> Result<(ValueId, SentenceConfig)> {
        ensure!(
            self.width.is_none_or(|w| w == width),
            InvalidFile,
            "{}: pooling is of width {}, the transformer's vectors have {width}",
            dir.display(),
            self.width.unwrap_or_default()
        );
        let mut config = self.settings(dir)?;
        let mut dim = width * self.pooling.len();
        let mut x = pool(net, &self.pooling, hidden)?;
        for (i, stage) in self.tail.into_iter().enumerate() {
            config.normalized = matches!(stage, Stage::Normalize);
            match stage {
                Stage::Normalize => {
                    x = net.add("normalize", ops::LpNormalization::default(), &[x])?;
                }
                Stage::Dense(dense) => {
                    let Dense { layer, activation } = *dense;
                    let [to, from] = *layer.weight.shape() else {
                        bail!(Internal, "a dense layer's weight was checked to be a matrix")
                    };
                    ensure!(
                        from == dim,
                        InvalidFile,
                        "{}: a Dense stage takes {from} components, the one before gives {dim}",
                        dir.display()
                    );
                    x = net.linear(&format!("dense.{i}"), x, layer)?;
                    x = dense_activation(net, activation, x)?;
                    dim = to;
                }
            }
        }
        config.dim = dim;
        Ok((x, config))
    }

    /// Reads what is set outside `modules.json`.
    fn settings(&self, dir: &Path) -> Result<SentenceConfig> {
        let mut config = SentenceConfig {
            declared: self.declared,
            max_tokens: None,
            lower_case: false,
            prompt: String::new(),
            pooling: self.pooling.clone(),
            dim: 0,
            normalized: false,
        };
        for name in SETTINGS {
            if let Some(file) = Object::read_if_present(self.transformer.join(name))? {
                let max = file.opt_int("max_seq_length", 1..=1 << 24)?;
                config.max_tokens = max.map(|n| n as usize);
                config.lower_case = file.opt_bool("do_lower_case")?.unwrap_or(false);
                break;
            }
        }
        let prompts = Object::read_if_present(dir.join("config_sentence_transformers.json"))?;
        if let Some(file) = prompts
            && let Some(name) = file.opt_str("default_prompt_name")?
        {
            let all = file.opt_object("prompts")?.ok_or_else(|| {
                err!(InvalidFile, "{} names the prompt '{name}' and lists none", file.file())
            })?;
            config.prompt = all.str(name)?.to_owned();
            ensure!(
                self.include_prompt || config.prompt.is_empty(),
                Unsupported,
                "{}: a default prompt that pooling leaves out (include_prompt false) is not implemented",
                file.file()
            );
        }
        Ok(config)
    }
}

/// The folder of a module, which must lie inside `dir`.
fn inside(dir: &Path, module: &Object) -> Result<PathBuf> {
    let path = Path::new(module.opt_str("path")?.unwrap_or_default());
    ensure!(
        path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)),
        InvalidFile,
        "{}: path '{}' leaves the model's directory",
        module.file(),
        path.display()
    );
    Ok(dir.join(path))
}

fn read_dense(dir: &Path) -> Result<Stage> {
    let config = Object::read(dir.join("config.json"))?;
    let extent = |field| config.int(field, 1..=1 << 24).map(|n| n as usize);
    let (from, to) =
        (("in_features", extent("in_features")?), ("out_features", extent("out_features")?));
    let checkpoint = Checkpoint::open(dir)?;
    let weight = checkpoint.get("linear.weight", &[to, from])?;
    let has_bias = config.opt_bool("bias")?.unwrap_or(true);
    let bias = has_bias.then(|| checkpoint.get("linear.bias", &[to])).transpose()?;
    let name = config.opt_str("activation_function")?.unwrap_or("Tanh");
    let activation = match name.rsplit('.').next().unwrap_or_default() {
        "Identity" => DenseActivation::Identity,
        "Tanh" => DenseActivation::Tanh,
        "ReLU" => DenseActivation::Relu,
        "Sigmoid" => DenseActivation::Sigmoid,
        "GELU" => DenseActivation::Gelu,
        other => bail!(
            Unsupported,
            "{}: activation_function '{other}' is not known; known are Identity, Tanh, ReLU, Sigmoid, GELU",
            config.file()
        ),
    };
    Ok(Stage::Dense(Box::new(Dense { layer: Linear { weight, bias }, activation })))
}

fn dense_activation(net: &mut Net, kind: DenseActivation, x: ValueId) -> Result<ValueId> {
    match kind {
        DenseActivation::Identity => Ok(x),
        DenseActivation::Tanh => net.add("dense.tanh", ops::Tanh {}, &[x]),
        DenseActivation::Relu => net.add("dense.relu", ops::Relu {}, &[x]),
        DenseActivation::Sigmoid => net.add("dense.sigmoid", ops::Sigmoid {}, &[x]),
        DenseActivation::Gelu => net.add("dense.gelu", ops::Gelu::default(), &[x]),
    }
}

/// `hidden [batch, seq, width]` as `[batch, width · modes]`.
fn pool(net: &mut Net, modes: &[Pooling], hidden: ValueId) -> Result<ValueId> {
    let float = ops::Cast { to: DType::F32, ..Default::default() };
    let weights = net.add("pooling.weights", float, &[net.mask])?;
    let mut parts = Vec::with_capacity(modes.len());
    for mode in modes {
        parts.push(match mode {
            Pooling::Cls => {
                let first = net.constant("pooling.first", Tensor::scalar(0i64)?)?;
                net.add("pooling.cls", ops::Gather { axis: 1 }, &[hidden, first])?
            }
            Pooling::Max => max(net, hidden)?,
            Pooling::Mean => mean(net, "pooling.mean", hidden, weights, false)?,
            Pooling::MeanSqrtLen => mean(net, "pooling.mean_sqrt_len", hidden, weights, true)?,
            Pooling::WeightedMean => {
                let places = net.numbers("pooling.places", 1)?;
                let float = ops::Cast { to: DType::F32, ..Default::default() };
                let places = net.add("pooling.place_weights", float, &[places])?;
                let weights =
                    net.add("pooling.weights_by_place", ops::Mul {}, &[weights, places])?;
                mean(net, "pooling.weighted_mean", hidden, weights, false)?
            }
            Pooling::LastToken => last(net, hidden)?,
        });
    }
    match parts[..] {
        [one] => Ok(one),
        _ => net.add("pooling", ops::Concat { axis: 1 }, &parts),
    }
}

/// `Σ weights · hidden / max(Σ weights, 1e-9)`, or over the root of the divisor, for
/// `weights f32[batch, seq]`.
fn mean(
    net: &mut Net,
    name: &str,
    hidden: ValueId,
    weights: ValueId,
    root: bool,
) -> Result<ValueId> {
    let part = |what: &str| format!("{name}.{what}");
    let axis = net.ints(&part("axis"), &[1])?;
    let row = net.add(&part("row"), ops::Unsqueeze {}, &[weights, axis])?;
    let sum = net.add(&part("sum"), ops::MatMul {}, &[row, hidden])?;
    let sum = net.add(&part("sum_row"), ops::Squeeze {}, &[sum, axis])?;
    let least = net.constant(&part("least"), Tensor::scalar(MIN_COUNT)?)?;
    let count = net.add(&part("count"), ops::ReduceSum::default(), &[weights, axis])?;
    let mut count = net.add(&part("divisor"), ops::Max {}, &[count, least])?;
    if root {
        count = net.add(&part("root"), ops::Sqrt {}, &[count])?;
    }
    net.add(name, ops::Div {}, &[sum, count])
}

/// The largest of each component; the least finite number where all is masked.
fn max(net: &mut Net, hidden: ValueId) -> Result<ValueId> {
    let least = net.constant("pooling.max.least", Tensor::scalar(f32::MIN)?)?;
    let (axis, last) = (net.ints("pooling.max.axis", &[1])?, net.ints("pooling.max.last", &[2])?);
    let mask = net.add("pooling.max.mask", ops::Unsqueeze {}, &[net.mask, last])?;
    let seen = net.add("pooling.max.seen", ops::Where {}, &[mask, hidden, least])?;
    let keepdims = ops::ReduceMax { keepdims: false, ..Default::default() };
    net.add("pooling.max", keepdims, &[seen, axis])
}

/// The token at the last place that is not masked.
fn last(net: &mut Net, hidden: ValueId) -> Result<ValueId> {
    let int = ops::Cast { to: DType::I64, ..Default::default() };
    let mask = net.add("pooling.last.mask", int, &[net.mask])?;
    let op = ops::ArgMax { axis: 1, keepdims: true, select_last_index: true };
    let place = net.add("pooling.last.place", op, &[mask])?;
    net.add("pooling.last", ops::GatherND { batch_dims: 1 }, &[hidden, place])
}
