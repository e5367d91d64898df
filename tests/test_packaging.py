"""What is in the wheel and in the sdist, and how the source is layered."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built from a copy of what git would hold."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    return folder


def sources() -> set[str]:
    """Every file of the package, by its path in the repository."""
    package = ROOT / "mnerfeat"
    return {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_is_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == sources()
    assert "mnerfeat/py.typed" in names
    assert "mnerfeat/toy/weights/vit/model.safetensors" in names
    assert any(name.endswith("licenses/LICENSE") for name in info)
    assert wheel.stat().st_size < 10e6


def test_the_sdist_builds_and_tests_the_package(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = {member.name.split("/", 1)[-1]: member for member in archive}
    assert sources() <= set(members)
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"} <= set(members)
    assert "tests/cache/test_reader.py" in members
    assert "requirements/dev.lock" in members
    # The links in the root show the package's two doors; they must not carry it twice.
    assert not any(name.startswith(("cache/", "cli/")) for name in members)


def test_the_root_links_show_the_two_doors() -> None:
    assert (ROOT / "cache").resolve() == (ROOT / "mnerfeat" / "cache").resolve()
    assert (ROOT / "cli").resolve() == (ROOT / "mnerfeat" / "cli").resolve()


def test_locks_name_no_place_to_download_from() -> None:
    locks = sorted((ROOT / "requirements").glob("*.lock"))
    assert [lock.name for lock in locks] == ["demo.lock", "dev.lock", "uv.lock"]
    for lock in locks:
        text = lock.read_text()
        assert "://" not in text
        assert "index" not in text
        pinned = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert all("==" in line for line in pinned)
        assert text.count("==") <= text.count("--hash=sha256:")


def test_the_demo_installs_nothing_for_non_commercial_use_only() -> None:
    assert "pyiqa" not in (ROOT / "requirements" / "demo.lock").read_text()
