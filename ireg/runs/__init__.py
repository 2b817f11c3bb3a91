"""The run folder: one writer and one reader of each file.

torch is not imported before a checkpoint is read.
"""
