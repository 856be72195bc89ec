//! Which importer a node gets: by domain, operator and operator set.
//!
//! A row lists the versions at which the *importer* of an operator changes, oldest
//! first; a version in which only element types were added needs none. `direct`
//! takes name, attributes and inputs as they are.

use super::NEWEST_OPSET;
use super::body;
use super::call::{Call, Import, Outputs, direct};
use super::compose::{contrib, contrib_attention, contrib_quant, legacy, ml, resize, shape};
use super::import::Opsets;
use super::types::declared;
use deepseek_graph::Type;
use deepseek_tensor::{Result, bail, ensure};

type Row = (&'static str, &'static [(i64, Import)]);

/// Optional: the type attribute of an empty one, as element type and kind.
fn optional(c: &mut Call) -> Result<Outputs> {
    if let Some(ty) = c.ty {
        let (element, sequence) = match declared(&c.label, Some(ty))? {
            Some(Type::Sequence(inner)) => (*inner, true),
            Some(other) => (other, false),
            None => bail!(InvalidGraph, "the attribute 'type' is empty"),
        };
        let Type::Tensor(dtype, _) = element else {
            bail!(Unsupported, "an empty optional of {element}; use tensors or sequences of them");
        };
        c.attrs.set("dtype", dtype);
        c.attrs.set("sequence", sequence);
    }
    direct(c)
}

/// The importer of one node.
pub(super) struct Found {
    /// Version of the operator set in force.
    pub version: i64,
    /// The function.
    pub import: Import,
}

/// `operator Foo (domain ai.onnx, opset 17)`.
pub(super) fn describe(domain: &str, op: &str, version: i64) -> String {
    let domain = if domain.is_empty() { "ai.onnx" } else { domain };
    format!("operator {op} (domain {domain}, opset {version})")
}

/// Finds the importer of `op`.
///
/// # Errors
/// `InvalidGraph` if the model does not import the domain; `Unsupported` naming
/// operator, domain and opset.
pub(super) fn find(domain: &str, op: &str, opsets: &Opsets) -> Result<Found> {
    let (table, newest) = match domain {
        "" => (AI_ONNX, NEWEST_OPSET),
        "ai.onnx.ml" => (AI_ONNX_ML, 5),
        "ai.onnx.preview" => (PREVIEW, 1),
        "ai.onnx.preview.training" => (TRAINING, 1),
        "com.microsoft" => (MICROSOFT, i64::MAX),
        _ => (&[][..], i64::MAX),
    };
    let version = match opsets.get(domain) {
        Some(&v) => v,
        // Writers often forget the domains of operators they fused.
        None if domain == "com.microsoft" => 1,
        None => bail!(
            InvalidGraph,
            "operator {op} is of domain '{}', which the model does not import",
            if domain.is_empty() { "ai.onnx" } else { domain }
        ),
    };
    let row = table.binary_search_by(|(name, _)| (*name).cmp(op)).ok().map(|i| table[i].1);
    let Some(row) = row else {
        bail!(
            Unsupported,
            "{} is not known; add it to the file as a function of standard operators",
            describe(domain, op, version)
        );
    };
    ensure!(
        version <= newest,
        Unsupported,
        "{}: opsets up to {newest} are known; export the model with one of them",
        describe(domain, op, version)
    );
    match row.iter().rev().find(|(since, _)| *since <= version) {
        Some((_, import)) => Ok(Found { version, import: *import }),
        None => bail!(
            Unsupported,
            "{}: the operator exists since opset {}; import that or a newer one",
            describe(domain, op, version),
            row[0].0
        ),
    }
}

