"""A training loop written by hand in plain PyTorch, which the project's epoch is measured against.

It does what an epoch of the project does: trains on minibatches in a fresh order, evaluates the test examples, and
computes the default terms over the epoch's minibatches at its final weights; the training examples are evaluated by the
outputs of that last pass, which sees them all. No framework, no files, no checks. Nothing waits for a number before its
pass is over, and second moments are summed only for an optimizer that has some to weigh them with.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from benchmarks.times import EpochTime

EVAL_BATCH_SIZE = 2000
Row = dict[str, float]


def epochs_by_hand(
    model: nn.Module,
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    train: tuple[Tensor, Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    batch_size: int,
    num_epochs: int,
) -> tuple[list[EpochTime], list[Row]]:
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
    initial = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = make_optimizer(model.parameters())
    times, rows = [], []
    for _ in range(num_epochs):
        start = time.perf_counter()
        order = torch.randperm(len(inputs))
        batches = order.split(batch_size)
        row = _train(model, optimizer, inputs, observed, batches)
        trained = time.perf_counter()
        row |= _evaluate(model, *test)
        evaluated = time.perf_counter()
        gathered = ((inputs.index_select(0, batch), observed.index_select(0, batch)) for batch in batches)
        terms, logits = terms_pass(model, optimizer, initial, gathered)
        row |= terms | _fit(torch.cat(logits).argmax(1), observed[order], clean[order])
        end = time.perf_counter()
        times.append(EpochTime(end - start, trained - start, end - evaluated))
        rows.append(row)
    return times, rows


def _train(model: nn.Module, optimizer: Optimizer, inputs: Tensor, observed: Tensor, batches: Sequence[Tensor]) -> Row:
    loss_sum, wrong = torch.zeros(()), torch.zeros((), dtype=torch.long)
    for batch in batches:
        labels = observed.index_select(0, batch)
        logits = model(inputs.index_select(0, batch))
        loss = cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach()
        wrong += (logits.detach().argmax(1) != labels).sum()
    return {"train/loss": float(loss_sum) / len(batches), "train/error": float(wrong) / len(inputs)}


@torch.no_grad()
def _evaluate(model: nn.Module, inputs: Tensor, labels: Tensor) -> Row:
    logits = torch.cat([model(part) for part in inputs.split(EVAL_BATCH_SIZE)])
    error = (logits.argmax(1) != labels).float().mean()
    return {"test/loss": float(cross_entropy(logits, labels)), "test/error": float(error)}


def _fit(predicted: Tensor, observed: Tensor, clean: Tensor) -> Row:
    corrupted = observed != clean
    return {
        "fit/clean_error": float((predicted != clean)[~corrupted].float().mean()),
        "fit/memorized": float((predicted == observed)[corrupted].float().mean()),
        "fit/recovered": float((predicted == clean)[corrupted].float().mean()),
    }


def terms_pass(
    model: nn.Module, optimizer: Optimizer, initial: Sequence[Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Row, list[Tensor]]:
    """Compute the default terms, and the logits, of all minibatches.

    Minibatches are `(inputs, labels)`; the weights are the present ones.

    Args:
        model: maps inputs to logits.
        optimizer: one of SGD, RMSprop, Adam.
        initial: the parameters before training.
        batches: the minibatches; read once.
    """
    parameters = list(model.parameters())
    second = [optimizer.state[p].get("square_avg", optimizer.state[p].get("exp_avg_sq")) for p in parameters]
    adaptive = second[0] is not None
    mean, square = ([torch.zeros_like(parameter) for parameter in parameters] for _ in range(2))
    sq_norm_sum = torch.zeros(())
    outputs = []
    for inputs, labels in batches:
        logits = model(inputs)
        gradients = torch.autograd.grad(cross_entropy(logits, labels), parameters)
        outputs.append(logits.detach())
        for total, squares, gradient in zip(mean, square, gradients, strict=True):
            total += gradient
            if adaptive:
                squares.addcmul_(gradient, gradient)
            else:
                sq_norm_sum += torch.dot(gradient.view(-1), gradient.view(-1))
    lr, num_batches = optimizer.param_groups[0]["lr"], len(outputs)
    whole = float(sum(squares.sum() for squares in square) if adaptive else sq_norm_sum) / num_batches
    full = float(sum((total / num_batches).square().sum() for total in mean))
    values = {"ireg/sgd": whole, "ireg/full_batch": full, "ireg/minibatch_variance": whole - full}
    if adaptive:
        weighted = sum((s.square() * squares).sum() for s, squares in zip(second, square, strict=True))
        values["ireg/rmsprop"] = float(weighted) / num_batches
        beta, scales = _preconditioner(optimizer, parameters, second)
        whole = float(sum((s * squares).sum() for s, squares in zip(scales, square, strict=True))) / num_batches
        full = float(sum((s * total.square()).sum() for s, total in zip(scales, mean, strict=True))) / num_batches**2
        distances = range(1, num_batches)
        tails = 2 * sum((num_batches - d) * beta**d for d in distances) / (num_batches * (num_batches - 1))
        full, variance = (1 + beta) / (1 - beta) * full, (1 - tails) * (whole - full)
    else:
        variance = whole - full
    values |= {"ireg/own": full + variance, "ireg/own_full_batch": full, "ireg/own_variance": variance}
    return {tag: lr / 4 * value for tag, value in values.items()} | _norms(parameters, initial), outputs


def _preconditioner(
    optimizer: Optimizer, parameters: Sequence[Tensor], second: Sequence[Tensor]
) -> tuple[float, list[Tensor]]:
    """Return β of Adam's first moment (0 of RMSprop), and 1/(√v̂ + ε)."""
    group = optimizer.param_groups[0]
    beta, rho = group.get("betas", (0.0, 0.0))
    correction = 1 - rho ** float(optimizer.state[parameters[0]]["step"])
    return beta, [1 / ((square / correction).sqrt() + group["eps"]) for square in second]


@torch.no_grad()
def _norms(parameters: Sequence[Tensor], initial: Sequence[Tensor]) -> Row:
    moved = zip(parameters, initial, strict=True)
    return {
        "norm/l2": float(sum(parameter.square().sum() for parameter in parameters)) ** 0.5,
        "norm/distance": float(sum((parameter - start).square().sum() for parameter, start in moved)) ** 0.5,
    }
