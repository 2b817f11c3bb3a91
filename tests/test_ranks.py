"""A step of DistributedDataParallel has the minibatches of all ranks, and so has what is measured of it."""

import json
import os
import socket
from datetime import timedelta

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

import ireg
from ireg.core import ranks

RANKS = 2
TAGS = ["ireg/sgd", "ireg/full_batch", "ireg/own", "ireg/strength", "ireg/alignment", "curvature/lambda_max"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()


def batches(rank):
    generator = torch.Generator().manual_seed(rank)
    return [
        (torch.randn(6, 4, generator=generator).double(), torch.randn(6, 3, generator=generator).double())
        for _ in range(4)
    ]


def of_all_ranks(model, pairs):
    """The loss of a step: the mean over the ranks, each with its own statistics."""
    return torch.stack([mse_loss(model(inputs), targets) for inputs, targets in pairs]).mean()


def train(model, optimizer, data, loss, monitor):
    for batch in data:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
        monitor.update(batch)
    return monitor.compute()


def of_one_process():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    data = list(zip(*(batches(rank) for rank in range(RANKS)), strict=True))
    monitor = ireg.Monitor(model, optimizer, loss=of_all_ranks, terms=TAGS)
    return train(model, optimizer, data, of_all_ranks, monitor), [float(p.detach().sum()) for p in model.parameters()]


def toy():
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(2.0)
    return module


def on_rank(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=RANKS)
    found = {}
    module = toy()
    wrapped = DistributedDataParallel(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    batch = torch.full((1, 1), 1.0 + rank), torch.zeros(1, 1)
    found["toy"] = ireg.measure(wrapped, [batch], optimizer=optimizer, criterion=mse_loss, terms=["ireg/sgd"])
    bare = ireg.Monitor(module, optimizer, criterion=mse_loss)
    mse_loss(wrapped(batch[0]), batch[1]).backward()
    optimizer.step()
    try:
        bare.update(batch)
    except ValueError as error:
        found["bare"] = str(error)
    model = network()
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    monitor = ireg.Monitor(wrapped, optimizer, criterion=mse_loss, terms=TAGS)
    found["values"] = train(wrapped, optimizer, batches(rank), lambda m, b: mse_loss(m(b[0]), b[1]), monitor)
    found["ends"] = [float(parameter.detach().sum()) for parameter in model.parameters()]
    found["alone"] = alone(rank)
    found["sharded"] = sharded()
    with open(f"{folder}/{rank}.json", "w", encoding="utf-8") as file:
        json.dump(found, file)
    torch.distributed.destroy_process_group()


def alone(rank):
    """What is said where one rank measures, while the other does something else."""
    ranks.PATIENCE = timedelta(seconds=1)
    module = toy()
    wrapped = DistributedDataParallel(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    said = ""
    if rank == 0:
        try:
            ireg.measure(wrapped, [(torch.ones(1, 1), torch.zeros(1, 1))], optimizer=optimizer, criterion=mse_loss)
        except ValueError as error:
            said = str(error)
    torch.distributed.barrier()
    ireg.measure(wrapped, [(torch.ones(1, 1), torch.zeros(1, 1))], optimizer=optimizer, criterion=mse_loss)  # together
    return said


def sharded():
    """What is said of sharded weights, and whether training works afterwards."""
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.ones(2, 4)
    said = ""
    try:
        ireg.measure(model, [(inputs, torch.zeros(2, 3))], optimizer=optimizer, criterion=mse_loss)
    except ValueError as error:
        said = str(error)
    model(inputs).sum().backward()
    optimizer.step()
    return said


@pytest.mark.filterwarnings("ignore")
def test_two_ranks_measure_what_one_process_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(on_rank, (port, str(tmp_path)), RANKS)
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(RANKS))
    for rank in (one, two):
        # The gradients are 4 and 16, their mean 10: (0.1/4) 100.
        assert rank["toy"] == {"ireg/sgd": pytest.approx(2.5)}
        assert rank["bare"].startswith("the gradient of the first step, computed again")
        assert "a step has the minibatches of 2 ranks; give the model as DistributedDataParallel wraps" in rank["bare"]
        assert rank["sharded"].startswith("0.weight is a DTensor: fully_shard or tensor parallelism shards the weights")
    assert one["alone"].startswith("1 of 2 ranks do not measure within 1 s: the minibatches of a step are those of all")
    assert one["values"] == two["values"]
    expected, ends = of_one_process()
    assert one["ends"] == pytest.approx(ends, rel=1e-10)
    assert one["values"] == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assert one["values"]["check/replay"] <= 1e-10
