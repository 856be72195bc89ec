"""Write the ONNX backend test suite to disk, one directory a case.

The `onnx` wheel carries its model cases as files but its node cases as Python
code, which makes the inputs (seed 0 before every group) and the expected
outputs with numpy. This program runs that code once and stores everything in
the layout of the file cases, so that a runner needs no Python:

    OUT/KIND/NAME/model.onnx
    OUT/KIND/NAME/test_data_set_N/{input,output}_M.pb
    OUT/cases.tsv

KIND is node, simple, pytorch-converted, pytorch-operator or light. A `.pb`
file holds a TensorProto, SequenceProto or OptionalProto, as the type of the
M-th graph input or output says. `cases.tsv` has one line a case:
kind, name, rtol, atol, check. `check` is `values`, or `shape` where outputs
are drawn from a random generator that the specification leaves free: only
their count, dtypes and shapes are defined.

usage: python onnx_cases.py OUT
"""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

SOURCE = Path(onnx.__file__).parent / "backend" / "test" / "data"
FILE_KINDS = ("simple", "pytorch-converted", "pytorch-operator")
# Function expansions of Bernoulli call RandomUniformLike; Dropout in training
# mode is exact only where its ratio is 0 (`*_zero_ratio*`).
RANDOM = re.compile(r"^test_(bernoulli|training_dropout(?!_zero_ratio)|random|multinomial)")


def serialize(value, info: onnx.ValueInfoProto) -> bytes:
    """One `.pb` file: `value` in the form that the type of `info` asks for."""
    if hasattr(value, "SerializeToString"):
        return value.SerializeToString()
    kind = info.type.WhichOneof("value")
    make = {
        "tensor_type": lambda v, n: numpy_helper.from_array(np.asarray(v), n),
        "sequence_type": numpy_helper.from_list,
        "optional_type": numpy_helper.from_optional,
        "map_type": numpy_helper.from_dict,
    }[kind]
    return make(value, info.name).SerializeToString()


def write_case(case_dir: Path, model: onnx.ModelProto, data_sets) -> None:
    case_dir.mkdir(parents=True)
    (case_dir / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    for i, sets in enumerate(data_sets):
        set_dir = case_dir / f"test_data_set_{i}"
        set_dir.mkdir()
        sides = (("input", model.graph.input), ("output", model.graph.output))
        for values, (stem, infos) in zip(sets, sides, strict=True):
            for j, value in enumerate(values):
                (set_dir / f"{stem}_{j}.pb").write_bytes(serialize(value, infos[j]))


def write_light(case, case_dir: Path) -> None:
    """A real architecture with constant weights; its input is the ramp k/n."""
    stem = SOURCE / "light" / Path(case.url).stem
    model = onnx.load(stem.with_suffix(".onnx"))
    constants = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    data = [Runner.generate_dummy_data(i, name=case.name) for i in inputs]
    write_case(case_dir, model, [])
    set_dir = case_dir / "test_data_set_0"
    set_dir.mkdir()
    # Inputs are numbered among those that need a value.
    for j, (value, info) in enumerate(zip(data, inputs, strict=True)):
        (set_dir / f"input_{j}.pb").write_bytes(serialize(value, info))
    for j in range(len(model.graph.output)):
        shutil.copy(f"{stem}_output_{j}.pb", set_dir / f"output_{j}.pb")


def main(out: Path) -> None:
    rows = []

    def note(case, kind: str) -> None:
        check = "shape" if RANDOM.match(case.name) else "values"
        rows.append((kind, case.name, f"{case.rtol:g}", f"{case.atol:g}", check))

    for case in load_model_tests(kind="node"):
        write_case(out / "node" / case.name, case.model, case.data_sets)
        note(case, "node")
    for kind in FILE_KINDS:
        for case in load_model_tests(kind=kind):
            shutil.copytree(SOURCE / kind / case.name, out / kind / case.name)
            note(case, kind)
    # Cases of the simple kind that are code only.
    for case in onnx.backend.test.case.model.collect_testcases():
        target = out / case.kind / case.name
        if case.kind == "simple" and not target.exists():
            write_case(target, case.model, case.data_sets)
            note(case, "simple")
    for case in load_model_tests(kind="real"):
        write_light(case, out / "light" / case.name)
        note(case, "light")
    rows.sort()
    text = "".join("\t".join(row) + "\n" for row in rows)
    (out / "cases.tsv").write_text("kind\tname\trtol\tatol\tcheck\n" + text)
    (out / "versions.json").write_text(json.dumps({"onnx": onnx.__version__, "numpy": np.__version__}) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.splitlines()[-2])
    import onnx.backend.test.case.model

    main(Path(sys.argv[1]))
