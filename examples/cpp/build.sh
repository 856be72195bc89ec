#!/usr/bin/env bash
# Builds the C++ examples: examples/cpp/build.sh OUTDIR. Installs the package under
# OUTDIR/prefix, compiles against it, and prints the command of the search.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: examples/cpp/build.sh OUTDIR" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
bindings/cpp/package.sh "$out/prefix" >&2

for example in search run dynamic; do
    ${CXX:-c++} -std=c++17 -O2 -ffp-contract=off -Wall -Wextra -Werror \
        -isystem "$out/prefix/include" -o "$out/$example" "examples/cpp/$example.cpp" \
        "$out/prefix/lib/libdeepseek_cpp.a" -lpthread -ldl -lm >&2
done
echo "$out/search"
