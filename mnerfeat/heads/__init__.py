"""The systems of the papers, one file or folder each."""
