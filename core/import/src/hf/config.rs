//! What `config.json` says of an encoder, and how the families of encoders differ.
//!
//! BERT, DistilBERT, RoBERTa and MPNet are one architecture: embeddings, then layers
//! of attention and a two-layer network, each with a residual and a norm after it.
//! They differ in names and in four choices, and a [`Family`] is just these.

use super::json::Object;
use deepseek_tensor::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Largest extent of a layer that is believed.
const MAX_EXTENT: i64 = 1 << 24;

/// Where the second summand of the embeddings comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenTypes {
    /// The graph input `token_type_ids`.
    Input,
    /// Always type 0: the family has a table and no use for it.
    Zero,
    /// There is no table.
    None,
}

/// How positions are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Positions {
    /// From 0, by place.
    FromZero,
    /// Tokens other than padding are counted, from the padding id + 1; padding has the
    /// position of the padding id.
    AfterPadding,
}

/// What tells one family from another.
pub(super) struct Family {
    /// Values of `model_type`.
    pub model_types: &'static [&'static str],
    /// Fields of the configuration, in the order hidden size, inner size, layers, heads,
    /// activation.
    pub fields: [&'static str; 5],
    /// Norm epsilon where the configuration does not have one.
    pub epsilon: f32,
    /// Padding id: fixed, or from the configuration with this default.
    pub padding: Padding,
    pub token_types: TokenTypes,
    pub positions: Positions,
    /// Name of a layer, before its number.
    pub layer: &'static str,
    pub names: LayerNames,
    /// Table of biases by relative position, if there is one.
    pub relative_bias: Option<&'static str>,
}

/// How the id of the padding token is known.
#[derive(Clone, Copy)]
pub(super) enum Padding {
    Fixed(i64),
    Default(i64),
}

/// Names of a layer's modules, after `layer.N.`.
pub(super) struct LayerNames {
    pub query: &'static str,
    pub key: &'static str,
    pub value: &'static str,
    pub output: &'static str,
    pub attention_norm: &'static str,
    pub inner: &'static str,
    pub outer: &'static str,
    pub norm: &'static str,
}

const BERT_NAMES: LayerNames = LayerNames {
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    inner: "intermediate.dense",
    outer: "output.dense",
    norm: "output.LayerNorm",
};

const BERT_FIELDS: [&str; 5] =
    ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act"];

const FAMILIES: [Family; 4] = [
    Family {
        model_types: &["bert"],
        fields: BERT_FIELDS,
        epsilon: 1e-12,
        padding: Padding::Default(0),
        token_types: TokenTypes::Input,
        positions: Positions::FromZero,
        layer: "encoder.layer.",
        names: BERT_NAMES,
        relative_bias: None,
    },
    Family {
        model_types: &["distilbert"],
        fields: ["dim", "hidden_dim", "n_layers", "n_heads", "activation"],
        epsilon: 1e-12,
        padding: Padding::Default(0),
        token_types: TokenTypes::None,
        positions: Positions::FromZero,
        layer: "transformer.layer.",
        names: LayerNames {
            query: "attention.q_lin",
            key: "attention.k_lin",
            value: "attention.v_lin",
            output: "attention.out_lin",
            attention_norm: "sa_layer_norm",
            inner: "ffn.lin1",
            outer: "ffn.lin2",
            norm: "output_layer_norm",
        },
        relative_bias: None,
    },
    Family {
        model_types: &["roberta", "xlm-roberta", "camembert"],
        fields: BERT_FIELDS,
        epsilon: 1e-12,
        padding: Padding::Default(1),
        token_types: TokenTypes::Zero,
        positions: Positions::AfterPadding,
        layer: "encoder.layer.",
        names: BERT_NAMES,
        relative_bias: None,
    },
    Family {
        model_types: &["mpnet"],
        fields: BERT_FIELDS,
        epsilon: 1e-12,
        padding: Padding::Fixed(1),
        token_types: TokenTypes::None,
        positions: Positions::AfterPadding,
        layer: "encoder.layer.",
        names: LayerNames {
            query: "attention.attn.q",
            key: "attention.attn.k",
            value: "attention.attn.v",
            output: "attention.attn.o",
            attention_norm: "attention.LayerNorm",
            inner: "intermediate.dense",
            outer: "output.dense",
            norm: "output.LayerNorm",
        },
        relative_bias: Some("encoder.relative_attention_bias.weight"),
    },
];

/// The family that `model_type` belongs to.
///
/// # Errors
/// `Unsupported` listing the types that are known.
pub(super) fn family(config: &Object) -> Result<&'static Family> {
    let model_type = config.str("model_type")?;
    let known = FAMILIES.iter().find(|f| f.model_types.contains(&model_type));
    match known {
        Some(family) => Ok(family),
        None => {
            let types: Vec<_> = FAMILIES.iter().flat_map(|f| f.model_types).copied().collect();
            bail!(
                Unsupported,
                "{}: model_type '{model_type}' is not an encoder that is known; known are {}",
                config.file(),
                types.join(", ")
            )
        }
    }
}

