"""Measure our engine beside its peers, interleaved in one run.

Every round asks each engine in turn for the median of a few runs of one model
at one shape. Engines take turns and not blocks, so that a slow minute of the
machine falls on all of them; before each turn the machine rests 0.3 s, because
the thread pool of one engine may still be spinning and would be paid for by the
next. Numbers compare only within one run, as ratios.

Ours is one process a turn (`deepseek bench MODEL --json`, with its own warm-up), in int8 and auto
of a model that was converted before with synthetic samples;
a peer is one process for the whole case, warmed up at the start of each turn.
A peer that is not installed is left out and named in the report.

usage: python bench/peers.py MODELS --deepseek PATH [--threads 1,2] [--cases …] [--engines …]

MODELS is a directory made by tests/models/export.py. Writes
bench/results/DATE-CPU.json and the peer section of docs/benchmarks.md.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import record as record_to

ROOT = Path(__file__).resolve().parent.parent
CASES = "resnet50@1,resnet50@8,mobilenet_v3_large@1,yolov8n@1,vit_b_16@1,bert_base@1x128,bert_base@1x384,bert_base@8x128"
ENGINES = "deepseek-f32,ort-f32,openvino-f32,torch-f32"
SIDES = {"yolov8n": ("images", 640)}
BERT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Above this, median over best says that something else used the machine.
NOISY = 1.3


# ---------------------------------------------------------------- cases ---


@dataclass(frozen=True)
class Case:
    """A model at a shape, written NAME@BATCH or NAME@BATCHxSEQ."""

    model: str
    batch: int
    seq: int = 0

    @classmethod
    def parse(cls, text: str) -> "Case":
        match = re.fullmatch(r"(\w+)@(\d+)(?:x(\d+))?", text)
        if not match:
            raise argparse.ArgumentTypeError(f"not a case: {text}; write NAME@BATCH or NAME@BATCHxSEQ")
        case = cls(match[1], int(match[2]), int(match[3] or 0))
        if (case.model == "bert_base") != bool(case.seq):
            raise argparse.ArgumentTypeError(f"{text}: bert_base takes BATCHxSEQ, every other model BATCH alone")
        return case

    def __str__(self) -> str:
        return f"{self.model}@{self.batch}" + (f"x{self.seq}" if self.seq else "")

    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and numpy dtype of every input, by name."""
        if self.seq:
            return {name: ((self.batch, self.seq), "int64") for name in BERT_INPUTS}
        name, side = SIDES.get(self.model, ("x", 224))
        return {name: ((self.batch, 3, side, side), "float32")}

    def inputs(self) -> dict:
        import numpy as np

        rng = np.random.default_rng(1)
        ids = {"input_ids": lambda s: rng.integers(1000, 30000, s), "attention_mask": np.ones, "token_type_ids": np.zeros}
        fill = lambda name, shape: ids[name](shape) if name in ids else rng.random(shape, np.float32)  # noqa: E731
        return {name: fill(name, shape).astype(dtype) for name, (shape, dtype) in self.shapes().items()}


# -------------------------------------------------------------- workers ---
# Each takes (model file, model name, precision, threads) and returns its
# version and a function that runs once on inputs by name.


def ort_runner(path: Path, model: str, precision: str, threads: int):
    import onnxruntime as ort

    if precision != "f32":
        raise ValueError("measured in f32 only")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    return ort.__version__, lambda feeds: session.run(None, {k: v for k, v in feeds.items() if k in wanted})


def openvino_runner(path: Path, model: str, precision: str, threads: int):
    import openvino as ov

    config = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"f32": "f32", "bf16": "bf16"}[precision],
    }
    request = ov.Core().compile_model(path, "CPU", config).create_infer_request()
    return ov.__version__.split("-")[0], lambda feeds: request.infer(feeds, share_inputs=True)


def torch_runner(path: Path, model: str, precision: str, threads: int):
    import torch

    torch.set_num_threads(threads)
    sys.path.insert(0, str(ROOT / "tests" / "models"))
    from export import MODELS

    module = MODELS[model]().module
    torch.backends.mha.set_fastpath_enabled(True)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]

    def run(feeds):
        tensors = [torch.from_numpy(v) for v in feeds.values()]
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            module(*tensors)

    return torch.__version__.split("+")[0], run


RUNNERS = {"ort": ort_runner, "openvino": openvino_runner, "torch": torch_runner}


