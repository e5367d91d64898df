"""Images to tensors: one file per extractor, and the run that writes the cache."""
