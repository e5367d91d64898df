"""Small commands, and what happens where something is wrong."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import mnerfeat
from mnerfeat import __version__
from mnerfeat.cli.app import app
from mnerfeat.config.reference import sections
from tests.cache.builders import put_numbered
from tests.cli.conftest import Program


@pytest.mark.parametrize(
    "command",
    ["", "extract", "train", "eval", "predict", "doctor", "toy", "settings", "cache info",
     "cache verify", "data check", "data convert"],
)  # fmt: skip
def test_every_command_has_help(program: Program, command: str) -> None:
    result = program(*command.split(), "--help")
    assert result.code == 0
    assert "Usage" in result.out


def test_version(program: Program) -> None:
    assert program("--version").out == f"mnerfeat {__version__}\n"


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['mnerfeat', '--help']\n"
        "from mnerfeat.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'h5py', 'numpy', 'PIL'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "said", "code"),
    [
        ("extract --images nowhere", "nowhere", 2),
        ("extract --images . --features vti", "'vti'", 2),
        ("train --head iqrc", "unknown head 'iqrc'; did you mean iqcr?", 2),
        ("train --set train.epoch=5", "did you mean epochs?", 2),
        ("train", "there is no folder data", 1),
        ("train --resume", "no run in runs is waiting to be resumed", 1),
        ("eval", "there are no runs in runs", 1),
        ("predict --text hello", "there are no runs in runs", 1),
        ("predict", "either --posts FILE or --text", 2),
        ("cache info", "no feature cache at features.h5", 1),
        ("cache verify x.h5", "no feature cache at x.h5", 1),
        ("data check nowhere", "nowhere", 1),
        ("data convert nowhere out.jsonl", "nowhere", 1),
        ("data convert . out.xls --to xls", "'xls'; choose from: json, conll", 2),
        ("settings nothing", "unknown section 'nothing'", 2),
    ],
)
def test_what_is_missing_is_named(program: Program, command: str, said: str, code: int) -> None:
    result = program(*command.split())
    assert result.code == code, result.err
    assert said in result.err
    assert "Traceback" not in result.err
    assert list(Path().iterdir()) == []


def test_cache_info_and_verify_show_what_is_there(program: Program) -> None:
    put_numbered(Path("features.h5"), range(7))
    shown = program("cache", "info", "--provenance")
    assert "images 7 (7 names)" in shown.out
    assert "vit_cls" in shown.out
    assert '"model": "vit"' in shown.out
    assert program("cache", "verify").out == "features.h5 is sound\n"
    (part,) = Path("features.h5.d").iterdir()
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    damaged = program("cache", "verify")
    assert damaged.code == 1
    assert re.search(r"features.h5: \d faults?\n", damaged.err)


def test_settings_show_defaults_and_docstrings(program: Program) -> None:
    every = program("settings").out
    for section in ("[extract]", "[text]", "[train]", "[head.iqcr]", "[head.text]"):
        assert section in every
    assert "# encoder_lr = 2e-05" in every
    assert "# Highest learning rate of the text encoder." in every
    assert program("settings", "head.iqcr").out in every


def test_settings_help_names_every_section(program: Program) -> None:
    told = program("settings", "--help").out
    families = {"head.NAME" if name.startswith("head.") else name for name in sections()}
    assert [name for name in families if name not in told] == []


def test_doctor_looks_without_downloading(program: Program) -> None:
    result = program("doctor", "--preset", "tiny")
    assert result.code == 0
    assert "torch" in result.out
    assert "✓ vit: " in result.out
    base = program("doctor")
    assert "google/vit-base-patch16-224" in base.out
    assert "downloading" not in base.err
    # What is missing is told in short, and an unreachable hub once.
    models = base.out[base.out.index("models of the preset") :].splitlines()[1:-1]
    assert max(map(len, models)) < 200
    assert base.out.count("cannot be reached") <= 1, base.out


def test_data_check_counts(program: Program) -> None:
    assert program("toy", "w", "--train", "5", "--dev", "5", "--test", "5").code == 0
    result = program("data", "check", "w/data", "--images", "w/images")
    assert result.code == 0
    assert "0 missing, 0 unreadable" in result.out


def test_a_wrong_setting_of_another_command_is_refused(program: Program) -> None:
    for command in (("extract", "--set", "train.epoch=3"), ("train", "--set", "extract.vti=x")):
        refused = program(*command)
        assert refused.code == 2
        assert "did you mean " in refused.err
    Path("mnerfeat.toml").write_text("[head.iqrc]\nlayers = 1\n[rank.network]\nx = 1\n")
    refused = program("extract")
    assert refused.code == 2
    assert "unknown head 'iqrc'; did you mean iqcr?" in refused.err
    assert "unknown option of [rank.network] 'x'" in refused.err


def commands_in_messages() -> list[tuple[Path, str, str]]:
    """Every command with options that a message of the package names: file, words, options."""
    found = []
    package = Path(mnerfeat.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (getattr(part, "value", "X") for part in node.values)
                text = "".join(part if isinstance(part, str) else "X" for part in parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            for line in text.splitlines():
                for command in re.findall(r"mnerfeat ((?:(?!mnerfeat)[^`;()])*)", line):
                    words = re.match(r"(?:[a-z]+ ?)+", command)
                    if words is None:
                        continue
                    found.append((path, words.group(0), command))
    return found


def test_messages_name_only_options_that_the_command_has() -> None:
    root = typer.main.get_command(app)
    checked = 0
    for path, words, text in commands_in_messages():
        command: Any = root
        for word in words.split():
            if word not in getattr(command, "commands", {}):
                break
            command = command.commands[word]
        if command is root:
            continue  # "mnerfeat" in a sentence
        known = {name for option in command.params for name in option.opts} | {"--help"}
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", text):
            assert option in known, f"{path.name}: mnerfeat {text}"
            checked += 1
    assert checked > 30
