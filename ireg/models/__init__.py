"""Architectures, made with `input_shape` (C, H, W) and `num_classes`, that return logits (no softmax).

Softmax belongs to the loss: `cross_entropy` applies it, and applying it here too would do so twice.
"""

from ireg.models.cnn import CNN
from ireg.models.mlp import MLP
from ireg.models.resnet import ResNet
from ireg.models.vit import ViT

__all__ = ["CNN", "MLP", "ResNet", "ViT"]
