"""The HDF5 feature store: sealed files, read by mapping them, written by replacing them.

It needs numpy, nothing else. The format is described in `docs/cache-format.md`.
"""

from mnerfeat.cache.exporting import EXPORT_FORMATS, ExportReport, export
from mnerfeat.cache.feature import Feature
from mnerfeat.cache.incoming import FeatureRows, TableRows
from mnerfeat.cache.inspecting import CacheInfo, FeatureInfo, info, verify
from mnerfeat.cache.merging import MergeReport, merge
from mnerfeat.cache.migrating import migrate
from mnerfeat.cache.packing import pack
from mnerfeat.cache.pruning import PruneReport, prune
from mnerfeat.cache.reader import FeatureCache
from mnerfeat.cache.repairing import RepairReport, repair
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
    "MergeReport",
    "Provenance",
    "PruneReport",
    "RepairReport",
    "Table",
    "TableRows",
    "content_id",
    "export",
    "info",
    "merge",
    "migrate",
    "pack",
    "pair_id",
    "prune",
    "repair",
    "stack_ids",
    "text_id",
    "unreadable_id",
    "verify",
]
