"""A small synthetic world and tiny trained backbones: the embedded default."""
