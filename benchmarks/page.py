"""The page `docs/benchmarks.md`."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning
import torch

from benchmarks import figure, gpu_page, tables
from benchmarks.case import HIDDEN_LAYERS, Case
from benchmarks.growth import Point
from benchmarks.memory import Memory
from benchmarks.sides import ORDINARY
from benchmarks.times import Result
from ireg.analysis.looks import drawn
from ireg.runs.machine import processor
from ireg.system.files import write_bytes, write_text


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All that one run of the benchmark has measured.

    `peaks` are floating-point operations per second, by threads of torch.
    """

    results: Sequence[Result]
    peaks: Mapping[int, float]
    command: str
    memory: Sequence[tuple[Case, Memory]] = ()
    growth: Mapping[str, Sequence[Point]] | None = None


def machine(peaks: Mapping[int, float]) -> str:
    """Describe the machine in words."""
    versions = f"torch {torch.__version__}, lightning {lightning.__version__}, Python {platform.python_version()}"
    rates = ", ".join(f"{rate / 1e9:.0f} with {number}" for number, rate in peaks.items())
    return (
        f"{processor()}, {os.cpu_count()} cores; GFLOP/s of float32 matrix products at best, by number of threads, "
        f"measured in the same run: {rates}; {versions}"
    )


def write(findings: Findings, path: Path) -> list[Path]:
    """Write the page, and its figure beside it in `figures/`; return what was written."""
    written = []
    if findings.growth is not None:
        picture = path.parent / "figures" / f"{path.stem}.png"
        for content in drawn(path.stem, partial(figure.draw, findings.growth, findings.peaks), ".png").values():
            write_bytes(picture, content)
            written.append(picture)
    text = _text(findings, f"figures/{path.stem}.png")
    write_text(path, gpu_page.put(text, gpu_page.section_of(path)))
    return [*written, path]


def _text(findings: Findings, picture: str) -> str:
    epochs = tables.epochs(findings.results, findings.peaks)
    passes = tables.passes(findings.results, findings.peaks)
    theory = tables.theory(findings.results)
    parts = [
        _introduction(findings, epochs),
        _EPOCHS.format(ordinary=_ordinary(findings.results)),
        epochs.folded("Seconds by optimizer, width, batch size and threads", _EPOCHS_TABLE),
        _PASSES.format(
            share=passes.span("terms / training"),
            training=passes.span("training / by hand"),
            terms=passes.span("terms / by hand"),
        ),
        passes.folded("Seconds of both passes", _PASSES_TABLE),
        _THEORY.format(terms=theory.span("theory / default"), epoch=theory.span("epoch with theory / project")),
        theory.folded("Seconds with the mean flow", _THEORY_TABLE),
    ]
    if findings.memory:
        case, _ = findings.memory[0]
        memory = tables.memory(findings.memory)
        parts.append(
            _MEMORY.format(
                width=case.width,
                batch_size=case.batch_size,
                minibatches=memory.span("minibatches m"),
                tensors=memory.span("tensors, MB"),
                resident=memory.span("resident, MB"),
            )
        )
        parts.append(memory.folded("Peaks by optimizer and number of minibatches", _MEMORY_TABLE))
    if findings.growth is not None:
        parts.append(_GROWTH.format(picture=picture))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _introduction(findings: Findings, epochs: tables.Grid) -> str:
    train, test = findings.results[0].num_examples
    return _INTRODUCTION.format(
        by_hand=epochs.span("project / by hand"),
        off=epochs.span("project / terms off"),
        ordinary=epochs.span("ordinary / project"),
        floor=epochs.span("project / floor"),
        command=findings.command,
        machine=machine(findings.peaks),
        train=train,
        test=test,
        layers=HIDDEN_LAYERS,
    )