/// The function between the two matrices of a layer's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// GELU by the error function.
    Gelu,
    /// GELU by the hyperbolic tangent.
    GeluTanh,
    /// Rectified linear.
    Relu,
}

/// The sizes and choices of an encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderConfig {
    /// `model_type` of `config.json`.
    pub model_type: String,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Components of a token's vector.
    pub hidden_size: usize,
    /// Components between the two matrices of a layer's network.
    pub intermediate_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads of a layer.
    pub heads: usize,
    /// Rows of the table of positions.
    pub position_rows: usize,
    /// Most tokens of a text, special ones included.
    pub max_tokens: usize,
    /// Rows of the table of token types; 0 where there is none.
    pub type_rows: usize,
    /// Function inside a layer's network.
    pub activation: Activation,
    /// Added to the variance in each norm.
    pub epsilon: f32,
    /// Token that fills up shorter texts.
    pub padding_id: i64,
}

impl EncoderConfig {
    /// Reads the configuration of an encoder of `family`.
    ///
    /// # Errors
    /// `InvalidFile` naming the field that is missing or out of range; `Unsupported`
    /// for a valid choice that is not implemented.
    pub(super) fn read(config: &Object, family: &Family) -> Result<Self> {
        let [hidden, inner, layers, heads, activation] = family.fields;
        let extent = |field| config.int(field, 1..=MAX_EXTENT).map(|n| n as usize);
        let hidden_size = extent(hidden)?;
        let head_count = config.int(heads, 1..=hidden_size as i64)? as usize;
        ensure!(
            hidden_size.is_multiple_of(head_count),
            InvalidFile,
            "{}: {hidden} {hidden_size} is not a multiple of {heads} {head_count}",
            config.file()
        );
        let vocab_size = config.int("vocab_size", 1..=i64::from(i32::MAX))? as usize;
        let last_id = vocab_size as i64 - 1;
        let padding_id = match family.padding {
            Padding::Fixed(id) => id,
            Padding::Default(id) => config.opt_int("pad_token_id", 0..=last_id)?.unwrap_or(id),
        };
        let position_rows = extent("max_position_embeddings")?;
        let max_tokens = match family.positions {
            Positions::FromZero => position_rows,
            Positions::AfterPadding => position_rows.saturating_sub(padding_id as usize + 1),
        };
        ensure!(
            max_tokens > 0,
            InvalidFile,
            "{}: max_position_embeddings {position_rows} leaves no position after padding id {padding_id}",
            config.file()
        );
        let type_rows = match family.token_types {
            TokenTypes::None => 0,
            _ => extent("type_vocab_size")?,
        };
        refuse_unknown_choices(config)?;
        Ok(EncoderConfig {
            model_type: config.str("model_type")?.to_owned(),
            vocab_size,
            hidden_size,
            intermediate_size: extent(inner)?,
            layers: config.int(layers, 0..=MAX_EXTENT)? as usize,
            heads: head_count,
            position_rows,
            max_tokens,
            type_rows,
            activation: parse_activation(config, activation)?,
            epsilon: epsilon(config, family)?,
            padding_id,
        })
    }
}

fn parse_activation(config: &Object, field: &str) -> Result<Activation> {
    Ok(match config.opt_str(field)?.unwrap_or("gelu") {
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        other => bail!(
            Unsupported,
            "{}: {field} '{other}' is not known; known are gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu",
            config.file()
        ),
    })
}

fn epsilon(config: &Object, family: &Family) -> Result<f32> {
    let Some(epsilon) = config.opt_f64("layer_norm_eps")? else { return Ok(family.epsilon) };
    ensure!(
        (0.0..=1.0).contains(&epsilon),
        InvalidFile,
        "{}: field 'layer_norm_eps' is {epsilon}, expected a number from 0 to 1",
        config.file()
    );
    Ok(epsilon as f32)
}

/// Fails on settings that change what an encoder computes and are not built here.
fn refuse_unknown_choices(config: &Object) -> Result<()> {
    if let Some(kind) = config.opt_str("position_embedding_type")? {
        ensure!(
            kind == "absolute",
            Unsupported,
            "{}: position_embedding_type '{kind}' is not implemented, only 'absolute' is",
            config.file()
        );
    }
    for field in ["is_decoder", "add_cross_attention"] {
        ensure!(
            !config.opt_bool(field)?.unwrap_or(false),
            Unsupported,
            "{}: {field} is true, only encoders are implemented",
            config.file()
        );
    }
    let buckets = config.opt_int("relative_attention_num_buckets", 1..=MAX_EXTENT)?;
    ensure!(
        buckets.is_none_or(|n| n == super::encoder::BUCKETS as i64),
        Unsupported,
        "{}: relative_attention_num_buckets is {}, only {} is implemented",
        config.file(),
        buckets.unwrap_or_default(),
        super::encoder::BUCKETS
    );
    Ok(())
}
