"""The reference of all settings, and the check of their names."""

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from mnerfeat.checkpoint.manifest import toml_value
from mnerfeat.config.builder import field_docs, unknown, unknown_fields
from mnerfeat.config.settings import Settings
from mnerfeat.errors import ConfigError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.preference import DiscriminatorConfig, RankConfig
from mnerfeat.tagger import HEADS
from mnerfeat.text import TextConfig
from mnerfeat.training import TrainingConfig


def sections() -> Mapping[str, type]:
    """Return the tables of `mnerfeat.toml` by name, with the dataclasses that they fill."""
    heads = {f"head.{name}": kind for name, kind in sorted(HEADS.items())}
    rank = {"rank": RankConfig, "rank.network": DiscriminatorConfig}
    return {"extract": ExtractConfig, "text": TextConfig, "train": TrainingConfig, **rank, **heads}


def check_names(settings: Settings) -> None:
    """Check the names in all tables, those that the running command does not use included.

    Raises:
        ConfigError: Names are unknown; all are listed.
    """
    tables = [table for item in settings.sections.items() for table in _tables(*item)]
    faults = [fault for name, table in tables for fault in _unknown_names(name, table)]
    if faults:
        raise ConfigError("mnerfeat.toml or --set cannot be used:", faults=faults)


def _tables(name: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a table, and the tables in it that have a section of their own."""
    yield name, table
    for key, value in table.items():
        if f"{name}.{key}" in sections() and isinstance(value, Mapping):
            yield from _tables(f"{name}.{key}", value)


def _unknown_names(name: str, table: Mapping[str, Any]) -> list[str]:
    if name not in sections():
        return [unknown(name.removeprefix("head."), sorted(HEADS), "head")]
    return unknown_fields(sections()[name], name, table)


def render_settings(section: str | None = None) -> str:
    """Return the settings of one table, or of all, as commented TOML with defaults.

    Raises:
        ConfigError: The table is unknown.
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
        empty = field.default is None or field.default is dataclasses.MISSING
        lines.append(f"# {field.name} = {'…' if empty else toml_value(field.default)}")
    return "\n".join(lines)
