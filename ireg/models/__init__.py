"""Architectures, made with `input_shape` and `num_classes`, that return logits (no softmax).

Inputs are images (C, H, W), or blocks of characters (context,) for `GPT`, which has logits at each of them.

Softmax belongs to the loss: `cross_entropy` applies it, and applying it here too would do so twice.
"""

from ireg.models.cnn import CNN
from ireg.models.gpt import GPT
from ireg.models.mlp import MLP
from ireg.models.resnet import ResNet
from ireg.models.vit import ViT

__all__ = ["CNN", "GPT", "MLP", "ResNet", "ViT"]
