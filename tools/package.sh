#!/usr/bin/env bash
# What users install, under dist/: an install prefix for C and C++, an npm tarball, jars.
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf dist
mkdir -p dist
tools/install.sh dist/prefix
bindings/cpp/package.sh dist/prefix
bindings/node/package.sh dist/node
bindings/java/package.sh dist/java
find dist -type f \( -name '*.so*' -o -name '*.a' -o -name '*.tgz' -o -name '*.jar' -o -name '*.h' -o -name '*.hpp' \) -exec ls -l {} +
