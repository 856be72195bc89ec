"""What the benchmarks share: the machine's name, result files, sections of docs/benchmarks.md."""

import json
import platform
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "benchmarks.md"
START = """# Benchmarks

Peers run interleaved with us on one machine in one run. Compare within a table only, as ratios: another machine, or another
minute, gives other milliseconds.
"""


def cpu_name() -> str:
    try:
        return re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())[1].strip()
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def save(prefix: str, record: dict) -> None:
    """Writes bench/results/[PREFIX-]DATE-CPU.json."""
    cpu = re.sub(r"[^a-z0-9]+", "-", record["cpu"].lower()).strip("-")
    path = ROOT / "bench" / "results" / "-".join(filter(None, [prefix, record["date"], f"{cpu}.json"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def write_section(name: str, title: str, text: str) -> None:
    """Replaces the section between the marks of `name` in docs/benchmarks.md, or appends it."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = DOCUMENT.read_text() if DOCUMENT.is_file() else START
    if begin not in old or end not in old:
        old = f"{old.rstrip()}\n\n## {title}\n\n{begin}\n{end}\n"
    DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
    DOCUMENT.write_text(f"{old[: old.index(begin)]}{begin}\n{text}{old[old.index(end):]}")
