"""Writes cases.json as lines of tab-separated fields, for a reader without JSON.

usage: python tests/surface/flatten.py tests/surface/cases.json

A list is joined with ';', an absent item is '~', strings are hexadecimal UTF-8 after a '.'.
"""

import json
import sys


def listed(items):
    return ";".join("~" if item is None else str(item) for item in items)


def tensor(t):
    if "strings" in t:
        data = listed("." + s.encode().hex() for s in t["strings"])
    else:
        data = t["hex"]
    return [t["name"], t["dtype"], listed(t["shape"]), data]


def line(*fields):
    assert not any("\t" in f or "\n" in f for f in fields)
    print("\t".join(fields))


for case in json.load(open(sys.argv[1], encoding="utf-8"))["cases"]:
    graph, expect = case["graph"], case["expect"]
    line("case", case["name"])
    for i in graph["inputs"]:
        line("graph_input", i["name"], i["dtype"], listed(i["shape"]))
    for b in graph.get("bounds", []):
        line("bound", b["symbol"], str(b["min"]), "~" if b["max"] is None else str(b["max"]))
    for c in graph.get("constants", []):
        line("constant", *tensor(c))
    for n in graph["nodes"]:
        line("node", n["op"], n["name"], n["attrs"], listed(n["inputs"]), listed(n["outputs"]))
    for name, shape in graph.get("options", {}).get("shapes", {}).items():
        line("options_shape", name, listed(shape))
    for symbol, b in graph.get("options", {}).get("bounds", {}).items():
        line("options_bounds", symbol, str(b["min"]), "~" if b["max"] is None else str(b["max"]))
    if "options" in graph:
        o = graph["options"]
        line("options", str(o["memory_budget_bytes"]), str(int(o["whole"])))
    for name, value in graph["outputs"]:
        line("graph_output", name, value)
    for i in case["inputs"]:
        line("input", *tensor(i))
    if "error" in expect:
        line("error", expect["error"]["code"], listed(expect["error"]["contains"]))
    for o in expect.get("outputs", []):
        line("output", *tensor(o))
    line("end")
