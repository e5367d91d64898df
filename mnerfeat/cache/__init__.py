"""The HDF5 feature store: sealed files, read by mapping them, written by replacing them.

It needs numpy, nothing else. The format is described in `docs/cache-format.md`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mnerfeat.cache.feature import Feature
from mnerfeat.cache.incoming import FeatureRows, TableRows
from mnerfeat.cache.packing import pack
from mnerfeat.cache.reader import FeatureCache
from mnerfeat.cache.schema import (
    FAILED,
    MISSING,
    OK,
    Provenance,
    content_id,
    pair_id,
    stack_ids,
    text_id,
    unreadable_id,
)
from mnerfeat.cache.table import Table
from mnerfeat.cache.writer import CacheWriter

if TYPE_CHECKING:
    from mnerfeat.cache.exporting import EXPORT_FORMATS, ExportReport, export
    from mnerfeat.cache.inspecting import CacheInfo, FeatureInfo, info, verify
    from mnerfeat.cache.maintenance.importing import (
        ImportConfig,
        ImportReport,
        import_features,
        read_provenance,
    )
    from mnerfeat.cache.merging import MergeReport, merge
    from mnerfeat.cache.migrating import migrate
    from mnerfeat.cache.pruning import PruneReport, prune
    from mnerfeat.cache.repairing import RepairReport, repair

__all__ = [
    "EXPORT_FORMATS",
    "FAILED",
    "MISSING",
    "OK",
    "CacheInfo",
    "CacheWriter",
    "ExportReport",
    "Feature",
    "FeatureCache",
    "FeatureInfo",
    "FeatureRows",
    "ImportConfig",
    "ImportReport",
    "MergeReport",
    "Provenance",
    "PruneReport",
    "RepairReport",
    "Table",
    "TableRows",
    "content_id",
    "export",
    "import_features",
    "info",
    "merge",
    "migrate",
    "pack",
    "pair_id",
    "prune",
    "read_provenance",
    "repair",
    "stack_ids",
    "text_id",
    "unreadable_id",
    "verify",
]

# What neither reading nor writing needs is imported when it is asked for.
_TOOLS = {
    "exporting": ("EXPORT_FORMATS", "ExportReport", "export"),
    "inspecting": ("CacheInfo", "FeatureInfo", "info", "verify"),
    "maintenance.importing": ("ImportConfig", "ImportReport", "import_features", "read_provenance"),
    "merging": ("MergeReport", "merge"),
    "migrating": ("migrate",),
    "pruning": ("PruneReport", "prune"),
    "repairing": ("RepairReport", "repair"),
}
_MODULE_OF = {name: module for module, names in _TOOLS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = found
    return found
