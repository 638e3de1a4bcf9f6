"""Files that are named in READMEs and at the head of modules are there, under these names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from docs.import_graph import PACKAGE, ROOMS, ROOT

FOLDERS = (PACKAGE, *ROOMS, "benchmarks", "docs", "tests")
# Code and pages alone: what else is named is often data that is still to be written.
NAMED = re.compile(r"(?<![\w./-])(?:\.\./)*(?:[\w-]+/)*[\w-]+\.(?:py|md)\b")


def named_in(text: str) -> set[str]:
    """Files of this project that the text names; parts of addresses and of longer names are none."""
    return set(NAMED.findall(re.sub(r"https?://\S+", "", text)))


def texts() -> Iterator[tuple[Path, str]]:
    """Every README and every module's description, with its file."""
    yield ROOT / "README.md", (ROOT / "README.md").read_text(encoding="utf-8")
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("README.md")):
            yield file, file.read_text(encoding="utf-8")
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file, ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def missing(file: Path, text: str) -> set[str]:
    """What the text of that file names, and what lies neither beside it nor at that path from the root."""
    return {name for name in named_in(text) if not any((place / name).exists() for place in (file.parent, ROOT))}


def test_every_file_that_a_readme_or_a_module_names_is_there() -> None:
    wrong = {str(file.relative_to(ROOT)): names for file, text in texts() if (names := missing(file, text))}
    assert not wrong
    assert sum(len(named_in(text)) for _, text in texts()) > 40


def test_a_file_that_is_gone_would_be_seen() -> None:
    text = "`step.py`, `optimise.py` and engine/preset.py; https://a.org/b.py, ../../docs/api.md, `bundle.json`"
    assert named_in(text) == {"step.py", "optimise.py", "engine/preset.py", "../../docs/api.md"}
    assert missing(ROOT / "engine" / "method" / "step.py", text) == {"optimise.py", "engine/preset.py"}