/// The default domain. In name order.
#[rustfmt::skip]
static AI_ONNX: &[Row] = &[
    ("Abs", &[(1, direct)]),
    ("Acos", &[(7, direct)]),
    ("Acosh", &[(9, direct)]),
    ("Add", &[(1, legacy::broadcast), (7, direct)]),
    ("AffineGrid", &[(20, direct)]),
    ("And", &[(1, legacy::broadcast), (7, direct)]),
    ("ArgMax", &[(1, direct)]),
    ("ArgMin", &[(1, direct)]),
    ("Asin", &[(7, direct)]),
    ("Asinh", &[(9, direct)]),
    ("Atan", &[(7, direct)]),
    ("Atanh", &[(9, direct)]),
    ("Attention", &[(23, direct)]),
    ("AveragePool", &[(1, direct)]),
    ("BatchNormalization", &[(1, legacy::batch_norm_1), (14, direct)]),
    ("Bernoulli", &[(15, direct)]),
    ("BitCast", &[(26, direct)]),
    ("BitShift", &[(11, direct)]),
    ("BitwiseAnd", &[(18, direct)]),
    ("BitwiseNot", &[(18, direct)]),
    ("BitwiseOr", &[(18, direct)]),
    ("BitwiseXor", &[(18, direct)]),
    ("BlackmanWindow", &[(17, direct)]),
    ("Cast", &[(1, legacy::cast_1), (6, direct)]),
    ("CastLike", &[(15, direct)]),
    ("CausalConvWithState", &[(27, direct)]),
    ("Ceil", &[(1, direct)]),
    ("Celu", &[(12, direct)]),
    ("CenterCropPad", &[(18, direct)]),
    ("Clip", &[(1, legacy::clip_1), (11, direct)]),
    ("Col2Im", &[(18, direct)]),
    ("Compress", &[(9, direct)]),
    ("Concat", &[(1, shape::concat_1), (4, direct)]),
    ("ConcatFromSequence", &[(11, direct)]),
    ("Constant", &[(1, legacy::constant)]),
    ("ConstantOfShape", &[(9, direct)]),
    ("Conv", &[(1, direct)]),
    ("ConvInteger", &[(10, direct)]),
    ("ConvTranspose", &[(1, direct)]),
    ("Cos", &[(7, direct)]),
    ("Cosh", &[(9, direct)]),
    ("CumProd", &[(26, direct)]),
    ("CumSum", &[(11, direct)]),
    ("DFT", &[(17, shape::dft_17), (20, direct)]),
    ("DeformConv", &[(19, direct)]),
    ("DepthToSpace", &[(1, direct)]),
    ("DequantizeLinear", &[(10, direct)]),
    ("Det", &[(11, direct)]),
    ("Div", &[(1, legacy::broadcast), (7, direct)]),
    ("Dropout", &[(1, legacy::dropout_1), (12, direct)]),
    ("DynamicQuantizeLinear", &[(11, direct)]),
    ("Einsum", &[(12, direct)]),
    ("Elu", &[(1, direct)]),
    ("Equal", &[(1, legacy::broadcast), (7, direct)]),
    ("Erf", &[(9, direct)]),
    ("Exp", &[(1, direct)]),
    ("Expand", &[(8, direct)]),
    ("EyeLike", &[(9, direct)]),
    ("Flatten", &[(1, direct)]),
    ("Floor", &[(1, direct)]),
    ("GRU", &[(1, legacy::rnn_1), (7, direct)]),
    ("Gather", &[(1, direct)]),
    ("GatherElements", &[(11, direct)]),
    ("GatherND", &[(11, direct)]),
    ("Gelu", &[(20, direct)]),
    ("Gemm", &[(1, legacy::gemm_1), (7, direct)]),
    ("GlobalAveragePool", &[(1, direct)]),
    ("GlobalLpPool", &[(1, legacy::lp_pool_1), (2, direct)]),
    ("GlobalMaxPool", &[(1, direct)]),
    ("Greater", &[(1, legacy::broadcast), (7, direct)]),
    ("GreaterOrEqual", &[(12, direct)]),
    ("GridSample", &[(16, resize::grid_sample_16), (20, direct)]),
    ("GroupNormalization", &[(18, shape::group_norm_18), (21, direct)]),
    ("HammingWindow", &[(17, direct)]),
    ("HannWindow", &[(17, direct)]),
    ("HardSigmoid", &[(1, direct)]),
    ("HardSwish", &[(14, direct)]),
    ("Hardmax", &[(1, shape::softmax_1), (13, direct)]),
    ("Identity", &[(1, direct)]),
    ("If", &[(1, body::if_)]),
    ("ImageDecoder", &[(20, direct)]),
    ("InstanceNormalization", &[(1, direct)]),
    ("IsInf", &[(10, direct)]),
    ("IsNaN", &[(9, direct)]),
    ("LRN", &[(1, direct)]),
    ("LSTM", &[(1, legacy::rnn_1), (7, direct)]),
    ("LayerNormalization", &[(17, direct)]),
    ("LeakyRelu", &[(1, direct)]),
    ("Less", &[(1, legacy::broadcast), (7, direct)]),
    ("LessOrEqual", &[(12, direct)]),
    ("LinearAttention", &[(27, direct)]),
    ("Log", &[(1, direct)]),
    ("LogSoftmax", &[(1, shape::softmax_1), (13, direct)]),
    ("Loop", &[(1, body::loop_)]),
    ("LpNormalization", &[(1, direct)]),
    ("LpPool", &[(1, legacy::lp_pool_1), (2, direct)]),
    ("MatMul", &[(1, direct)]),
    ("MatMulInteger", &[(10, direct)]),
    ("Max", &[(1, legacy::variadic)]),
    ("MaxPool", &[(1, direct)]),
    ("MaxRoiPool", &[(1, direct)]),
    ("MaxUnpool", &[(9, direct)]),
    ("Mean", &[(1, legacy::variadic)]),
    ("MeanVarianceNormalization", &[(9, direct)]),
    ("MelWeightMatrix", &[(17, direct)]),
    ("Min", &[(1, legacy::variadic)]),
    ("Mish", &[(18, direct)]),
    ("Mod", &[(10, direct)]),
    ("Mul", &[(1, legacy::broadcast), (7, direct)]),
    ("Multinomial", &[(7, direct)]),
    ("Neg", &[(1, direct)]),
    ("NegativeLogLikelihoodLoss", &[(12, direct)]),
    ("NonMaxSuppression", &[(10, direct)]),
    ("NonZero", &[(9, direct)]),
    ("Not", &[(1, direct)]),
    ("OneHot", &[(9, direct)]),
    ("Optional", &[(15, optional)]),
    ("OptionalGetElement", &[(15, direct)]),
    ("OptionalHasElement", &[(15, direct)]),
    ("Or", &[(1, legacy::broadcast), (7, direct)]),
    ("PRelu", &[(1, legacy::prelu_1), (7, direct)]),
    ("Pad", &[(1, shape::pad_2), (11, direct)]),
    ("Pow", &[(1, legacy::broadcast), (7, direct)]),
    ("QLinearConv", &[(10, direct)]),
    ("QLinearMatMul", &[(10, direct)]),
    ("QuantizeLinear", &[(10, direct)]),
    ("RMSNormalization", &[(23, direct)]),
    ("RNN", &[(1, legacy::rnn_1), (7, direct)]),
    ("RandomNormal", &[(1, direct)]),
    ("RandomNormalLike", &[(1, direct)]),
    ("RandomUniform", &[(1, direct)]),
    ("RandomUniformLike", &[(1, direct)]),
    ("Range", &[(11, direct)]),
    ("Reciprocal", &[(1, direct)]),
    ("ReduceL1", &[(1, shape::optional_axes), (18, direct)]),
    ("ReduceL2", &[(1, shape::optional_axes), (18, direct)]),
    ("ReduceLogSum", &[(1, shape::optional_axes), (18, direct)]),
    ("ReduceLogSumExp", &[(1, shape::optional_axes), (18, direct)]),
    ("ReduceMax", &[(1, shape::optional_axes), (18, direct)]),
    ("ReduceMean", &[(1, shape::optional_axes), (18, direct)]),
    ("ReduceMin", &[(1, shape::optional_axes), (18, direct)]),
    ("ReduceProd", &[(1, shape::optional_axes), (18, direct)]),
    ("ReduceSum", &[(1, shape::optional_axes), (13, direct)]),
    ("ReduceSumSquare", &[(1, shape::optional_axes), (18, direct)]),
    ("RegexFullMatch", &[(20, direct)]),
    ("Relu", &[(1, direct)]),
    ("Reshape", &[(1, shape::reshape_1), (5, direct)]),
    ("Resize", &[(10, resize::with_scales), (11, resize::resize_11)]),
    ("ReverseSequence", &[(10, direct)]),
    ("RoiAlign", &[(10, resize::roi_align_10), (16, direct)]),
    ("RotaryEmbedding", &[(23, direct)]),
    ("Round", &[(11, direct)]),
    ("STFT", &[(17, direct)]),
    ("Scan", &[(8, body::scan_8), (9, body::scan)]),
    ("Scatter", &[(9, shape::scatter)]),
    ("ScatterElements", &[(11, direct)]),
    ("ScatterND", &[(11, direct)]),
    ("Selu", &[(1, legacy::selu_1), (6, direct)]),
    ("SequenceAt", &[(11, direct)]),
    ("SequenceConstruct", &[(11, direct)]),
    ("SequenceEmpty", &[(11, direct)]),
    ("SequenceErase", &[(11, direct)]),
    ("SequenceInsert", &[(11, direct)]),
    ("SequenceLength", &[(11, direct)]),
    ("SequenceMap", &[(17, body::sequence_map)]),
    ("Shape", &[(1, direct)]),
    ("Shrink", &[(9, direct)]),
    ("Sigmoid", &[(1, direct)]),
    ("Sign", &[(9, direct)]),
    ("SimplifiedLayerNormalization", &[(1, contrib::simplified_layer_norm)]),
    ("Sin", &[(7, direct)]),
    ("Sinh", &[(9, direct)]),
    ("Size", &[(1, direct)]),
    ("Slice", &[(1, shape::slice_1), (10, direct)]),
    ("Softmax", &[(1, shape::softmax_1), (13, direct)]),
    ("SoftmaxCrossEntropyLoss", &[(12, direct)]),
    ("Softplus", &[(1, direct)]),
    ("Softsign", &[(1, direct)]),
    ("SpaceToDepth", &[(1, direct)]),
    ("Split", &[(1, shape::split_2), (13, shape::split_13)]),
    ("SplitToSequence", &[(11, direct)]),
    ("Sqrt", &[(1, direct)]),
    ("Squeeze", &[(1, shape::optional_axes), (13, direct)]),
    ("StringConcat", &[(20, direct)]),
    ("StringNormalizer", &[(10, direct)]),
    ("StringSplit", &[(20, direct)]),
    ("Sub", &[(1, legacy::broadcast), (7, direct)]),
    ("Sum", &[(1, legacy::variadic)]),
    ("SwiGLU", &[(28, direct)]),
    ("Swish", &[(24, direct)]),
    ("Tan", &[(7, direct)]),
    ("Tanh", &[(1, direct)]),
    ("TensorScatter", &[(24, direct)]),
    ("TfIdfVectorizer", &[(9, direct)]),
    ("ThresholdedRelu", &[(10, direct)]),
    ("Tile", &[(1, shape::tile_1), (6, direct)]),
    ("TopK", &[(1, shape::topk_1), (10, direct)]),
    ("Transpose", &[(1, direct)]),
    ("Trilu", &[(14, direct)]),
    ("Unique", &[(11, direct)]),
    ("Unsqueeze", &[(1, shape::required_axes), (13, direct)]),
    ("Upsample", &[(1, resize::upsample_1), (7, resize::upsample_7), (9, resize::with_scales)]),
    ("Where", &[(9, direct)]),
    ("Xor", &[(1, legacy::broadcast), (7, direct)]),
];

