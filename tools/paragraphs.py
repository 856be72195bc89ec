"""Print the prose paragraphs of Markdown files, one a line: what the demo searches."""
import re
import sys


def paragraphs(text):
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.strip().splitlines()]
        # A list is one paragraph an item.
        items, current = [], []
        for line in lines:
            if re.match(r"([-*]|\d+\.)\s", line) and current:
                items.append(current)
                current = []
            current.append(re.sub(r"^([-*]|\d+\.)\s+", "", line))
        items.append(current)
        for item in items:
            line = " ".join(item)
            if line and not line.startswith(("#", "|", "<")) and len(line.split()) >= 8:
                yield re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", lambda m: m.group(1) or "", line)


for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        for paragraph in paragraphs(file.read()):
            print(paragraph)
