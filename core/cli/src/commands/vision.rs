//! `deepseek detect` and `deepseek classify`.

use crate::options::{ModelArgs, TimeoutArgs};
use crate::say;
use deepseek::{
    Code, Error, Image, Limits, Node, NormScale, Prediction, Resize, Result, TopK, VisionPipeline,
    YOLOv8,
};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What both commands take.
#[derive(clap::Args)]
pub struct Common {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    timeout: TimeoutArgs,
    /// JPEG, PNG, WebP or BMP files.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// A file with the name of a class a line.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Write the first image with what was found drawn over it, as PNG; with several images, a folder.
    #[arg(long, value_name = "PNG")]
    overlay: Option<PathBuf>,
    /// Write model, nodes and labels to a .deepseek file, which then needs no options.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Print one JSON object a line for each image.
    #[arg(long)]
    json: bool,
}

/// Options of `detect`.
#[derive(clap::Args)]
pub struct DetectArgs {
    #[command(flatten)]
    common: Common,
    /// Least score [default: what the file says, else 0.25].
    #[arg(long, value_name = "X")]
    conf: Option<f32>,
    /// Greatest overlap of two boxes of a class [default: what the file says, else 0.7].
    #[arg(long, value_name = "X")]
    iou: Option<f32>,
    /// Most boxes of an image [default: what the file says, else 300].
    #[arg(long, value_name = "N")]
    max_det: Option<u32>,
    /// Classes that count, by number [default: what the file says, else all].
    #[arg(long, value_name = "N,N,…", value_delimiter = ',')]
    classes: Option<Vec<u32>>,
}

/// Options of `classify`.
#[derive(clap::Args)]
pub struct ClassifyArgs {
    #[command(flatten)]
    common: Common,
    /// How many classes.
    #[arg(long, default_value_t = 5, value_name = "N")]
    top: u32,
    /// Make the scores sum to 1; for models that do not end in a softmax.
    #[arg(long)]
    softmax: bool,
    /// Resize so that the shorter side has this many pixels, as torchvision does, before the middle is taken.
    #[arg(long, default_value_t = 256, value_name = "N")]
    resize: u32,
    /// Pixels of the middle that the model sees.
    #[arg(long, default_value_t = 224, value_name = "N")]
    crop: u32,
    /// Mean of each channel, 0 to 1.
    #[arg(long, value_delimiter = ',', default_values_t = [0.485, 0.456, 0.406])]
    mean: Vec<f32>,
    /// Standard deviation of each channel.
    #[arg(long, value_delimiter = ',', default_values_t = [0.229, 0.224, 0.225])]
    std: Vec<f32>,
}

/// Runs `detect`.
pub fn detect(args: &DetectArgs, out: &mut impl Write) -> Result<()> {
    let pipeline = args.common.load()?;
    let detector = pipeline.nodes().into_iter().find_map(|(name, node)| match node {
        Node::YOLOv8(n) => Some((name, n)),
        _ => None,
    });
    let (name, mut node) = detector.unwrap_or_else(|| ("detect".to_owned(), YOLOv8::default()));
    node.conf_thresh = args.conf.unwrap_or(node.conf_thresh);
    node.iou_thresh = args.iou.unwrap_or(node.iou_thresh);
    node.max_det = args.max_det.unwrap_or(node.max_det);
    node.classes = args.classes.clone().unwrap_or(node.classes);
    if pipeline.nodes().iter().any(|(n, _)| *n == name) {
        pipeline.remove_node(&name)?;
    }
    pipeline.add_node(&name, node)?;
    args.common.run(&pipeline, out)
}

/// Runs `classify`.
pub fn classify(args: &ClassifyArgs, out: &mut impl Write) -> Result<()> {
    let pipeline = args.common.load()?;
    if pipeline.nodes().is_empty() {
        let filter = deepseek::Filter::Pillow;
        pipeline
            .add_node("resize", Resize { shortest: args.resize, filter, ..Default::default() })?;
        let (width, height) = (args.crop, args.crop);
        pipeline.add_node("crop", deepseek::Crop { width, height, fill: 0 })?;
        let (mean, std) = (args.mean.clone(), args.std.clone());
        pipeline.add_node("normalize", NormScale { mean, std, ..Default::default() })?;
    }
    if !pipeline.nodes().iter().any(|(_, n)| matches!(n, Node::TopK(_))) {
        pipeline.add_node("classes", TopK { k: args.top, softmax: args.softmax })?;
    }
    args.common.run(&pipeline, out)
}

impl Common {
    fn load(&self) -> Result<VisionPipeline> {
        let pipeline = VisionPipeline::load(&self.model.model, &self.model.runtime()?)?;
        if let Some(path) = &self.labels {
            let text = std::fs::read_to_string(path).map_err(|e| file_error("read", path, &e))?;
            pipeline.set_labels(text.lines().map(str::to_owned).collect());
        }
        Ok(pipeline)
    }

    fn run(&self, pipeline: &VisionPipeline, out: &mut impl Write) -> Result<()> {
        if let Some(path) = &self.save {
            pipeline.save(path)?;
        }
        let labels = pipeline.labels();
        let options = self.timeout.run_options();
        for path in &self.images {
            let image = Image::open(path, &Limits::default())?;
            let found = pipeline.run(std::slice::from_ref(&image), &options)?;
            let found = found.first().ok_or_else(|| {
                Error::new(Code::Internal, "a run of an image without a prediction")
            })?;
            if let Some(to) = &self.overlay {
                let to = match self.images.len() {
                    1 => to.clone(),
                    _ => {
                        std::fs::create_dir_all(to).map_err(|e| file_error("make", to, &e))?;
                        to.join(path.file_stem().unwrap_or_default()).with_extension("png")
                    }
                };
                let png = pipeline.draw(&image, found)?;
                std::fs::write(&to, png).map_err(|e| file_error("write", &to, &e))?;
            }
            print(self.json, path, found, &labels, out)?;
        }
        Ok(())
    }
}

fn print(
    as_json: bool,
    path: &Path,
    found: &Prediction,
    labels: &[String],
    out: &mut impl Write,
) -> Result<()> {
    if as_json {
        let mut object = deepseek::json::prediction(found, labels);
        object["image"] = json!(path.display().to_string());
        return say(out, object);
    }
    let name = |class: usize| labels.get(class).cloned().unwrap_or_else(|| class.to_string());
    say(out, format_args!("{} ({} x {})", path.display(), found.width, found.height))?;
    for d in &found.detections {
        let [x1, y1, x2, y2] = d.corners;
        let label = name(d.class);
        let score = d.score;
        say(out, format_args!("  {score:.3}  {label:<16} {x1:.1} {y1:.1} {x2:.1} {y2:.1}"))?;
    }
    for c in &found.classes {
        say(out, format_args!("  {:.4}  {}", c.score, name(c.class)))?;
    }
    Ok(())
}

fn file_error(verb: &str, path: &Path, e: &std::io::Error) -> Error {
    Error::new(Code::Io, format!("cannot {verb} '{}': {e}", path.display()))
}
