#!/usr/bin/env bash
# Builds libdeepseek and installs it for C: tools/install.sh PREFIX
#
#   PREFIX/include/deepseek/deepseek.h
#   PREFIX/lib/libdeepseek.so.<version>, its two links, libdeepseek.a
#   PREFIX/lib/cmake/deepseek/, PREFIX/lib/pkgconfig/deepseek.pc
#
# The prefix may be moved afterwards. CARGO_TARGET_DIR says where to build.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: tools/install.sh PREFIX" >&2; exit 2; }
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}/release

tools/build.sh

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
major=${version%%.*}

mkdir -p "$prefix/include/deepseek" "$prefix/lib"
install -m 644 include/deepseek/deepseek.h "$prefix/include/deepseek/"
install -m 755 "$target/libdeepseek.so" "$prefix/lib/libdeepseek.so.$version"
install -m 644 "$target/libdeepseek.a" "$prefix/lib/"
# Line tables stay out of what users install; symbols of the archive stay, they link.
strip --strip-unneeded "$prefix/lib/libdeepseek.so.$version"
strip --strip-debug "$prefix/lib/libdeepseek.a"
ln -sf "libdeepseek.so.$version" "$prefix/lib/libdeepseek.so.$major"
ln -sf "libdeepseek.so.$major" "$prefix/lib/libdeepseek.so"

tools/cmake.sh "$prefix"
echo "installed libdeepseek $version in $prefix"
