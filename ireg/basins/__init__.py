"""Forks of training from one checkpoint, and the barriers between their ends."""
