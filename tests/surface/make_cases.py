#!/usr/bin/env python3
"""Write cases.json: calls with expected bits, computed by numpy (see README.md).

usage: python tests/surface/make_cases.py        needs numpy
"""
import json
import pathlib

import numpy as np

NAMES = {"float32": "f32", "float64": "f64", "float16": "f16", "int8": "i8", "int16": "i16",
         "int32": "i32", "int64": "i64", "uint8": "u8", "uint16": "u16", "uint32": "u32",
         "uint64": "u64", "bool": "bool"}
CASES = []


def tensor(name, a, dtype=None):
    a = np.asarray(a)
    if a.dtype.kind in "UO":
        return {"name": name, "dtype": "string", "shape": list(a.shape),
                "strings": [str(x) for x in a.ravel()]}
    return {"name": name, "dtype": dtype or NAMES[a.dtype.name], "shape": list(a.shape),
            "hex": np.ascontiguousarray(a).tobytes().hex()}


def case(name, inputs, nodes, outputs=None, error=None, shapes=None, constants=(), bounds=(),
         feed=None, options=None):
    """inputs: {name: array}; nodes: (op, attrs, [inputs], [outputs]); outputs: {name: array};
    shapes: {input: [extent text]}; feed: what is passed when it differs from the declaration;
    options: those of the model."""
    shapes = shapes or {}
    declared = []
    for key, value in inputs.items():
        t = tensor(key, value)
        declared.append({"name": key, "dtype": t["dtype"],
                         "shape": shapes.get(key, [str(d) for d in t["shape"]])})
    graph = {"inputs": declared, "bounds": list(bounds),
             "constants": [tensor(k, v) for k, v in dict(constants).items()],
             "nodes": [{"op": op, "name": outs[0], "attrs": attrs, "inputs": ins, "outputs": outs}
                       for op, attrs, ins, outs in nodes]}
    graph["outputs"] = [[k, k] for k in (outputs or {nodes[-1][3][0]: None})]
    if options:
        graph["options"] = {"memory_budget_bytes": 0, "whole": False, "shapes": {}, "bounds": {},
                            **options}
    feed = inputs if feed is None else feed
    expect = {"error": error} if error else {
        "outputs": [v if isinstance(v, dict) else tensor(k, v) for k, v in outputs.items()]}
    CASES.append({"name": name, "graph": graph, "inputs": [tensor(k, v) for k, v in feed.items()],
                  "expect": expect})


def err(code, *contains):
    return {"code": code, "contains": list(contains)}


f32 = np.float32
x23 = np.arange(6, dtype=f32).reshape(2, 3)

# One kind of arithmetic for each element type, exact in it.
for dt in (np.float32, np.float64, np.float16):
    a, b = np.array([[0.5, -2, 8]], dt), np.array([[1], [0.25]], dt)
    case(f"mul_{NAMES[dt.__name__]}", {"a": a, "b": b}, [("Mul", "", ["a", "b"], ["y"])],
         {"y": a * b})
with np.errstate(over="ignore"):
    for dt in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64):
        a = np.array([np.iinfo(dt).max, 2, 3], dt)
        b = np.array([1, 5, 7], dt)
        case(f"add_wraps_{NAMES[dt.__name__]}", {"a": a, "b": b},
             [("Add", "", ["a", "b"], ["y"])], {"y": a + b})
bits = (np.array([1.5, -2.0, 0.0078125], f32).view(np.uint32) >> 16).astype(np.uint16)
case("cast_to_bf16", {"x": np.array([1.5, -2.0, 0.0078125], f32)},
     [("Cast", "to = bf16", ["x"], ["y"])], {"y": tensor("y", bits, "bf16")})
case("logic_bool", {"a": np.array([True, True, False]), "b": np.array([True, False, False])},
     [("Xor", "", ["a", "b"], ["y"])], {"y": np.array([False, True, False])})
case("compare_to_bool", {"a": np.array([1, 2, 3], np.int32), "b": np.array([3, 2, 1], np.int32)},
     [("LessOrEqual", "", ["a", "b"], ["y"])], {"y": np.array([True, True, False])})
case("strings_concat", {"a": np.array(["naïve ", "日本", ""]), "b": np.array(["café", "語", "🙂"])},
     [("StringConcat", "", ["a", "b"], ["y"])], {"y": np.array(["naïve café", "日本語", "🙂"])})

# Symbols, scalars, empty tensors.
case("symbolic_rows", {"x": x23}, [("MatMul", "", ["x", "w"], ["y"]), ("Relu", "", ["y"], ["z"])],
     {"z": np.maximum(x23 @ np.array([[1, -1], [2, 0.5], [-3, 4]], f32), 0)},
     shapes={"x": ["batch", "3"]}, constants={"w": np.array([[1, -1], [2, 0.5], [-3, 4]], f32)},
     bounds=[{"symbol": "batch", "min": 1, "max": 8}])
