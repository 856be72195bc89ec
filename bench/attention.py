"""Attention alone: one fused operator against the materialised form and against PyTorch.

For each length: our fused operator, the same engine made to keep the scores (they are an output,
so nothing may be fused away), and torch.nn.functional.scaled_dot_product_attention, in turns with
0.3 s of rest before each. Milliseconds are the median over rounds of the best of a few calls (of one,
where a call takes longer than a round should: a shape gets at most some `--seconds` and three rounds);
work counts 4 * heads * length^2 * dim floating-point operations, half of that if causal.

usage: python bench/attention.py --library libdeepseek.so [--threads 2] [--rounds 5] [--lengths …]
Writes bench/results/attention-DATE-CPU.json and the section of docs/benchmarks.md.
"""

import argparse
import datetime
import os
import statistics
import time
from pathlib import Path

import record

# Query heads, key heads, head size, causal.
SHAPES = [(12, 12, 64, False), (32, 8, 128, True)]
MATERIALISED_LIMIT = 2 << 30


def fused(library, heads, kv_heads, length, dim, causal):
    inputs = {"q": (1, heads, "s", dim), "k": (1, kv_heads, "s", dim), "v": (1, kv_heads, "s", dim)}
    node = ("y", "Attention", f"is_causal = {str(causal).lower()}", ("q", "k", "v"))
    return library.graph(inputs, [node], ["y"])


def materialised(library, heads, length, dim):
    """Scores and probabilities in memory, without causality, as exporters write it."""
    inputs = {"q": (1, heads, "s", dim), "k": (1, heads, dim, "s"), "v": (1, heads, "s", dim)}
    nodes = [("scores", "MatMul", "", ("q", "k")), ("p", "Softmax", "axis = -1", ("scores",)),
             ("y", "MatMul", "", ("p", "v"))]
    return library.graph(inputs, nodes, ["y", "scores"])


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def best(run, seconds=0.4):
    """Milliseconds of the fastest of a few calls that fill `seconds`; a call that long is alone."""
    times = [timed(run)]
    while sum(times) < seconds:
        times.append(timed(run))
    return 1e3 * min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60, help="for a shape, about")
    parser.add_argument("--lengths", default="128,256,512,1024,2048,4096,8192")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import numpy as np
    import torch
    from deepseek_c import Library

    torch.set_num_threads(args.threads)
    library, rows = Library(args.library, args.threads), []
    for heads, kv_heads, dim, causal in SHAPES:
        for length in map(int, args.lengths.split(",")):
            rng = np.random.default_rng(length)
            q, k, v = (rng.standard_normal((1, h, length, dim), dtype=np.float32) for h in (heads, kv_heads, kv_heads))
            tq, tk, tv = map(torch.from_numpy, (q, k, v))
            session = fused(library, heads, kv_heads, length, dim, causal)
            handles = {name: library.tensor(x) for name, x in (("q", q), ("k", k), ("v", v))}
            runs = {
                "fused": lambda: session.run(handles),
                "torch": lambda: torch.nn.functional.scaled_dot_product_attention(
                    tq, tk, tv, is_causal=causal, enable_gqa=heads != kv_heads),
            }
            if not causal and heads * length * length * 8 <= MATERIALISED_LIMIT:
                plain = materialised(library, heads, length, dim)
                kt = np.ascontiguousarray(np.swapaxes(k, 2, 3))
                whole = {name: library.tensor(x) for name, x in (("q", q), ("k", kt), ("v", v))}
                runs["materialised"] = lambda: plain.run(whole)
            times = {name: [] for name in runs}
            with torch.inference_mode():
                # The first calls warm up, and say how many rounds fit.
                round_seconds = sum(max(timed(run), 0.4) + 0.3 for run in runs.values())
                rounds = max(min(args.rounds, int(args.seconds / round_seconds)), 3)
                for _ in range(rounds):
                    for name, run in runs.items():
                        time.sleep(0.3)
                        times[name].append(best(run))
            flop = 4 * heads * length * length * dim / (2 if causal else 1)
            row = {"heads": heads, "kv_heads": kv_heads, "dim": dim, "causal": causal, "length": length, "flop": flop, "rounds": rounds,
                   "ms": {name: statistics.median(t) for name, t in times.items()}, "observed_bytes": session.observed_bytes()}
            print(row, flush=True)
            rows.append(row)
    lines = [f"{args.threads} threads, medians of {min(r['rounds'] for r in rows)} to {max(r['rounds'] for r in rows)} rounds; deepseek {library.version}, torch {torch.__version__.split('+')[0]}; "
             f"measured {datetime.date.today()} on {record.cpu_name()}: `python bench/attention.py --library libdeepseek.so`.",
             "", "| heads × length × dim | fused, ms | GFLOP/s | torch SDPA, ms | faster than SDPA | materialised, ms | below it | working memory, MiB |",
             "|---|---|---|---|---|---|---|---|"]
    for r in rows:
        ms = r["ms"]
        whole = ms.get("materialised")
        shape = f"{r['heads']}{'' if r['heads'] == r['kv_heads'] else '/' + str(r['kv_heads'])} × {r['length']} × {r['dim']}"
        lines.append(f"| {shape}{', causal' if r['causal'] else ''} | {ms['fused']:.2f} | {r['flop'] / ms['fused'] / 1e6:.0f} | {ms['torch']:.2f} "
                     f"| {ms['torch'] / ms['fused']:.2f} × | " + (f"{whole:.2f} | {1 - ms['fused'] / whole:.0%}" if whole else "– | –")
                     + f" | {r['observed_bytes'] / 2**20:.1f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    record.save("attention", {"date": datetime.date.today().isoformat(), "cpu": record.cpu_name(), "threads": args.threads,
                              "rounds": args.rounds, "rows": rows})
    record.write_section("attention", "Attention", text)


if __name__ == "__main__":
    main()
