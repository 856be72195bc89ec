"""Sequences of different lengths: working memory and time, beside the peers.

One call with 50 sequences of 50 to 99 tokens (or rows), through two encoders with seeded random
weights: `bert`, BERT-base on token ids (tests/models/export.py), and `enc512`, six layers of
torch.nn.TransformerEncoder 512 wide on f32 rows (exported here). Each engine runs in a process
of its own, engines take turns, and the machine rests 0.3 s before each.

Growth is the process's peak resident size during the call (VmHWM, reset before it) less its
resident size with the model loaded and warmed by one sequence of length 4: what the call takes
beyond weights and one-time set-up. Compare within one run only, as ratios.

usage: python bench/varlen.py MODELS --library libdeepseek.so [--threads 2] [--rounds 3]
Writes bench/results/varlen-DATE-CPU.json and the section of docs/benchmarks.md.
"""

import argparse
import ctypes
import datetime
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import record

LENGTHS = list(range(50, 100))
MODES = [
    "deepseek packed", "deepseek one by one", "deepseek padded",
    "onnxruntime padded", "onnxruntime one by one", "openvino padded", "openvino one by one",
    "torch padded", "torch nested", "torch one by one",
]


def sequence(model, length, seed):
    """One sequence: token ids i64[length], or rows f32[length, 512]."""
    import numpy as np

    rng = np.random.default_rng(seed)
    if model == "bert":
        return rng.integers(1000, 30000, length, dtype=np.int64)
    return rng.standard_normal((length, 512), dtype=np.float32)


def padded(batch):
    """The batch padded with zeros to its longest sequence, and which positions are real."""
    import numpy as np

    longest = max(len(x) for x in batch)
    out = np.zeros((len(batch), longest) + batch[0].shape[1:], batch[0].dtype)
    mask = np.zeros((len(batch), longest), np.int64)
    for i, x in enumerate(batch):
        out[i, : len(x)], mask[i, : len(x)] = x, 1
    return out, mask


def enc512():
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True, activation="gelu")
    return torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=True).eval()


def export_enc512(path):
    import torch

    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad():
        free = torch.export.Dim.DYNAMIC
        torch.onnx.export(enc512(), (torch.randn(2, 20, 512),), path, dynamo=True, opset_version=18,
                          external_data=False, input_names=["x"], output_names=["y"], dynamic_shapes=({0: free, 1: free},))


# ------------------------------------------------------------ the engines ---
# Each takes (mode, model, model file, threads) and returns what runs a batch.


def feeds(model, x, mask):
    import numpy as np

    if model == "bert":
        return {"input_ids": x, "attention_mask": mask, "token_type_ids": np.zeros_like(x)}
    return {"x": x}


def deepseek_engine(mode, model, path, threads):
    import numpy as np
    from deepseek_c import Library

    session = Library(os.environ["DEEPSEEK_LIBRARY"], threads).open(path)

    def run(batch):
        if mode == "packed" and model == "bert":
            session.run_ragged({"input_ids": batch, "token_type_ids": [np.zeros_like(x) for x in batch]})
        elif mode == "packed":
            session.run_ragged({"x": batch})
        elif mode == "padded":
            session.run(feeds(model, *padded(batch)))
        else:
            for x in batch:
                session.run(feeds(model, x[None], np.ones((1, len(x)), np.int64)))

    return run


def onnxruntime_engine(mode, model, path, threads):
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(batch):
        if mode == "padded":
            session.run(None, feeds(model, *padded(batch)))
        else:
            for x in batch:
                session.run(None, feeds(model, x[None], np.ones((1, len(x)), np.int64)))

    return run


def openvino_engine(mode, model, path, threads):
    import numpy as np
    import openvino as ov

    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(path, "CPU", config).create_infer_request()

    def run(batch):
        if mode == "padded":
            request.infer(feeds(model, *padded(batch)))
        else:
            for x in batch:
                request.infer(feeds(model, x[None], np.ones((1, len(x)), np.int64)))

    return run


def torch_engine(mode, model, path, threads):
    import torch

    torch.set_num_threads(threads)
    if model == "bert":
        if mode == "nested":
            raise LookupError("BertModel has no nested form")
        from transformers import BertConfig, BertModel

        module = BertModel(BertConfig()).eval()
    else:
        module = enc512()
        torch.backends.mha.set_fastpath_enabled(mode == "nested")

    def run(batch):
        with torch.inference_mode():
            for part in [batch] if mode != "one by one" else [[x] for x in batch]:
                x, mask = (torch.from_numpy(a) for a in padded(part))
                if model == "bert":
                    module(input_ids=x, attention_mask=mask)
                elif mode == "one by one":
                    module(x)
                else:
                    module(x, src_key_padding_mask=mask == 0)

    return run


