"""Trains the tiny backbones that come with mnerfeat, one module each."""
