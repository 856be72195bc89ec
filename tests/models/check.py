#!/usr/bin/env python3
"""Run every NAME.onnx of a directory through the program and compare with NAME.out.npz.

usage: check.py DEEPSEEK_PROGRAM MODELS_DIR        needs numpy

The bound is 1e-4 of the largest magnitude of each output: f32 sums in another order, over
up to a hundred layers, stay below 2e-5 between ONNX Runtime and PyTorch on the same files.
"""
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

BOUND = 1e-4


def main(program, directory):
    models = sorted(pathlib.Path(directory).glob("*.onnx"))
    if not models:
        sys.exit(f"check: no .onnx file in {directory}; run tests/models/export.py {directory}")
    failed = 0
    for model in models:
        with tempfile.TemporaryDirectory() as tmp:
            out = pathlib.Path(tmp) / "out.npz"
            run = subprocess.run(
                [program, "run", model, "--inputs", model.with_suffix(".in.npz"), "--outputs", out],
                capture_output=True, text=True)
            if run.returncode:
                failed += 1
                print(f"FAILED {model.name}: {run.stderr.strip()}")
                continue
            got, want = np.load(out), np.load(model.with_suffix(".out.npz"))
            worst = 0.0
            for name in want.files:
                if name not in got.files or got[name].shape != want[name].shape:
                    worst = float("inf")
                    continue
                scale = np.abs(want[name]).max() or 1.0
                error = np.abs(got[name].astype(np.float64) - want[name]).max() / scale
                worst = max(worst, error if np.isfinite(error) else float("inf"))
        ok = worst <= BOUND
        failed += not ok
        print(f"{'ok    ' if ok else 'FAILED'} {model.name}: {worst:.2e} of the largest value (bound {BOUND:.0e})")
    print(f"{len(models) - failed} passed, {failed} failed")
    sys.exit(bool(failed))


main(*sys.argv[1:])
