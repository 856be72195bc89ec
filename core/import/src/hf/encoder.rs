//! The graph of an encoder, from its configuration and its weights.
//!
//! Between the embeddings and the output, tokens are rows of a matrix
//! `[batch·seq, hidden]`: the linear layers, norms and activations do not care which
//! text a row belongs to. Only attention does, and gets views `[batch, seq, hidden]`.
//! Linear layers keep the `[out, in]` layout of the checkpoint, so weights are used
//! as they lie in the mapped file.

use super::config::{Activation, EncoderConfig, Family, Positions, TokenTypes};
use super::weights::{Checkpoint, Extent};
use deepseek_graph::{Attrs, Dim, FromAttrs, Graph, Operator, Type, ValueId, ops};
use deepseek_tensor::{DType, Result, Tensor};

/// Rows of the table of biases by relative position.
pub(super) const BUCKETS: usize = 32;

/// Distance from which on all relative positions share a bucket.
const MAX_DISTANCE: f32 = 128.0;

/// A graph that grows, with the vocabulary of an encoder.
pub(super) struct Net {
    pub graph: Graph,
    batch: Dim,
    seq: Dim,
    max_tokens: usize,
    /// `i64[1]`, the extent `seq`.
    seq_len: ValueId,
    /// `i64[batch, seq]`.
    ids: ValueId,
    /// `bool[batch, seq]`, true where there is a token.
    pub mask: ValueId,
}

/// A linear layer as it lies in a checkpoint: `weight [out, in]` and `bias [out]`.
pub(super) struct Linear {
    pub weight: Tensor,
    pub bias: Option<Tensor>,
}

impl Net {
    fn new(config: &EncoderConfig) -> Result<Self> {
        let mut graph = Graph::new(&config.model_type);
        let (batch, seq) = (Dim::sym("batch"), Dim::sym("seq"));
        graph.set_bound("batch", 1, None)?;
        graph.set_bound("seq", 1, Some(config.max_tokens as i64))?;
        let tokens = Type::tensor(DType::I64, [batch.clone(), seq.clone()]);
        let ids = graph.add_input("input_ids", tokens.clone())?;
        let given = graph.add_input("attention_mask", tokens)?;
        let mask =
            graph.add("mask", ops::Cast { to: DType::Bool, ..Default::default() }, &[given])?;
        let seq_len = graph.add("seq_len", ops::Shape { start: 1, end: Some(2) }, &[ids])?;
        Ok(Net { graph, batch, seq, max_tokens: config.max_tokens, seq_len, ids, mask })
    }

    /// Adds a node with one output.
    pub fn add(&mut self, name: &str, op: impl Operator, inputs: &[ValueId]) -> Result<ValueId> {
        self.graph.add(name, op, inputs)
    }

    /// Adds a constant.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> Result<ValueId> {
        let name = self.graph.unique_name(name);
        self.graph.add_constant(&name, tensor)
    }

    /// Adds a list of integers, as shapes and axes are given.
    pub fn ints(&mut self, name: &str, values: &[i64]) -> Result<ValueId> {
        self.constant(name, Tensor::from_slice(&[values.len()], values)?)
    }

    /// `x [m, in]` through a linear layer: `[m, out]`.
    pub fn linear(&mut self, name: &str, x: ValueId, layer: Linear) -> Result<ValueId> {
        let mut inputs = vec![x, self.constant(&format!("{name}.weight"), layer.weight)?];
        if let Some(bias) = layer.bias {
            inputs.push(self.constant(&format!("{name}.bias"), bias)?);
        }
        self.add(name, ops::Gemm { transB: true, ..Default::default() }, &inputs)
    }

    /// The function inside a layer's network.
    fn activation(&mut self, name: &str, kind: Activation, x: ValueId) -> Result<ValueId> {
        let approximate = match kind {
            Activation::Relu => return self.add(name, ops::Relu {}, &[x]),
            Activation::Gelu => "none",
            Activation::GeluTanh => "tanh",
        };
        let attrs = Attrs::new().with("approximate", approximate.to_owned());
        self.add(name, ops::Gelu::from_attrs(attrs)?, &[x])
    }

    /// `x [.., hidden]` as rows `[batch·seq, hidden]`.
    fn rows(&mut self, name: &str, x: ValueId, hidden: usize) -> Result<ValueId> {
        let shape = self.ints(&format!("{name}.shape"), &[-1, hidden as i64])?;
        let rows = self.add(name, ops::Reshape::default(), &[x, shape])?;
        let shape = [&self.batch * &self.seq, Dim::from(hidden)];
        self.graph.refine_type(rows, Type::tensor(DType::F32, shape));
        Ok(rows)
    }

    /// The first `seq` rows of a constant table of [`EncoderConfig::max_tokens`] rows.
    pub fn first_rows(&mut self, name: &str, table: Tensor) -> Result<ValueId> {
        let dtype = table.dtype();
        let mut shape: Vec<Dim> = table.shape().iter().map(|&n| Dim::from(n)).collect();
        let table = self.constant(&format!("{name}.table"), table)?;
        let zero = self.ints(&format!("{name}.start"), &[0])?;
        let rows = self.add(name, ops::Slice {}, &[table, zero, self.seq_len, zero])?;
        shape[0] = self.seq.clone();
        self.graph.refine_type(rows, Type::tensor(dtype, shape));
        Ok(rows)
    }

    /// `first_rows` of the numbers from `first` on.
    pub fn numbers(&mut self, name: &str, first: i64) -> Result<ValueId> {
        let table: Vec<i64> = (first..).take(self.max_tokens).collect();
        self.first_rows(name, Tensor::from_vec(&[table.len()], table)?)
    }
}

