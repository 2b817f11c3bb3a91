"""A run of the project, a monitor in a plain loop and the Lightning callback measure the same, to the bit."""

import json
import logging

import lightning
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import ireg
from ireg.core.random import named_generator
from ireg.experiment.run import rebuild
from ireg.runs.metrics import read_rows
from ireg.terms.named import SETS

EPOCHS = 2
PATH = [tag for tag in SETS["path"] if tag.startswith("path/")]
TAGS = ["ireg/sgd", "ireg/full_batch", "ireg/minibatch_variance", "ireg/own", "norm/l2", "norm/distance", *PATH]


def loops(folder):
    """The run's network before training, its optimizer, and the minibatches of each epoch."""
    config = json.loads((folder / "status.json").read_text())["config"]
    torch.manual_seed(config["seed"])
    settings, data, classifier = rebuild(folder, config)
    inputs, labels = data.train_inputs, data.train_labels.observed
    epochs = []
    for epoch in range(EPOCHS):
        generator = named_generator("order of examples", settings.seed, epoch)
        order = torch.randperm(len(labels), generator=generator).split(settings.batch_size)
        epochs.append([(inputs[index], labels[index]) for index in order])
    return classifier.model, classifier.make_optimizer, epochs


def by_a_monitor(folder, method):
    model, make_optimizer, epochs = loops(folder)
    optimizer = make_optimizer(model.parameters())
    monitor = ireg.Monitor(model, optimizer, criterion=cross_entropy, terms=TAGS, method=method)
    for batches in epochs:
        for batch in batches:
            optimizer.zero_grad()
            cross_entropy(model(batch[0]), batch[1]).backward()
            optimizer.step()
            monitor.update(batch)
        monitor.compute()
        monitor.reset()
    return monitor.rows[TAGS].to_dict("records")


def by_the_callback(folder, **options):
    model, make_optimizer, epochs = loops(folder)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def train_dataloader(self):
            return DataLoader(epochs[self.trainer.current_epoch], batch_size=None)

        def forward(self, inputs):
            return self.model(inputs)

        def training_step(self, batch, batch_idx):
            return cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return make_optimizer(self.model.parameters())

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    monitor = ireg.ImplicitRegularizationMonitor(TAGS, **options)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", devices=1, callbacks=[monitor], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, reload_dataloaders_every_n_epochs=1,
    )  # fmt: skip
    trainer.fit(Module())
    return monitor.rows[TAGS].to_dict("records")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_all_three_give_the_same_bits(tmp_path, small_run, optimizer):
    results = {}
    for method in ("loop", "auto"):
        folder = tmp_path / method
        small_run(
            folder, f"optimizer={optimizer}", "terms=path", f"terms.method={method}", f"epochs={EPOCHS}", "threads=1"
        )
        rows = read_rows(folder / "metrics.csv")
        results[method] = [{tag: rows[epoch][tag] for tag in TAGS} for epoch in range(1, EPOCHS + 1)]
        assert by_a_monitor(folder, method) == results[method]
    assert by_the_callback(folder) == results["loop"]  # training_step has no faster way
    assert by_the_callback(folder, criterion=cross_entropy) == results["auto"]
