#!/usr/bin/env python3
"""Compile and run the examples of README.md as a user would: tests/readme.py DEMO_DIR

DEMO_DIR is what tools/demo.sh has built: the packages of every language. Each snippet is put
into a program as it stands and run beside a small model.onnx.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    """A field of a protocol buffer: an integer, a text, or a nested message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def relu_model():
    """y = Relu(x) over f32[batch, 3, 224, 224], as an ONNX file (onnx.proto, ModelProto)."""
    dims = field(1, field(2, "batch")) + b"".join(field(1, field(1, n)) for n in (3, 224, 224))
    kind = field(1, field(1, 1) + field(2, dims))
    node = field(1, "x") + field(2, "y") + field(4, "Relu")
    graph = field(1, node) + field(2, "g")
    graph += field(11, field(1, "x") + field(2, kind)) + field(12, field(1, "y") + field(2, kind))
    return field(1, 8) + field(8, field(1, "") + field(2, 17)) + field(7, graph)


def split(code, is_head):
    """Lines that belong before the main function, and the others, indented."""
    lines = code.splitlines()
    head = [line for line in lines if is_head(line)]
    return "\n".join(head), "\n".join("    " + line for line in lines if not is_head(line))


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"readme: {' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def main(demo):
    demo = pathlib.Path(demo).resolve()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    code = {language: text for language, text in blocks}
    missing = {"c", "cpp", "js", "java", "rust"} - code.keys()
    if missing:
        sys.exit(f"readme: README.md has no example in {', '.join(sorted(missing))}")
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        (work / "model.onnx").write_bytes(relu_model())
        (work / "build").symlink_to(ROOT / "build")
        include = lambda line: line.startswith("#include")  # noqa: E731

        head, body = split(code["c"], include)
        (work / "a.c").write_text(
            f"#include <stdio.h>\n#include <string.h>\n{head}\nint main(void)\n{{\n{body}\n    return err != NULL;\n}}\n")
        prefix = demo / "c/prefix"
        run("cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "a.c", "-o", "a", f"-I{prefix}/include",
            f"-L{prefix}/lib", "-ldeepseek", f"-Wl,-rpath,{prefix}/lib", cwd=work)
        print("c:", run("./a", cwd=work).strip())

        head, body = split(code["cpp"], include)
        (work / "b.cpp").write_text(
            f"{head}\n#include <cstdio>\nint main() {{\n{body}\n"
            "    std::printf(\"%zu scores\\n\", scores.size());\n}\n")
        prefix = demo / "cpp/prefix"
        run("c++", "-std=c++20", "-Wall", "-Wextra", "-Werror", "b.cpp", "-o", "b", "-isystem",
            f"{prefix}/include", f"{prefix}/lib/libdeepseek_cpp.a", "-lpthread", "-ldl", "-lm", cwd=work)
        print("cpp:", run("./b", cwd=work).strip())

        (work / "node_modules").symlink_to(demo / "node/node_modules")
        (work / "c.mjs").write_text(code["js"])
        print("js:", run("node", "c.mjs", cwd=work).strip())

        (work / "D.java").write_text(
            "import ai.deepseek.*;\nimport ai.deepseek.Runtime;\nimport java.nio.file.Path;\nimport java.util.Map;\n"
            f"class D {{\n  public static void main(String[] args) {{\n{code['java']}  }}\n}}\n")
        jar = next((demo / "java/package").glob("deepseek-*.*.[0-9].jar"))
        run("javac", "-cp", jar, "D.java", cwd=work)
        print("java:", run("java", "-cp", f"{jar}:{work}", "D", cwd=work).strip())


main(*sys.argv[1:])
