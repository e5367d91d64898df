"""The HDF5 feature cache: files are read by mapping them and written by replacing them.

It needs numpy and h5py. The format is described in `docs/cache-format.md`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mnerfeat.cache.feature import Feature
from mnerfeat.cache.maintenance.pack import pack
from mnerfeat.cache.reader import FeatureCache
from mnerfeat.cache.rows import NameComparison
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
from mnerfeat.cache.writer import CacheWriter, FeatureRows, TableRows

if TYPE_CHECKING:
    from mnerfeat.cache.maintenance.export import EXPORT_FORMATS, ExportReport, export
    from mnerfeat.cache.maintenance.importing import (
        ImportConfig,
        ImportReport,
        import_features,
        read_provenance,
    )
    from mnerfeat.cache.maintenance.merge import MergeReport, merge
    from mnerfeat.cache.maintenance.migrate import migrate
    from mnerfeat.cache.maintenance.prune import PruneReport, prune
    from mnerfeat.cache.maintenance.repair import RepairReport, repair
    from mnerfeat.cache.maintenance.verify import CacheInfo, FeatureInfo, info, verify

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
    "NameComparison",
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

# What neither reading nor writing needs is imported on demand.
_TOOLS = {
    "export": ("EXPORT_FORMATS", "ExportReport", "export"),
    "verify": ("CacheInfo", "FeatureInfo", "info", "verify"),
    "merge": ("MergeReport", "merge"),
    "migrate": ("migrate",),
    "prune": ("PruneReport", "prune"),
    "repair": ("RepairReport", "repair"),
    "importing": ("ImportConfig", "ImportReport", "import_features", "read_provenance"),
}
_MODULE_OF = {name: module for module, names in _TOOLS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.maintenance.{_MODULE_OF[name]}"), name)
    globals()[name] = found
    return found
