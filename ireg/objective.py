"""What is minimized."""

from torch.nn.functional import cross_entropy as criterion

__all__ = ["criterion"]
