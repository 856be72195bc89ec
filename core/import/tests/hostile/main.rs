//! Files that nobody honest would write: every one must be an error (or a graph), in
//! bounded memory, without a panic.
//!
//! Three kinds: files that are wrong in one way each (`wrong_models_are_errors`), honest
//! files cut short at every 1/64th, and honest files with random bytes changed. The last
//! runs [`ROUNDS`] rounds, or for `DEEPSEEK_FUZZ_SECONDS` a target if that is set; a failure
//! prints the seed, and `DEEPSEEK_FUZZ_SEED` starts from it. `DEEPSEEK_FUZZ_CORPUS` names a
//! directory that gets the honest files, as seeds for the coverage-guided fuzzer. To harden a new importer, add a
//! target to `targets`; for a new way to be wrong, add a row to `wrong_models`.

mod wire;

use deepseek_graph::text;
use deepseek_import::{onnx, package, safetensors};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use wire::*;

/// Mutations of each file when no time is given.
const ROUNDS: u64 = 4000;

/// Memory, in bytes, that importing a file of a few kilobytes may take.
const MEMORY: usize = 64 << 20;

/// The system's allocator, counting.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's duty, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's duty, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counters are shared, so tests that read them run one at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Runs `f`, which must not panic, and returns its result and the memory it took.
fn measured<T>(what: &str, f: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| panic!("{what}: panicked"));
    (result, PEAK.load(Relaxed).saturating_sub(before))
}

type Import = fn(&[u8]) -> bool;

fn import_onnx(bytes: &[u8]) -> bool {
    onnx::load_bytes(bytes, None).is_ok()
}

fn import_safetensors(bytes: &[u8]) -> bool {
    safetensors::from_bytes(bytes::Bytes::copy_from_slice(bytes)).is_ok()
}

fn import_package(bytes: &[u8]) -> bool {
    package::from_bytes(bytes::Bytes::copy_from_slice(bytes)).is_ok()
}

/// A `.deepseek` file of an ONNX model, without the digest that would keep every change out.
fn packaged(model: &Msg) -> Vec<u8> {
    let graph = onnx::load_bytes(&model.0, None).expect("an honest model");
    let (source, files) = ("onnx".to_owned(), BTreeMap::new());
    // The tests of one process run side by side.
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let name = format!("deepseek-hostile-{}-{}", std::process::id(), FILES.fetch_add(1, Relaxed));
    let path = std::env::temp_dir().join(name);
    let package = package::Package {
        graph,
        source,
        files,
        pipeline: None,
        labels: Vec::new(),
        encoder: None,
        precision: None,
        packed: None,
    };
    package::save(&package, &path).expect("there is a directory for temporary files");
    let bytes = std::fs::read(&path).expect("it was just written");
    std::fs::remove_file(&path).expect("as above");
    let len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mut header: serde_json::Value =
        serde_json::from_slice(&bytes[8..8 + len]).expect("a header that was just written");
    let metadata = header["__metadata__"].as_object_mut().expect("metadata");
    metadata.remove("deepseek.sha256").expect("a digest");
    let header = header.to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(&bytes[8 + len..]);
    out
}

fn import_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|t| text::parse(t, &BTreeMap::new()).is_ok())
}

/// The text form of an ONNX model.
fn printed(model: &Msg) -> Vec<u8> {
    let graph = onnx::load_bytes(&model.0, None).expect("an honest model");
    text::print(&graph).into_bytes()
}

/// Honest files of every format, and what imports them.
fn targets() -> Vec<(&'static str, Import, Vec<u8>)> {
    vec![
        ("onnx perceptron", import_onnx, perceptron().0),
        ("onnx control flow", import_onnx, control_flow().0),
        ("onnx functions", import_onnx, functions().0),
        ("onnx old opset", import_onnx, old_opset().0),
        ("safetensors", import_safetensors, weights()),
        ("package", import_package, packaged(&control_flow())),
        ("text perceptron", import_text, printed(&perceptron())),
        ("text control flow", import_text, printed(&control_flow())),
    ]
}

