"""Reading a file in a given format, whatever it begins with."""

from pathlib import Path

from mnerfeat.datasets import Post
from mnerfeat.datasets.formats import FORMATS
from mnerfeat.datasets.source import Source, refuse, with_unique_ids


def read(path: Path, format_: str, *, labelled: bool = True) -> tuple[Post, ...]:
    source = Source(path)
    posts = with_unique_ids(FORMATS[format_].read(source, labelled=labelled), source)
    refuse(source.faults)
    return posts
