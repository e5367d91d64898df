"""Draws the packages and who imports whom, from the code itself: `docs/architecture.svg`.

The rows are the layers of the import-linter contract in `pyproject.toml`. An arrow means
"imports"; an import that a chain of other arrows already implies is left out.
"""

import argparse
import ast
import tomllib
from html import escape
from pathlib import Path

import grimp
import networkx as nx

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mnerfeat"
TARGET = ROOT / "docs" / "architecture.svg"

WIDTH, BOX_HEIGHT, ROW_HEIGHT, MARGIN = 980, 44, 92, 24

STYLE = """
  .box { fill: #f4f6fb; stroke: #4355a0; }
  .arrow { stroke: #8a93b5; fill: none; marker-end: url(#tip); }
  #tip path { fill: #8a93b5; }
  .name { font: 600 15px sans-serif; fill: #1d2440; text-anchor: middle; }
  .purpose { font: 10.5px sans-serif; fill: #565e7d; text-anchor: middle; }
  @media (prefers-color-scheme: dark) {
    .box { fill: #262b3d; stroke: #8796d8; }
    .name { fill: #eceefa; }
    .purpose { fill: #aab1cf; }
  }
"""


def layers() -> list[list[str]]:
    """The packages of each layer, top first, as the import contract states them."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in row.split("|")] for row in rows if row != "__main__"]


def imports() -> nx.DiGraph:
    """Which package imports which, without the imports that others imply."""
    graph = grimp.build_graph(PACKAGE)
    found: nx.DiGraph = nx.DiGraph()
    for module in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            ends = [name.split(".")[1] for name in (module, imported) if "." in name]
            if len(ends) == 2 and ends[0] != ends[1] and "__main__" not in ends:
                found.add_edge(*ends)
    return nx.transitive_reduction(found)


def purpose(name: str) -> str:
    """The first clause of a package's docstring."""
    path = ROOT / PACKAGE / name / "__init__.py"
    if not path.exists():
        path = ROOT / PACKAGE / f"{name}.py"
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    first = text.split("\n", 1)[0]
    for end in (":", ";", ",", "."):
        first = first.split(end, 1)[0] if len(first) > 36 else first.rstrip(".")
    return first


def draw() -> str:
    """The picture as SVG."""
    rows = layers()
    places: dict[str, tuple[float, float, float]] = {}
    for number, row in enumerate(rows):
        width = min(270.0, (WIDTH - MARGIN * (len(row) + 1)) / len(row))
        left = (WIDTH - len(row) * width - (len(row) - 1) * MARGIN) / 2
        for place, name in enumerate(row):
            places[name] = (left + place * (width + MARGIN), MARGIN + number * ROW_HEIGHT, width)
    height = 2 * MARGIN + (len(rows) - 1) * ROW_HEIGHT + BOX_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>Packages of mnerfeat and their imports</title>",
        f"<style>{STYLE}</style>",
        (
            '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker>'
        ),
    ]
    for start, end in sorted(imports().edges):
        x1, y1, w1 = places[start]
        x2, y2, w2 = places[end]
        top, bottom = y1 + BOX_HEIGHT, y2 - 2
        ax, bx = x1 + w1 / 2, x2 + w2 / 2
        parts.append(
            f'<path class="arrow" d="M{ax:.0f} {top:.0f} C{ax:.0f} {top + 34:.0f} '
            f'{bx:.0f} {bottom - 34:.0f} {bx:.0f} {bottom:.0f}"/>'
        )
    for name, (x, y, width) in places.items():
        middle = x + width / 2
        parts += [
            (
                f'<rect class="box" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" '
                f'height="{BOX_HEIGHT}" rx="7"/>'
            ),
            f'<text class="name" x="{middle:.0f}" y="{y + 19:.0f}">{name}</text>',
            (
                f'<text class="purpose" x="{middle:.0f}" y="{y + 35:.0f}">'
                f"{escape(purpose(name))}</text>"
            ),
        ]
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write the picture, or check that it is current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the picture is out of date")
    options = parser.parse_args()
    picture = draw()
    if options.check and picture != TARGET.read_text("utf-8"):
        raise SystemExit(f"{TARGET} is out of date: run python tools/draw_architecture.py")
    TARGET.write_text(picture, "utf-8")


if __name__ == "__main__":
    main()
