"""Runs and sweeps as folders.

This room knows their names, their status, and what is shown of them.
"""
