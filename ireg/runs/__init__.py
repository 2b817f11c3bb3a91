"""The run folder: one writer and one reader of each file.

Nothing here imports torch before a checkpoint is read.
"""
