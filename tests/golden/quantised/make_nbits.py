"""Models of MatMulNBits (com.microsoft), with inputs and the outputs of ONNX Runtime.

    python make_nbits.py      writes nbits.*.onnx and their outputs beside this file

Needs onnx==1.23.2 onnxruntime==1.32.0 safetensors==0.8.0 numpy. Seeds are fixed.
"""

import pathlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent


def make(name, k, n, bits, block, zeros, bias):
    rng = np.random.default_rng(k * n + bits)
    groups = -(-k // block)
    constants = {
        "q": rng.integers(0, 256, (n, groups, block * bits // 8), dtype=np.uint8),
        "scales": (0.01 + 0.02 * rng.random(n * groups)).astype(np.float32),
    }
    if zeros == "packed":
        constants["zeros"] = rng.integers(0, 256, n * -(-groups * bits // 8), dtype=np.uint8)
    elif zeros == "floats":
        constants["zeros"] = (2**bits * rng.random(n * groups)).astype(np.float32)
    if bias:
        constants["bias"] = rng.standard_normal(n).astype(np.float32)
    inputs = ["x", "q", "scales", "zeros" if zeros else "", "", "bias" if bias else ""]
    while not inputs[-1]:
        inputs.pop()
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", K=k, N=n, bits=bits,
                            block_size=block, accuracy_level=1)
    graph = helper.make_graph(
        [node], name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "s", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "s", n])],
        [numpy_helper.from_array(v, c) for c, v in constants.items()])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    out = HERE / f"nbits.{name}.onnx"
    onnx.save(model, out)
    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    tensors = {}
    for i, shape in enumerate([(1, 1), (3, 7)]):
        x = rng.standard_normal((*shape, k)).astype(np.float32)
        tensors[f"x{i}"], tensors[f"y{i}"] = x, session.run(None, {"x": x})[0]
    save_file(tensors, HERE / f"nbits.{name}.safetensors")
    print(name, out.stat().st_size)


make("q4", 96, 40, 4, 32, None, False)
make("q4-zeros", 80, 33, 4, 16, "packed", True)
make("q4-floats", 64, 20, 4, 32, "floats", False)
make("q8", 128, 24, 8, 64, "packed", False)