fn perceptron() -> Msg {
    model(graph(
        [
            node("Gemm", &["x", "w", "b"], &["h"]).bytes(5, attr_int("transB", 1)),
            node("Relu", &["h"], &["r"]),
            node("Reshape", &["r", "s"], &["q"]),
            node("Softmax", &["q"], &["p"]).bytes(5, attr_int("axis", -1)),
            node("ReduceMean", &["p"], &["y"]).bytes(5, attr_ints("axes", &[1])),
            node("Constant", &[], &["c"])
                .bytes(5, attr_tensor("value", f32s("", &[2], &[1.0, 2.0]))),
            node("Slice", &["p", "zero", "one"], &["z"]),
        ],
        [
            f32s("w", &[4, 3], &[0.5; 12]),
            f32s("b", &[4], &[0.1; 4]),
            i64s("s", &[-1, 2]),
            i64s("zero", &[0]),
            i64s("one", &[1]),
        ],
        [value("x", 1, &[None, Some(3)])],
        [value("y", 1, &[]), value("z", 1, &[None, Some(2)])],
    ))
}

fn control_flow() -> Msg {
    let body = graph(
        [
            node("Identity", &["go"], &["go_on"]),
            node("Concat", &["acc", "x"], &["next"]).bytes(5, attr_int("axis", 0)),
            node("Add", &["x", "one"], &["scan"]),
        ],
        [f32s("one", &[1], &[1.0])],
        [value("i", 7, &[]), value("go", 9, &[]), value("acc", 1, &[None])],
        [value("go_on", 9, &[]), value("next", 1, &[None]), value("scan", 1, &[None])],
    );
    let yes = graph([node("Neg", &["last"], &["n"])], [], [], [value("n", 1, &[None])]);
    let no = graph([], [], [], [value("last", 1, &[None])]);
    model(graph(
        [
            node("Loop", &["m", "", "x"], &["last", "all"]).bytes(5, attr_graph("body", body)),
            node("If", &["flag"], &["y"])
                .bytes(5, attr_graph("then_branch", yes))
                .bytes(5, attr_graph("else_branch", no)),
        ],
        [],
        [value("m", 7, &[]), value("flag", 9, &[]), value("x", 1, &[Some(2)])],
        [value("y", 1, &[None]), value("all", 1, &[None, None])],
    ))
}

fn functions() -> Msg {
    let inner = function("Inner", [node("Sqrt", &["x"], &["t"]), node("Exp", &["t"], &["y"])]);
    let outer = function("Outer", [call("Inner", "x", "a"), call("Inner", "a", "y")]);
    let g = graph(
        [call("Outer", "x", "u"), call("Outer", "u", "y")],
        [],
        [value("x", 1, &[Some(2)])],
        [value("y", 1, &[Some(2)])],
    );
    model_with(g, 17, [inner, outer])
}

fn old_opset() -> Msg {
    let g = graph(
        [
            node("Clip", &["x"], &["a"]),
            node("Unsqueeze", &["a"], &["b"]).bytes(5, attr_ints("axes", &[0])),
            node("Pad", &["b"], &["c"]).bytes(5, attr_ints("pads", &[0, 1, 1, 0, 0, 1])),
            node("Slice", &["c"], &["d"])
                .bytes(5, attr_ints("starts", &[0]))
                .bytes(5, attr_ints("ends", &[9])),
            node("Softmax", &["d"], &["e"]),
            node("TopK", &["e"], &["f", ""]).bytes(5, attr_int("k", 1)),
            node("Split", &["f"], &["y"]),
        ],
        [],
        [value("x", 1, &[Some(2), Some(3)])],
        [value("y", 1, &[])],
    );
    model_with(g, 9, [])
}

