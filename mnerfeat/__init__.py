"""Named-entity recognition in posts with several images: a feature cache and light heads."""

__version__ = "0.1.0"
