"""The page of all config keys, made of the comments in `defaults.py`.

python -m mvidx.config.reference > docs/config.md
"""

import re
from pathlib import Path

from mvidx.config import defaults

_SECTION = re.compile(r"# -{10,} (.+)")
_KEY = re.compile(r"_C\.([A-Z0-9_.]+) = (.+)")
INTRODUCTION = """# Config keys

Made of the comments in `mvidx/config/defaults.py` by `python -m mvidx.config.reference > docs/config.md`.

A config is a YAML file with these keys; `KEY VALUE` pairs after it on the command line override it. A file may begin
with `_BASE_: other.yaml`, a path relative to it, whose keys it then changes. Names are PySlowFast's where PySlowFast
has the concept ([what becomes of the others](from-pyslowfast.md)). The config that a run used, complete, is in its
OUTPUT_DIR.
"""


def reference(source: str) -> str:
    """The page for the source text of `defaults.py`: a table for each section, a row for the keys of each comment."""
    lines: list[str] = [INTRODUCTION]
    comment: list[str] = []
    keys: list[tuple[str, str]] = []

    def end_row() -> None:
        if keys:
            names, values = ("<br>".join(f"`{entry[part]}`" for entry in keys) for part in (0, 1))
            meaning = " ".join(comment).replace("|", "\\|")
            lines.append(f"| {names} | {values} | {meaning} |")
        keys.clear()
        comment.clear()

    for line in source.splitlines():
        if found := _SECTION.match(line):
            end_row()
            title = found[1][0].upper() + found[1][1:]
            lines += [f"## {title}", "", "| key | default | meaning |", "| --- | --- | --- |"]
        elif found := _KEY.match(line):
            if found[2] != "CfgNode()":
                keys.append(found.groups())
        else:
            if keys:
                end_row()
                if not line.startswith("#"):
                    lines.append("")
            if line.startswith("#"):
                comment.append(line.lstrip("# "))
    end_row()
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


if __name__ == "__main__":
    print(reference(Path(defaults.__file__).read_text()), end="")
