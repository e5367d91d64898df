"""Every setting there is, as text."""

import dataclasses
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnerfeat.config.builder import field_docs, unknown
from mnerfeat.errors import ConfigError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.preference import DiscriminatorConfig, RankConfig
from mnerfeat.tagger import HEADS
from mnerfeat.text import TextConfig
from mnerfeat.training import TrainingConfig


def sections() -> Mapping[str, type]:
    """The tables of `mnerfeat.toml`, by name, with the dataclasses they fill."""
    heads = {f"head.{name}": kind for name, kind in sorted(HEADS.items())}
    rank = {"rank": RankConfig, "rank.network": DiscriminatorConfig}
    return {"extract": ExtractConfig, "text": TextConfig, "train": TrainingConfig, **rank, **heads}


def render_settings(section: str | None = None) -> str:
    """The settings of one table, or of all, with defaults and docstrings, as commented TOML.

    Raises:
        ConfigError: For an unknown table.
    """
    known = sections()
    if section is not None and section not in known:
        raise ConfigError(unknown(section, known, "section"))
    chosen = known if section is None else {section: known[section]}
    return "\n\n".join(_render(name, kind) for name, kind in chosen.items())


def _render(name: str, kind: type) -> str:
    docs = field_docs(kind)
    lines = [f"[{name}]"]
    for field in dataclasses.fields(kind):
        if f"{name}.{field.name}" in sections():
            continue  # a table of its own
        text = " ".join(docs.get(field.name, "").split())
        lines += textwrap.wrap(text, 90, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"# {field.name} = {_toml(field.default)}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if value is None or value is dataclasses.MISSING:
        return "…"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str | Path):
        return f'"{value}"'
    return str(value)
