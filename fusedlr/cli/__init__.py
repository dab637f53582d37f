"""The commands of ``python -m fusedlr``."""
