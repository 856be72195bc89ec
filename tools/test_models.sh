#!/usr/bin/env bash
# Whole models, exported by PyTorch with seeded random weights, against ONNX Runtime.
# DEEPSEEK_MODELS: a directory that tests/models/export.py has filled; made under build/
# (installing torch, torchvision, transformers, ultralytics, onnxruntime) when unset.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${CARGO_TARGET_DIR:-target}/release/deepseek
python=${PYTHON:-python3}
models=${DEEPSEEK_MODELS:-}
if [ -z "$models" ]; then
    models=build/models
    if [ ! -x build/models-venv/bin/python ]; then
        "$python" -m venv build/models-venv
        build/models-venv/bin/pip install --quiet -r tests/models/requirements.txt ||
            { rm -rf build/models-venv; echo "test-models: could not install tests/models/requirements.txt" >&2; exit 1; }
    fi
    python=build/models-venv/bin/python
    [ -e "$models/yolov8n.onnx" ] || YOLO_AUTOINSTALL=false "$python" tests/models/export.py "$models"
fi
"$python" tests/models/check.py "$bin" "$models"