/// Builds the encoder: a graph with the inputs `input_ids`, `attention_mask` and, for
/// BERT, `token_type_ids`, and the value of `last_hidden_state [batch, seq, hidden]`.
pub(super) fn build(
    family: &Family,
    config: &EncoderConfig,
    checkpoint: &mut Checkpoint,
) -> Result<(Net, ValueId)> {
    checkpoint.find_prefix("embeddings.word_embeddings.weight")?;
    let mut net = Net::new(config)?;
    let mut x = embeddings(&mut net, family, config, checkpoint)?;
    let attention = Attention::new(&mut net, family, config, checkpoint)?;
    for i in 0..config.layers {
        x = layer(&mut net, family, config, checkpoint, &attention, i, x)?;
    }
    let hidden = net.add("hidden", ops::Reshape::default(), &[x, attention.shape])?;
    Ok((net, hidden))
}

/// The sum of word, type and position vectors, normalised: `[batch·seq, hidden]`.
fn embeddings(
    net: &mut Net,
    family: &Family,
    config: &EncoderConfig,
    checkpoint: &Checkpoint,
) -> Result<ValueId> {
    let h = ("hidden size", config.hidden_size);
    let words = checkpoint
        .get("embeddings.word_embeddings.weight", &[("vocab_size", config.vocab_size), h])?;
    let mut places = checkpoint.get(
        "embeddings.position_embeddings.weight",
        &[("max_position_embeddings", config.position_rows), h],
    )?;
    let words = net.constant("embeddings.word_embeddings.weight", words)?;
    let mut x = net.add("embeddings.words", ops::Gather { axis: 0 }, &[words, net.ids])?;
    if family.token_types != TokenTypes::None {
        let types = checkpoint.get(
            "embeddings.token_type_embeddings.weight",
            &[("type_vocab_size", config.type_rows), h],
        )?;
        if family.token_types == TokenTypes::Input {
            let shape = [net.batch.clone(), net.seq.clone()];
            let ids = net.graph.add_input("token_type_ids", Type::tensor(DType::I64, shape))?;
            let types = net.constant("embeddings.token_type_embeddings.weight", types)?;
            let types = net.add("embeddings.types", ops::Gather { axis: 0 }, &[types, ids])?;
            x = net.add("embeddings.words_and_types", ops::Add {}, &[x, types])?;
        } else {
            add_to_rows(&mut places, &types)?;
        }
    }
    let places = match family.positions {
        Positions::FromZero => net.first_rows("embeddings.positions", places)?,
        Positions::AfterPadding => {
            let table = net.constant("embeddings.position_embeddings.weight", places)?;
            let ids = positions_after_padding(net, config)?;
            net.add("embeddings.positions", ops::Gather { axis: 0 }, &[table, ids])?
        }
    };
    let x = net.add("embeddings.sum", ops::Add {}, &[x, places])?;
    let x = net.rows("embeddings.rows", x, config.hidden_size)?;
    norm(net, config, checkpoint, "embeddings.LayerNorm", x)
}

