"""A small vision transformer."""

from torch import Tensor, nn

from ireg.known_models import require_vit
from ireg.models.layers import LayerNorm, Shift, require_images
from ireg.models.transformer import Block


class ViT(nn.Module):
    """Vision transformer over square patches, with a linear function of the patches' mean as output.

    Attention and normalization are written out. torch's fused attention has no double backward on a CPU, and the third
    derivative of its normalization is wrong there.

    Args:
        input_shape: (C, H, W).
        num_classes: number of outputs.
        patch: side of a patch in pixels; it divides height and width.
        width: of the hidden vectors.
        blocks: number of blocks.
        heads: of the attention; they divide the width.

    Raises:
        ValueError: inputs that are no images, a patch that does not divide them, or heads that do not divide the width.

    Source: Dosovitskiy et al. 2021, arXiv:2010.11929.

    Example:
        >>> sum(p.numel() for p in ViT(input_shape=(1, 28, 28), num_classes=10).parameters())
        71946
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        num_classes: int,
        patch: int = 7,
        width: int = 64,
        blocks: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        require_images(tuple(input_shape), "ViT")
        channels, height, columns = input_shape
        if patch < 1 or height % patch or columns % patch:
            raise ValueError(f"patch={patch}: must divide the {height} × {columns} pixels of an image")
        require_vit(width=width, heads=heads)
        self.patch = patch
        self.embed = nn.Linear(channels * patch * patch, width)
        self.places = Shift(height // patch * (columns // patch), width, scale=0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, expansion=2) for _ in range(blocks)))
        self.norm, self.last = LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, classes)."""
        side = self.patch
        patches = images.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # N, C, rows, side, columns, side
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # N, patches, C · side²
        logits: Tensor = self.last(self.norm(self.blocks(self.places(self.embed(patches)))).mean(1))
        return logits
