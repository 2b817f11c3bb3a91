"""The modified flow of anybody's optimizer at a model's weights, from the optimizer's steps alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ireg.core.clipping import Clip
from ireg.core.norms import cosine, norm, widened
from ireg.core.ramp import MOST, Make, Response, respond
from ireg.core.types import Batch, Params
from ireg.engine import of_all_weights, snapshot
from ireg.measured_loss import Criterion, ModelLoss


@dataclass(frozen=True, kw_only=True)
class ModifiedFlow(Response):
    """The flow that an optimizer's weights follow on full batches, to first order in the learning rate η.

    With one step as unit of time, dω/dn = −(`leading` + `correction`). All vectors are by parameter name, in double
    precision, and in the unit of the weights: they are what one step takes off.

    Attributes:
        leading: what a step takes off where weights and gradient have been the same for long.
        correction: what finite steps add to it.
        alignment: the cosine of the correction and ∇‖∇C‖²; 1 where finite steps penalize the gradient's norm. 0 where
            one of them is 0.
        slope: twice the part of the correction that is the bend of half a step; the rest is memory.
        steps: after so many the memory has faded.

    Example:
        >>> import torch
        >>> of = {name: {"weight": torch.ones(1)} for name in ("leading", "correction", "slope")}
        >>> ModifiedFlow(**of, alignment=1.0, steps=64, nonlinearity=0.0).strength
        1.0
    """

    alignment: float


def modified_flow(
    make_optimizer: Make,
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    criterion: Criterion | None = None,
    loss: ModelLoss | None = None,
    mode: str = "as_trained",
    clip: Clip | None = None,
    tolerance: float = 1e-3,
    max_steps: int = MOST,
) -> ModifiedFlow:
    """Find what an optimizer's finite steps do at the model's present weights, on full batches.

    No formula of the optimizer is needed. It takes steps of its own, on weights and gradients that lie on the straight
    line that it would leave behind, and its response is read off the last one. So memory, preconditioning, trust ratios
    and decoupled weight decay are all in it. It is what the full batch makes of them: minibatches are not.

    The model is not changed, and neither is any optimizer that trains it. One gradient of C = (1/m) Σ Ĉ_k and two
    products with its Hessian are computed, and some thousand steps of the optimizer.

    Args:
        make_optimizer: from a list of parameters to an optimizer of all of them; the parameters are copies in double
            precision, of those that require a gradient and that the loss depends on, in the model's order.
        model: any module; complex weights count as their real and imaginary parts.
        batches: the minibatches of an epoch, as a list.
        criterion: as for `ireg.gradient_moments`.
        loss: as for `ireg.gradient_moments`.
        mode: `as_trained` or `eval`, as for `ireg.gradient_moments`.
        clip: how gradients are clipped before each step: those of the line go through it, too. Where the gradient is at
            the very bound the step is not smooth.
        tolerance: the memory has faded once the correction differs by less than this share of its norm from that of
            half as many steps. The error of the result is then about its square.
        max_steps: in which the memory has to fade.

    Returns:
        The flow. Its `strength` is ‖correction‖/‖leading‖; the expansion holds while that is small. Of a step that is
        the gradient's sign the correction is 0, but where gradients vanish. Whether the flow is right for an optimizer,
        `python -m ireg.verify --optimizer package.module.Class` certifies.

    Raises:
        ValueError: as `ireg.gradient_moments`; a memory that does not fade; a step that is not smooth; an optimizer
            that draws random numbers, that takes no step with gradients alone, or that does not hold all parameters.

    Source: derived and certified here (docs/theory.md, section 18).

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 1.0)
        >>> batches = [(torch.ones(1, 1), torch.zeros(1, 1))]  # C = ω²: gradient 2, Hessian 2
        >>> flow = modified_flow(
        ...     lambda parameters: torch.optim.SGD(parameters, lr=0.1), model, batches, criterion=nn.functional.mse_loss
        ... )
        >>> round(float(flow.leading["weight"]), 6), round(float(flow.correction["weight"]), 6)  # η 2, (η²/2) 2 · 2
        (0.2, 0.02)
        >>> round(flow.strength, 6), round(flow.alignment, 6)
        (0.1, 1.0)
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance}: must be a share between 0 and 1; 0.001 is usual")
    if max_steps < 1:
        raise ValueError(f"max_steps={max_steps}: must be at least 1; {MOST} are usual")
    with snapshot(
        model, batches, optimizer=of_all_weights(model), criterion=criterion, loss=loss, mode=mode
    ) as taken:  # fmt: skip
        moving = dict(taken.moving)

        def product(direction: Params) -> Params:
            return widened(taken.hessian({name: direction[name].to(value) for name, value in moving.items()}))

        gradient = widened(taken.moments.mean)
        make = make_optimizer if clip is None else clip.made(make_optimizer)
        found = respond(make, widened(moving), gradient, product, tolerance=tolerance, most=max_steps)
        squares = product(gradient)
    aligned = float(cosine(found.correction, squares)) if found.strength and norm(squares) else 0.0
    return ModifiedFlow(**vars(found), alignment=aligned)