fn weights() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"I64","shape":[],"data_offsets":[24,32]},"c":{"dtype":"BF16","shape":[0],"data_offsets":[32,32]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend([1; 32]);
    file
}

#[test]
fn honest_files_import() {
    let corpus = std::env::var_os("DEEPSEEK_FUZZ_CORPUS").map(std::path::PathBuf::from);
    for (i, (name, import, bytes)) in targets().into_iter().enumerate() {
        if let (Some(dir), Some(format)) = (&corpus, name.split(' ').next()) {
            std::fs::create_dir_all(dir.join(format)).expect("the corpus can be written");
            std::fs::write(dir.join(format).join(i.to_string()), &bytes).expect("as above");
        }
        assert!(import(&bytes), "{name} must import: {:?}", onnx::load_bytes(&bytes, None).err());
    }
}

#[test]
fn files_cut_short_are_errors_or_graphs() {
    let _one = ONE.lock();
    for (name, import, bytes) in targets() {
        for k in 0..64 {
            let cut = bytes.len() * k / 64;
            let (_, memory) = measured(&format!("{name} cut at {cut}"), || import(&bytes[..cut]));
            assert!(memory < MEMORY, "{name} cut at {cut} takes {memory} bytes");
        }
    }
}

#[test]
fn changed_files_are_errors_or_graphs() {
    let _one = ONE.lock();
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let time = number("DEEPSEEK_FUZZ_SECONDS").map(Duration::from_secs);
    let first = number("DEEPSEEK_FUZZ_SEED").unwrap_or(0);
    for (name, import, bytes) in targets() {
        let start = Instant::now();
        let (mut rounds, mut accepted) = (0, 0);
        while time.map_or(rounds < ROUNDS, |t| start.elapsed() < t) {
            let seed = first + rounds;
            let mutant = mutate(&bytes, seed);
            let what = format!("{name}, DEEPSEEK_FUZZ_SEED={seed}");
            let (ok, memory) = measured(&what, || import(&mutant));
            assert!(memory < MEMORY, "{what}: takes {memory} bytes");
            accepted += u64::from(ok);
            rounds += 1;
        }
        println!("{name}: {rounds} mutants, {accepted} accepted");
    }
}

/// One to eight random changes: bits, bytes, interesting numbers, runs removed or doubled.
fn mutate(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut random = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % n.max(1)
    };
    let mut out = bytes.to_vec();
    for _ in 0..1 + random(8) {
        let at = random(out.len());
        match random(6) {
            0 | 1 => out[at] ^= 1 << random(8),
            2 => out[at] = random(256) as u8,
            3 => out[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)],
            4 => {
                let end = (at + 1 + random(16)).min(out.len());
                if out.len() > end - at {
                    out.drain(at..end);
                }
            }
            _ => {
                let end = (at + 1 + random(32)).min(out.len());
                let run = out[at..end].to_vec();
                out.splice(at..at, run);
            }
        }
    }
    out
}

