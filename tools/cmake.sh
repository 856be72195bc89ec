#!/usr/bin/env bash
# Installs what find_package and pkg-config read: tools/cmake.sh PREFIX. The C and the C++
# package share it; each may be in the prefix without the other.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: tools/cmake.sh PREFIX" >&2; exit 2; }
prefix=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

field() { sed -n '/^\[workspace.package\]/,/^\[/s/^'"$1"' = "\(.*\)"/\1/p' Cargo.toml; }
version=$(field version)
url=$(field repository)
major=${version%%.*}
minor=${version#*.}; minor=${minor%%.*}
series="$major\\\\."
[ "$major" != 0 ] || series="0\\\\.$minor\\\\."
# What the archive needs of the system: what rustc says with --print native-static-libs.
static_libs="-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc"

fill() { # TEMPLATE TO
    sed -e "s|@VERSION@|$version|g" -e "s|@MAJOR@|$major|g" -e "s|@SERIES@|$series|g" \
        -e "s|@URL@|$url|g" -e "s|@STATIC_LIBS@|$static_libs|g" \
        -e "s|@STATIC_LIBS_CMAKE@|${static_libs// /;}|g" "$1" >"$2"
}
mkdir -p "$prefix/lib/cmake/deepseek"
fill cmake/deepseekConfig.cmake.in "$prefix/lib/cmake/deepseek/deepseekConfig.cmake"
fill cmake/deepseekConfigVersion.cmake.in "$prefix/lib/cmake/deepseek/deepseekConfigVersion.cmake"
if [ -e "$prefix/lib/libdeepseek.so" ]; then
    mkdir -p "$prefix/lib/pkgconfig"
    fill cmake/deepseek.pc.in "$prefix/lib/pkgconfig/deepseek.pc"
fi
