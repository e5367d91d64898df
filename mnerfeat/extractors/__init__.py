"""The models: one file each, images to tensors."""
