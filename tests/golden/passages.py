"""Passages of real documentation, each with a question that it answers, for a retrieval test.

    python passages.py        writes passages.json beside this file

Both come from the docstrings of Python's standard library (PSF licence): the question is a docstring's first
sentence, the passage what follows it, so neither repeats the other. Needs CPython 3.12 or later; other versions
write other docstrings.
"""

import importlib
import inspect
import json
import pathlib
import re

HERE = pathlib.Path(__file__).parent
MODULES = """argparse ast asyncio base64 bisect calendar cgitb code codecs collections concurrent.futures configparser
contextlib copy csv ctypes datetime decimal difflib dis doctest email.message email.policy enum filecmp fileinput
fnmatch fractions ftplib functools getpass gettext glob graphlib gzip hashlib heapq hmac html http.client http.cookiejar
http.server imaplib importlib importlib.resources inspect io ipaddress itertools json keyword linecache locale logging
lzma mailbox mimetypes modulefinder multiprocessing multiprocessing.pool numbers operator optparse os pathlib pdb
pickle pickletools pkgutil platform plistlib poplib posixpath pprint profile pstats py_compile pyclbr pydoc queue
quopri random re reprlib sched secrets select selectors shelve shlex shutil signal site smtplib socket socketserver
sqlite3 ssl stat statistics string subprocess symtable sysconfig tarfile tempfile textwrap threading timeit tokenize
trace traceback tracemalloc turtle types typing unicodedata unittest unittest.mock urllib.parse urllib.request uuid
venv warnings wave weakref webbrowser wsgiref.handlers xml.dom.minidom xml.etree.ElementTree xmlrpc.client zipapp
zipfile zipimport zoneinfo""".split()
MOST = 480


def split(doc: str) -> tuple[str, str] | None:
    text = re.sub(r"\s+", " ", doc).strip()
    match = re.match(r"(.{30,160}?[.!?]) (?=[A-Z])(.*)", text)
    if not match or ">>>" in text or not text.isascii():
        return None
    question, passage = match[1], match[2][:700]
    letters = sum(c.isalpha() or c == " " for c in passage)
    return (question, passage) if len(passage) >= 120 and letters > 0.85 * len(passage) else None


def main() -> None:
    pairs: dict[str, str] = {}
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        found = [module, *(v for k, v in sorted(vars(module).items()) if not k.startswith("_"))]
        for thing in list(found):
            if inspect.isclass(thing):
                found += [v for k, v in sorted(vars(thing).items()) if not k.startswith("_")]
        for thing in found:
            doc = inspect.getdoc(thing) if callable(thing) or inspect.ismodule(thing) else None
            pair = split(doc) if doc else None
            if pair and pair[0] not in pairs and pair[1] not in pairs.values():
                pairs[pair[0]] = pair[1]
    chosen = sorted(pairs.items())
    step = max(1, len(chosen) / MOST)
    chosen = [chosen[int(i * step)] for i in range(min(MOST, len(chosen)))]
    rows = [json.dumps({"question": q, "passage": p}) for q, p in chosen]
    (HERE / "passages.json").write_text("[\n" + ",\n".join(rows) + "\n]\n")
    print(f"{len(rows)} of {len(pairs)} passages")


if __name__ == "__main__":
    main()
