"""Dataclasses filled from plain tables, and what their fields say about themselves."""

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
    """Fill a dataclass from tables, the last one counting most.

    Args:
        kind: A dataclass.
        section: What to call the table in messages.
        tables: From `Settings.section`, and from options; None counts as not given.

    Raises:
        ConfigError: With every unknown name and every value of the wrong type.
    """
    fields = sorted(field.name for field in dataclasses.fields(kind) if field.init)  # type: ignore[arg-type]
    values = {name: value for table in tables for name, value in table.items() if value is not None}
    faults = [
        unknown(name, fields, f"option of [{section}]") for name in values if name not in fields
    ]
    try:
        if not faults:
            return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        faults += [
            f"{section}.{'.'.join(map(str, fault['loc']))}: {fault['msg']}, got {fault['input']!r}"
            for fault in error.errors()
        ]
    raise ConfigError(f"the settings of [{section}] cannot be used:", faults=faults)


def unknown(name: object, choices: Iterable[object], what: str) -> str:
    """`unknown head 'iqrc'; did you mean iqcr? choose from: dpe, gifr, iqcr, text`."""
    known = [str(choice) for choice in choices]
    close = difflib.get_close_matches(str(name), known, n=1)
    guess = f" did you mean {close[0]}?" if close else ""
    return f"unknown {what} {name!r};{guess} choose from: {', '.join(known)}"


@cache
def field_docs(kind: type) -> Mapping[str, str]:
    """The docstring under each field of a dataclass, inherited ones included."""
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
