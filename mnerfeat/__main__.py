"""`python -m mnerfeat`, the same as `mnerfeat`."""

from mnerfeat.cli import main

main()