/// Classical machine learning. In name order.
#[rustfmt::skip]
static AI_ONNX_ML: &[Row] = &[
    ("ArrayFeatureExtractor", &[(1, ml::array_feature_extractor)]),
    ("Binarizer", &[(1, ml::binarizer)]),
    ("CastMap", &[(1, direct)]),
    ("CategoryMapper", &[(1, direct)]),
    ("DictVectorizer", &[(1, direct)]),
    ("FeatureVectorizer", &[(1, ml::feature_vectorizer)]),
    ("Imputer", &[(1, direct)]),
    ("LabelEncoder", &[(1, ml::label_encoder_1), (2, direct)]),
    ("LinearClassifier", &[(1, direct)]),
    ("LinearRegressor", &[(1, ml::linear_regressor)]),
    ("Normalizer", &[(1, direct)]),
    ("OneHotEncoder", &[(1, direct)]),
    ("SVMClassifier", &[(1, direct)]),
    ("SVMRegressor", &[(1, direct)]),
    ("Scaler", &[(1, ml::scaler)]),
    ("TreeEnsemble", &[(5, direct)]),
    ("TreeEnsembleClassifier", &[(1, direct)]),
    ("TreeEnsembleRegressor", &[(1, direct)]),
    ("ZipMap", &[(1, direct)]),
];

