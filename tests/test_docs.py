"""The documentation builds, its Python runs, and its commands exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from mnerfeat.cli.app import app
from tests.cache.builders import feature, images, put_numbered

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:^|`|\$ |next: )(mnerfeat(?: [^`\n#|;&]+)?)", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in some language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    numbers = np.random.default_rng(0).normal(size=(12, 768)).tolist()
    names = ["a.jpg", "b.jpg", *(f"{n}.jpg" for n in range(10))]
    rows = feature(numbers, dtype="<f2", width=768)
    for name in names:
        Path(name).write_bytes(name.encode())
    from mnerfeat.cache import CacheWriter, pack

    CacheWriter("features.h5").put(
        images=images({name: name.encode() for name in names}, vit_cls=rows)
    )
    pack("features.h5")
    names_so_far: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names_so_far)


def commands(page: Path) -> list[str]:
    """Every command line of the program that a page shows, without comments."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    return [match.strip() for match in COMMAND.findall(text)]


def parser(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the rest of them."""
    found: Any = typer.main.get_command(app)
    while words and words[0] in getattr(found, "commands", {}):
        found, words = found.commands[words[0]], words[1:]
    return found, words


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for line in commands(page):
        words = [word for word in shlex.split(line)[1:] if word not in {"…", "[…]"}]
        command, rest = parser(words)
        known = {name for option in command.params for name in option.opts} | {"--help"}
        for word in rest:
            if word.startswith("--"):
                assert word.split("=")[0] in known, f"{page.name}: {line}"
        if hasattr(command, "commands") and rest:
            first = rest[0].split("|")[0]
            assert first in command.commands or first.startswith("-"), f"{page.name}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_inside_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cache-format" / "index.html").exists()


def test_numbered_caches_are_read_as_documented(tmp_path: Path) -> None:
    """The page on the format says how; this reads as it says, with h5py alone."""
    import hashlib

    import h5py

    from mnerfeat.cache import pack

    put_numbered(tmp_path / "f.h5", range(30))
    pack(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5") as file:
        table = file["images"]
        names = table["path"]
        offset, text = names["offset"][:], names["bytes"][:].tobytes()
        hashes = names["hash"][:]
        for number in range(30):
            name = f"{number}.jpg".encode()
            wanted = int.from_bytes(hashlib.sha256(name).digest()[:8])
            position = int(np.searchsorted(hashes, wanted))
            assert text[offset[position] : offset[position + 1]] == name
            row = names["row"][position]
            assert table["vit_cls/data"][row].tolist() == [number] * 3
            assert table["id"][row].tobytes() == hashlib.sha256(str(number).encode()).digest()


def test_architecture_figure_is_current() -> None:
    script = ROOT / "tools" / "draw_architecture.py"
    subprocess.run([sys.executable, script, "--check"], cwd=ROOT, check=True, timeout=120)


def test_architecture_page_names_existing_files() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|/))`", page)) - {"images/"}
    planned = {name for name in named if "my_" in name}
    roots = (ROOT, ROOT / "mnerfeat", ROOT / "mnerfeat/datasets/formats")
    missing = [
        name for name in named - planned if not any((root / name).exists() for root in roots)
    ]
    assert named
    assert not missing
