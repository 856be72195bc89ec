//! What may be wrong with image files, raw buffers, nodes and packages, and what is said about it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use deepseek_graph::{Attrs, Dim, Graph, Type, build_op};
use deepseek_runtime::{Cancel, Runtime, RuntimeOptions};
use deepseek_tensor::{Code, DType, Tensor};
use deepseek_vision::{
    Crop, GraphNode, Image, Limits, Node, NormScale, Pipeline, PixelLayout, Resize, TopK, YOLOv8,
    draw,
};
use std::path::PathBuf;
use std::sync::Arc;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/vision")).join(name)
}

fn runtime() -> Runtime {
    Runtime::new(&RuntimeOptions { threads: 1, ..Default::default() }).unwrap()
}

fn detector() -> Pipeline {
    Pipeline::load(golden("detector.onnx"), &runtime()).unwrap()
}

/// A ramp of colours.
fn ramp(w: usize, h: usize) -> Image {
    let pixel = |i: usize| [(i % w * 4) as u8, (i / w * 6) as u8, 128];
    let bytes: Vec<u8> = (0..w * h).flat_map(pixel).collect();
    Image::from_raw(PixelLayout::Rgb, w, h, 0, &bytes).unwrap()
}

/// Chunks of a PNG file whose header says what it likes.
fn png(w: u32, h: u32) -> Vec<u8> {
    let good = draw::to_png(&ramp(4, 4)).unwrap();
    let mut out = good.clone();
    out[16..20].copy_from_slice(&w.to_be_bytes());
    out[20..24].copy_from_slice(&h.to_be_bytes());
    let crc = crc32(&out[12..29]);
    out[29..33].copy_from_slice(&crc.to_be_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |mut crc, &b| {
        crc ^= u32::from(b);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
        crc
    })
}

/// An uncompressed BMP file of 24 bits a pixel.
fn bmp(image: &Image, claim: (i32, i32)) -> Vec<u8> {
    let (w, h) = (image.width(), image.height());
    let row = (3 * w).next_multiple_of(4);
    let mut out = b"BM".to_vec();
    out.extend(((54 + row * h) as u32).to_le_bytes());
    out.extend([0; 4]);
    out.extend(54u32.to_le_bytes());
    out.extend(40u32.to_le_bytes());
    out.extend(claim.0.to_le_bytes());
    out.extend(claim.1.to_le_bytes());
    out.extend(1u16.to_le_bytes());
    out.extend(24u16.to_le_bytes());
    out.extend([0; 24]);
    for y in (0..h).rev() {
        let mut line: Vec<u8> = Vec::new();
        for p in image.bytes().unwrap()[y * w * 3..][..w * 3].chunks_exact(3) {
            line.extend([p[2], p[1], p[0]]);
        }
        line.resize(row, 0);
        out.extend(line);
    }
    out
}

#[test]
fn formats_without_loss_give_back_what_was_written() {
    let image = ramp(37, 23);
    for file in [draw::to_png(&image).unwrap(), bmp(&image, (37, 23))] {
        let back = Image::decode(&file, &Limits::default()).unwrap();
        assert_eq!((back.width(), back.height()), (37, 23));
        assert_eq!(back.bytes().unwrap(), image.bytes().unwrap());
    }
}

/// All eight files show the same ramp, stored turned: red grows to the right and green downwards by the orientation's own
/// definition (Exif 2.32: where row 0 and column 0 of what is stored lie).
#[test]
fn photographs_are_turned_as_their_orientation_says() {
    let stored = Image::open(golden("turned1.jpg"), &Limits::default()).unwrap();
    assert_eq!((stored.width(), stored.height()), (60, 40));
    let pixel = |i: &Image, x: usize, y: usize| {
        let p = &i.bytes().unwrap()[(y * i.width() + x) * 3..][..3];
        [p[0], p[1], p[2]]
    };
    // The decoded ramp: 4 a column, 6 a row, within what JPEG loses.
    for (x, y) in [(0, 0), (59, 0), (0, 39), (59, 39), (30, 20)] {
        let p = pixel(&stored, x, y);
        assert!(p[0].abs_diff((4 * x) as u8) < 6 && p[1].abs_diff((6 * y) as u8) < 6, "{p:?}");
    }
    // Where the stored top left and top right corners come to lie.
    let corners = [
        (1, [0.0, 0.0], [1.0, 0.0]),
        (2, [1.0, 0.0], [0.0, 0.0]),
        (3, [1.0, 1.0], [0.0, 1.0]),
        (4, [0.0, 1.0], [1.0, 1.0]),
        (5, [0.0, 0.0], [0.0, 1.0]),
        (6, [1.0, 0.0], [1.0, 1.0]),
        (7, [1.0, 1.0], [1.0, 0.0]),
        (8, [0.0, 1.0], [0.0, 0.0]),
    ];
    for (orientation, left, right) in corners {
        let name = format!("turned{orientation}.jpg");
        let image = Image::open(golden(&name), &Limits::default()).unwrap();
        let at = |c: [f64; 2]| {
            let x = (c[0] * (image.width() - 1) as f64) as usize;
            let y = (c[1] * (image.height() - 1) as f64) as usize;
            pixel(&image, x, y)
        };
        assert_eq!(image.width() > image.height(), orientation < 5, "{name}");
        assert_eq!(at(left), pixel(&stored, 0, 0), "{name}");
        assert_eq!(at(right), pixel(&stored, 59, 0), "{name}");
    }
}

