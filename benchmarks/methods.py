"""`python -m benchmarks.methods`: the terms' pass by method, for several architectures.

Seconds are relative to the training pass; memory is beside them. Prints the table and writes docs/networks.md; it takes
three minutes.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import ireg
from benchmarks.case import ROOT
from benchmarks.floor import Peaks
from benchmarks.memory import peak_tensors
from benchmarks.page import machine
from benchmarks.sides import quietly
from benchmarks.tables import MISSING, Grid, ratio_text
from ireg.core.functional import functional_loss
from ireg.core.moments import METHODS, NotServedError, choose_method
from ireg.core.moments.needs import EVERYTHING
from ireg.core.types import Pair
from ireg.models import CNN, MLP, ResNet, ViT
from ireg.system.files import write_text
from ireg.system.terminal import as_command, make_console

PAGE = ROOT / "docs" / "networks.md"
IMAGES: Mapping[str, Any] = {"input_shape": (1, 28, 28), "num_classes": 10}
ARCHITECTURES: Mapping[str, Callable[[], nn.Module]] = {
    "mlp": lambda: MLP(**IMAGES, hidden=[256] * 4),
    "cnn": lambda: CNN(**IMAGES),
    "resnet": lambda: ResNet(**IMAGES),
    "vit": lambda: ViT(**IMAGES),
}
BATCH_SIZES = (64, 16)
EXAMPLES = 2048
"""Training examples of a pass; its seconds are given for one minibatch."""
EPOCH = 10_000
"""Training examples of the epoch that a sample's seconds are compared with."""
SAMPLE = 16
TURNS = 3


@dataclass(frozen=True, kw_only=True)
class MethodTimes:
    """What was measured of one architecture and batch size.

    Attributes:
        architecture: its name.
        batch_size: examples in a minibatch.
        chosen: what `auto` takes.
        training: seconds of training, with Adam, for one minibatch.
        ratios: by method, the terms' pass over the training pass: the median of the turns.
        sample: the terms from `SAMPLE` minibatches over the training pass of `EPOCH` examples.
        memory: by method, peak bytes of tensors above what was in use.
    """

    architecture: str
    batch_size: int
    chosen: str
    training: float
    ratios: Mapping[str, float]
    sample: float
    memory: Mapping[str, int]


def by_method(threads: int) -> list[MethodTimes]:
    """Measure all architectures and batch sizes, the sides in turns."""
    torch.set_num_threads(threads)
    return [_measured(name, batch_size) for batch_size in BATCH_SIZES for name in ARCHITECTURES]


def _measured(name: str, batch_size: int) -> MethodTimes:
    print(f"methods: {name}, batch size {batch_size}", file=sys.stderr, flush=True)
    torch.manual_seed(0)
    model = ARCHITECTURES[name]()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, foreach=True)
    count = EXAMPLES // batch_size
    batches = [(torch.rand(batch_size, 1, 28, 28), torch.randint(10, (batch_size,))) for _ in range(count)]

    def train() -> None:
        for inputs, labels in batches:
            optimizer.zero_grad()
            cross_entropy(model(inputs), labels).backward()
            optimizer.step()

    def terms(some: Sequence[Pair], **arguments: Any) -> Callable[[], object]:
        return lambda: ireg.measure(model, some, optimizer=optimizer, criterion=cross_entropy, **arguments)

    train()
    epoch = EPOCH // batch_size
    sides = {method: terms(batches, method=method) for method in METHODS if _serves(model, batches, method)}
    sampled = terms(batches[:SAMPLE], population=epoch)
    seconds: dict[str, list[float]] = {}
    for _ in range(TURNS):
        for side, call in {"training": train, **sides, "sample": sampled}.items():
            seconds.setdefault(side, []).append(_seconds(call))
    over = {
        side: statistics.median(one / other for one, other in zip(values, seconds["training"], strict=True))
        for side, values in seconds.items()
    }
    params = {name: value.detach() for name, value in model.named_parameters()}
    return MethodTimes(
        architecture=name,
        batch_size=batch_size,
        chosen=choose_method(functional_loss(model, cross_entropy), params, batches, EVERYTHING),
        training=statistics.median(seconds["training"]) / count,
        ratios={method: over[method] for method in sides},
        sample=over["sample"] * count / epoch,
        memory={method: peak_tensors(call) for method, call in sides.items()},
    )


def _serves(model: nn.Module, batches: Sequence[Pair], method: str) -> bool:
    """Say whether a method serves a model, by trying it on two minibatches."""
    try:
        ireg.measure(
            model, batches[:2], optimizer=torch.optim.SGD(model.parameters()), criterion=cross_entropy, method=method
        )
    except (NotServedError, ValueError):
        return False
    return True


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def table(measured: Sequence[MethodTimes]) -> Grid:
    """Tabulate the terms' pass by architecture and method, and its memory."""
    names = list(dict.fromkeys(method for times in measured for method in times.ratios))
    columns = ["network", "batch", "training, ms", "auto takes", *(f"{name} / training" for name in names)]
    columns += [f"{SAMPLE} minibatches / epoch", *(f"{name}, MB" for name in names)]
    rows = [
        [
            times.architecture,
            str(times.batch_size),
            f"{times.training * 1e3:.1f}",
            times.chosen,
            *(ratio_text(times.ratios.get(name)) for name in names),
            ratio_text(times.sample),
            *(f"{times.memory[name] / 1e6:.1f}" if name in times.memory else MISSING for name in names),
        ]
        for times in measured
    ]
    return Grid("The terms' pass by method, over the training pass", columns, rows)


_PAGE = """
# Other networks

What the default terms of Adam cost by `ireg.measure`, on the networks of `conf/model/` as they are by default, with one
thread and random images. Every number here is from one run of

```sh
python -m benchmarks.methods
```

on this machine: {machine}.

Each method is set against a training pass over the same minibatches in plain PyTorch, in turns; a ratio is the median
of those of the turns. **{sample} minibatches / epoch** are the terms from a sample of {sample} minibatches over the
training pass of {epoch:,} examples. MB are peak bytes of tensors above what is in use, of the whole pass. A dash: the
method does not serve the network.

{table}
"""


def main() -> None:
    quietly()
    torch.set_num_interop_threads(1)
    peaks = Peaks()
    peaks.look(1)
    measured = by_method(1)
    peaks.look(1)
    make_console(width=200).print(table(measured).rich())
    text = _PAGE.format(machine=machine(peaks.rates), sample=SAMPLE, epoch=EPOCH, table=table(measured).markdown())
    write_text(PAGE, text.lstrip())
    print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    with as_command():
        main()