def worker(engine: str, models: str, case: Case, threads: int) -> None:
    """Serve turns: read the number of runs from a line, answer times in ms."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to standard output

    def answer(value) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        name, precision = engine.rsplit("-", 1)
        version, run = RUNNERS[name](Path(models) / f"{case.model}.onnx", case.model, precision, threads)
        feeds = case.inputs()
        run(feeds)
    except ImportError as error:
        return answer({"missing": f"{engine} is not installed ({error.name})"})
    except Exception as error:  # whatever a peer throws is its result
        return answer({"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]})
    answer({"version": version})
    for line in sys.stdin:
        run(feeds)
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run(feeds)
            times.append(1e3 * (time.perf_counter() - start))
        answer({"median": statistics.median(times)})


# -------------------------------------------------------------- engines ---


class Unavailable(Exception):
    """An engine that cannot take part, and why."""


class Ours:
    def __init__(self, engine: str, args: argparse.Namespace, case: Case, threads: int) -> None:
        if not args.deepseek:
            raise Unavailable(f"{engine}: no --deepseek PATH was given")
        model, precision = args.models / f"{case.model}.onnx", engine.rsplit("-", 1)[1]
        shapes = []
        for name, (shape, dtype) in case.shapes().items():
            shapes += ["--shape", f"{name}={'x'.join(map(str, shape))}:{dtype}"]
        self.converted = None
        if precision != "f32":
            # Calibrated once, with synthetic samples, at the shape and threads that are measured.
            self.converted = Path(tempfile.mkdtemp()) / f"{case.model}.deepseek"
            convert = [args.deepseek, "convert", str(model), str(self.converted), "--precision", precision, *shapes]
            environment = os.environ | {"DEEPSEEK_NUM_THREADS": str(threads)}
            done = subprocess.run(convert, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                shutil.rmtree(self.converted.parent)
                raise Unavailable((done.stderr.strip().splitlines() or ["convert failed"])[-1][:200])
            model = self.converted
        self.command = [args.deepseek, "bench", str(model), "--json", "--threads", str(threads),
                        "--iters", str(args.iters), *shapes]
        version = subprocess.run([args.deepseek, "--version"], capture_output=True, text=True, check=False)
        self.version = version.stdout.strip().split(" ")[-1] or "unknown"
        self.turn(1)  # a missing kernel shows here, not in the middle of the rounds

    def turn(self, _iters: int) -> float:
        done = subprocess.run(self.command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise Unavailable(last[:200])
        return json.loads(done.stdout)["median_ms"]

    def close(self) -> None:
        if self.converted:
            shutil.rmtree(self.converted.parent)


class Peer:
    def __init__(self, engine: str, args: argparse.Namespace, case: Case, threads: int) -> None:
        command = [args.python, __file__, "--worker", engine, str(args.models), str(case), str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
                                        stderr=subprocess.DEVNULL, text=True)
        try:
            self.version = self.read()["version"]
        except Unavailable:
            self.close()
            raise

    def read(self) -> dict:
        line = self.process.stdout.readline()
        reply = json.loads(line) if line else {"failed": "the process died"}
        for key in ("missing", "failed"):
            if key in reply:
                raise Unavailable(reply[key])
        return reply

    def turn(self, iters: int) -> float:
        try:
            self.process.stdin.write(f"{iters}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Unavailable("the process died") from None
        return self.read()["median"]

    def close(self) -> None:
        try:
            self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# -------------------------------------------------------------- measure ---


@dataclass
class Result:
    """One case at one thread count: turn medians in ms by engine."""

    case: str
    threads: int
    turns: dict[str, list[float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def median(self, engine: str) -> float:
        return statistics.median(self.turns[engine])

    def noise(self) -> float:
        """The worst engine's median over its best turn."""
        return max((self.median(e) / min(t) for e, t in self.turns.items()), default=1.0)


def measure(args: argparse.Namespace, case: Case, threads: int) -> Result:
    result, engines = Result(str(case), threads), {}
    for name in args.engines:
        try:
            kind = Ours if name.startswith("deepseek-") else Peer
            engines[name] = kind(name, args, case, threads)
            result.versions[name] = engines[name].version
            result.turns[name] = []
        except Unavailable as reason:
            result.absent[name] = str(reason)
    for _ in range(args.rounds):
        for name in list(result.turns):
            time.sleep(args.gap)
            try:
                result.turns[name].append(engines[name].turn(args.iters))
            except Unavailable as reason:
                result.absent[name] = str(reason)
                del result.turns[name]
    for engine in engines.values():
        engine.close()
    return result


# --------------------------------------------------------------- report ---


def best_peer(result: Result, engine: str) -> str | None:
    """The fastest engine of the same number type that is not ours."""
    precision = engine.rsplit("-", 1)[1]
    peers = [e for e in result.turns if e.endswith(f"-{precision}") and not e.startswith("deepseek-")]
    return min(peers, key=result.median, default=None)