#[test]
fn bad_files_are_refused_before_memory_is_asked_for() {
    let jpeg = std::fs::read(golden("turned1.jpg")).unwrap();
    let webp = std::fs::read(golden("coffee.webp")).unwrap();
    let good = draw::to_png(&ramp(64, 64)).unwrap();
    let mut huge = jpeg.clone();
    let frame = huge.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    huge[frame + 5..frame + 9].copy_from_slice(&[0x9c, 0x40, 0x9c, 0x40]);
    let mut flat = jpeg.clone();
    flat[frame + 5..frame + 7].copy_from_slice(&[0, 0]);
    let cases: [(&str, Vec<u8>, Code, &str); 14] = [
        ("empty", vec![], Code::InvalidFile, "empty"),
        ("text", b"hello".to_vec(), Code::Unsupported, "JPEG, PNG, WebP or BMP"),
        ("gif", b"GIF89a\x01\0\x01\0".to_vec(), Code::Unsupported, "convert"),
        ("png bomb", png(40_000, 40_000), Code::InvalidFile, "32767"),
        ("png pixels", png(30_000, 30_000), Code::InvalidFile, "67108864"),
        ("png flat", png(0, 4), Code::InvalidFile, "PNG"),
        ("png cut", good[..good.len() / 2].to_vec(), Code::InvalidFile, "truncated"),
        ("jpeg bomb", huge, Code::InvalidFile, "40000 × 40000"),
        ("jpeg flat", flat, Code::InvalidFile, "JPEG"),
        ("jpeg cut", jpeg[..jpeg.len() * 3 / 4].to_vec(), Code::InvalidFile, "truncated"),
        ("jpeg head", jpeg[..20].to_vec(), Code::InvalidFile, "JPEG"),
        ("webp cut", webp[..webp.len() / 2].to_vec(), Code::InvalidFile, "truncated"),
        ("bmp bomb", bmp(&ramp(4, 4), (40_000, 40_000)), Code::InvalidFile, "40000"),
        ("bmp cut", bmp(&ramp(40, 40), (40, 40))[..900].to_vec(), Code::InvalidFile, "BMP"),
    ];
    for (name, bytes, code, part) in cases {
        let e = Image::decode(&bytes, &Limits::default()).expect_err(name);
        assert!(e.code() == code && e.message().contains(part), "{name}: {e}");
    }
    let limits = Limits { max_pixels: 1000, ..Default::default() };
    let e = Image::decode(&good, &limits).unwrap_err();
    assert!(e.message().contains("64 × 64") && e.message().contains("1000"), "{e}");
    let e = Image::open("no/such.png", &limits).unwrap_err();
    assert!(e.code() == Code::Io && e.message().contains("no/such.png"), "{e}");
    // Every byte of a small file may be wrong; nothing panics.
    for file in [&jpeg, &good[..200.min(good.len())].to_vec(), &webp[..300].to_vec()] {
        for at in (0..file.len()).step_by(7) {
            let mut bytes = file.clone();
            bytes[at] ^= 0x55;
            let _ = Image::decode(&bytes, &Limits::default());
        }
    }
}

