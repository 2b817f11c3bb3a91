"""Quantities measured in training: pure functions from a `Snapshot` to one number.

A function returns None where its quantity does not exist for the run's optimizer; nothing is logged then.
"""
