"""`mnerfeat.toml`, and what the command line says on top of it."""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnerfeat.config.builder import unknown
from mnerfeat.errors import ConfigError

FILE_NAME = "mnerfeat.toml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What `mnerfeat.toml` and `--set` say.

    Attributes:
        cache: The feature cache.
        data: The folder of train, dev and test.
        runs: The folder of run folders.
        preset: `base` (the papers' backbones) or `tiny` (those inside the package).
        sections: Every other table, by its dotted name (`train`, `head.iqcr`), as read.
    """

    cache: Path = Path("features.h5")
    data: Path = Path("data")
    runs: Path = Path("runs")
    preset: str = "base"
    sections: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def section(self, name: str) -> Mapping[str, Any]:
        """A table, empty where it is not there."""
        return self.sections.get(name, {})


SECTIONS = ("extract", "text", "train", "head.*", "rank")
"""The tables a configuration may have."""

_TOP_LEVEL = ("cache", "data", "runs", "preset")


def load_settings(folder: Path = Path(), overrides: Sequence[str] = (), **options: Any) -> Settings:
    """Read `mnerfeat.toml` of a folder, where there is one, and apply overrides.

    Args:
        folder: Where to look.
        overrides: `train.epochs=5`: a dotted name and a TOML value; a bare word is a text.
        options: Top-level settings from the command line; None means not given.

    Raises:
        ConfigError: With every fault: a file that is not TOML, unknown names, wrong overrides.
    """
    path = folder / FILE_NAME
    tables: dict[str, Any] = {}
    if path.exists():
        try:
            tables = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
    faults: list[str] = []
    for override in overrides:
        _apply(tables, override, faults)
    settings = _settings(tables, options, faults)
    if faults:
        raise ConfigError(f"{path} or --set cannot be used:", faults=faults)
    return settings


def _settings(tables: Mapping[str, Any], options: Mapping[str, Any], faults: list[str]) -> Settings:
    top: dict[str, Any] = {}
    sections: dict[str, Mapping[str, Any]] = {}
    for name, value in tables.items():
        heads = name == "head" and isinstance(value, dict)
        for section, table in (
            [(f"head.{head}", table) for head, table in value.items()] if heads else [(name, value)]
        ):
            if name in _TOP_LEVEL and isinstance(value, str):
                top[name] = value if name == "preset" else Path(value)
            elif name in _TOP_LEVEL:
                faults.append(f"{name}: wanted a text, got {value!r}")
            elif not heads and name not in SECTIONS:
                faults.append(unknown(name, (*_TOP_LEVEL, *SECTIONS), "setting"))
            elif not isinstance(table, dict):
                faults.append(f"{section}: wanted a table ([{section}]), got {table!r}")
            else:
                sections[section] = table
    top |= {name: value for name, value in options.items() if value is not None}
    return Settings(**top, sections=sections)


def _apply(tables: dict[str, Any], override: str, faults: list[str]) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        faults.append(f"--set {override}: wanted NAME=VALUE, for example train.epochs=5")
        return
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *path, last = name.strip().split(".")
    table = tables
    for step in path:
        inner = table.setdefault(step, {})
        if not isinstance(inner, dict):
            faults.append(f"--set {override}: {step} is not a table")
            return
        table = inner
    table[last] = value