/// Files that are wrong in one way each, and what the message must name.
fn wrong_models() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let x = || value("x", 1, &[Some(2)]);
    let y = || value("y", 1, &[]);
    let with =
        |nodes: Vec<Msg>, constants: Vec<Msg>| model(graph(nodes, constants, [x()], [y()])).0;
    let identity = || node("Identity", &["x"], &["y"]);
    let constant = |t: Msg| with(vec![node("Identity", &["w"], &["y"])], vec![t]);
    let external = |location: &str| {
        let entry = Msg::new().bytes(1, "location").bytes(2, location);
        constant(Msg::new().int(2, 1).int(1, 2).bytes(8, "w").int(14, 1).bytes(13, entry))
    };
    let nested = |depth: usize, name: &str| {
        let mut g = graph([], [], [], [value("x", 1, &[])]);
        for _ in 0..depth {
            let both = node("If", &["f"], &[name])
                .bytes(5, attr_graph("then_branch", g.clone()))
                .bytes(5, attr_graph("else_branch", graph([], [], [], [value("x", 1, &[])])));
            g = graph([both], [], [], [value(name, 1, &[])]);
        }
        let top = node("If", &["f"], &["y"])
            .bytes(5, attr_graph("then_branch", g.clone()))
            .bytes(5, attr_graph("else_branch", g));
        model(graph([top], [], [x(), value("f", 9, &[])], [y()])).0
    };
    let calls = |functions: Vec<Msg>| {
        model_with(graph([call("F0", "x", "y")], [], [x()], [y()]), 17, functions).0
    };
    let mut declared_huge = Msg::new().int(1, 8).0;
    declared_huge.extend([0x3a]); // a graph of 2^60 bytes
    varint(1 << 60, &mut declared_huge);
    let mut raw_huge = Msg::new().int(2, 1).bytes(8, "w").0;
    raw_huge.extend([0x4a]); // raw data of 2^50 bytes
    varint(1 << 50, &mut raw_huge);
    vec![
        ("empty", vec![], "no graph"),
        ("text", b"this is not a model".to_vec(), "not a valid ONNX file"),
        ("declared huge", declared_huge, "not a valid ONNX file"),
        ("raw data declared huge", constant(Msg(raw_huge)), "not a valid ONNX file"),
        ("newer format", Msg::new().int(1, 99).bytes(7, Msg::new()).0, "99"),
        ("newer opset", model_with(graph([identity()], [], [x()], [y()]), 99, []).0, "opset 99"),
        (
            "no opset",
            Msg::new().int(1, 8).bytes(7, graph([identity()], [], [x()], [y()])).0,
            "ai.onnx",
        ),
        ("self cycle", with(vec![node("Neg", &["y"], &["y"])], vec![]), "cycle"),
        (
            "cycle",
            with(
                vec![node("Neg", &["b"], &["a"]), node("Neg", &["a"], &["b"]), identity()],
                vec![],
            ),
            "form a cycle",
        ),
        ("undefined input", with(vec![node("Neg", &["nowhere"], &["y"])], vec![]), "'nowhere'"),
        ("undefined output", with(vec![], vec![]), "'y'"),
        ("output twice", with(vec![identity(), identity()], vec![]), "'y' is defined twice"),
        ("output of input's name", with(vec![node("Neg", &["x"], &["x"])], vec![]), "'x'"),
        ("constants twice", with(vec![identity()], vec![i64s("w", &[1]), i64s("w", &[1])]), "'w'"),
        ("inputs twice", model(graph([identity()], [], [x(), x()], [y()])).0, "'x'"),
        ("outputs twice", model(graph([identity()], [], [x()], [y(), y()])).0, "'y'"),
        ("unknown operator", with(vec![node("Nope", &["x"], &["y"])], vec![]), "Nope"),
        ("unknown domain", with(vec![identity().bytes(7, "com.example")], vec![]), "com.example"),
        ("unknown attribute", with(vec![identity().bytes(5, attr_int("frob", 1))], vec![]), "frob"),
        (
            "attribute twice",
            with(vec![identity().bytes(5, attr_int("a", 1)).bytes(5, attr_int("a", 1))], vec![]),
            "'a' is given twice",
        ),
        (
            "attribute of the wrong kind",
            with(vec![node("Flatten", &["x"], &["y"]).bytes(5, attr_ints("axis", &[1]))], vec![]),
            "'axis'",
        ),
        (
            "attribute reference outside of a function",
            with(vec![identity().bytes(5, Msg::new().bytes(1, "a").bytes(21, "b"))], vec![]),
            "'b'",
        ),
        ("extent 2^63-1", constant(tensor("w", 1, &[i64::MAX], &[])), "'w'"),
        ("extents overflow", constant(tensor("w", 1, &[i64::MAX, i64::MAX], &[])), "'w'"),
        ("extents overflow to small", constant(tensor("w", 1, &[1 << 32, 1 << 32], &[])), "'w'"),
        ("bytes overflow", constant(tensor("w", 11, &[1 << 61], &[])), "'w'"),
        ("negative extent", constant(tensor("w", 1, &[-2], &[])), "negative extent -2"),
        ("rank 1000", constant(tensor("w", 1, &[1; 1000], &[0; 4])), "1000"),
        ("too few bytes", constant(tensor("w", 1, &[3], &[0; 8])), "needs 12 bytes"),
        ("too many bytes", constant(tensor("w", 1, &[1], &[0; 8])), "needs 4 bytes"),
        ("element type 0", constant(tensor("w", 0, &[1], &[0; 4])), "'w'"),
        ("element type 77", constant(tensor("w", 77, &[1], &[0; 4])), "77"),
        ("raw strings", constant(tensor("w", 8, &[1], &[0; 4])), "strings"),
        ("no name", constant(tensor("", 1, &[1], &[0; 4])), "no name"),
        ("external without directory", external("w.bin"), "w.bin"),
        (
            "input extent -5",
            model(graph([identity()], [], [value("x", 1, &[Some(-5)])], [y()])).0,
            "-5",
        ),
        (
            "input of no type",
            model(graph([identity()], [], [Msg::new().bytes(1, "x")], [y()])).0,
            "'x'",
        ),
        (
            "output of another type",
            model(graph([identity()], [], [x()], [value("y", 7, &[])])).0,
            "'y'",
        ),
        (
            "sparse bomb",
            {
                let sparse = Msg::new()
                    .bytes(1, tensor("w", 1, &[0], &[]))
                    .bytes(2, tensor("", 7, &[0], &[]))
                    .int(3, 1 << 40);
                let g = graph([node("Identity", &["w"], &["y"])], [], [x()], [y()]);
                model(g.bytes(15, sparse)).0
            },
            "sparse",
        ),
        ("nested too deep", nested(60, "n"), "recursion"),
        (
            "function calls itself",
            calls(vec![function("F0", [call("F0", "x", "y")])]),
            "calls itself",
        ),
        (
            "functions call each other",
            calls(vec![
                function("F0", [call("F1", "x", "y")]),
                function("F1", [call("F0", "x", "y")]),
            ]),
            "calls itself",
        ),
        (
            "function chain too deep",
            calls(
                (0..60)
                    .map(|i| function(&format!("F{i}"), [call(&format!("F{}", i + 1), "x", "y")]))
                    .chain([function("F60", [node("Neg", &["x"], &["y"])])])
                    .collect(),
            ),
            "nested deeper",
        ),
        (
            "function defined twice",
            calls(vec![function("F0", [identity()]), function("F0", [])]),
            "twice",
        ),
        ("function without its output", calls(vec![function("F0", [])]), "'y'"),
        (
            "loop body of too few inputs",
            with(
                vec![
                    node("Loop", &["", "", "x"], &["y"])
                        .bytes(5, attr_graph("body", graph([], [], [], [value("x", 1, &[])]))),
                ],
                vec![],
            ),
            "inputs",
        ),
        ("If without branches", with(vec![node("If", &["x"], &["y"])], vec![]), "then_branch"),
        ("missing input", with(vec![node("Add", &["x"], &["y"])], vec![]), "input"),
        ("too many inputs", with(vec![node("Neg", &["x", "x"], &["y"])], vec![]), "input"),
    ]
}

