"""Extraction of the blank image."""

import tempfile
from dataclasses import replace
from pathlib import Path

from mnerfeat.cache import OK, FeatureCache, content_id
from mnerfeat.errors import CacheLookupError
from mnerfeat.extraction.config import ExtractConfig
from mnerfeat.extraction.extract import extract
from mnerfeat.extractors.clip import CLIP_IMAGE
from mnerfeat.preference.blank import Blank, blank_name, blank_png


def extract_blank(config: ExtractConfig, blank: Blank) -> bytes:
    """Extract the CLIP embedding of a blank image, unless the cache holds it.

    If the configuration names a CLIP, extraction always checks that it is the cache's.

    Args:
        config: Configuration of the extraction that filled the cache.
        blank: Blank image.

    Returns:
        The image's identity.

    Raises:
        CacheLookupError: The cache holds no CLIP embeddings.
        ModelError: CLIP is needed and not available.
        ProvenanceError: The CLIP named is not the one that filled the cache.
    """
    cache = FeatureCache(config.cache)
    if CLIP_IMAGE not in cache:
        raise CacheLookupError(
            f"{cache.path} lacks {CLIP_IMAGE}", hint="mnerfeat extract --features clip"
        )
    feature = cache[CLIP_IMAGE]
    preprocessing = feature.provenance.facts.get("preprocessing") or {}
    if "mean" not in preprocessing and blank == "mean":
        raise CacheLookupError(
            f"{cache.path} does not record the mean colour of {CLIP_IMAGE}",
            hint="--blank white or --blank black",
        )
    content = blank_png(blank, preprocessing.get("mean", (0.5, 0.5, 0.5)))
    id_ = content_id(content)
    row = int(cache.images.find([id_])[0])
    if row < 0 or feature.state[row] != OK or config.clip is not None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / blank_name(blank)).write_bytes(content)
            alone = replace(config, images=Path(folder), features=("clip",), replace=False)
            extract(replace(alone, workers=0, progress=False, dry_run=False))
    return id_
