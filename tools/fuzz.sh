#!/usr/bin/env bash
# Fuzz every importer for DEEPSEEK_FUZZ_SECONDS (default 60) each: coverage-guided where a
# nightly toolchain and cargo-fuzz are at hand, else the seeded corruptions of the test suite.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${DEEPSEEK_FUZZ_SECONDS:-60}
if rustup toolchain list 2>/dev/null | grep nightly >/dev/null && command -v cargo-fuzz >/dev/null; then
    cd tests/fuzz
    for target in $(cargo +nightly fuzz list); do
        echo "== $target for $seconds s =="
        cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -rss_limit_mb=4096 -timeout=20
    done
else
    echo "No nightly toolchain with cargo-fuzz (rustup toolchain install nightly && cargo install cargo-fuzz):"
    echo "running the seeded corruptions instead."
    DEEPSEEK_FUZZ_SECONDS=$seconds cargo test --release -p deepseek-import --test hostile -- --nocapture
fi
