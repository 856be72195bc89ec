#!/usr/bin/env bash
# Writes include/deepseek/deepseek.h and the lists under ffi/abi/ from the source of the
# ffi crate; with --check, fails if they are out of date instead.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
    --check) unset DEEPSEEK_BLESS ;;
    "") export DEEPSEEK_BLESS=1 ;;
    *) echo "usage: tools/header.sh [--check]" >&2; exit 2 ;;
esac
# The layout test compiles the header, so the header comes first.
cargo test --release --quiet --workspace --test header
cargo test --release --quiet --workspace --test abi