def _ordinary(results: Sequence[Result]) -> str:
    """Say how many epochs of the ordinary way were counted, and where."""
    counts: dict[int, list[str]] = {}
    for result in results:
        count = sum(len(turn) for turn in result.turns.get(ORDINARY, []))
        shape = f"{result.case.width}/{result.case.batch_size}"
        if shape not in counts.setdefault(count, []):
            counts[count].append(shape)
    parts = [f"{count} at width/batch {', '.join(shapes)}" for count, shapes in counts.items()]
    return "; ".join(parts)


_INTRODUCTION = """
# Benchmarks

An epoch of the experiment with the default terms takes, in the median of turns, {by_hand} times that of a loop tuned
by hand, and {off} times that without terms. The ordinary Lightning way takes {ordinary} times as long. The epoch
takes {floor} times the floor, its matrix products at the machine's best rate. Every number here is from one run of
this command:

```sh
{command}
```

The machine: {machine}.

The data are {train:,} training and {test:,} test images of MNIST, the networks have {layers} hidden layers.
All sides run in one process and take turns, so that whatever else the machine does hits all of them.

## An epoch
"""

_EPOCHS = """
- **project**: a run as `train.py` does it, with the default terms, evaluation, log files and checkpoint (`time/epoch`
  in metrics.csv).
- **terms off**: the same with `terms=[]`; the training examples, otherwise evaluated by the terms' pass, have an
  evaluation of their own.
- **by hand**: a loop in plain PyTorch (`benchmarks/loop.py`) with evaluation, the same terms, and the project's
  optimizer and its kernel, without framework and files.
- **ordinary**: a torchvision data set with `ToTensor` in a shuffling DataLoader, `self.log` and torchmetrics in each
  step, torch's optimizer as it is by default, the same terms without `fit/*` (`benchmarks/ordinary.py`). It has fewer
  epochs: {ordinary}.
- **floor**: the matrix products of the training pass and of a terms' pass that forms all minibatch gradients. Small
  minibatches cannot reach the machine's best rate, and evaluation is not in it.
"""

_EPOCHS_TABLE = """
Seconds of a whole epoch are medians over the turns' epochs. A ratio is the median of those of the turns, since within
a turn the sides run one right after the other; **lowest to highest** are the ratios project / by hand of single
turns, which say how far to trust it. Below 1 the project is faster.
"""

_PASSES = """
## The two passes

The terms' pass takes {share} times the training pass. Training takes {training} times as long as by hand, and the
terms {terms} times.
"""

_PASSES_TABLE = """
**training** is the project's training pass alone, from the start of the epoch to the evaluation of the test examples;
**terms** is `time/terms` of metrics.csv, and the loop's includes, as that does, the evaluation of the training examples
by the pass's outputs. Both are of the epochs above. SGD's terms need the minibatch gradients' norms and mean, RMSProp's
and Adam's also second moments. **floor of a pass** is half of the floor above.
"""

_THEORY = """
## The mean flow: `terms=theory`

With the mean flow's strength and alignment the terms' pass takes {terms} times the default terms, and an epoch
{epoch} times the project's: a second pass with two products with the Hessian for each minibatch (SGD) or three
(RMSProp, Adam). With `terms.every=10` a tenth of it falls on an epoch.
"""

_THEORY_TABLE = """
Seconds of `time/terms`. `ireg/own` is among the default terms.
"""

_MEMORY = """
## Memory of the terms' pass

From {minibatches} minibatches the pass takes {tensors} MB of tensors, and {resident} MB resident, above what is in
use when it begins (data, weights and optimizer are by then), at width {width} and batch size {batch_size}.
"""

_MEMORY_TABLE = """
Each line is a process of its own. *Tensors* are bytes held by torch's allocator, from its log of every allocation:
exact. *Resident* is the high-water mark of the process's resident set (Linux), with the buffers of all libraries: to
within some MB.
"""

_GROWTH = """
## Growth

![Seconds of the terms' pass against examples, width and batch size]({picture})

Median seconds of the terms' pass. The dashed line is the floor of a pass.
"""
