"""The command line: parse, call one function, print."""

from mnerfeat.cli.app import main

__all__ = ["main"]
