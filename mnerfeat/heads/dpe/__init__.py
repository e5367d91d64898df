"""DPE-MNER: iterative reasoning over diverse representations; BERT-Iterative: without images."""

from mnerfeat.heads.dpe.dpe import DpeConfig
from mnerfeat.heads.dpe.iterative import IterativeConfig

__all__ = ["DpeConfig", "IterativeConfig"]
