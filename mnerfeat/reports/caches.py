"""What a cache holds, as text."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mnerfeat.cache import (
    CacheInfo,
    ExportReport,
    ImportReport,
    MergeReport,
    PruneReport,
    RepairReport,
)
from mnerfeat.errors import SHOWN_FAULTS

_SHOWN_NAMES = 10


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
        *(f"  {part} belongs to another cache and is not read" for part in info.foreign),
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


def render_faults(path: Path, faults: Sequence[str]) -> str:
    """What `verify` has found in a cache that is not sound."""
    lines = [f"{path}: {_counted(len(faults), 'fault')}"]
    lines += [f"  {fault}" for fault in faults[:SHOWN_FAULTS]]
    if len(faults) > SHOWN_FAULTS:
        lines.append(f"  … and {len(faults) - SHOWN_FAULTS:,} more")
    return "\n".join([*lines, f"next: mnerfeat cache repair {path}"])


def render_repair(report: RepairReport) -> str:
    """What a repair has found and done, and what to do next."""
    if not report.repaired:
        return f"{report.path} is sound; nothing was done"
    lines = [f"{report.path} was repaired; what is left of it is sound"]
    lines += [f"  {path} was cut off; what came before is kept" for path in report.truncated]
    lines += [f"  nothing can be read of {path}" for path in report.set_aside]
    lines += [f"  {path} belongs to another cache; set aside" for path in report.foreign]
    lines += [f"  {name}: {_counted(n, 'row')} dropped" for name, n in report.rows.items()]
    lines += [
        f"  {_counted(n, 'row')} of {table} dropped whole" for table, n in report.lost.items()
    ]
    if report.names:
        lines.append(f"  {_counted(report.names, 'name')} dropped")
    if report.truncated or report.set_aside or report.rows or report.lost or report.names:
        lines.append("next: `mnerfeat extract` with the same options makes anew what is gone")
    return "\n".join(lines)


def render_merge(report: MergeReport) -> str:
    """What a merge has made, and of what."""
    lines = [f"{path}: {_tables(rows)}" for path, rows in report.sources.items()]
    features = ", ".join(report.features) or "no features"
    made = f"{_tables(report.rows)}, {_counted(report.names, 'name')}; {features}"
    return "\n".join([*lines, f"together in {report.path}: {made}"])


def render_export(report: ExportReport) -> str:
    """What was exported."""
    return (
        f"{report.path}: {report.format}, {_counted(report.rows, 'row')} of {report.table} with "
        f"{', '.join(report.features) or 'no features'}; {size(report.bytes)}"
    )


def render_prune(report: PruneReport) -> str:
    """What was removed, or would be."""
    counts = {
        "name": len(report.names),
        "image": report.images,
        "text": report.texts,
        "pair": report.pairs,
    }
    gone = [_counted(count, what) for what, count in counts.items() if count]
    gone += [f"the feature {name}" for name in report.features]
    gone += [f"{part} (belongs to another cache)" for part in report.foreign]
    if not gone:
        return f"{report.path}: there is nothing to remove"
    done = "removed" if report.done else "would remove"
    lines = [f"{report.path}: {done} {', '.join(gone)}; {size(report.bytes)}"]
    lines += [f"  {name}" for name in report.names[:_SHOWN_NAMES]]
    if len(report.names) > _SHOWN_NAMES:
        lines.append(f"  … and {len(report.names) - _SHOWN_NAMES:,} more names")
    if not report.done:
        lines.append("next: the same command with --yes")
    return "\n".join(lines)


def render_migration(path: Path, rewritten: Sequence[Path]) -> str:
    """Which files were brought to the present version."""
    if not rewritten:
        return f"{path} is of the present version; nothing was done"
    return "\n".join(f"{file}: rewritten" for file in rewritten)


def _tables(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{table} {count:,}" for table, count in rows.items())


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """Bytes for people: `1.5 MB`, in powers of 1,000."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def render_import(report: ImportReport) -> str:
    """Return what an import wrote, and everything about it that a user may not expect."""
    row = "×".join(map(str, report.row_shape)) or "1"
    kind = report.dtype
    if report.stored != report.dtype:
        kind += f", converted from {report.stored}"
    lines = [f"{report.path}: {report.feature} of {report.rows:,} images ({row} {kind})"]
    if report.failed:
        lines.append(f"  {report.failed:,} of them failed: their numbers are not finite")
    if report.repeated:
        lines.append(
            f"  {_counted(report.repeated, 'row')} left out: an earlier row is of an image with "
            "the same bytes"
        )
    if report.replaced:
        lines.append(f"  {_counted(report.replaced, 'row')} of another provenance replaced")
    if report.skipped:
        lines.append(
            f"  {_counted(len(report.skipped), 'row')} left out, whose image is not found:"
        )
        lines += [f"    {name}" for name in report.skipped[:_SHOWN_NAMES]]
        if len(report.skipped) > _SHOWN_NAMES:
            lines.append(f"    … and {len(report.skipped) - _SHOWN_NAMES:,} more")
    return "\n".join([*lines, *(f"  {note}" for note in report.notes)])
