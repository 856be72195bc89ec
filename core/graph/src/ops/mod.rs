//! The operators, one file each (or one per family that shares its rule).
//!
//! To add one: a file here with [`op!`](crate::op) and an [`Operator`](crate::Operator)
//! impl, and one line in the table below. The set follows the newest ONNX operator
//! set in names and meaning; importers map older forms and other formats onto it.

pub mod util;

mod activation;
mod argminmax;
mod arith;
mod attention;
mod batch_norm;
mod bitwise;
mod cached_attention;
mod cast;
mod col2im;
mod concat;
mod control;
mod conv;
mod conv_int;
mod cumulative;
mod deform_conv;
mod det;
mod detect;
mod dft;
mod dropout;
mod einsum;
mod expand;
mod feature;
mod flex_attention;
mod fused_conv;
mod fused_matmul;
mod gather;
mod gemm;
mod generate;
mod grid_sample;
mod image;
mod image_decoder;
mod label_encoder;
mod linear_attention;
mod logic;
mod loss;
mod lrn;
mod matmul;
mod matmul_nbits;
mod max_unpool;
mod non_max_suppression;
mod norm;
mod one_hot;
mod optimizer_step;
mod optional;
mod packed_attention;
mod pad;
mod pointwise;
mod pool;
mod quant_add;
mod quant_matmul;
mod quantize;
mod recurrent;
mod reduce;
mod region;
mod region_step;
mod reshape;
mod resize;
mod reverse_sequence;
mod roi;
mod rotary;
mod sample;
mod scatter;
mod segment;
mod select;
mod selection;
mod sequence;
mod shape_of;
mod signal;
mod slice;
mod softmax;
mod space_depth;
mod strings;
mod tfidf;
mod topk;
mod tree_ensemble;
mod trilu;
mod unary;
mod variadic;

pub use activation::{
    Celu, Elu, Gelu, GeluApproximation, HardSigmoid, HardSwish, LeakyRelu, Mish, PRelu, Selu,
    Shrink, SwiGLU, Swish, ThresholdedRelu,
};
pub use argminmax::{ArgMax, ArgMin};
pub use arith::{Add, Div, Mod, Mul, Pow, Sub};
pub use attention::Attention;
pub use batch_norm::{BatchNormalization, GroupNormalization, InstanceNormalization};
pub use bitwise::{BitShift, BitwiseAnd, BitwiseNot, BitwiseOr, BitwiseXor};
pub use cached_attention::{CachedAttention, past_rows};
pub use cast::{BitCast, Cast, CastLike};
pub use col2im::Col2Im;
pub use concat::{Concat, Split};
pub use control::{Counts, If, Loop, RaggedBlocks, RowBlocks, Scan, SequenceBlock, SequenceMap};
pub use conv::{Conv, ConvTranspose};
pub use conv_int::{ConvInteger, ConvIntegerToFloat, QLinearConv};
pub use cumulative::{CumProd, CumSum};
pub use deform_conv::DeformConv;
pub use det::Det;
pub use detect::DetectBoxes;
pub use dft::{DFT, STFT};
pub use dropout::{Dropout, Identity};
pub use einsum::Einsum;
pub use expand::{Expand, Tile};
pub use feature::{ArrayFeatureExtractor, Binarizer};
pub use flex_attention::FlexAttention;
pub use fused_conv::FusedConv;
pub use fused_matmul::FusedMatMul;
pub use gather::{Gather, GatherElements, GatherND};
pub use gemm::Gemm;
pub use generate::{ConstantOfShape, EyeLike, Range};
pub use grid_sample::{AffineGrid, GridSample};
pub use image::{
    ImageCrop, ImageFilter, ImageFit, ImagePad, ImageResize, ImageTable, ImageToTensor,
    ImageWindow, MAX_IMAGE_SIDE, PILLOW_BITS, luma, placement,
};
pub use image_decoder::{ImageDecoder, PixelFormat};
pub use label_encoder::LabelEncoder;
pub use linear_attention::{CausalConvWithState, LinearAttention};
pub use logic::{And, Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Not, Or, Xor};
pub use loss::{NegativeLogLikelihoodLoss, SoftmaxCrossEntropyLoss};
pub use lrn::LRN;
pub use matmul::MatMul;
pub use matmul_nbits::{GroupedWeights, MatMulNBits};
pub use max_unpool::MaxUnpool;
pub use non_max_suppression::NonMaxSuppression;
pub use norm::{LayerNormalization, LpNormalization, MeanVarianceNormalization, RMSNormalization};
pub use one_hot::OneHot;
pub use optimizer_step::{Adagrad, Adam, Momentum};
pub use optional::{Optional, OptionalGetElement, OptionalHasElement};
pub use packed_attention::PackedAttention;
pub use pad::{CenterCropPad, Pad};
pub use pointwise::Pointwise;
pub use pool::{AveragePool, GlobalAveragePool, GlobalLpPool, GlobalMaxPool, LpPool, MaxPool};
pub use quant_add::QLinearAdd;
pub use quant_matmul::{MatMulInteger, MatMulIntegerToFloat, QLinearMatMul};
pub use quantize::{DequantizeLinear, DynamicQuantizeLinear, DynamicQuantizeRows, QuantizeLinear};
pub use recurrent::{GRU, LSTM, RNN};
pub use reduce::{
    ReduceL1, ReduceL2, ReduceLogSum, ReduceLogSumExp, ReduceMax, ReduceMean, ReduceMin,
    ReduceProd, ReduceSum, ReduceSumSquare,
};
pub use region::{Operand, Region, RegionStep};
pub use region_step::StepFunction;
pub use reshape::{Flatten, Reshape, Squeeze, Transpose, Unsqueeze};
pub use resize::Resize;
pub use reverse_sequence::ReverseSequence;
pub use roi::{MaxRoiPool, RoiAlign};
pub use rotary::RotaryEmbedding;
pub use sample::{
    Bernoulli, Multinomial, RandomNormal, RandomNormalLike, RandomUniform, RandomUniformLike,
};
pub use scatter::{ScatterElements, ScatterND, TensorScatter};
pub use segment::{
    SegmentCumSum, SegmentGather, SegmentIds, SegmentMatMul, SegmentPositions, SegmentReduce,
    SegmentReduction, segment_rows, segments,
};
pub use select::Where;
pub use selection::{Compress, NonZero, Unique};
pub use sequence::{
    ConcatFromSequence, SequenceAt, SequenceConstruct, SequenceEmpty, SequenceErase,
    SequenceInsert, SequenceLength, SplitToSequence,
};
pub use shape_of::{Shape, Size};
pub use signal::{BlackmanWindow, HammingWindow, HannWindow, MelWeightMatrix};
pub use slice::Slice;
pub use softmax::{Hardmax, LogSoftmax, Softmax};
pub use space_depth::{DepthToSpace, SpaceToDepth};
pub use strings::{RegexFullMatch, StringConcat, StringNormalizer, StringSplit};
pub use tfidf::TfIdfVectorizer;
pub use topk::TopK;
pub use tree_ensemble::TreeEnsemble;
pub use trilu::Trilu;
pub use unary::{
    Abs, Acos, Acosh, Asin, Asinh, Atan, Atanh, Ceil, Cos, Cosh, Erf, Exp, Floor, IsInf, IsNaN,
    Log, Neg, Reciprocal, Relu, Round, Sigmoid, Sign, Sin, Sinh, Softplus, Softsign, Sqrt, Tan,
    Tanh,
};
pub use variadic::{Clip, Max, Mean, Min, Sum};

