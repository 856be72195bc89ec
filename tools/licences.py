"""Read `cargo metadata` from stdin; fail on a dependency whose licence is not allowed."""
import json
import re
import sys

ALLOWED = {
    "MIT", "MIT-0", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause",
    "BSL-1.0", "ISC", "MPL-2.0", "Unicode-3.0", "Unicode-DFS-2016", "Unlicense", "Zlib", "0BSD",
    "CC0-1.0", "CDLA-Permissive-2.0",
}


def permitted(expression):
    """Whether an SPDX expression can be met by the allowed licences."""
    tokens = re.findall(r"\(|\)|\bAND\b|\bOR\b|[^\s()/]+(?:\s+WITH\s+[^\s()]+)?|/", expression)

    def disjunction(i):
        ok, i = conjunction(i)
        while i < len(tokens) and tokens[i] in ("OR", "/"):
            right, i = conjunction(i + 1)
            ok = ok or right
        return ok, i

    def conjunction(i):
        ok, i = atom(i)
        while i < len(tokens) and tokens[i] == "AND":
            right, i = atom(i + 1)
            ok = ok and right
        return ok, i

    def atom(i):
        if i < len(tokens) and tokens[i] == "(":
            ok, i = disjunction(i + 1)
            return ok, i + 1
        return i < len(tokens) and tokens[i] in ALLOWED, i + 1

    return disjunction(0)[0]


def main():
    assert permitted("(MIT OR Apache-2.0) AND Unicode-3.0") and permitted("MIT/Apache-2.0")
    assert not permitted("GPL-3.0") and not permitted("MIT AND GPL-2.0-only")
    packages = json.load(sys.stdin)["packages"]
    bad = [f"{p['name']} {p['version']}: {p['license'] or 'no licence field'}" for p in packages
           if not permitted(p["license"] or "")]
    if bad:
        sys.exit("licences that are not on the list in tools/licences.py:\n" + "\n".join(bad))
    print(f"licences: {len(packages)} crates, all permitted")


main()
