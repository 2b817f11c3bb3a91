"""Measure the terms on a LightningModule of one's own: `python examples/own_module.py`.

A ResNet-18 with GroupNorm, two parameter groups and a schedule. The module has no line about measuring.
"""

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

import ireg


class Module(lightning.LightningModule):
    """An image classifier as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet18(num_classes=4, norm_layer=lambda channels: nn.GroupNorm(8, channels))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Compute the loss, with smoothed labels."""
        images, labels = batch
        loss = cross_entropy(self.net(images), labels, label_smoothing=0.1)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> dict[str, object]:
        """Give the last layer a larger rate, and no weight decay."""
        last = list(self.net.fc.parameters())
        rest = [parameter for name, parameter in self.net.named_parameters() if not name.startswith("fc.")]
        groups = [{"params": rest, "weight_decay": 1e-4}, {"params": last, "lr": 0.05}]
        optimizer = torch.optim.SGD(groups, lr=0.01)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)}


def make_loader() -> DataLoader:
    """Return 48 colour images in minibatches of 16; a label is the brightest quarter."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 4
    images = torch.randn(48, 3, 32, 32, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 16 * (label // 2) :, 16 * (label % 2) :][:, :16, :16] += 1
    return DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True, generator=generator)


def train(module: lightning.LightningModule, epochs: int = 3) -> ireg.ImplicitRegularizationMonitor:
    """Train with the callback."""
    monitor = ireg.ImplicitRegularizationMonitor()
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, callbacks=[monitor], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, make_loader())
    return monitor


if __name__ == "__main__":
    torch.manual_seed(0)
    print(train(Module()).rows.to_string(float_format="%.3g"))
