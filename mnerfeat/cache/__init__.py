"""The HDF5 feature store: sealed files, read by mapping them, written by replacing them.

It needs numpy, nothing else. The format is described in `docs/cache-format.md`.
"""

from mnerfeat.cache.feature import Feature
from mnerfeat.cache.incoming import FeatureRows, TableRows
from mnerfeat.cache.inspecting import CacheInfo, FeatureInfo, info, verify
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

__all__ = [
    "FAILED",
    "MISSING",
    "OK",
    "CacheInfo",
    "CacheWriter",
    "Feature",
    "FeatureCache",
    "FeatureInfo",
    "FeatureRows",
    "Provenance",
    "Table",
    "TableRows",
    "content_id",
    "info",
    "pack",
    "pair_id",
    "stack_ids",
    "text_id",
    "unreadable_id",
    "verify",
]
