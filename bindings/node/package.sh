#!/usr/bin/env bash
# package.sh OUTDIR: builds the addon and packs it; the last line of stdout is the tarball.
# Fails if the committed index.d.ts is not what the sources say; `--write` renews it.
set -euo pipefail
cd "$(dirname "$0")"

write=0
if [ "${1:-}" = --write ]; then write=1; shift; fi
out=${1:?usage: package.sh [--write] OUTDIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
target=${CARGO_TARGET_DIR:-$PWD/../../target}
mkdir -p "$target"
target=$(cd "$target" && pwd)

CARGO_TARGET_DIR=$target ../../tools/build.sh >&2
record=$target/deepseek-node-types/deepseek-node

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
binary=$stage/deepseek.$(node -p 'process.platform + "-" + process.arch').node
cp "$target/release/libdeepseek_node.so" "$binary"
strip --strip-unneeded "$binary"

node types.mjs "$record" "$binary" >"$stage/index.d.ts"
if [ $write = 1 ]; then
    cp "$stage/index.d.ts" index.d.ts
elif ! diff -u index.d.ts "$stage/index.d.ts" >&2; then
    echo "index.d.ts is stale; run bindings/node/package.sh --write OUTDIR" >&2
    exit 1
fi

cp package.json README.md index.js index.mjs ../../LICENSE "$stage"
(cd "$stage" && npm pack --silent --pack-destination "$out" >"$stage/name")
echo "$out/$(cat "$stage/name")"
