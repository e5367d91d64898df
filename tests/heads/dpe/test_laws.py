"""Every form of both diffusion heads keeps the laws of heads."""

from mnerfeat.heads.dpe import DpeConfig, IterativeConfig
from tests.heads.contract import HeadContract


class TestIterative(HeadContract):
    config = IterativeConfig(spans=24, dropout=0.0)


class TestDpe(HeadContract):
    config = DpeConfig(spans=24, dropout=0.0, threshold=1.0)
    compares_posts = True