def table(results: list[Result], engines: list[str], threads: int) -> list[str]:
    ours = [e for e in engines if e.startswith("deepseek-")]
    head = [*engines, *(f"{e} against the best peer" for e in ours), "noise"]
    lines = ["| case | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for result in (r for r in results if r.threads == threads):
        cells = [f"{result.median(e):.2f} ({min(result.turns[e]):.2f})" if e in result.turns else "–" for e in engines]
        for engine in ours:
            peer = best_peer(result, engine)
            compared = engine in result.turns and peer
            cells.append(f"{result.median(peer) / result.median(engine):.2f} × {peer}" if compared else "–")
        cells.append(f"{result.noise():.2f}" + (" (!)" if result.noise() > NOISY else ""))
        lines.append(f"| {result.case} | " + " | ".join(cells) + " |")
    return lines


def report(record: dict, results: list[Result]) -> str:
    lines = [f"Measured {record['date']} on {record['cpu']}, {record['cpus']} CPUs, {record['system']}: "
             f"`{record['command']}`.", "Versions: " + ", ".join(f"{k} {v}" for k, v in record["versions"].items()) + ".",
             "Milliseconds, median of turns (best turn); a ratio above 1 means that we are faster. "
             f"Noise is the worst median over best; above {NOISY} the row says little."]
    for threads in record["threads"]:
        lines += ["", f"### {threads} thread" + "s" * (threads > 1), "", *table(results, record["engines"], threads)]
    absent = {(e, reason) for r in results for e, reason in r.absent.items()}
    lines += [""] * bool(absent) + [f"- {engine} did not take part: {reason}" for engine, reason in sorted(absent)]
    return "\n".join(lines) + "\n"


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        return worker(sys.argv[2], sys.argv[3], Case.parse(sys.argv[4]), int(sys.argv[5]))
    words = lambda text: text.split(",")  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, help="directory made by tests/models/export.py")
    parser.add_argument("--deepseek", metavar="PATH", help="our program")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers (default: this one)")
    parser.add_argument("--engines", type=words, default=words(ENGINES),
                        help=f"NAME-PRECISION, …; names: deepseek, {', '.join(RUNNERS)} (default: {ENGINES})")
    parser.add_argument("--cases", type=lambda t: [Case.parse(c) for c in words(t)],
                        default=[Case.parse(c) for c in words(CASES)], help=f"default: {CASES}")
    parser.add_argument("--threads", type=lambda t: [int(n) for n in words(t)], default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each engine")
    parser.add_argument("--iters", type=int, default=5, help="timed runs in a turn")
    parser.add_argument("--gap", type=float, default=0.3, help="idle seconds before a turn; below 0.3 pools still spin")
    parser.add_argument("--dry", action="store_true", help="print the report, write no files")
    args = parser.parse_args()
    for engine in args.engines:
        if not re.fullmatch(rf"({'|'.join(['deepseek', *RUNNERS])})-\w+", engine):
            parser.error(f"no such engine: {engine}")
    missing = [c.model for c in args.cases if not (args.models / f"{c.model}.onnx").is_file()]
    if missing:
        parser.error(f"{args.models} has no {missing[0]}.onnx: make it with tests/models/export.py {args.models} {missing[0]}")

    results = []
    for threads in args.threads:
        for case in args.cases:
            result = measure(args, case, threads)
            shown = ", ".join(f"{e} {result.median(e):.2f} ms" for e in result.turns) or "nothing ran"
            print(f"{case}, {threads} threads: {shown}" + "".join(f"; {e}: {r}" for e, r in result.absent.items()),
                  file=sys.stderr, flush=True)
            results.append(result)
    options = re.sub(r"--(deepseek|python)[ =]\S+ ?", "", " ".join(sys.argv[2:])).strip()
    record = {
        "date": datetime.date.today().isoformat(),
        "cpu": record_to.cpu_name(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "command": f"python bench/peers.py MODELS {options}".strip(),
        "versions": {e.rsplit("-", 1)[0]: v for r in results for e, v in r.versions.items()},
        "engines": args.engines,
        "threads": args.threads,
        "rounds": args.rounds,
        "iters": args.iters,
        "gap_s": args.gap,
        "results": [asdict(r) for r in results],
    }
    text = report(record, results)
    print(text)
    if not args.dry:
        record_to.save("", record)
        record_to.write_section("peers", "Whole models", text)
    if any(e.startswith("deepseek-") for r in results for e in r.absent):
        sys.exit("our engine did not run every case")


if __name__ == "__main__":
    main()
