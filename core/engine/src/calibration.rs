//! Calibration data that needs a tokenizer.

use deepseek_import::package;
use deepseek_llm::Tokenizer;
use deepseek_runtime::precision::{Calibration, Sample};
use deepseek_tensor::{Result, Tensor, bail, ensure, err};
use std::path::Path;

/// Texts as calibration data for the encoder at `model`: a Hugging Face directory, a `.deepseek` file made
/// of one, or an `.onnx` file with a `tokenizer.json` beside it. Its inputs are told by their names.
///
/// # Errors
/// `InvalidArgument` if there is no text; `Unsupported` if the model has no tokenizer, or an input that is
/// neither `input_ids` nor `attention_mask` nor `token_type_ids`; what opening it reports.
pub fn calibration_texts(model: impl AsRef<Path>, texts: &[&str]) -> Result<Calibration> {
    let model = model.as_ref();
    ensure!(!texts.is_empty(), InvalidArgument, "the calibration data holds no text");
    let package = package::open(model)?;
    let file = match package.files.get(package::TOKENIZER) {
        Some(file) => file.clone(),
        None => {
            let beside = model.with_file_name(package::TOKENIZER);
            let bytes = std::fs::read(&beside).map_err(|e| {
                err!(
                    Unsupported,
                    "texts need a tokenizer, which '{}' does not have, nor is there one at '{}' \
                     ({e}); give calibration data as .npz",
                    model.display(),
                    beside.display()
                )
            })?;
            bytes.into()
        }
    };
    let mut tokenizer = Tokenizer::from_bytes(package::TOKENIZER, &file, None)?;
    let limit = package
        .encoder
        .as_ref()
        .map(|e| e.sentence.max_tokens.unwrap_or(usize::MAX).min(e.encoder.max_tokens));
    tokenizer.set_max_tokens(Some(limit.unwrap_or(512)))?;
    let graph = &package.graph;
    let one = |text: &&str| -> Result<Sample> {
        let encoding = tokenizer.encode_full(text)?;
        let n = encoding.ids.len();
        let row = |v: &[u32]| {
            Tensor::from_vec(&[1, n], v.iter().map(|&x| i64::from(x)).collect::<Vec<i64>>())
        };
        let input = |name: &str| match name {
            "input_ids" => row(&encoding.ids),
            "token_type_ids" => row(&encoding.type_ids),
            "attention_mask" => row(&vec![1; n]),
            _ => bail!(
                Unsupported,
                "there is no text for input '{name}'; give calibration data as .npz"
            ),
        };
        let inputs = graph.inputs().iter().map(|id| &graph.value(*id).name);
        inputs.map(|name| Ok((name.clone(), input(name)?))).collect()
    };
    Ok(Calibration::Samples(texts.iter().map(one).collect::<Result<_>>()?))
}
