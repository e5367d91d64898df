"""`mnerfeat.toml`, command-line overrides, and the dataclasses they fill.

Order of precedence, lowest first: a dataclass's defaults, the preset, `mnerfeat.toml`, `--set`,
options.
"""

from mnerfeat.config.builder import build, field_docs, unknown
from mnerfeat.config.settings import FILE_NAME, Settings, load_settings

__all__ = ["FILE_NAME", "Settings", "build", "field_docs", "load_settings", "unknown"]
