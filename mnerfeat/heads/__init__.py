"""The systems of the literature, one file each."""
