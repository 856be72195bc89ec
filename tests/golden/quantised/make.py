"""Tiny models quantised by onnxruntime.quantization, with inputs and the outputs of ONNX Runtime without
its graph optimisations.

    python make.py            writes all models beside this file

Needs torch==2.15.0 onnx==1.23.2 onnxruntime==1.32.0 safetensors==0.8.0 numpy, and a processor with VNNI:
without it ONNX Runtime's own 8-bit products saturate. Seeds are fixed.
"""

import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime import quantization as q
from onnxruntime.quantization.shape_inference import quant_pre_process
from safetensors.numpy import save_file
from torch import nn

HERE = pathlib.Path(__file__).parent


class ConvNet(nn.Module):
    """First layer with a stride, a bottleneck with a sum, a depthwise layer, a dilated one, pooling."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, stride=2, padding=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.down = nn.Conv2d(16, 8, 1)
        self.mid = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up = nn.Conv2d(8, 16, 1)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.wide = nn.Conv2d(16, 24, 3, padding=2, dilation=2, stride=2)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        x = self.pool(torch.relu(self.stem(x)))
        y = torch.relu(self.mid(torch.relu(self.down(x))))
        x = torch.relu(x + self.up(y))
        x = torch.relu(self.depth(x))
        x = torch.relu(self.wide(x))
        return self.head(x.mean((2, 3), keepdim=True).flatten(1))


class Block(nn.Module):
    """One encoder layer, spelled out."""

    def __init__(self, width=32, heads=2):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.o = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        b, s, w = x.shape
        split = lambda t: t.view(b, s, self.heads, w // self.heads).transpose(1, 2)
        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        scores = torch.softmax(q @ k.transpose(2, 3) / (w // self.heads) ** 0.5, -1)
        x = self.n1(x + self.o((scores @ v).transpose(1, 2).reshape(b, s, w)))
        return self.n2(x + self.down(nn.functional.gelu(self.up(x))))


class Reader(q.CalibrationDataReader):
    def __init__(self, batches):
        self.batches = iter([{"x": b} for b in batches])

    def get_next(self):
        return next(self.batches, None)


def data(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def make(name, model, shape, variants):
    torch.manual_seed(7)
    net = model().eval()
    with torch.no_grad():
        for p in net.parameters():
            if p.dim() > 1:
                p.mul_(1.5)
    with tempfile.TemporaryDirectory() as tmp:
        plain, pre = f"{tmp}/m.onnx", f"{tmp}/pre.onnx"
        axes = {0: "batch"}
        torch.onnx.export(
            net, (torch.from_numpy(data(shape, 0)),), plain, input_names=["x"], output_names=["y"],
            opset_version=17, dynamic_axes={"x": axes, "y": axes}, dynamo=False,
        )
        quant_pre_process(plain, pre, skip_symbolic_shape=True)
        for suffix, how in variants.items():
            out = HERE / f"{name}.{suffix}.onnx"
            if how is None:
                q.quantize_dynamic(pre, out, per_channel=True, weight_type=q.QuantType.QInt8)
            else:
                reader = Reader([data(shape, 100 + i) for i in range(4)])
                q.quantize_static(pre, out, reader, per_channel=True, **how)
            onnx.checker.check_model(str(out))
            # What the graph says, operator by operator: fusions of ONNX Runtime round elsewhere.
            options = ort.SessionOptions()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = ort.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
            tensors = {}
            for i, batch in enumerate([1, 3]):
                x = data((batch, *shape[1:]), 200 + i)
                tensors[f"x{i}"] = x
                tensors[f"y{i}"] = session.run(None, {"x": x})[0]
            save_file(tensors, HERE / f"{name}.{suffix}.safetensors")
            ops = sorted({n.op_type for n in onnx.load(out).graph.node})
            print(name, suffix, out.stat().st_size, " ".join(ops))


def main():
    u8s8 = dict(weight_type=q.QuantType.QInt8, activation_type=q.QuantType.QUInt8)
    s8s8 = dict(weight_type=q.QuantType.QInt8, activation_type=q.QuantType.QInt8)
    qdq, qop = q.QuantFormat.QDQ, q.QuantFormat.QOperator
    make("conv", ConvNet, (2, 3, 32, 32), {
        "qdq": dict(quant_format=qdq, **u8s8),
        "qdq-s8": dict(quant_format=qdq, **s8s8),
        "qop": dict(quant_format=qop, **u8s8),
        "dynamic": None,
    })
    make("block", Block, (2, 12, 32), {
        "qdq": dict(quant_format=qdq, **u8s8),
        "qop": dict(quant_format=qop, **u8s8),
        "dynamic": None,
    })


main()
