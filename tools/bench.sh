#!/usr/bin/env bash
# Speed. Always: size of the library, load time, idle processor time, the matrix product against the
# machine's measured peak. With DEEPSEEK_BENCH_PYTHON (a Python that has the peers) and
# DEEPSEEK_BENCH_MODELS (what tests/models/export.py made): whole models, interleaved with the peers.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}/release
bin=$target/deepseek

echo "== library =="
ls -l "$target/libdeepseek.so" | awk '{printf "libdeepseek.so: %.1f MiB\n", $5 / 1048576}'

echo "== load and idle =="
python3 tools/idle.py "$target/libdeepseek.so" build/minilm

echo "== sentence encoder =="
"$bin" bench build/minilm --shape input_ids=1x32 --shape attention_mask=1x32 --shape token_type_ids=1x32

echo "== matrix product against the measured peak, one core =="
cargo run --quiet --release -p deepseek-kernels-cpu --example gemm_bench

if [ -n "${DEEPSEEK_BENCH_PYTHON:-}" ] && [ -n "${DEEPSEEK_BENCH_MODELS:-}" ]; then
    echo "== whole models against the peers =="
    "$DEEPSEEK_BENCH_PYTHON" bench/peers.py "$DEEPSEEK_BENCH_MODELS" --deepseek "$bin" --threads 1,2
    echo "== sequences of different lengths =="
    "$DEEPSEEK_BENCH_PYTHON" bench/varlen.py "$DEEPSEEK_BENCH_MODELS" --library "$target/libdeepseek.so"
    echo "== attention =="
    "$DEEPSEEK_BENCH_PYTHON" bench/attention.py --library "$target/libdeepseek.so"
else
    echo "Peers are skipped: set DEEPSEEK_BENCH_PYTHON (a Python with onnxruntime, openvino, torch)"
    echo "and DEEPSEEK_BENCH_MODELS (a directory that tests/models/export.py has filled)."
fi
