#!/bin/sh
# Make the ONNX backend test suite in DEST: node, simple, pytorch and light
# cases as model.onnx with stored inputs and outputs, and DEST/cases.tsv with
# name and tolerance of each (tools/onnx_cases.py describes the layout).
# Packages come from the Python package index, pinned by hash in
# tools/onnx-cases.lock, into a temporary directory. Does nothing when DEST is
# already complete.
#
# usage: tools/fetch-onnx-cases.sh DEST
set -eu

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}

fail() {
    echo "fetch-onnx-cases: $1" >&2
    exit 1
}

[ $# -eq 1 ] && [ -n "$1" ] || fail "usage: tools/fetch-onnx-cases.sh DEST"
dest=${1%/}
stamp=$(cat "$here/onnx-cases.lock" "$here/onnx_cases.py" | cksum)
old=
if [ -e "$dest" ]; then
    [ "$(cat "$dest/.source" 2>/dev/null)" = "$stamp" ] && exit 0
    # Only what an earlier version of this script made may be replaced.
    [ -f "$dest/.source" ] && old=1
    [ -n "$old" ] || { [ -d "$dest" ] && [ -z "$(ls -A "$dest")" ]; } ||
        fail "$dest exists and holds something else: remove it, or name another directory"
fi
"$python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$python must be Python 3.11 or newer with pip: install it, or set PYTHON"

mkdir -p "$(dirname "$dest")"
work=$(mktemp -d "$(dirname "$dest")/.fetch-onnx-cases.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

"$python" -m pip install --quiet --no-deps --only-binary=:all: --require-hashes \
    --target "$work/packages" --requirement "$here/onnx-cases.lock" >"$work/log" 2>&1 ||
    fail "cannot install onnx: $(grep -m1 -i error "$work/log" || echo "pip failed"); allow access to a Python package index (pip config, PIP_INDEX_URL), or put the wheels of tools/onnx-cases.lock in a directory and set PIP_FIND_LINKS to it"
PYTHONPATH="$work/packages" "$python" -W ignore -s "$here/onnx_cases.py" "$work/cases" 2>"$work/log" ||
    fail "cannot write the cases: $(tail -n 1 "$work/log")"
echo "$stamp" >"$work/cases/.source"
if [ -n "$old" ]; then
    rm -rf "$dest"
elif [ -d "$dest" ]; then
    rmdir "$dest"
fi
mv "$work/cases" "$dest"
