"""Export architecture-true models with seeded random weights to ONNX.

Each is built by its library's own code, with no weights downloaded, and run by
ONNX Runtime on seeded inputs: the outputs are what our engine must reproduce.
Two exporters write different graphs of the same module, so both are kept:

    OUT/NAME.onnx                 TorchScript exporter, opset 17
    OUT/NAME.dynamo.onnx          torch.export exporter, opset 20
    OUT/….in.npz, OUT/….out.npz   inputs and ONNX Runtime's outputs, by name

The batch is dynamic, and for BERT the sequence too. Batch-norm statistics are
those of a random batch, so activations keep unit scale through any depth.

usage: python export.py OUT [NAME…]
"""

import argparse
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

# The fused attention of nn.MultiheadAttention is one opaque op, which no exporter knows.
torch.backends.mha.set_fastpath_enabled(False)

SEED = 20260101
OPSET = {"": 17, ".dynamo": 20}
# Both engines sum in f32 in their own order; beyond this an export is wrong.
EXPORT_LIMIT = 2e-3


@dataclass
class Export:
    """A module in eval mode, its inputs by name, and the axes left open."""

    module: nn.Module
    inputs: dict[str, np.ndarray]
    axes: dict[int, str]
    outputs: list[str]


def image(batch: int, side: int, *, unit: bool = False) -> np.ndarray:
    """f32 [batch, 3, side, side]: uniform in [0, 1) or standard normal."""
    rng = np.random.default_rng(SEED)
    shape = (batch, 3, side, side)
    return rng.random(shape, np.float32) if unit else rng.standard_normal(shape, np.float32)


def settle_batch_norms(model: nn.Module, x: np.ndarray) -> None:
    """Give every batch norm the statistics of `x`, and weights that are not 1 and 0."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # cumulative average: exactly this batch
        norm.reset_running_stats()
        norm.train()
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    with torch.no_grad():
        model(torch.from_numpy(x))
    for norm in norms:
        norm.eval()


def torchvision_model(name: str) -> Export:
    import torchvision

    model = getattr(torchvision.models, name)(weights=None).eval()
    if name == "vit_b_16":
        nn.init.normal_(model.heads.head.weight, std=0.02)  # zero by default
    x = image(2, 224)
    settle_batch_norms(model, x)
    return Export(model, {"x": x}, {0: "batch"}, ["y"])


def yolov8n() -> Export:
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolov8n.yaml", verbose=False).eval()
    x = image(1, 640, unit=True)
    settle_batch_norms(model, x)
    head = model.model[-1]
    # Boxes and scores in one tensor [batch, 84, anchors], as the library exports it.
    head.export, head.format, head.dynamic = True, "onnx", False
    return Export(model, {"images": x}, {0: "batch"}, ["output0"])


class BertOutputs(nn.Module):
    """BERT with its two outputs as a tuple, which exporters can name."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.bert = BertModel(BertConfig(attn_implementation=attention))

    def forward(self, input_ids, attention_mask, token_type_ids):
        out = self.bert(input_ids, attention_mask, token_type_ids)
        return out.last_hidden_state, out.pooler_output


def bert_base() -> Export:
    rng = np.random.default_rng(SEED)
    lengths, seq = np.array([40, 23]), 40
    mask = (np.arange(seq) < lengths[:, None]).astype(np.int64)
    ids = rng.integers(1000, 30000, (2, seq)) * mask
    types = (np.arange(seq) >= lengths[:, None] // 2) * mask
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types.astype(np.int64)}
    outputs = ["last_hidden_state", "pooler_output"]
    return Export(BertOutputs("eager").eval(), inputs, {0: "batch", 1: "seq"}, outputs)


MODELS: dict[str, Callable[[], Export]] = {
    "resnet50": lambda: torchvision_model("resnet50"),
    "mobilenet_v3_large": lambda: torchvision_model("mobilenet_v3_large"),
    "vit_b_16": lambda: torchvision_model("vit_b_16"),
    "bert_base": bert_base,
    "yolov8n": yolov8n,
}


def write_onnx(export: Export, kind: str, path: Path) -> None:
    args = tuple(torch.from_numpy(v) for v in export.inputs.values())
    names = list(export.inputs)
    common = {
        "input_names": names,
        "output_names": export.outputs,
        "opset_version": OPSET[kind],
        "verbose": False,
    }
    with torch.no_grad():
        if kind == "":
            axes = {name: export.axes for name in names}
            axes |= {name: {0: "batch"} for name in export.outputs}
            if "last_hidden_state" in axes:
                axes["last_hidden_state"] = export.axes
            torch.onnx.export(export.module, args, path, dynamic_axes=axes, dynamo=False, **common)
        else:
            # A batch of one would be specialised: open axes are traced at two or more.
            args = tuple(torch.cat([a, a]) if len(a) == 1 else a for a in args)
            dims = {axis: torch.export.Dim(name, min=1, max=4096 if axis == 0 else 512)
                    for axis, name in export.axes.items()}
            torch.onnx.export(export.module, args, path, dynamic_shapes=tuple(dims for _ in names),
                              dynamo=True, external_data=False, **common)


def run_ort(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    outputs = session.run(None, {k: v for k, v in inputs.items() if k in wanted})
    return dict(zip((o.name for o in session.get_outputs()), outputs, strict=True))


def check(export: Export, outputs: dict[str, np.ndarray]) -> float:
    """The worst output's max |ort - torch| over max |torch|."""
    with torch.no_grad():
        reference = export.module(*(torch.from_numpy(v) for v in export.inputs.values()))
    if isinstance(reference, torch.Tensor):
        reference = (reference,)
    worst = 0.0
    for ours, theirs in zip(outputs.values(), reference, strict=True):
        theirs = theirs.numpy()
        scale = np.abs(theirs).max()
        if not (np.isfinite(scale) and scale > 0 and theirs.std() > 0):
            raise SystemExit("the reference output is not finite or constant: the model says nothing")
        worst = max(worst, float(np.abs(ours - theirs).max() / scale))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}; all without")
    args = parser.parse_args()
    unknown = set(args.names) - set(MODELS)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or MODELS:
        torch.manual_seed(SEED)
        export = MODELS[name]()
        for kind in OPSET:
            path = args.out / f"{name}{kind}.onnx"
            write_onnx(export, kind, path)
            outputs = run_ort(path, export.inputs)
            error = check(export, outputs)
            if error > EXPORT_LIMIT:
                raise SystemExit(f"{path.name}: ONNX Runtime and PyTorch differ by {error:.1e}, over {EXPORT_LIMIT:.0e}")
            np.savez(path.with_suffix(".in.npz"), **export.inputs)
            np.savez(path.with_suffix(".out.npz"), **outputs)
            shapes = {k: v.shape for k, v in outputs.items()}
            print(f"{path.name}: {path.stat().st_size >> 20} MiB, outputs {shapes}, against PyTorch {error:.1e}", flush=True)


if __name__ == "__main__":
    main()
