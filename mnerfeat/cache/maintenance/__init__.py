"""What is done to whole caches: packing, merging, checking, repairing, exporting, importing."""
