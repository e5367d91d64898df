"""Posts, tags, the file formats, and the batches made of them."""
