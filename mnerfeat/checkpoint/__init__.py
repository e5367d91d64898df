"""Run folders: everything that one training leaves behind and that is needed to use it."""

from mnerfeat.checkpoint.lookup import find_run, find_runs
from mnerfeat.checkpoint.manifest import FORMAT_VERSION, Manifest, Origin, State, library_versions
from mnerfeat.checkpoint.run import CONFIG, MANIFEST, METRICS, WEIGHTS, Run, json_lines

__all__ = [
    "CONFIG",
    "FORMAT_VERSION",
    "MANIFEST",
    "METRICS",
    "WEIGHTS",
    "Manifest",
    "Origin",
    "Run",
    "State",
    "find_run",
    "find_runs",
    "json_lines",
    "library_versions",
]
