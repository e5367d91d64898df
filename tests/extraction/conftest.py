"""Extraction tests run offline and on one thread, as those of extractors do."""

from tests.extractors.conftest import offline, one_thread

__all__ = ["offline", "one_thread"]
