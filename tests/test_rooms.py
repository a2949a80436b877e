"""The house as docs/architecture.md plans it: sizes, imports inside functions, and the page itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "omnimouse"
SOURCES = sorted(PACKAGE.rglob("*.py"))

OPTIONAL = {"h5py", "matplotlib", "matplotlib.figure", "peft", "torch.utils.tensorboard", "trackio"}
"""What need not be there."""

LAZY = {"cli/main.py", "pretrained/auto_classes.py"}
"""Files whose point it is that something is imported later."""


@cache
def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_the_top_level_is_small():
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert len(entries) <= 14, sorted(entries)


def test_no_folder_holds_more_than_a_dozen_modules():
    counts = {folder: len(list(folder.glob("[!_]*.py"))) for folder in {path.parent for path in SOURCES}}
    assert {str(folder): count for folder, count in counts.items() if count > 12} == {}


def test_files_and_functions_are_short():
    long = {str(path): n for path in SOURCES if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    for path in SOURCES:
        for function in functions(path):
            if (n := function.end_lineno - function.lineno + 1) > 60:
                long[f"{path}:{function.name}"] = n
    assert long == {}


def test_imports_inside_functions_are_of_optional_packages():
    found = set()
    for path in (path for path in SOURCES if str(path.relative_to(PACKAGE)) not in LAZY):
        for node in (node for function in functions(path) for node in ast.walk(function)):
            if isinstance(node, ast.ImportFrom):
                found.add((str(path), "." * node.level + (node.module or "")))
            elif isinstance(node, ast.Import):
                found.update((str(path), alias.name) for alias in node.names)
    assert {(path, name) for path, name in found if name not in OPTIONAL} == set()


def test_names_of_files_mean_one_thing():
    stems = [path.stem for path in SOURCES if path.stem not in ("__init__", "__main__")]
    assert sorted({stem for stem in stems if stems.count(stem) > 1}) == []


def test_the_page_and_its_picture_are_of_this_code():
    command = [sys.executable, str(ROOT / "docs" / "draw_rooms.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
