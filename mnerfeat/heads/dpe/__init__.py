"""DPE-MNER: iterative reasoning over diverse representations; BERT-Iterative: without images."""

from mnerfeat.heads.dpe.config import DpeConfig, IterativeConfig

__all__ = ["DpeConfig", "IterativeConfig"]
