#!/usr/bin/env bash
# Builds the C++ package: bindings/cpp/package.sh PREFIX. Who uses it needs a C++17
# compiler, and neither Rust nor a bridge generator.
#
#   PREFIX/include/deepseek.hpp, PREFIX/include/deepseek/: the headers
#   PREFIX/lib/libdeepseek_cpp.a: the engine
#   PREFIX/lib/cmake/deepseek/: find_package(deepseek COMPONENTS cpp), target deepseek::cpp
#
# The prefix may be moved afterwards, and may hold the C library as well.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: bindings/cpp/package.sh PREFIX" >&2; exit 2; }
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}

# The build script's output directory holds the generated headers: cargo names it.
messages=$(mktemp)
trap 'rm -f "$messages"' EXIT
tools/build.sh --message-format=json-render-diagnostics >"$messages"
generated=$(python3 - "$messages" <<'PY'
import json, sys
for line in open(sys.argv[1], encoding="utf-8"):
    message = json.loads(line)
    if message["reason"] == "build-script-executed" and "deepseek-cpp" in message["package_id"]:
        print(message["out_dir"])
PY
)
[ -n "$generated" ] || { echo "package.sh: the build left no generated headers" >&2; exit 1; }

include=$prefix/include
cmake=$prefix/lib/cmake/deepseek
mkdir -p "$include/deepseek/rust" "$cmake"
install -m 644 bindings/cpp/include/deepseek.hpp "$include/"
install -m 644 bindings/cpp/include/deepseek/*.hpp "$include/deepseek/"
install -m 644 "$generated/cxxbridge/include/deepseek-cpp/src/lib.rs.h" "$include/deepseek/bridge.h"
install -m 644 "$generated/cxxbridge/include/rust/cxx.h" "$include/deepseek/rust/cxx.h"
install -m 644 "$target/release/libdeepseek_cpp.a" "$prefix/lib/"
# Line tables stay out of what users install; symbols stay, they link.
strip --strip-debug "$prefix/lib/libdeepseek_cpp.a"

install -m 644 cmake/deepseek-cpp.cmake "$cmake/"
tools/cmake.sh "$prefix"
echo "installed libdeepseek for C++ in $prefix"