use crate::OpDef;

/// Every operator, in name order.
static OPS: &[OpDef] = &[
    OpDef::of::<Abs>(),
    OpDef::of::<Acos>(),
    OpDef::of::<Acosh>(),
    OpDef::of::<Adagrad>(),
    OpDef::of::<Adam>(),
    OpDef::of::<Add>(),
    OpDef::of::<AffineGrid>(),
    OpDef::of::<And>(),
    OpDef::of::<ArgMax>(),
    OpDef::of::<ArgMin>(),
    OpDef::of::<ArrayFeatureExtractor>(),
    OpDef::of::<Asin>(),
    OpDef::of::<Asinh>(),
    OpDef::of::<Atan>(),
    OpDef::of::<Atanh>(),
    OpDef::of::<Attention>(),
    OpDef::of::<AveragePool>(),
    OpDef::of::<BatchNormalization>(),
    OpDef::of::<Bernoulli>(),
    OpDef::of::<Binarizer>(),
    OpDef::of::<BitCast>(),
    OpDef::of::<BitShift>(),
    OpDef::of::<BitwiseAnd>(),
    OpDef::of::<BitwiseNot>(),
    OpDef::of::<BitwiseOr>(),
    OpDef::of::<BitwiseXor>(),
    OpDef::of::<BlackmanWindow>(),
    OpDef::of::<CachedAttention>(),
    OpDef::of::<Cast>(),
    OpDef::of::<CastLike>(),
    OpDef::of::<CausalConvWithState>(),
    OpDef::of::<Ceil>(),
    OpDef::of::<Celu>(),
    OpDef::of::<CenterCropPad>(),
    OpDef::of::<Clip>(),
    OpDef::of::<Col2Im>(),
    OpDef::of::<Compress>(),
    OpDef::of::<Concat>(),
    OpDef::of::<ConcatFromSequence>(),
    OpDef::of::<ConstantOfShape>(),
    OpDef::of::<Conv>(),
    OpDef::of::<ConvInteger>(),
    OpDef::of::<ConvIntegerToFloat>(),
    OpDef::of::<ConvTranspose>(),
    OpDef::of::<Cos>(),
    OpDef::of::<Cosh>(),
    OpDef::of::<CumProd>(),
    OpDef::of::<CumSum>(),
    OpDef::of::<DFT>(),
    OpDef::of::<DeformConv>(),
    OpDef::of::<DepthToSpace>(),
    OpDef::of::<DequantizeLinear>(),
    OpDef::of::<Det>(),
    OpDef::of::<DetectBoxes>(),
    OpDef::of::<Div>(),
    OpDef::of::<Dropout>(),
    OpDef::of::<DynamicQuantizeLinear>(),
    OpDef::of::<DynamicQuantizeRows>(),
    OpDef::of::<Einsum>(),
    OpDef::of::<Elu>(),
    OpDef::of::<Equal>(),
    OpDef::of::<Erf>(),
    OpDef::of::<Exp>(),
    OpDef::of::<Expand>(),
    OpDef::of::<EyeLike>(),
    OpDef::of::<Flatten>(),
    OpDef::of::<FlexAttention>(),
    OpDef::of::<Floor>(),
    OpDef::of::<FusedConv>(),
    OpDef::of::<FusedMatMul>(),
    OpDef::of::<GRU>(),
    OpDef::of::<Gather>(),
    OpDef::of::<GatherElements>(),
    OpDef::of::<GatherND>(),
    OpDef::of::<Gelu>(),
    OpDef::of::<Gemm>(),
    OpDef::of::<GlobalAveragePool>(),
    OpDef::of::<GlobalLpPool>(),
    OpDef::of::<GlobalMaxPool>(),
    OpDef::of::<Greater>(),
    OpDef::of::<GreaterOrEqual>(),
    OpDef::of::<GridSample>(),
    OpDef::of::<GroupNormalization>(),
    OpDef::of::<HammingWindow>(),
    OpDef::of::<HannWindow>(),
    OpDef::of::<HardSigmoid>(),
    OpDef::of::<HardSwish>(),
    OpDef::of::<Hardmax>(),
    OpDef::of::<Identity>(),
    OpDef::of::<If>(),
    OpDef::of::<ImageCrop>(),
    OpDef::of::<ImageDecoder>(),
    OpDef::of::<ImagePad>(),
    OpDef::of::<ImageResize>(),
    OpDef::of::<ImageToTensor>(),
    OpDef::of::<InstanceNormalization>(),
    OpDef::of::<IsInf>(),
    OpDef::of::<IsNaN>(),
    OpDef::of::<LRN>(),
    OpDef::of::<LSTM>(),
    OpDef::of::<LabelEncoder>(),
    OpDef::of::<LayerNormalization>(),
    OpDef::of::<LeakyRelu>(),
    OpDef::of::<Less>(),
    OpDef::of::<LessOrEqual>(),
    OpDef::of::<LinearAttention>(),
    OpDef::of::<Log>(),
    OpDef::of::<LogSoftmax>(),
    OpDef::of::<Loop>(),
    OpDef::of::<LpNormalization>(),
    OpDef::of::<LpPool>(),
    OpDef::of::<MatMul>(),
    OpDef::of::<MatMulInteger>(),
    OpDef::of::<MatMulIntegerToFloat>(),
    OpDef::of::<MatMulNBits>(),
    OpDef::of::<Max>(),
    OpDef::of::<MaxPool>(),
    OpDef::of::<MaxRoiPool>(),
    OpDef::of::<MaxUnpool>(),
    OpDef::of::<Mean>(),
    OpDef::of::<MeanVarianceNormalization>(),
    OpDef::of::<MelWeightMatrix>(),
    OpDef::of::<Min>(),
    OpDef::of::<Mish>(),
    OpDef::of::<Mod>(),
    OpDef::of::<Momentum>(),
    OpDef::of::<Mul>(),
    OpDef::of::<Multinomial>(),
    OpDef::of::<Neg>(),
    OpDef::of::<NegativeLogLikelihoodLoss>(),
    OpDef::of::<NonMaxSuppression>(),
    OpDef::of::<NonZero>(),
    OpDef::of::<Not>(),
    OpDef::of::<OneHot>(),
    OpDef::of::<Optional>(),
    OpDef::of::<OptionalGetElement>(),
    OpDef::of::<OptionalHasElement>(),
    OpDef::of::<Or>(),
    OpDef::of::<PRelu>(),
    OpDef::of::<PackedAttention>(),
    OpDef::of::<Pad>(),
    OpDef::of::<Pow>(),
    OpDef::of::<QLinearAdd>(),
    OpDef::of::<QLinearConv>(),
    OpDef::of::<QLinearMatMul>(),
    OpDef::of::<QuantizeLinear>(),
    OpDef::of::<RMSNormalization>(),
    OpDef::of::<RNN>(),
    OpDef::of::<RaggedBlocks>(),
    OpDef::of::<RandomNormal>(),
    OpDef::of::<RandomNormalLike>(),
    OpDef::of::<RandomUniform>(),
    OpDef::of::<RandomUniformLike>(),
    OpDef::of::<Range>(),
    OpDef::of::<Reciprocal>(),
    OpDef::of::<ReduceL1>(),
    OpDef::of::<ReduceL2>(),
    OpDef::of::<ReduceLogSum>(),
    OpDef::of::<ReduceLogSumExp>(),
    OpDef::of::<ReduceMax>(),
    OpDef::of::<ReduceMean>(),
    OpDef::of::<ReduceMin>(),
    OpDef::of::<ReduceProd>(),
    OpDef::of::<ReduceSum>(),
    OpDef::of::<ReduceSumSquare>(),
    OpDef::of::<RegexFullMatch>(),
    OpDef::of::<Region>(),
    OpDef::of::<Relu>(),
    OpDef::of::<Reshape>(),
    OpDef::of::<Resize>(),
    OpDef::of::<ReverseSequence>(),
    OpDef::of::<RoiAlign>(),
    OpDef::of::<RotaryEmbedding>(),
    OpDef::of::<Round>(),
    OpDef::of::<RowBlocks>(),
    OpDef::of::<STFT>(),
    OpDef::of::<Scan>(),
    OpDef::of::<ScatterElements>(),
    OpDef::of::<ScatterND>(),
    OpDef::of::<SegmentCumSum>(),
    OpDef::of::<SegmentGather>(),
    OpDef::of::<SegmentIds>(),
    OpDef::of::<SegmentMatMul>(),
    OpDef::of::<SegmentPositions>(),
    OpDef::of::<SegmentReduce>(),
    OpDef::of::<Selu>(),
    OpDef::of::<SequenceAt>(),
    OpDef::of::<SequenceConstruct>(),
    OpDef::of::<SequenceEmpty>(),
    OpDef::of::<SequenceErase>(),
    OpDef::of::<SequenceInsert>(),
    OpDef::of::<SequenceLength>(),
    OpDef::of::<SequenceMap>(),
    OpDef::of::<Shape>(),
    OpDef::of::<Shrink>(),
    OpDef::of::<Sigmoid>(),
    OpDef::of::<Sign>(),
    OpDef::of::<Sin>(),
    OpDef::of::<Sinh>(),
    OpDef::of::<Size>(),
    OpDef::of::<Slice>(),
    OpDef::of::<Softmax>(),
    OpDef::of::<SoftmaxCrossEntropyLoss>(),
    OpDef::of::<Softplus>(),
    OpDef::of::<Softsign>(),
    OpDef::of::<SpaceToDepth>(),
    OpDef::of::<Split>(),
    OpDef::of::<SplitToSequence>(),
    OpDef::of::<Sqrt>(),
    OpDef::of::<Squeeze>(),
    OpDef::of::<StringConcat>(),
    OpDef::of::<StringNormalizer>(),
    OpDef::of::<StringSplit>(),
    OpDef::of::<Sub>(),
    OpDef::of::<Sum>(),
    OpDef::of::<SwiGLU>(),
    OpDef::of::<Swish>(),
    OpDef::of::<Tan>(),
    OpDef::of::<Tanh>(),
    OpDef::of::<TensorScatter>(),
    OpDef::of::<TfIdfVectorizer>(),
    OpDef::of::<ThresholdedRelu>(),
    OpDef::of::<Tile>(),
    OpDef::of::<TopK>(),
    OpDef::of::<Transpose>(),
    OpDef::of::<TreeEnsemble>(),
    OpDef::of::<Trilu>(),
    OpDef::of::<Unique>(),
    OpDef::of::<Unsqueeze>(),
    OpDef::of::<Where>(),
    OpDef::of::<Xor>(),
];

/// The definition of the operator `name`.
pub fn find(name: &str) -> Option<&'static OpDef> {
    OPS.binary_search_by(|def| def.name.cmp(name)).ok().map(|i| &OPS[i])
}

/// Every operator, in name order.
pub fn all() -> impl Iterator<Item = &'static OpDef> {
    OPS.iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_find_can_search_it() {
        assert!(OPS.windows(2).all(|w| w[0].name < w[1].name));
        assert!(all().all(|def| find(def.name).is_some()));
    }
}