case("affine_extent", {"x": np.arange(7, dtype=np.int64), "n": np.zeros(3, np.int64)},
     [("Identity", "", ["x"], ["y"])], {"y": np.arange(7, dtype=np.int64)},
     shapes={"x": ["2*half+1"], "n": ["half"]})
case("scalar", {"x": np.array(3, np.int64)}, [("Neg", "", ["x"], ["y"])],
     {"y": np.array(-3, np.int64)})
case("no_elements", {"x": np.zeros((0, 3), f32), "y": x23},
     [("Concat", "axis = 0", ["x", "y"], ["z"])], {"z": x23},
     shapes={"x": ["a", "3"], "y": ["b", "3"]})
case("empty_result", {"x": x23}, [("Slice", "", ["x", "s", "e", "a"], ["y"])],
     {"y": x23[:, 2:1]}, constants={"s": np.array([2]), "e": np.array([1]), "a": np.array([1])})

# Movement, several outputs, reductions, quantisation.
case("slice_backwards", {"x": x23}, [("Slice", "", ["x", "s", "e", "a", "t"], ["y"])],
     {"y": x23[:, ::-2]}, constants={"s": np.array([-1]), "e": np.array([np.iinfo(np.int64).min]),
                                     "a": np.array([1]), "t": np.array([-2])})
case("transpose", {"x": x23}, [("Transpose", "perm = [1, 0]", ["x"], ["y"])], {"y": x23.T})
case("split_in_two", {"x": np.arange(5, dtype=np.int16)},
     [("Split", "axis = 0, num_outputs = 2", ["x"], ["a", "b"])],
     {"a": np.arange(3, dtype=np.int16), "b": np.arange(3, 5, dtype=np.int16)})
case("gather_rows", {"x": x23, "i": np.array([[1, -2]])},
     [("Gather", "axis = 0", ["x", "i"], ["y"])], {"y": x23[np.array([[1, 0]])]})
case("topk", {"x": np.array([3, 1, 4, 1, 5], f32)},
     [("TopK", "axis = 0", ["x", "k"], ["v", "i"])],
     {"v": np.array([5, 4], f32), "i": np.array([4, 2])}, constants={"k": np.array([2])})
case("reduce_sum", {"x": x23}, [("ReduceSum", "keepdims = false", ["x", "a"], ["y"])],
     {"y": x23.sum(1)}, constants={"a": np.array([1])})
case("where_broadcasts", {"c": np.array([[True], [False]]), "x": x23},
     [("Where", "", ["c", "x", "z"], ["y"])], {"y": np.where([[True], [False]], x23, f32(-1))},
     constants={"z": np.array(-1, f32)})
case("clip_without_minimum", {"x": x23}, [("Clip", "", ["x", None, "m"], ["y"])],
     {"y": np.minimum(x23, 3)}, constants={"m": np.array(3, f32)})
case("quantize_rounds_to_even", {"x": np.array([0.5, 1.5, 2.5, -1, 300], f32)},
     [("QuantizeLinear", "", ["x", "s", "z"], ["y"])], {"y": np.array([0, 2, 2, 0, 255], np.uint8)},
     constants={"s": np.array(1, f32), "z": np.array(0, np.uint8)})
case("nonzero_depends_on_data", {"x": np.array([0, 7, 0, 9])},
     [("NonZero", "", ["x"], ["i"]), ("Neg", "", ["i"], ["y"])], {"y": np.array([[-1, -3]])})

# Errors: the code, and what the message must name.
relu = [("Relu", "", ["x"], ["y"])]
case("unknown_input", {"x": x23}, relu, error=err("NOT_FOUND", "'z'", "'x'"),
     feed={"z": x23, "x": x23})
case("missing_input", {"x": x23, "b": x23}, [("Add", "", ["x", "b"], ["y"])],
     error=err("INVALID_ARGUMENT", "'b'", "missing"), feed={"x": x23})
case("wrong_dtype", {"x": x23}, relu, error=err("DTYPE_MISMATCH", "'x'", "f32", "f64"),
     feed={"x": x23.astype(np.float64)})
case("wrong_extent", {"x": x23}, relu, error=err("SHAPE_MISMATCH", "'x'", "[2, 3]", "[3, 2]"),
     feed={"x": x23.reshape(3, 2)})
case("wrong_rank", {"x": x23}, relu, error=err("SHAPE_MISMATCH", "'x'", "[2, 3]", "[6]"),
     feed={"x": x23.ravel()})
case("symbols_disagree", {"x": x23, "b": x23}, [("Add", "", ["x", "b"], ["y"])],
     shapes={"x": ["n", "3"], "b": ["n", "3"]}, error=err("SHAPE_MISMATCH", "n", "2", "1"),
     feed={"x": x23, "b": x23[:1]})
case("outside_bounds", {"x": x23}, relu, shapes={"x": ["n", "3"]},
     bounds=[{"symbol": "n", "min": 4, "max": 9}], error=err("SHAPE_MISMATCH", "n", "2", "4", "9"))
