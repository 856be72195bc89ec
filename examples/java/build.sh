#!/usr/bin/env bash
# Builds the Java examples: examples/java/build.sh OUTDIR. Makes the jar, compiles against it,
# and prints the command of the search.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: examples/java/build.sh OUTDIR" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
bindings/java/package.sh "$out/package" >&2
jar=$(echo "$out"/package/deepseek-*.*.[0-9].jar)
rm -rf "$out/classes"
javac -Xlint:all -Werror --release 11 -cp "$jar" -d "$out/classes" examples/java/*.java >&2
echo "java -cp $jar:$out/classes Search"
