#!/usr/bin/env bash
# build.sh OUTDIR: installs the packed addon in OUTDIR and prints the command of the search
# example.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?usage: build.sh OUTDIR}"
out=$(cd "$1" && pwd)

tarball=$("$here/../../bindings/node/package.sh" "$out/pack" | tail -1)
cp "$here"/*.mjs "$out"
echo '{ "private": true }' >"$out/package.json"
rm -rf "$out/node_modules" "$out/package-lock.json"
(cd "$out" && npm install --silent --offline --no-audit --no-fund "$tarball" >&2)
echo "node $out/search.mjs"
