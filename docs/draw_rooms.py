"""Draws the rooms of the package, and the imports between them, from the code: `python docs/draw_rooms.py`.

Writes `docs/rooms.svg` and the list of files in `docs/architecture.md`; with `--check`, only says whether both are of
this code. The order of the rooms is that of the contract in `pyproject.toml`.
"""

from __future__ import annotations

import ast
import math
import sys
from collections import Counter
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "omnimouse"
ORDER = (
    ("cli",),
    ("scaling",),
    ("training",),
    ("published",),
    ("pretrained",),
    ("evaluation", "corpus"),
    ("recordings",),
    ("model",),
    ("hub",),
    ("support",),
)
BEGIN, END = "<!-- files: python docs/draw_rooms.py -->", "<!-- end of files -->"


def summary(path: Path) -> str:
    """The first sentence of a module's docstring."""
    return " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())


def shorten(text: str, width: float) -> str:
    """Text that fits a box of this width."""
    most = int(width / 7)
    return text if len(text) <= most else text[: most - 4].rsplit(",", 1)[0] + ", ..."


def listing() -> str:
    """Every file with what lives there, room by room, as Markdown."""
    parts = []
    for room in (name for names in ORDER for name in names):
        if not (PACKAGE / room).is_dir():
            parts.append(f"**`{room}.py`** {summary(PACKAGE / f'{room}.py')}\n")
            continue
        for folder in [PACKAGE / room, *sorted(path.parent for path in (PACKAGE / room).rglob("*/__init__.py"))]:
            files = sorted(folder.glob("[!_]*.py"))
            title = f"**`{folder.relative_to(PACKAGE)}/`** {summary(folder / '__init__.py')}\n"
            rows = "".join(f"| `{file.name}` | {escape(summary(file), quote=False)} |\n" for file in files)
            parts.append(title + (f"\n| file | what lives there |\n|---|---|\n{rows}" if rows else ""))
    return "\n".join(parts)


def imports() -> Counter[tuple[str, str]]:
    """Number of imports from one room of another."""
    graph = grimp.build_graph("omnimouse", cache_dir=None)
    counts: Counter[tuple[str, str]] = Counter()
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            rooms = [name.split(".")[1] if "." in name else "" for name in (importer, imported)]
            if rooms[0] != rooms[1] and "" not in rooms and "__main__" not in rooms:
                counts[rooms[0], rooms[1]] += 1
    return counts


def picture() -> str:
    """The rooms from the top one down, as SVG; an arc leads from a room to one that it imports."""
    width, height, gap, left = 420, 58, 16, 20
    middle: dict[str, float] = {}
    edge: dict[str, float] = {}
    shapes = []
    for level, names in enumerate(ORDER):
        top = 20 + level * (height + gap)
        share = (width - (len(names) - 1) * gap) / len(names)
        for i, name in enumerate(names):
            x = left + i * (share + gap)
            path = PACKAGE / name
            subrooms = sorted(p.name for p in path.iterdir() if (p / "__init__.py").exists()) if path.is_dir() else []
            files = sorted(p.stem for p in path.glob("[!_]*.py")) if path.is_dir() else ["one file"]
            inside = shorten(", ".join([*(f"{name}/" for name in subrooms), *files]), share)
            middle[name], edge[name] = top + height / 2, left + width
            shapes.append(
                f'<rect x="{x}" y="{top}" width="{share}" height="{height}" rx="6" fill="#eef3f8" stroke="#456"/>'
                f'<text x="{x + 12}" y="{top + 24}" font-size="15" font-weight="bold">{name}</text>'
                f'<text x="{x + 12}" y="{top + 44}" font-size="12" fill="#456">{escape(inside)}</text>'
            )
    arcs = []
    for (importer, imported), count in sorted(imports().items()):
        y0, y1, x = middle[importer] + 6, middle[imported] - 6, edge[importer]
        bend = x + 30 + abs(y1 - y0) * 0.42
        colour = "#c33" if y1 < y0 else "#789"
        arcs.append(
            f'<path d="M{x},{y0:.1f} C{bend:.1f},{y0:.1f} {bend:.1f},{y1:.1f} {x + 5},{y1:.1f}" fill="none" '
            f'stroke="{colour}" stroke-opacity="0.6" stroke-width="{1 + round(math.log(count, 6))}" '
            f'marker-end="url(#tip)"><title>{importer} imports {imported}</title></path>'
        )
    total = 20 + len(ORDER) * (height + gap)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {total}" width="760" height="{total}" '
        'font-family="sans-serif" fill="#123">\n<defs><marker id="tip" viewBox="0 0 6 6" refX="5" refY="3" '
        'markerWidth="6" markerHeight="6" markerUnits="userSpaceOnUse" orient="auto">'
        '<path d="M0,0 L6,3 L0,6 z" fill="#789"/></marker></defs>\n'
        f'<rect width="760" height="{total}" fill="white"/>\n' + "\n".join([*shapes, *arcs]) + "\n</svg>\n"
    )


def main() -> int:
    page = ROOT / "docs" / "architecture.md"
    text = page.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    wanted = {page: f"{before}{BEGIN}\n{listing()}{END}{after}", ROOT / "docs" / "rooms.svg": picture()}
    stale = [file for file, content in wanted.items() if not file.exists() or file.read_text("utf-8") != content]
    if "--check" in sys.argv:
        for file in stale:
            print(f"{file.relative_to(ROOT)} is not of this code: run `python docs/draw_rooms.py`")
        return bool(stale)
    for file in stale:
        file.write_text(wanted[file], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
