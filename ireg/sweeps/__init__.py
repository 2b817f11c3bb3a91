"""Runs and sweeps as folders: their names, their status, and what is shown of them."""