/// Adds the first row of `types` to every row of `table`, both f32.
fn add_to_rows(table: &mut Tensor, types: &Tensor) -> Result<()> {
    let row = types.slice_axis(0, 0, 1, 1)?.to_vec::<f32>()?;
    for to in table.as_slice_mut::<f32>()?.chunks_exact_mut(row.len()) {
        to.iter_mut().zip(&row).for_each(|(x, t)| *x += t);
    }
    Ok(())
}

/// Positions `i64[batch, seq]` that count the tokens which are not padding.
fn positions_after_padding(net: &mut Net, config: &EncoderConfig) -> Result<ValueId> {
    let padding = net.constant("padding_id", Tensor::scalar(config.padding_id)?)?;
    let axis = net.constant("positions.axis", Tensor::scalar(1i64)?)?;
    let is_padding = net.add("positions.is_padding", ops::Equal {}, &[net.ids, padding])?;
    let is_token = net.add("positions.is_token", ops::Not {}, &[is_padding])?;
    let one = ops::Cast { to: DType::I64, ..Default::default() };
    let one = net.add("positions.one", one, &[is_token])?;
    let count = net.add("positions.count", ops::CumSum::default(), &[one, axis])?;
    let count = net.add("positions.count_tokens", ops::Mul {}, &[count, one])?;
    net.add("positions.ids", ops::Add {}, &[count, padding])
}

/// What the attention of all layers shares.
struct Attention {
    /// `i64[3]`: batch, seq, hidden.
    shape: ValueId,
    /// Who may be attended: `bool[batch, 1, 1, seq]`, or biases `f32[batch, heads, seq, seq]`.
    mask: ValueId,
}

impl Attention {
    fn new(
        net: &mut Net,
        family: &Family,
        config: &EncoderConfig,
        checkpoint: &Checkpoint,
    ) -> Result<Self> {
        let extents = net.add("extents", ops::Shape::default(), &[net.ids])?;
        let hidden = net.ints("hidden_size", &[config.hidden_size as i64])?;
        let shape = net.add("hidden.shape", ops::Concat { axis: 0 }, &[extents, hidden])?;
        let axes = net.ints("attention.mask.axes", &[1, 2])?;
        let mut mask = net.add("attention.mask", ops::Unsqueeze {}, &[net.mask, axes])?;
        if let Some(name) = family.relative_bias {
            let table = checkpoint.get(
                name,
                &[("relative_attention_num_buckets", BUCKETS), ("heads", config.heads)],
            )?;
            let bias = relative_bias(net, config, &table)?;
            let never = net.constant("attention.never", Tensor::scalar(f32::NEG_INFINITY)?)?;
            mask = net.add("attention.masked_bias", ops::Where {}, &[mask, bias, never])?;
        }
        Ok(Attention { shape, mask })
    }
}

/// Biases `f32[1, heads, seq, seq]` that depend on where key and query stand relative
/// to each other. The buckets are looked up once, so the graph gathers from a table by
/// `key - query`.
fn relative_bias(net: &mut Net, config: &EncoderConfig, buckets: &Tensor) -> Result<ValueId> {
    let last = config.max_tokens as i64 - 1;
    let rows = buckets.as_slice::<f32>()?;
    let mut table = Vec::with_capacity((2 * config.max_tokens - 1) * config.heads);
    for distance in -last..=last {
        table.extend_from_slice(&rows[bucket(distance) * config.heads..][..config.heads]);
    }
    let table = Tensor::from_vec(&[2 * config.max_tokens - 1, config.heads], table)?;
    let table = net.constant("relative_attention_bias", table)?;
    // From `last` on, so that the difference to a query that counts from 0 is a row.
    let (keys, queries) = (net.numbers("bias.keys", last)?, net.numbers("bias.queries", 0)?);
    let (row, column) = (net.ints("bias.row", &[0])?, net.ints("bias.column", &[1])?);
    let keys = net.add("bias.keys_row", ops::Unsqueeze {}, &[keys, row])?;
    let queries = net.add("bias.queries_column", ops::Unsqueeze {}, &[queries, column])?;
    let rows = net.add("bias.rows", ops::Sub {}, &[keys, queries])?;
    let bias = net.add("bias.gathered", ops::Gather { axis: 0 }, &[table, rows])?;
    let bias = net.add("bias.by_head", ops::Transpose { perm: vec![2, 0, 1] }, &[bias])?;
    net.add("bias", ops::Unsqueeze {}, &[bias, row])
}

