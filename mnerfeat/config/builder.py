"""Dataclasses from plain tables, and the docstrings of their fields."""

import ast
import dataclasses
import difflib
import inspect
import itertools
import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

import pydantic

from mnerfeat.errors import ConfigError

Config = TypeVar("Config")


def build(kind: type[Config], section: str, *tables: Mapping[str, Any]) -> Config:
    """Fill a dataclass from tables; later ones take precedence.

    Args:
        kind: A dataclass.
        section: Name of the table in messages.
        tables: Tables of settings and options; None counts as not given.

    Raises:
        ConfigError: Names are unknown or values have the wrong type; all are listed.
    """
    values = {name: value for table in tables for name, value in table.items() if value is not None}
    faults = unknown_fields(kind, section, values)
    try:
        if not faults:
            return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        faults += [
            f"{section}.{'.'.join(map(str, fault['loc']))}: {fault['msg']}, got {fault['input']!r}"
            for fault in error.errors()
        ]
    raise ConfigError(f"settings of [{section}] that cannot be used:", faults=faults)


def unknown_fields(kind: type, section: str, names: Iterable[object]) -> list[str]:
    """Return one message for each name that is not a field of a dataclass."""
    fields = sorted(field.name for field in dataclasses.fields(kind) if field.init)
    return [unknown(name, fields, f"option of [{section}]") for name in names if name not in fields]


def unknown(name: object, choices: Iterable[object], what: str) -> str:
    """Return `unknown head 'iqrc'; did you mean iqcr? choose from: dpe, gifr, iqcr, text`."""
    known = [str(choice) for choice in choices]
    close = difflib.get_close_matches(str(name), known, n=1)
    guess = f" did you mean {close[0]}?" if close else ""
    return f"unknown {what} {name!r};{guess} choose from: {', '.join(known)}"


@cache
def field_docs(kind: type) -> Mapping[str, str]:
    """Return the docstring under each field of a dataclass, inherited fields included."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
        for statement, following in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                docs[statement.target.id] = inspect.cleandoc(following.value.value)
    return docs
