#!/usr/bin/env bash
# Builds the C examples: examples/c/build.sh OUTDIR. Installs the library under
# OUTDIR/prefix, compiles against it with pkg-config, and prints the command of the search.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: examples/c/build.sh OUTDIR" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
tools/install.sh "$out/prefix" >&2

export PKG_CONFIG_PATH=$out/prefix/lib/pkgconfig
read -ra flags <<<"$(pkg-config --cflags --libs deepseek)"
for example in search run dynamic; do
    ${CC:-cc} -std=c11 -O2 -ffp-contract=off -Wall -Wextra -Werror -o "$out/$example" \
        "examples/c/$example.c" "${flags[@]}" "-Wl,-rpath,$out/prefix/lib" >&2
done
echo "$out/search"