#[test]
fn raw_buffers_of_any_layout_and_stride_become_rgb() {
    let image = ramp(6, 4);
    let rgb = image.bytes().unwrap();
    let spaced = |bytes: usize, stride: usize, write: &dyn Fn(&[u8]) -> Vec<u8>| -> Vec<u8> {
        let mut out = Vec::new();
        for row in rgb.chunks_exact(18) {
            let mut line: Vec<u8> = row.chunks_exact(3).flat_map(write).collect();
            assert_eq!(line.len(), 6 * bytes);
            line.resize(stride, 0xee);
            out.extend(line);
        }
        out
    };
    let bgr = spaced(3, 20, &|p| vec![p[2], p[1], p[0]]);
    let rgba = spaced(4, 24, &|p| vec![p[0], p[1], p[2], 7]);
    let grey = spaced(1, 11, &|p| vec![p[0]]);
    let read = |layout, stride, data: &[u8]| Image::from_raw(layout, 6, 4, stride, data).unwrap();
    assert_eq!(read(PixelLayout::Bgr, 20, &bgr).bytes().unwrap(), rgb);
    assert_eq!(read(PixelLayout::Rgba, 0, &rgba).bytes().unwrap(), rgb);
    // The last row may end where its pixels end.
    let want: Vec<u8> = rgb.chunks_exact(3).flat_map(|p| [p[0]; 3]).collect();
    assert_eq!(read(PixelLayout::Gray, 11, &grey[..3 * 11 + 6]).bytes().unwrap(), want);

    let refuse = |layout, w, h, stride, data: &[u8], part: &str| {
        let e = Image::from_raw(layout, w, h, stride, data).unwrap_err();
        assert!(e.code() == Code::InvalidArgument && e.message().contains(part), "{e}");
    };
    refuse(PixelLayout::Rgb, 0, 4, 0, rgb, "no pixels");
    refuse(PixelLayout::Rgb, 6, 5, 0, rgb, "90 bytes, got 72");
    refuse(PixelLayout::Rgb, 6, 4, 17, rgb, "stride is 17");
    refuse(PixelLayout::Rgb, 70_000, 1, 0, rgb, "65536");
    refuse(PixelLayout::Rgb, 6, 4, usize::MAX, rgb, "too many");
    refuse(PixelLayout::Nv12, 5, 4, 0, rgb, "even extents");
    refuse(PixelLayout::I420, 6, 4, 0, &rgb[..28], "plane 1");
    assert!(PixelLayout::by_name("yuyv").unwrap_err().message().contains("NV12"));
}