/// Bucket of a key `distance` places after its query: near ones have their own, far
/// ones share one by the logarithm of the distance, in f32. (Raffel et al., "Exploring
/// the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2020.)
fn bucket(distance: i64) -> usize {
    const SIDE: usize = BUCKETS / 2;
    const EXACT: usize = SIDE / 2;
    let side = if distance > 0 { SIDE } else { 0 };
    let n = distance.unsigned_abs() as usize;
    if n < EXACT {
        return side + n;
    }
    let octaves = (n as f32 / EXACT as f32).ln() / (MAX_DISTANCE / EXACT as f32).ln();
    let far = EXACT + (octaves * (SIDE - EXACT) as f32) as usize;
    side + far.min(SIDE - 1)
}

/// One layer on rows `x [batch·seq, hidden]`.
fn layer(
    net: &mut Net,
    family: &Family,
    config: &EncoderConfig,
    checkpoint: &Checkpoint,
    attention: &Attention,
    index: usize,
    x: ValueId,
) -> Result<ValueId> {
    let names = &family.names;
    let path = |name: &str| format!("{}{index}.{name}", family.layer);
    let h = ("hidden size", config.hidden_size);
    let inner = ("intermediate size", config.intermediate_size);
    let linear = |net: &mut Net, name: &str, x: ValueId, from: Extent, to: Extent| {
        let name = path(name);
        let weight = checkpoint.get(&format!("{name}.weight"), &[to, from])?;
        let bias = Some(checkpoint.get(&format!("{name}.bias"), &[to])?);
        net.linear(&name, x, Linear { weight, bias })
    };
    let mut inputs = Vec::with_capacity(4);
    for name in [names.query, names.key, names.value] {
        let y = linear(net, name, x, h, h)?;
        let view = format!("{}.by_text", path(name));
        inputs.push(net.add(&view, ops::Reshape::default(), &[y, attention.shape])?);
    }
    inputs.push(attention.mask);
    let heads = Some(config.heads as i64);
    let op = ops::Attention { q_num_heads: heads, kv_num_heads: heads, ..Default::default() };
    let y = net.add(&path("attention"), op, &inputs)?;
    let y = net.rows(&path("attention.rows"), y, config.hidden_size)?;
    let y = linear(net, names.output, y, h, h)?;
    let y = net.add(&path("attention.residual"), ops::Add {}, &[y, x])?;
    let x = norm(net, config, checkpoint, &path(names.attention_norm), y)?;

    let y = linear(net, names.inner, x, h, inner)?;
    let y = net.activation(&path("activation"), config.activation, y)?;
    let y = linear(net, names.outer, y, inner, h)?;
    let y = net.add(&path("residual"), ops::Add {}, &[y, x])?;
    norm(net, config, checkpoint, &path(names.norm), y)
}

/// The layer norm `name` of rows `x`. Checkpoints converted from TensorFlow call its
/// weight and bias gamma and beta.
fn norm(
    net: &mut Net,
    config: &EncoderConfig,
    checkpoint: &Checkpoint,
    name: &str,
    x: ValueId,
) -> Result<ValueId> {
    let h = [("hidden size", config.hidden_size)];
    let old = checkpoint.has(&format!("{name}.gamma"));
    let [scale, bias] = if old { ["gamma", "beta"] } else { ["weight", "bias"] };
    let scale = checkpoint.get(&format!("{name}.{scale}"), &h)?;
    let bias = checkpoint.get(&format!("{name}.{bias}"), &h)?;
    let scale = net.constant(&format!("{name}.weight"), scale)?;
    let bias = net.constant(&format!("{name}.bias"), bias)?;
    let op = ops::LayerNormalization { epsilon: config.epsilon, ..Default::default() };
    net.add(name, op, &[x, scale, bias])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the reference implementation, which computes the logarithm in f32.
    #[test]
    fn buckets_grow_with_the_logarithm_of_the_distance() {
        let near = [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 9, 9, 9, 9, 10];
        for (n, want) in near.into_iter().enumerate() {
            assert_eq!(bucket(-(n as i64)), want, "{n} places before");
            assert_eq!(bucket(n as i64), if n == 0 { 0 } else { want + 16 }, "{n} places after");
        }
        let far = [(22, 10), (23, 11), (31, 11), (32, 12), (45, 12), (46, 13), (63, 13), (64, 14)];
        let farther = [(90, 14), (91, 15), (127, 15), (128, 15), (511, 15)];
        for (n, want) in far.into_iter().chain(farther) {
            assert_eq!(bucket(-n), want, "{n} places before");
        }
    }
}
