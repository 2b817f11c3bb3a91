"""The names of a run folder's files: they stand here only."""

STATUS = "status.json"
"""The file that makes a folder a run's."""
METRICS = "metrics.csv"
LABELS = "labels.npz"
EVENTS = "events.out.tfevents.*"
CHECKPOINTS = "checkpoints"
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
