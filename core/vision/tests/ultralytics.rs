//! Pipelines, resampling and colours against ultralytics, OpenCV, Pillow and torchvision.
//!
//! `tests/golden/vision/make.py` makes the files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek_graph::ops::{
    ImageCrop, ImageFilter, ImageFit, ImageResize, ImageToTensor, PixelFormat,
};
use deepseek_graph::{EvalArgs, Graph, NoSubgraphs, Operator, Type, Value};
use deepseek_runtime::{Cancel, Isa, Level, Plan, Runtime, RuntimeOptions, Session};
use deepseek_tensor::{DType, Tensor};
use deepseek_vision::{Detection, Image, Limits, Node, Pipeline, PixelLayout, YOLOv8};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::sync::Arc;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/vision")).join(name)
}

fn expected() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden("expected.json")).unwrap()).unwrap()
}

fn photograph(name: &serde_json::Value) -> Image {
    let name = name.as_str().unwrap();
    Image::open(golden(&format!("{name}.webp")), &Limits::default()).unwrap()
}

/// A part of an image, read where it lies by its stride.
fn crop(image: &Image, crop: &serde_json::Value) -> Image {
    let [x, y, w, h] = [0, 1, 2, 3].map(|i| crop[i].as_u64().unwrap() as usize);
    let stride = image.width() * 3;
    let data = &image.bytes().unwrap()[y * stride + x * 3..];
    Image::from_raw(PixelLayout::Rgb, w, h, stride, data).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn levels() -> impl Iterator<Item = Runtime> {
    Level::available().map(|level| {
        let isa = Isa::at(level);
        Runtime::new(&RuntimeOptions { threads: 2, isa, ..Default::default() }).unwrap()
    })
}

/// Output 0 of an operator on an image: by its reference, and by its kernel at every level, which must agree.
fn apply(op: impl Operator + Clone, image: &Image) -> Tensor {
    let inputs = [Some(Value::Tensor(image.tensor().clone()))];
    let args = EvalArgs { inputs: &inputs, outputs: 1, env: &NoSubgraphs };
    let want = op.eval(&args).unwrap()[0].tensor().unwrap().clone();
    for runtime in levels() {
        let mut graph = Graph::new("one");
        let extents: Vec<_> = ["height", "width"].map(deepseek_graph::Dim::sym).into();
        let shape = [extents, vec![3i64.into()]].concat();
        let x = graph.add_input("x", Type::tensor(DType::U8, shape)).unwrap();
        let y = graph.add_node("op", Arc::new(op.clone()), &[Some(x)], &[Some("y")]).unwrap();
        graph.add_output("y", y[0].unwrap()).unwrap();
        let plan = Arc::new(Plan::new(graph, &runtime).unwrap());
        let got = Session::new(plan).run_tensors(vec![image.tensor().clone()]).unwrap();
        assert_eq!(got[0].shape(), want.shape(), "{op:?} {:?}", runtime.isa());
        let same = got[0].as_bytes().unwrap() == want.as_bytes().unwrap();
        assert!(same, "{op:?}: the kernel at {:?} and the reference differ", runtime.isa());
    }
    want
}

#[test]
fn resizing_has_the_bits_of_opencv_and_pillow() {
    let expected = expected();
    for case in expected["resize"].as_array().unwrap() {
        let image = photograph(&case["image"]);
        let [width, height] = ["width", "height"].map(|k| case[k].as_i64().unwrap());
        for (name, filter) in
            [("opencv", ImageFilter::OpencvLinear), ("pillow", ImageFilter::PillowBilinear)]
        {
            let fit = ImageFit::Stretch;
            let op = ImageResize { height, width, fit, filter, shortest: 0, fill: 0 };
            let got = digest(apply(op, &image).as_bytes().unwrap());
            assert_eq!(got, case[name].as_str().unwrap(), "{name} {case}");
        }
        let op = ImageToTensor { color: PixelFormat::Grayscale, ..ImageToTensor::default() };
        let grey: Vec<u8> =
            apply(op, &image).as_slice::<f32>().unwrap().iter().map(|&x| x as u8).collect();
        assert_eq!(digest(&grey), case["grey"].as_str().unwrap(), "{case}");
    }
    let coffee = crop(&photograph(&"coffee".into()), &serde_json::json!([0, 0, 300, 200]));
    let op = ImageResize { height: 100, width: 150, ..ImageResize::default() };
    assert_eq!(
        digest(apply(op, &coffee).as_bytes().unwrap()),
        expected["halved"].as_str().unwrap()
    );
}

#[test]
fn the_middle_of_a_resized_image_is_torchvisions() {
    for case in expected()["torchvision"].as_array().unwrap() {
        let image = photograph(&case["image"]);
        let want = case["pixels"].as_str().unwrap();
        let filter = ImageFilter::PillowBilinear;
        let (fit, shortest) = (ImageFit::Shortest, 61);
        let op = ImageResize { height: 56, width: 56, shortest, fit, filter, fill: 0 };
        assert_eq!(digest(apply(op.clone(), &image).as_bytes().unwrap()), want, "{case}");
        let whole = apply(ImageResize { height: 0, width: 0, ..op }, &image);
        let &[h, w, _] = whole.shape() else { panic!("an image") };
        let whole = whole.as_slice::<u8>().unwrap();
        let whole = Image::from_raw(PixelLayout::Rgb, w, h, 0, whole).unwrap();
        let cut = apply(ImageCrop { height: 56, width: 56, fill: 0 }, &whole);
        assert_eq!(digest(cut.as_bytes().unwrap()), want, "{case}");
    }
}

#[test]
fn planes_of_luma_and_chroma_become_opencvs_rgb() {
    let expected = expected();
    for (name, case) in expected["yuv"].as_object().unwrap() {
        let image = photograph(&name.as_str().into());
        let [w, h] = ["width", "height"].map(|k| case[k].as_u64().unwrap() as usize);
        let planes = i420(&image, w, h);
        assert_eq!(digest(&planes), case["planes"].as_str().unwrap(), "{name}: the planes differ");
        let got = Image::from_raw(PixelLayout::I420, w, h, 0, &planes).unwrap();
        assert_eq!(digest(got.bytes().unwrap()), case["rgb"].as_str().unwrap(), "{name}");
        let (luma, chroma) = planes.split_at(w * h);
        let (u, v) = chroma.split_at(w * h / 4);
        let pairs: Vec<u8> = u.iter().zip(v).flat_map(|(&u, &v)| [u, v]).collect();
        let nv12 = [luma, &pairs[..]].concat();
        let got = Image::from_raw(PixelLayout::Nv12, w, h, 0, &nv12).unwrap();
        assert_eq!(digest(got.bytes().unwrap()), case["rgb"].as_str().unwrap(), "{name}");
    }
}

/// RGB to planes, as `cv2.COLOR_RGB2YUV_I420`.
fn i420(image: &Image, w: usize, h: usize) -> Vec<u8> {
    let stride = image.width() * 3;
    let bytes = image.bytes().unwrap();
    let at = |x: usize, y: usize| {
        let p = &bytes[y * stride + x * 3..][..3];
        [p[0], p[1], p[2]].map(i32::from)
    };
    let half = 1 << 19;
    let mut luma = Vec::new();
    let mut chroma = [Vec::new(), Vec::new()];
    for y in 0..h {
        for x in 0..w {
            let [r, g, b] = at(x, y);
            let sum = 269_484 * r + 528_482 * g + 102_760 * b + half + (16 << 20);
            luma.push((sum >> 20) as u8);
            if x % 2 == 0 && y % 2 == 0 {
                let u = -155_188 * r - 305_135 * g + 460_324 * b + half + (128 << 20);
                let v = 460_324 * r - 385_875 * g - 74_448 * b + half + (128 << 20);
                chroma[0].push((u >> 20) as u8);
                chroma[1].push((v >> 20) as u8);
            }
        }
    }
    let [u, v] = chroma;
    [luma, u, v].concat()
}

fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |c: &[f32; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let both = w * h;
    both / (area(a) + area(b) - both)
}

/// Whether a detection is that of a golden row.
fn is_same(got: &Detection, row: &[f32]) -> bool {
    let corners = [row[0], row[1], row[2], row[3]];
    // Boxes in the margin are clipped to lines, which have no overlap to speak of.
    let apart = got.corners.iter().zip(&corners).map(|(a, b)| (a - b).abs());
    let near = apart.fold(0.0, f32::max) < 0.01;
    got.class == row[5] as usize
        && (got.score - row[4]).abs() < 1e-3
        && (near || overlap(&got.corners, &corners) >= 0.99)
}

/// The bar is IoU ≥ 0.99 and scores within 1e-3; the sums of both engines differ in order only.
#[test]
fn detections_are_those_of_ultralytics() {
    let expected = expected();
    let labels: Vec<String> = expected["classes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c.as_str().unwrap().into())
        .collect();
    let mut compared = 0;
    let cases = expected["detect"].as_array().unwrap();
    for (runtime, model) in
        levels().flat_map(|r| ["detector", "detector11"].map(|m| (r.clone(), m)))
    {
        let pipeline = Pipeline::load(golden(&format!("{model}.onnx")), &runtime).unwrap();
        pipeline.set_labels(labels.clone());
        for case in cases.iter().filter(|c| c["model"] == model) {
            let options = &case["options"];
            let settings = serde_json::json!({
                "conf_thresh": options["conf"], "iou_thresh": options["iou"],
                "classes": options.get("classes").cloned().unwrap_or_else(|| serde_json::json!([])),
                "max_det": options.get("max_det").cloned().unwrap_or_else(|| 300.into()),
            });
            let node = Node::from_json("YOLOv8", settings.clone()).unwrap();
            let same =
                pipeline.nodes().first().is_some_and(|(_, n)| n.settings() == node.settings());
            if !same {
                let _ = pipeline.remove_node("detect");
                pipeline.add_node("detect", node).unwrap();
            }
            let image = crop(&photograph(&case["image"]), &case["crop"]);
            let found = &pipeline.run(&[image], &Cancel::new()).unwrap()[0];
            let want = case["rows"].as_array().unwrap();
            let place = format!(
                "{model} {} {} {} at {:?}",
                case["image"],
                case["crop"],
                settings,
                runtime.isa()
            );
            assert_eq!(found.detections.len(), want.len(), "{place}");
            // Scores that differ in their last bits only may change places, so each box is looked for.
            let mut left = found.detections.clone();
            for want in want {
                let want: Vec<f32> =
                    want.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
                let at = left.iter().position(|got| is_same(got, &want));
                let at = at.unwrap_or_else(|| panic!("{place}: {want:?} is not among {left:?}"));
                left.remove(at);
                compared += 1;
            }
        }
    }
    assert!(compared > 200, "only {compared} detections were compared");
}

/// Images of a call have nothing to do with each other, nor with the number of threads.
#[test]
fn a_batch_of_different_sizes_has_the_bits_of_its_images_alone() {
    let names = ["astronaut", "coffee", "china"];
    let images: Vec<Image> = names.iter().map(|&n| photograph(&n.into())).collect();
    let mut all = Vec::new();
    for threads in [1, 3] {
        let options = RuntimeOptions { threads, ..Default::default() };
        let runtime = Runtime::new(&options).unwrap();
        let pipeline = Pipeline::load(golden("detector.onnx"), &runtime).unwrap();
        pipeline.add_node("detect", YOLOv8 { conf_thresh: 0.05, ..Default::default() }).unwrap();
        let together = pipeline.run(&images, &Cancel::new()).unwrap();
        for (image, together) in images.iter().zip(&together) {
            let alone = pipeline.run(std::slice::from_ref(image), &Cancel::new()).unwrap();
            assert_eq!(alone[0].detections, together.detections);
            assert_eq!((together.width, together.height), (image.width(), image.height()));
        }
        all.push(together.into_iter().map(|p| p.detections).collect::<Vec<_>>());
    }
    assert_eq!(all[0], all[1]);
    assert!(all[0].iter().any(|d| !d.is_empty()));
}
