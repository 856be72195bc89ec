#!/bin/sh
# Install what building, testing and the demo need, or say the one line that does.
# Idempotent and quiet when nothing is missing.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "setup: $1" >&2
    exit 1
}

# program:package pairs; the package carries the program on Debian and Ubuntu
missing=
for pair in gcc:gcc g++:g++ make:make cmake:cmake ninja:ninja-build pkg-config:pkg-config \
    python3:python3 node:nodejs npm:npm javac:default-jdk-headless valgrind:valgrind; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
python3 -m pip --version >/dev/null 2>&1 || missing="$missing python3-pip"
python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || missing="$missing python3-venv"
if [ -n "$missing" ]; then
    line="apt-get update && apt-get install -y --no-install-recommends$missing"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "setup: installing$missing"
        apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends $missing >/dev/null ||
            fail "could not install$missing; run: $line"
    else
        fail "missing$missing; run: sudo sh -c '$line'"
    fi
fi

command -v cargo >/dev/null 2>&1 ||
    fail "cargo is missing; install Rust 1.95 or newer with rustup (or your distribution), and put it on PATH"
need=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
have=$(cargo --version | sed 's/cargo \([0-9.]*\).*/\1/')
[ "$(printf '%s\n%s\n' "$need" "$have" | sort -V | head -n1)" = "$need" ] ||
    fail "cargo $have is too old, $need is needed; run: rustup update stable"
node_major=$(node -p 'process.versions.node.split(".")[0]')
[ "$node_major" -ge 18 ] || fail "node $node_major is too old, 18 is needed"
java_major=$(javac -version 2>&1 | sed 's/javac \([0-9]*\).*/\1/')
[ "$java_major" -ge 11 ] || fail "javac $java_major is too old, 11 is needed"

tools/fetch-minilm.sh build/minilm
tools/fetch-onnx-cases.sh build/onnx-cases
