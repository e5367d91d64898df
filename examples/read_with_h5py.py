"""Read a cache without this package: four lines of plain `h5py`.

python examples/read_with_h5py.py features.h5
"""
# ruff: noqa: T201

import json
import sys

import h5py

with h5py.File(sys.argv[1]) as f:
    vectors = f["images/vit_cls/data"][:10]
    made_by = json.loads(f["images/vit_cls"].attrs["provenance"])
print(vectors.shape, made_by)
