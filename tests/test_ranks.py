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
TAGS = ["ireg/sgd", "ireg/full_batch", "ireg/own", "ireg/strength", "ireg/alignment", "curvature/along_step"]


PASSED = ["ireg/sgd", "ireg/full_batch", "ireg/own", "curvature/along_step"]


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
    found["sharded"] = {layers: sharded(rank, layers) for layers in ("one", "each")}
    found["bucketed"] = bucketed(rank)
    found["decided"] = decided(rank, wrapped)
    found["refused"] = refused()
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


def decided(rank, model):
    """Whether a row is due where the clock of one rank allows it, and that of the other does not."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for refuses in range(RANKS):
        monitor = ireg.Monitor(
            model, optimizer, criterion=mse_loss, every_n_steps=2, population=4, max_cost=0.1, check="off"
        )
        if rank == refuses:
            monitor._cadence.note(seconds=1e6)
        rows = [monitor.update(batch) for batch in batches(rank)]
        found.append(sum(row is not None for row in rows))
    return found


class Nothing:
    """A monitor that does nothing."""

    def update(self, batch):
        pass

    def compute(self):
        return {}


def plain_loss(model, batch):
    return mse_loss(model(batch[0]), batch[1])


def ends(model):
    parts = [*model.parameters(), *model.buffers()]
    return [getattr(part, "full_tensor", lambda part=part: part)().tolist() for part in parts]


def sharded(rank, layers):
    """What is measured of sharded weights, and whether they are the same without."""
    from torch.distributed.fsdp import fully_shard

    found = {}
    for name in ("with", "without"):
        model = network()
        for layer in (model[0], model[3]) if layers == "each" else ():
            fully_shard(layer)
        fully_shard(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        monitor = ireg.Monitor(model, optimizer, criterion=mse_loss, terms=PASSED) if name == "with" else Nothing()
        values = train(model, optimizer, batches(rank), plain_loss, monitor)
        if name == "with":
            found["values"] = values
            arguments = {"optimizer": optimizer, "criterion": mse_loss}
            with torch.no_grad():  # an evaluation, which leaves whole weights in the outermost module
                model.eval()(batches(rank)[0][0])
            model.train()
            found["measured"] = ireg.measure(model, batches(rank), terms=["ireg/own"], **arguments)
            try:
                ireg.measure(model, batches(rank), terms=["ireg/strength"], **arguments)
            except ValueError as error:
                found["theory"] = str(error)
        train(model, optimizer, batches(rank)[:1], plain_loss, Nothing())
        found[name] = ends(model)
    return found


def bucketed(rank):
    """The same by the wrapper's own reducer, whose buffers hold the gradients."""
    model = network()
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    monitor = ireg.Monitor(wrapped, optimizer, criterion=mse_loss, terms=PASSED, method="backward")
    values = train(wrapped, optimizer, batches(rank), plain_loss, monitor)
    gradients = [parameter.grad for parameter in model.parameters()]
    copies = [gradient.clone() for gradient in gradients]
    ireg.measure(wrapped, batches(rank), optimizer=optimizer, criterion=mse_loss, method="backward")
    same = all(
        parameter.grad is gradient and torch.equal(gradient, copy)
        for parameter, gradient, copy in zip(model.parameters(), gradients, copies, strict=True)
    )
    return {"values": values, "same": same}


def refused():
    """What is said of weights that are not served, and whether training works afterwards."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    batch = torch.ones(2, 4), torch.zeros(2, 5)
    partly = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5))
    fully_shard(partly[1])
    split = parallelize_module(nn.Linear(4, 5), init_device_mesh("cpu", (RANKS,)), ColwiseParallel())
    said = {}
    for name, model in (("partly", partly), ("split", split)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
        try:
            ireg.Monitor(model, optimizer, criterion=mse_loss)
        except ValueError as error:
            said[name] = str(error)
        model(batch[0]).sum().backward()
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
    assert one["alone"].startswith("1 of 2 ranks do not measure within 1 s: the minibatches of a step are those of all")
    assert one["values"] == two["values"]
    assert one["decided"] == two["decided"] == [0, 1]  # the second row is too dear after the first
    expected, ends = of_one_process()
    assert one["ends"] == pytest.approx(ends, rel=1e-10)
    assert one["values"] == pytest.approx(expected, rel=1e-8, abs=1e-12)
    assert one["values"]["check/replay"] <= 1e-10
    for found in (one["sharded"]["one"], one["sharded"]["each"]):
        assert found["values"] == pytest.approx({tag: expected[tag] for tag in found["values"]}, rel=1e-6, abs=1e-12)
        assert found["values"]["ireg/own"] == pytest.approx(expected["ireg/own"], rel=1e-12)
        assert found["measured"] == pytest.approx({"ireg/own": expected["ireg/own"]}, rel=1e-12)
        assert found["values"].keys() == {*PASSED, "check/replay"}
        assert found["with"] == found["without"]
        assert "method='backward') give no second derivatives; leave theory" in found["theory"]
    for layers in ("one", "each"):  # buffers are each rank's own
        assert one["sharded"][layers]["values"] == two["sharded"][layers]["values"]
        assert two["sharded"][layers]["with"] == two["sharded"][layers]["without"]
    assert one["bucketed"]["same"] is two["bucketed"]["same"] is True
    values = one["bucketed"]["values"]
    assert values == pytest.approx({tag: expected[tag] for tag in values}, rel=1e-6, abs=1e-12)
    assert one["refused"]["partly"].startswith("0.weight is not sharded, and 1.weight is")
    assert one["refused"]["partly"].endswith("call fully_shard on the whole model, too")
    assert one["refused"]["split"].startswith(
        "weight is a DTensor of tensor parallelism: of a step's minibatch no rank"
    )