case("unknown_operator", {"x": x23}, [("Teleport", "", ["x"], ["y"])],
     error=err("UNSUPPORTED", "Teleport"))
case("unknown_attribute", {"x": x23}, [("Relu", "colour = 3", ["x"], ["y"])],
     error=err("UNSUPPORTED", "Relu", "colour"))
case("malformed_attributes", {"x": x23}, [("Concat", "axis = = 1", ["x"], ["y"])],
     error=err("INVALID_ARGUMENT"))
case("inner_extents_differ", {"x": x23, "b": x23}, [("MatMul", "", ["x", "b"], ["y"])],
     error=err("SHAPE_MISMATCH", "3", "2"))
case("index_out_of_range", {"x": x23, "i": np.array([5])},
     [("Gather", "axis = 0", ["x", "i"], ["y"])], error=err("INVALID_ARGUMENT", "5", "2"))

# A model's own budget. Neg of [n, 3] holds its result, 12 bytes a row, and nothing else.
neg = [("Neg", "", ["x"], ["y"])]
n3 = {"x": ["n", "3"]}
case("budget_that_just_does", {"x": x23}, neg, {"y": -x23}, shapes=n3,
     options={"memory_budget_bytes": 24, "shapes": {"x": [2, 3]}})
case("budget_too_small_for_its_shapes", {"x": x23}, neg, shapes=n3,
     options={"memory_budget_bytes": 23, "shapes": {"x": [2, 3]}},
     error=err("BUDGET_EXCEEDED", "24 bytes at least", "memory_budget_bytes is 23",
               "raise it to 24"))
case("budget_too_small_for_the_bounds", {"x": x23}, neg, shapes=n3,
     bounds=[{"symbol": "n", "min": 1, "max": 8}], options={"memory_budget_bytes": 95},
     error=err("BUDGET_EXCEEDED", "memory_budget_bytes is 95", "raise it to 96"))
case("budget_too_small_for_a_run", {"x": x23}, neg, shapes=n3,
     options={"memory_budget_bytes": 23, "shapes": {"x": [1, 3]}},
     error=err("BUDGET_EXCEEDED", "24 bytes", "23"))
case("budget_for_an_unknown_input", {"x": x23}, neg, shapes=n3,
     options={"memory_budget_bytes": 24, "shapes": {"z": [2, 3]}},
     error=err("NOT_FOUND", "'z'", "'x'"))
case("budget_for_a_wrong_shape", {"x": x23}, neg, shapes=n3,
     options={"memory_budget_bytes": 24, "shapes": {"x": [2, 4]}},
     error=err("SHAPE_MISMATCH", "'x'", "f32[n, 3]", "[2, 4]"))
case("whole", {"x": x23}, neg, {"y": -x23}, options={"whole": True})

# Bounds that the options set.
case("inside_the_bounds_of_the_options", {"x": x23}, neg, {"y": -x23}, shapes=n3,
     options={"bounds": {"n": {"min": 2, "max": 2}}})
case("above_the_bounds_of_the_options", {"x": x23}, neg, shapes=n3,
     options={"bounds": {"n": {"min": 1, "max": 1}}},
     error=err("SHAPE_MISMATCH", "'x'", "symbol n is 2", "1 to 1"))
case("below_the_bounds_of_the_options", {"x": x23}, neg, shapes=n3,
     options={"bounds": {"n": {"min": 3, "max": None}}},
     error=err("SHAPE_MISMATCH", "'x'", "symbol n is 2", "at least 3"))
case("budget_too_small_for_the_bounds_of_the_options", {"x": x23}, neg, shapes=n3,
     options={"memory_budget_bytes": 95, "bounds": {"n": {"min": 0, "max": 8}}},
     error=err("BUDGET_EXCEEDED", "memory_budget_bytes is 95", "raise it to 96"))
case("bounds_of_an_unknown_symbol", {"x": x23}, neg, shapes=n3,
     options={"bounds": {"m": {"min": 1, "max": 2}}}, error=err("NOT_FOUND", "'m'", "'n'"))
case("bounds_beyond_those_of_the_graph", {"x": x23}, neg, shapes=n3,
     bounds=[{"symbol": "n", "min": 1, "max": 8}], options={"bounds": {"n": {"min": 2, "max": 9}}},
     error=err("INVALID_ARGUMENT", "'n'", "2 to 9", "1 to 8"))
case("bounds_that_nothing_meets", {"x": x23}, neg, shapes=n3,
     options={"bounds": {"n": {"min": 5, "max": 4}}},
     error=err("INVALID_ARGUMENT", "'n'", "min 5", "max 4"))

path = pathlib.Path(__file__).with_name("cases.json")
lines = ",\n".join(json.dumps(c, ensure_ascii=False) for c in CASES)
path.write_text('{"version": 1, "cases": [\n' + lines + "\n]}\n", encoding="utf-8")
print(f"{len(CASES)} cases in {path.name}")
