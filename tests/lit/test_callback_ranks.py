"""The callback with several devices, and with several optimizers."""

import os
import socket

import lightning.pytorch as lightning
import pytest
import torch
import torch.multiprocessing as multiprocessing
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import ireg
from ireg.core.sharded import whole
from ireg.system.errors import UserError
from tests.reference import timeless

RANKS = 2
TAGS = ["ireg/sgd", "ireg/full_batch", "ireg/own", "curvature/along_step"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()
        self.used = []

    def training_step(self, batch, batch_idx):
        self.used.append([part.clone() for part in batch])
        loss = mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss, sync_dist=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.net.parameters(), lr=0.01)

    @staticmethod
    def strategy():
        return "ddp"


class Sharded(Module):
    """The same, with weights that are spread over the ranks."""

    def configure_model(self):
        for part in (self.net[0], self.net[2], self.net):
            fully_shard(part, mesh=self.device_mesh["data_parallel"])

    @staticmethod
    def strategy():
        return ModelParallelStrategy(data_parallel_size=RANKS, tensor_parallel_size=1)


class ShardedItself(Sharded):
    def configure_model(self):
        fully_shard(self, mesh=self.device_mesh["data_parallel"])


def refused(folder, rank):
    """Return what is said of a LightningModule that is sharded itself."""
    module = ShardedItself()
    trainer = trainer_in(
        folder, ireg.ImplicitRegularizationMonitor(TAGS), devices=RANKS, strategy=module.strategy()
    )  # fmt: skip
    with pytest.raises(UserError) as error:
        trainer.fit(module, DataLoader(data(), 4, sampler=DistributedSampler(data(), RANKS, rank)))
    return str(error.value)


def data():
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(*(torch.randn(24, size, generator=generator).double() for size in (4, 3)))


def trainer_in(folder, *callbacks, **arguments):
    return lightning.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=list(callbacks), logger=CSVLogger(folder), log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **arguments,
    )  # fmt: skip


def on_rank(rank, port, folder):
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(RANKS), LOCAL_RANK=str(rank), NODE_RANK="0"
    )
    torch.set_num_threads(1)
    found = {}
    for name in ("auto", "backward", "without", "sharded", "sharded without"):
        module = Sharded() if "sharded" in name else Module()
        method = "backward" if name == "backward" else "auto"
        monitors = [] if "without" in name else [ireg.ImplicitRegularizationMonitor(TAGS, method=method)]
        trainer = trainer_in(f"{folder}/{name}", *monitors, devices=RANKS, strategy=module.strategy())
        sampler = DistributedSampler(data(), RANKS, rank, shuffle=True, seed=3)
        trainer.fit(module, DataLoader(data(), 4, sampler=sampler))
        found[name] = {
            "rows": timeless(monitors[0]).to_dict("records") if monitors else [],
            "used": module.used,
            "ends": [whole(parameter.detach()) for parameter in module.parameters()],
        }
    found["refused"] = refused(folder, rank)
    torch.save(found, f"{folder}/{rank}.pt")


def of_all_ranks(model, pairs):
    return torch.stack([mse_loss(model(inputs), targets) for inputs, targets in pairs]).mean()


@pytest.mark.filterwarnings("ignore")
def test_two_devices_measure_what_one_process_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(on_rank, (port, str(tmp_path)), RANKS)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS))
    assert not torch.equal(one["auto"]["used"][0][0], two["auto"]["used"][0][0])
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    monitor = ireg.Monitor(model, optimizer, loss=of_all_ranks, terms=TAGS)
    for batch in zip(one["auto"]["used"], two["auto"]["used"], strict=True):
        optimizer.zero_grad()
        of_all_ranks(model, batch).backward()
        optimizer.step()
        monitor.update(batch)
    expected = monitor.compute()
    for rank in (one, two):
        for name, without in {"auto": "without", "backward": "without", "sharded": "sharded without"}.items():
            (row,) = rank[name]["rows"]
            assert {tag: row[tag] for tag in TAGS} == pytest.approx({tag: expected[tag] for tag in TAGS}, rel=1e-6)
            assert row["ireg/own"] == pytest.approx(expected["ireg/own"], rel=1e-12)
            assert row["check/replay"] <= 1e-10
            ends = zip(rank[name]["ends"], rank[without]["ends"], strict=True)
            assert all(torch.equal(value, other) for value, other in ends)
            assert one[name]["rows"] == rank[name]["rows"]
        assert "shard the network within it" in rank["refused"]
    logged = (tmp_path / "auto/lightning_logs/version_0/metrics.csv").read_text(encoding="utf-8")
    assert len([line for line in logged.splitlines() if str(expected["ireg/own"])[:8] in line]) == 1


class Two(Module):
    """Two optimizers, which Lightning lets step by hand alone."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.used.append([part.clone() for part in batch])
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(mse_loss(self.net(batch[0]), batch[1]))
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        return two(self.net)


def two(net):
    return [torch.optim.SGD(net[0].parameters(), lr=0.1), torch.optim.AdamW(net[2].parameters(), lr=0.01)]


@pytest.mark.filterwarnings("ignore")
def test_two_optimizers(tmp_path):
    def loss(module, batch):
        return mse_loss(module.net(batch[0]), batch[1])

    monitor = ireg.ImplicitRegularizationMonitor(["ireg/sgd", "ireg/own"], loss=loss)
    module = Two()
    trainer_in(tmp_path, monitor, devices=1).fit(module, DataLoader(data(), 4))
    model = network()
    optimizers = two(model)
    other = ireg.Monitor(model, optimizers, criterion=mse_loss, terms=["ireg/sgd", "ireg/own"])
    for inputs, targets in module.used:
        model.zero_grad()
        mse_loss(model(inputs), targets).backward()
        for optimizer in optimizers:
            optimizer.step()
        other.update((inputs, targets))
    expected = other.compute()
    (row,) = monitor.rows.to_dict("records")
    assert {tag: row[tag] for tag in expected} == pytest.approx(expected, rel=1e-12)
    assert {"ireg/own/SGD", "ireg/own/AdamW", "ireg/own"} <= row.keys()