#[test]
fn wrong_models_are_errors() {
    let _one = ONE.lock();
    let mut faults = String::new();
    for (name, bytes, text) in wrong_models() {
        let (result, memory) = measured(name, || onnx::load_bytes(&bytes, None));
        match result {
            Ok(_) => faults += &format!("{name}: imported\n"),
            Err(e) if !e.to_string().contains(text) => faults += &format!("{name}: {e}\n"),
            Err(e) if e.to_string().contains('\n') => faults += &format!("{name}: two lines\n"),
            Err(_) => {}
        }
        if memory > MEMORY {
            faults += &format!("{name}: takes {memory} bytes\n");
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

/// Files that are legal and ask for much: they import, or say that it is too much, in time
/// and memory that do not follow what they ask for.
#[test]
fn bombs_are_bounded() {
    let _one = ONE.lock();
    let start = Instant::now();
    let doubling: Vec<Msg> = (0..30)
        .map(|i| {
            let next = format!("F{}", i + 1);
            function(&format!("F{i}"), [call(&next, "x", "a"), call(&next, "a", "y")])
        })
        .chain([function("F30", [node("Neg", &["x"], &["y"])])])
        .collect();
    let g = graph([call("F0", "x", "y")], [], [value("x", 1, &[Some(2)])], [value("y", 1, &[])]);
    let doubling = model_with(g, 17, doubling).0;
    let (result, memory) = measured("doubling functions", || onnx::load_bytes(&doubling, None));
    let e = result.expect_err("2^30 nodes");
    assert!(e.message().contains("expand to more than"), "{e}");
    assert!(memory < 2 << 30, "doubling functions take {memory} bytes");

    let name = "n".repeat(1 << 20);
    let long = |op: &str, i: &str, o: &str| call(op, i, o).bytes(3, &name);
    let functions: Vec<Msg> = (0..8)
        .map(|i| {
            let next = format!("F{}", i + 1);
            function(&format!("F{i}"), [long(&next, "x", "a"), long(&next, "a", "y")])
        })
        .chain([function("F8", [node("Neg", &["x"], &["y"])])])
        .collect();
    let g = graph([call("F0", "x", "y")], [], [value("x", 1, &[Some(2)])], [value("y", 1, &[])]);
    let names = model_with(g, 17, functions).0;
    let (result, memory) = measured("doubling names", || onnx::load_bytes(&names, None));
    assert!(result.is_err(), "names of gigabytes");
    assert!(memory < 2 << 30, "doubling names take {memory} bytes");

    // Loops in loops, each carrying a value whose shape grows.
    let mut body = graph(
        [
            node("Identity", &["go"], &["go_on"]),
            node("Concat", &["acc", "acc"], &["next"]).bytes(5, attr_int("axis", 0)),
        ],
        [],
        [value("i", 7, &[]), value("go", 9, &[]), value("acc", 1, &[None])],
        [value("go_on", 9, &[]), value("next", 1, &[None])],
    );
    for _ in 0..25 {
        body = graph(
            [
                node("Identity", &["go"], &["go_on"]),
                node("Loop", &["", "", "acc"], &["next"]).bytes(5, attr_graph("body", body)),
            ],
            [],
            [value("i", 7, &[]), value("go", 9, &[]), value("acc", 1, &[None])],
            [value("go_on", 9, &[]), value("next", 1, &[None])],
        );
    }
    let loops = node("Loop", &["", "", "x"], &["y"]).bytes(5, attr_graph("body", body));
    let loops = model(graph([loops], [], [value("x", 1, &[Some(2)])], [value("y", 1, &[])])).0;
    let (_, memory) = measured("nested loops", || onnx::load_bytes(&loops, None));
    assert!(memory < 2 << 30, "nested loops take {memory} bytes");

    // Shapes that no machine can hold, computed from constants.
    let huge = with_shape(&[1 << 40, 1 << 20]);
    let (_, memory) = measured("huge constant", || onnx::load_bytes(&huge, None));
    assert!(memory < MEMORY, "a huge constant takes {memory} bytes");
    println!("bombs took {:?}", start.elapsed());
}

/// `y = ConstantOfShape(dims)`.
fn with_shape(dims: &[i64]) -> Vec<u8> {
    model(graph(
        [node("ConstantOfShape", &["s"], &["y"])],
        [i64s("s", dims)],
        [value("x", 1, &[])],
        [value("y", 1, &[])],
    ))
    .0
}
