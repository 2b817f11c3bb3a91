"""A training loop written by hand in plain PyTorch: what the project's epoch is measured against.

It does what an epoch of the project does: trains on minibatches in a fresh order, evaluates test and training examples,
and computes the default terms over the epoch's minibatches at its final weights. No framework, no files, no checks.
"""

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer


def epochs_by_hand(
    model: nn.Module,
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    train: tuple[Tensor, Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    batch_size: int,
    num_epochs: int,
) -> tuple[list[float], list[dict[str, float]]]:
    """Train, and return the seconds and the measured values of each epoch.

    Args:
        model: maps inputs to logits; trained in place.
        make_optimizer: makes an optimizer from the parameters.
        train: inputs, observed labels, clean labels.
        test: inputs, labels.
        batch_size: examples in a minibatch.
        num_epochs: number of epochs.
    """
    inputs, observed, clean = train
    corrupted = observed != clean
    parameters = list(model.parameters())
    initial = [parameter.detach().clone() for parameter in parameters]
    optimizer = make_optimizer(parameters)
    lr = optimizer.param_groups[0]["lr"]
    seconds, rows = [], []
    for _ in range(num_epochs):
        start = time.perf_counter()
        row = {}

        loss_sum, wrong = torch.zeros(()), torch.zeros((), dtype=torch.long)
        batches = torch.randperm(len(inputs)).split(batch_size)
        for batch in batches:
            labels = observed[batch]
            logits = model(inputs[batch])
            loss = cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                loss_sum += loss
                wrong += (logits.argmax(1) != labels).sum()
        row["train/loss"], row["train/error"] = float(loss_sum) / len(batches), float(wrong) / len(inputs)

        with torch.no_grad():
            logits = torch.cat([model(part) for part in test[0].split(2000)])
            row["test/loss"] = float(cross_entropy(logits, test[1]))
            row["test/error"] = float((logits.argmax(1) != test[1]).float().mean())
            predicted = torch.cat([model(part).argmax(1) for part in inputs.split(2000)])
            row["fit/clean_error"] = float((predicted != clean)[~corrupted].float().mean())
            row["fit/memorized"] = float((predicted == observed)[corrupted].float().mean())
            row["fit/recovered"] = float((predicted == clean)[corrupted].float().mean())

        mean = [torch.zeros_like(parameter) for parameter in parameters]
        square = [torch.zeros_like(parameter) for parameter in parameters]
        for batch in batches:
            gradients = torch.autograd.grad(cross_entropy(model(inputs[batch]), observed[batch]), parameters)
            for total, squares, gradient in zip(mean, square, gradients, strict=True):
                total += gradient
                squares.addcmul_(gradient, gradient)
        with torch.no_grad():
            whole = float(sum(squares.sum() for squares in square)) / len(batches)
            full = float(sum((total / len(batches)).square().sum() for total in mean))
            row["ireg/sgd"], row["ireg/full_batch"] = lr / 4 * whole, lr / 4 * full
            row["ireg/minibatch_variance"] = lr / 4 * (whole - full)
            second = [optimizer.state[p].get("square_avg", optimizer.state[p].get("exp_avg_sq")) for p in parameters]
            if second[0] is not None:
                weighted = sum((s.square() * squares).sum() for s, squares in zip(second, square, strict=True))
                row["ireg/rmsprop"] = lr / 4 * float(weighted) / len(batches)
            row["norm/l2"] = float(sum(p.square().sum() for p in parameters)) ** 0.5
            moved = zip(parameters, initial, strict=True)
            row["norm/distance"] = float(sum((p - start).square().sum() for p, start in moved)) ** 0.5

        seconds.append(time.perf_counter() - start)
        rows.append(row)
    return seconds, rows
