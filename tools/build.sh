#!/usr/bin/env bash
# Builds every artifact: tools/build.sh [CARGO-FLAGS]. All packages at once, since cargo unifies
# the features of shared crates over what it is asked for: another selection compiles them again.
set -euo pipefail
cd "$(dirname "$0")/.."
# Where the macros of the Node binding write down its types; package.sh reads them.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export NAPI_TYPE_DEF_TMP_FOLDER=$CARGO_TARGET_DIR/deepseek-node-types
mkdir -p "$NAPI_TYPE_DEF_TMP_FOLDER"
[ -s "$NAPI_TYPE_DEF_TMP_FOLDER/deepseek-node" ] || touch bindings/node/src/lib.rs
exec cargo build --release --quiet --workspace "$@"