#[test]
fn wrong_nodes_are_refused_with_the_remedy() {
    let pipeline = detector();
    let refuse = |node: Node, part: &str| {
        let e = pipeline.add_node("bad", node).unwrap_err();
        assert!(e.code() == Code::InvalidArgument && e.message().contains(part), "{e}");
        assert_eq!(e.node(), Some("bad"));
    };
    refuse(YOLOv8 { conf_thresh: f32::NAN, ..Default::default() }.into(), "score threshold is NaN");
    refuse(YOLOv8 { iou_thresh: 1.5, ..Default::default() }.into(), "iou threshold is 1.5");
    refuse(NormScale { std: vec![1.0, 0.0, 1.0], ..Default::default() }.into(), "no zero in std");
    refuse(NormScale { mean: vec![0.5], ..Default::default() }.into(), "1 numbers for 3");
    refuse(Resize { width: 0, height: 4, ..Default::default() }.into(), "0 × 4");
    refuse(Crop { width: 40, height: 100_000, fill: 0 }.into(), "100000");
    refuse(TopK { k: 0, softmax: false }.into(), "k is 0");
    let e = Node::parse("YOLOv5", "").unwrap_err();
    assert!(e.message().contains("YOLOv8"), "{e}");
    let e = Node::parse("YOLOv8", "conf = 0.5").unwrap_err();
    assert!(e.message().contains("conf_thresh"), "{e}");
    let node =
        Node::parse("YOLOv8", "conf_thresh = 0.5, classes = [1, 2], agnostic = true").unwrap();
    let same =
        Node::parse("YOLOv8", r#"{"conf_thresh": 0.5, "classes": [1, 2], "agnostic": true}"#);
    assert_eq!(node.settings(), same.unwrap().settings());

    pipeline.add_node("detect", YOLOv8::default()).unwrap();
    let e = pipeline.add_node("detect", YOLOv8::default()).unwrap_err();
    assert!(e.message().contains("already"), "{e}");
    let e = pipeline.remove_node("detects").unwrap_err();
    assert!(e.code() == Code::NotFound && e.message().contains("'detect'"), "{e}");

    let run = |pipeline: &Pipeline| pipeline.run(&[ramp(40, 30)], &Cancel::new()).unwrap_err();
    pipeline.set_labels(vec!["one".into()]);
    let e = run(&pipeline);
    assert!(e.message().contains("1 labels for 4 classes"), "{e}");
    pipeline.set_labels(vec![]);
    pipeline.add_node("again", NormScale::default()).unwrap();
    let e = run(&pipeline);
    assert!(e.code() == Code::InvalidGraph && e.node() == Some("again"), "{e}");
    let other = detector();
    other.add_node("resize", Resize { width: 64, height: 64, ..Default::default() }).unwrap();
    other.add_node("detect", YOLOv8::default()).unwrap();
    let e = run(&other);
    assert!(e.code() == Code::ShapeMismatch && e.message().contains("192"), "{e}");
    let classes = detector();
    classes.add_node("detect", YOLOv8 { classes: vec![9], ..Default::default() }).unwrap();
    let e = run(&classes);
    assert!(e.message().contains("class 9"), "{e}");
}

/// Half of what it takes.
fn halved(dtype: DType, shape: &[Dim]) -> GraphNode {
    let mut graph = Graph::new("half");
    let x = graph.add_input("x", Type::tensor(dtype, shape.to_vec())).unwrap();
    // More elements than text holds, so that they travel as a tensor.
    let half = Tensor::from_vec(&[1, 3, 1, 192], vec![0.5f32; 576]).unwrap();
    let half = graph.add_constant("half", half).unwrap();
    let mul = build_op("Mul", Attrs::new()).unwrap();
    let y = graph.add_node("mul", mul, &[Some(x), Some(half)], &[Some("y")]).unwrap();
    graph.add_output("y", y[0].unwrap()).unwrap();
    GraphNode { graph: Arc::new(graph) }
}

#[test]
fn a_saved_pipeline_finds_the_same() {
    let image = Image::open(golden("astronaut.webp"), &Limits::default()).unwrap();
    let pipeline = detector();
    let shape: Vec<Dim> = [1i64, 3, 192, 192].map(Dim::from).into();
    pipeline.add_node("letterbox", Node::parse("Letterbox", "fill = 100").unwrap()).unwrap();
    pipeline.add_node("normalize", NormScale { scale: 1.0 / 127.5, ..Default::default() }).unwrap();
    pipeline.add_node("halve", halved(DType::F32, &shape)).unwrap();
    pipeline.add_node("detect", YOLOv8 { conf_thresh: 0.3, ..Default::default() }).unwrap();
    let labels: Vec<String> = ["disc", "box", "bar", "ring"].map(String::from).into();
    pipeline.set_labels(labels.clone());
    let want = pipeline.run(std::slice::from_ref(&image), &Cancel::new()).unwrap();
    assert!(!want[0].detections.is_empty());
    let dir = std::env::temp_dir().join(format!("deepseek-vision-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("x.deepseek");
    pipeline.save(&path).unwrap();
    let first = std::fs::read(&path).unwrap();
    let again = Pipeline::load(&path, &runtime()).unwrap();
    assert_eq!(again.labels(), labels);
    let kinds: Vec<_> = again.nodes().iter().map(|(n, k)| (n.clone(), k.kind())).collect();
    let named = |n: &str, k| (n.to_owned(), k);
    let nodes = [
        named("letterbox", "Letterbox"),
        named("normalize", "NormScale"),
        named("halve", "Graph"),
        named("detect", "YOLOv8"),
    ];
    assert_eq!(kinds, nodes);
    let got = again.run(&[image], &Cancel::new()).unwrap();
    assert_eq!(got[0].detections, want[0].detections);
    again.save(&path).unwrap();
    assert_eq!(
        std::fs::read(&path).unwrap(),
        first,
        "a file of the same pipeline has the same bytes"
    );
    let e = pipeline.save(dir.join("x.onnx")).unwrap_err();
    assert!(e.message().contains(".deepseek"), "{e}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_run_is_planned_drawn_and_cancelled() {
    let pipeline = detector();
    pipeline.add_node("detect", YOLOv8::default()).unwrap();
    let image = Image::open(golden("astronaut.webp"), &Limits::default()).unwrap();
    let planned = pipeline.plan_memory(image.width(), image.height()).unwrap();
    assert!(planned.planned_bytes() > 0);
    let (found, profile) = pipeline.profile(&image, &Cancel::new()).unwrap();
    let names: Vec<&str> = profile.events.iter().map(|e| e.node.as_str()).collect();
    for node in ["letterbox", "normalize", "detect"] {
        assert!(names.contains(&node), "{node} is not in {names:?}");
    }
    let drawn = draw::overlay(&image, &found, &["disc".into()]).unwrap();
    assert_eq!((drawn.width(), drawn.height()), (image.width(), image.height()));
    assert_ne!(drawn.bytes().unwrap(), image.bytes().unwrap());
    let cancel = Cancel::new();
    cancel.cancel();
    assert_eq!(pipeline.run(&[image], &cancel).unwrap_err().code(), Code::Cancelled);
    assert!(pipeline.run(&[], &Cancel::new()).unwrap().is_empty());
}
