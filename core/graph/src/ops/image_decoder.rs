//! Decoding of image files.

use crate::{Dim, EvalArgs, Fact, InferArgs, Operator, Value, attr_enum, op};
use deepseek_tensor::{DType, Result, bail, ensure};

attr_enum! {
    /// Channels of a decoded image.
    PixelFormat {
        /// Red, green, blue.
        Rgb = "RGB",
        /// Blue, green, red.
        Bgr = "BGR",
        /// One channel.
        Grayscale = "Grayscale",
    }
}

op! {
    /// Bytes of an image file, `u8[n]`, to pixels, `u8[height, width, channels]`. A graph
    /// may hold this operator, but this library has no image decoders: it cannot be run.
    /// (ONNX ImageDecoder-20.)
    ImageDecoder { pixel_format: PixelFormat = PixelFormat::Rgb }
}

impl Operator for ImageDecoder {
    fn infer(&self, args: &InferArgs) -> Result<Vec<Fact>> {
        args.expect_inputs(1, 1)?;
        ensure!(
            args.dtype(0)? == DType::U8,
            DTypeMismatch,
            "an image file must be u8, got {}",
            args.dtype(0)?
        );
        let channels = if self.pixel_format == PixelFormat::Grayscale { 1i64 } else { 3 };
        let shape = [args.fresh("height"), args.fresh("width"), Dim::from(channels)];
        Ok(vec![Fact::tensor(DType::U8, shape)])
    }

    fn eval(&self, _: &EvalArgs) -> Result<Vec<Value>> {
        bail!(
            Unsupported,
            "ImageDecoder: image files cannot be decoded in the graph; decode before the run and feed pixels"
        )
    }
}
