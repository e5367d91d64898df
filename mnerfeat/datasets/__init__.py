"""Posts, tags, the file formats of the field's data sets, and checks of a data set."""

from mnerfeat.datasets.loader import (
    DataSet,
    Split,
    every_post,
    fingerprint,
    read_folder,
    read_posts,
    read_split,
    read_texts,
    write_json_lines,
)
from mnerfeat.datasets.posts import Post
from mnerfeat.datasets.tags import TYPES, Entity, TagSet, entities

__all__ = [
    "TYPES",
    "DataSet",
    "Entity",
    "Post",
    "Split",
    "TagSet",
    "entities",
    "every_post",
    "fingerprint",
    "read_folder",
    "read_posts",
    "read_split",
    "read_texts",
    "write_json_lines",
]
