#!/usr/bin/env bash
# Installs the C++ package into an empty prefix, builds the tests against it with CMake as a
# user would, and runs them.
set -euo pipefail
cd "$(dirname "$0")"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
./package.sh "$work/built" >&2
mv "$work/built" "$work/prefix" # the prefix may be moved
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' ../../Cargo.toml)

cmake -S test -B "$work/tests" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_PREFIX_PATH="$work/prefix" \
    -DEXPECTED_VERSION="$version" >"$work/cmake.log" || { cat "$work/cmake.log" >&2; exit 1; }
cmake --build "$work/tests" --parallel 2 >"$work/build.log" || { cat "$work/build.log" >&2; exit 1; }
python3 ../../tests/surface/flatten.py ../../tests/surface/cases.json >"$work/cases.txt"
for standard in 17 20; do
    timeout 1800 "$work/tests/tests$standard" "$(cd ../.. && pwd)"
    "$work/tests/surface$standard" "$work/cases.txt"
done
# A program of the package needs nothing but the system's libraries.
if ldd "$work/tests/tests17" | grep -i deepseek; then
    echo "test.sh: the program loads a library of the package" >&2
    exit 1
fi
