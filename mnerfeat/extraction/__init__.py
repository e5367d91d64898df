"""Running extractors over a folder of images, and recording the results in the cache."""
