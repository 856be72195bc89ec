#!/bin/sh
# Every crate that ends up in the library has a licence that Apache-2.0 code may link.
set -eu
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')
cargo metadata --format-version 1 --filter-platform "$host" | python3 tools/licences.py