ENGINES = {"deepseek": deepseek_engine, "onnxruntime": onnxruntime_engine, "openvino": openvino_engine, "torch": torch_engine}


def status_kib(field):
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field + ":"))


def worker(mode, model, path, threads):
    """Prints growth in MiB and seconds of one call, in a process of its own."""
    engine, how = mode.split(" ", 1)
    try:
        run = ENGINES[engine](how, model, path, threads)
    except (ImportError, LookupError) as error:
        return {"missing": str(error)}
    batch = [sequence(model, n, n) for n in LENGTHS]
    tiny = [sequence(model, 4, 1)] * 2
    run(tiny)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    base = status_kib("VmRSS")
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    run(batch)
    growth = (status_kib("VmHWM") - base) / 1024
    kept = (status_kib("VmRSS") - base) / 1024
    times = []
    for _ in range(2):
        start = time.perf_counter()
        run(batch)
        times.append(time.perf_counter() - start)
    return {"growth_mib": growth, "kept_mib": kept, "seconds": min(times)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models-wanted", default="enc512,bert")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--worker", nargs=2, metavar=("MODE", "MODEL"))
    args = parser.parse_args()
    paths = {"bert": args.models / "bert_base.onnx", "enc512": args.models / "enc512.onnx"}
    if args.worker:
        mode, model = args.worker
        answer = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # libraries print to standard output
        answer.write(json.dumps(worker(mode, model, str(paths[model]), args.threads)))
        return
    if not paths["enc512"].exists():
        export_enc512(str(paths["enc512"]))
    environment = os.environ | {"DEEPSEEK_LIBRARY": str(args.library.resolve()), "OMP_NUM_THREADS": str(args.threads)}
    results = {}
    for model in args.models_wanted.split(","):
        for _ in range(args.rounds):
            for mode in args.modes.split(","):
                time.sleep(0.3)
                command = [sys.executable, __file__, str(args.models), "--library", str(args.library),
                           "--threads", str(args.threads), "--worker", mode, model]
                done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
                if done.returncode:
                    last = (done.stderr.strip().splitlines() or ["failed"])[-1]
                    print(f"{model} {mode}: {last}", file=sys.stderr)
                    continue
                result = json.loads(done.stdout)
                if "missing" in result:
                    print(f"{model} {mode}: left out, {result['missing']}", file=sys.stderr)
                else:
                    results.setdefault(model, {}).setdefault(mode, []).append(result)
    medians = {
        model: {mode: {key: statistics.median(r[key] for r in runs) for key in runs[0]} for mode, runs in modes.items()}
        for model, modes in results.items()
    }
    text = table(args, medians)
    print(text)
    record.save("varlen", {
        "date": datetime.date.today().isoformat(), "cpu": record.cpu_name(), "threads": args.threads,
        "rounds": args.rounds, "lengths": [LENGTHS[0], LENGTHS[-1]], "medians": medians, "runs": results})
    record.write_section("varlen", "Sequences of different lengths", text)


def table(args, medians):
    """The medians as Markdown, with our packed call against the best of the peers."""
    lines = [f"One call of {len(LENGTHS)} sequences of {LENGTHS[0]} to {LENGTHS[-1]} tokens, {args.threads} threads, medians of "
             f"{args.rounds} rounds; measured {datetime.date.today()} on {record.cpu_name()}: "
             f"`python bench/varlen.py MODELS --library libdeepseek.so`.",
             "Growth is the peak of resident memory during the call beyond the loaded and warmed model; kept is what stays after it."]
    for model, modes in medians.items():
        lines += ["", f"### {model}", "", "| engine | growth, MiB | kept, MiB | seconds |", "|---|---|---|---|"]
        for mode, r in sorted(modes.items(), key=lambda item: item[1]["growth_mib"]):
            lines.append(f"| {mode} | {r['growth_mib']:.1f} | {r['kept_mib']:.1f} | {r['seconds']:.2f} |")
        ours = modes.get("deepseek packed")
        peers = {mode: r for mode, r in modes.items() if not mode.startswith("deepseek")}
        if ours and peers:
            batched = {m: r for m, r in peers.items() if "one by one" not in m}
            least = min(batched, key=lambda m: batched[m]["growth_mib"], default=None)
            fastest = min(peers, key=lambda m: peers[m]["seconds"])
            lines += ["", f"Time: {ours['seconds'] / peers[fastest]['seconds']:.2f} of {fastest}, the fastest peer in any mode."]
            if least:
                saved = 1 - ours["growth_mib"] / batched[least]["growth_mib"]
                lines[-1] += f" Memory: {saved:.0%} below {least}, the smallest batched peer."
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
