"""The HDF5 feature store: sealed files, read by mapping them, written by replacing them."""
