"""Momentum's buffer past its first steps, and the settled weights, those once the buffer has run out.

The mean flow holds for an optimizer whose memory is that of a path along the flow. What a checkpoint holds is that and
the noise of the last minibatches before it, which would push every order the same way. So where the mean flow is
measured, the buffer is computed: b = u (1−δ)/(1−β), u uphill, where the flow was one mean age of the buffer ago.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ireg.core.moments import gradient_moments
from ireg.core.moments.needs import Need
from ireg.drift.orders import order_of, train_epoch
from ireg.drift.problem import Problem, flattened
from ireg.drift.runge_kutta import velocity


def slow_buffer(problem: Problem) -> Tensor | None:
    """Compute the buffer on the slow manifold, to first order.

    Before the next step the gradients in b ← βb + (1−δ)g have a mean age of 1/(1−β) steps.

    Returns:
        The buffer, (p,); None for plain SGD.
    """
    held = problem.optimizer.buffer
    if held is None:
        return None
    uphill = problem.optimizer.memory.effective_rate * velocity(problem, problem.weights)
    # The flow runs downhill, so that it was uphill of here, by η_e u a step, one mean age of the buffer ago.
    return held.gain * velocity(problem, problem.weights + uphill / (1 - held.decay))


def settled(problem: Problem, weights: Tensor, buffer: Tensor | None) -> Tensor:
    """Compute the weights once the buffer has run out: y = ω − ηβ/(1−β) b, Nesterov's ω − ηβ²/(1−β) b.

    Without buffer y is ω. y_{t+1} = y_t − η_e g_{k(t)}(ω_t) exactly: no step is left half done at the end of an epoch,
    and a pair of minibatches d apart counts 1 − T_d, as in the theorem. To first order y lies on the same flow as ω, a
    little ahead.
    """
    held = problem.optimizer.buffer
    return weights if buffer is None or held is None else weights - held.ahead * buffer


def follow_slowly(problem: Problem, order: int, buffer: Tensor | None) -> Tensor:
    """Compute the settled weights after one epoch in one order, from this buffer.

    Networks that draw random numbers draw those of the global stream.
    """
    module, optimizer = problem.begin()
    weights = list(problem.moving(module).values())
    if buffer is not None:
        for weight, part in zip(weights, buffer.split([weight.numel() for weight in weights]), strict=True):
            held = part.view_as(weight).to(weight.dtype).clone()
            optimizer.state[weight].update(problem.optimizer.known_rule().state(held, held))
    train_epoch(module, optimizer, problem, order_of(problem, 1, order, 0))
    if buffer is None:
        return problem.vector(module)
    left = torch.cat([optimizer.state[weight]["momentum_buffer"].flatten() for weight in weights])
    return settled(problem, problem.vector(module), left.double())


def ragged_noise(problem: Problem, order: int, weights: Tensor, mean: Tensor) -> Tensor:
    """Compute what a smaller last minibatch adds to an order's end, at first order.

    Σ_k g_k weighs the last minibatch's examples more: by (1 − B'/B)(g_last − ḡ) more than m ḡ, B' and B the sizes. It
    is taken at fixed weights, so that its mean over the partitions is 0 exactly, and to be subtracted from the order's
    end.

    Args:
        problem: of the order.
        order: which.
        weights: where.
        mean: u there, ḡ with weight decay.
    """
    seen, last = problem.optimizer, order_of(problem, 1, order, 0)[-1]
    if len(last) == problem.batch_size:
        return torch.zeros_like(weights)
    share = seen.memory.effective_rate * (1 - len(last) / problem.batch_size)
    with problem.measuring():
        one = gradient_moments(problem.loss, problem.params(weights), problem.batches([last]), needs=Need.MEAN)
    return -share * (flattened(one.mean) + seen.loss_decay * weights - mean)
