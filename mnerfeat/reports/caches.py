"""What a cache holds, as text."""

import json

from mnerfeat.cache import CacheInfo


def render_info(info: CacheInfo, *, provenance: bool = False) -> str:
    """A cache's counts as lines of text.

    Args:
        info: From `mnerfeat.cache.info`.
        provenance: Add what made each feature.
    """
    parts = f", {info.parts} parts not packed yet" if info.parts else ""
    counts = f"images {info.images:,} ({info.names:,} names), texts {info.texts:,}"
    lines = [
        f"{info.path}: {size(info.bytes)}{parts}; written by {info.created_by}, {info.created_at}",
        f"  {counts}, pairs {info.pairs:,}",
    ]
    width = max([0, *(len(feature.name) for feature in info.features)])
    if info.features:
        lines.append(
            f"  {'feature':{width}}  table   {'row':>12}  {'type':8} {'ok':>9} {'failed':>7} "
            f"{'missing':>9} {'size':>9}"
        )
    for feature in info.features:
        row = "×".join(map(str, feature.row_shape)) or "1"
        lines.append(
            f"  {feature.name:{width}}  {feature.table:6}  {row:>12}  {feature.dtype:8} "
            f"{feature.ok:9,} {feature.failed:7,} {feature.missing:9,} {size(feature.bytes):>9}"
        )
    if provenance:
        for feature in info.features:
            facts = json.dumps(feature.provenance.facts, indent=4, ensure_ascii=False)
            lines += ["", f"{feature.name} was made by {facts}"]
    return "\n".join(lines)


def size(count: int) -> str:
    """Bytes for people: `1.5 MB`, in powers of 1,000."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
