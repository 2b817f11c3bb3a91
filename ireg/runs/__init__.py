"""The run folder: one writer and one reader of each of its files; torch is not imported before a checkpoint is read."""