/// Operators on trial. In name order.
#[rustfmt::skip]
static PREVIEW: &[Row] = &[
    ("FlexAttention", &[(1, body::flex_attention)]),
];

/// Optimisers. In name order.
#[rustfmt::skip]
static TRAINING: &[Row] = &[
    ("Adagrad", &[(1, direct)]),
    ("Adam", &[(1, direct)]),
    ("Gradient", &[(1, direct)]),
    ("Momentum", &[(1, direct)]),
];

/// Fused operators of ONNX Runtime. In name order.
#[rustfmt::skip]
static MICROSOFT: &[Row] = &[
    ("Attention", &[(1, contrib_attention::attention)]),
    ("BiasGelu", &[(1, contrib::bias_gelu)]),
    ("DequantizeLinear", &[(1, direct)]),
    ("DynamicQuantizeMatMul", &[(1, contrib_quant::dynamic_quantize_matmul)]),
    ("FastGelu", &[(1, contrib::fast_gelu)]),
    ("FusedMatMul", &[(1, contrib::fused_matmul)]),
    ("Gelu", &[(1, contrib::gelu)]),
    ("GroupQueryAttention", &[(1, contrib_attention::group_query_attention)]),
    ("MatMulIntegerToFloat", &[(1, contrib_quant::matmul_integer_to_float)]),
    ("MatMulNBits", &[(1, contrib_quant::matmul_nbits)]),
    ("MultiHeadAttention", &[(1, contrib_attention::multi_head_attention)]),
    ("QGemm", &[(1, contrib_quant::qgemm)]),
    ("QLinearAdd", &[(1, contrib_quant::qlinear_add)]),
    ("QLinearAveragePool", &[(1, contrib_quant::qlinear_average_pool)]),
    ("QLinearConcat", &[(1, contrib_quant::qlinear_concat)]),
    ("QLinearGlobalAveragePool", &[(1, contrib_quant::qlinear_global_average_pool)]),
    ("QLinearLeakyRelu", &[(1, contrib_quant::qlinear_leaky_relu)]),
    ("QLinearMul", &[(1, contrib_quant::qlinear_mul)]),
    ("QLinearSigmoid", &[(1, contrib_quant::qlinear_sigmoid)]),
    ("QLinearSoftmax", &[(1, contrib_quant::qlinear_softmax)]),
    ("QuantizeLinear", &[(1, direct)]),
    ("QuickGelu", &[(1, contrib::quick_gelu)]),
    ("SimplifiedLayerNormalization", &[(1, contrib::simplified_layer_norm)]),
    ("SkipLayerNormalization", &[(1, contrib::skip_layer_norm)]),
    ("SkipSimplifiedLayerNormalization", &[(1, contrib::skip_simplified_layer_norm)]),
    ("TransposeMatMul", &[(1, contrib::fused_matmul)]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_so_that_find_can_search_them() {
        for table in [AI_ONNX, AI_ONNX_ML, PREVIEW, TRAINING, MICROSOFT] {
            assert!(table.windows(2).all(|w| w[0].0 < w[1].0));
            for (name, row) in table {
                assert!(!row.is_empty() && row.windows(2).all(|w| w[0].0 < w[1].0), "{name}");
            }
        }
    }

    #[test]
    fn unsupported_names_operator_domain_and_opset() {
        let opsets = Opsets::from([(String::new(), 6), ("x".to_owned(), 3)]);
        let fails = |domain: &str, op: &str, text: &str| {
            let e = find(domain, op, &opsets).err().unwrap();
            assert!(e.message().contains(text), "{e}");
        };
        fails("", "Nope", "operator Nope (domain ai.onnx, opset 6)");
        fails("", "Gelu", "since opset 20");
        fails("x", "Foo", "operator Foo (domain x, opset 3)");
        fails("ai.onnx.ml", "Scaler", "does not import");
        let newer = Opsets::from([(String::new(), 99)]);
        assert!(find("", "Add", &newer).err().unwrap().message().contains("up to 28"));
        assert_eq!(find("", "Clip", &opsets).unwrap().version, 6);
    }
}
