"""What every tag of a row means, as plain data; for a term also which function computes it.

Its functions in Python, its names on the command line, the sets, `ireg terms`, the table of docs/terms.md, axes and
TensorBoard's descriptions are read off this table. A function stands here by its place, and is not imported.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

VALID_STRENGTH = 0.3
"""The mean flow is the first order of an expansion in the strength; from here on it says nothing."""

VALID_EDGE = 2.0
"""The largest `curvature/edge_fraction` of an adaptive optimizer that can be read as a fraction of its edge.

It is of a frozen P. At a fraction e of the edge, and without momentum, a step multiplies an oscillation by 1 − 2e: by
−3 at 2. Its squared gradients, once as large as the second moment, are 9ⁿ times that after n steps. They outweigh what
a decay ρ remembers once (1 − ρ) 9ⁿ > 1: after 3 steps at ρ = 0.99, after 4 at 0.999, where the memory has 100 and
1,000. So P follows within the oscillation's first steps, and training continues.
"""

STANDARD_ERROR = "_se"
"""Ending of the tag of an estimate's standard error, as `ireg.core.moments` has it."""

_SMITH = "[Smith et al. 2021](https://arxiv.org/abs/2101.12176)"
_BARRETT = "[Barrett & Dherin 2021](https://arxiv.org/abs/2009.11162)"
_SWITCH = "runs with optimizer=switch"
_AVERAGE = "runs with weight_average=ema"
_SWATS = "[Keskar & Socher 2017](https://arxiv.org/abs/1712.07628)"
_OWN = "[theory](theory.md), section 6"
_FLOW = "[theory](theory.md), section 7"
_EXACT = "[theory](theory.md), section 16"
_MCCANDLISH = "[McCandlish et al. 2018](https://arxiv.org/abs/1812.06162)"
_NOISE_SCALES = "[theory](theory.md), section 17"
_SIZES = "several minibatches that say how many examples they have; a positive estimate of the denominator"
_SMALL = "small η"
_NOISE = "runs with label noise"
_ADAPTIVE = "optimizers with a running mean of squared gradients"
_OWN_VALID = "small η, momentum below 1; adaptive optimizers: from the first step on, while P changes little"
_EXPANSION = f"ireg/strength below {VALID_STRENGTH:g}; no Adagrad, AMSGrad, centered RMSProp"


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One tag.

    Attributes:
        title: what it is, clear without the tag beside it.
        formula: as plain text; empty where the title says it.
        unit: `loss`, `share` (of examples), `s`, `weight` (a norm of weights), `1`, or a product of these.
        source: paper and equation, or section of the theory; empty for plain statistics.
        validity: for what it exists and means what the title says; empty for all.
        axis: the words of figures; empty where no figure shows it alone.
        mathtext: the formula as matplotlib sets it.
        target: where the function of a term is, as a dotted path; empty for what is measured without a term.
        arguments: its keyword arguments beside the snapshot.
        sets: names of `SETS` to which the term belongs; one of `default` belongs to all.
        name: on the command line; empty for what stands after the tag's slash.
    """

    title: str
    formula: str = ""
    unit: str
    source: str = ""
    validity: str = ""
    axis: str = ""
    mathtext: str = ""
    target: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    sets: tuple[str, ...] = ()
    name: str = ""


_PARTS = {
    "": (
        "the whole correction X = M + V + F",
        "X",
        "whole: X = M + V + F",
        f"{_EXPANSION}; where no mean flow is known, with /full_batch, of full batches",
    ),
    "_memory": ("M: step and memory", "M", "M: step and memory", _EXPANSION),
    "_lag": ("V: lag of the second moment", "V", "V: lag of the second moment", f"{_ADAPTIVE}; {_EXPANSION}"),
    "_fluctuation": (
        "F: fluctuation of the second moment",
        "F",
        "F: its fluctuation",
        f"{_ADAPTIVE}; {_EXPANSION}; Muon",
    ),
}

_MARGINS_OF = {
    "": ("of all training examples", "classifiers"),
    "clean_": ("of examples with a right label", "classifiers in runs of `train.py`"),
    "corrupted_": ("of examples with a wrong label", "classifiers in runs of `train.py` with label noise"),
}
_QUANTILES = {
    "median": ("median margin", "median", 0.5),
    "low": ("1 % quantile of the margins", "1 % quantile", 0.01),
}
_IN_THE_STUDY = ("margin/median", "margin/normalized_median", "margin/normalized_clean_median")

CATALOGUE: dict[str, Quantity] = {
    "train/loss": Quantity(title="training loss (observed labels), over the epoch as it ran", unit="loss"),
    "train/error": Quantity(
        title="training error (observed labels), over the epoch as it ran",
        unit="share",
        axis="training error (observed labels)",
    ),
    "test/loss": Quantity(title="test loss, after the epoch", unit="loss"),
    "test/error": Quantity(title="test error, after the epoch", unit="share", axis="test error"),
    "test/loss_ema": Quantity(
        title="test loss of the average of the weights, after the epoch",
        formula="at ω̄ ← β ω̄ + (1 − β) ω of each step",
        unit="loss",
        validity=_AVERAGE,
    ),
    "test/error_ema": Quantity(
        title="test error of the average of the weights, after the epoch",
        formula="at ω̄ ← β ω̄ + (1 − β) ω of each step",
        unit="share",
        validity=_AVERAGE,
        axis="test error of averaged weights",
    ),
    "holdout/loss": Quantity(
        title="loss on held-out training examples (observed labels), after the epoch",
        unit="loss",
        validity="runs with data.holdout",
    ),
    "holdout/error": Quantity(
        title="error on held-out training examples (observed labels), after the epoch",
        unit="share",
        validity="runs with data.holdout",
        axis="held-out error (observed labels)",
    ),
    "fit/clean_error": Quantity(
        title="error on training examples with a right label", unit="share", axis="Uncorrupted examples:\nerror"
    ),
    "fit/memorized": Quantity(
        title="training examples with a wrong label: predicted as that label",
        unit="share",
        validity=_NOISE,
        axis="Corrupted examples:\nwrong label learned",
    ),
    "fit/recovered": Quantity(
        title="training examples with a wrong label: predicted as the true one",
        unit="share",
        validity=_NOISE,
        axis="Corrupted examples:\ntrue label predicted",
    ),
    "penalty/value": Quantity(
        title="explicit penalty, over the epoch as it ran",
        formula="R of the group regularizer, like (λ/4m) Σ_k ‖g_k‖²",
        unit="loss",
        source="[explicit regularization](explicit.md)",
        validity="runs with a regularizer",
        axis="explicit penalty",
    ),
    "train/step": Quantity(title="steps taken", unit="1", validity="runs with max_steps"),
    "schedule/lr": Quantity(
        title="learning rate of the last step", unit="1", validity="runs with a schedule or a warm-up"
    ),
    "switch/phase": Quantity(title="optimizer at work: 1 before the switch, 2 after it", unit="1", validity=_SWITCH),
    "switch/lr": Quantity(title="learning rate of the optimizer at work", unit="1", validity=_SWITCH),
    "switch/gamma": Quantity(
        title="rate of the gradient's step as long as the optimizer's",
        formula="γ = pᵀp/(−pᵀg)",
        unit="1",
        source=_SWATS,
        validity=f"{_SWITCH} and optimizer.at=swats",
    ),
    "switch/estimate": Quantity(
        title="its running mean, bias corrected",
        formula="λ̂",
        unit="1",
        source=_SWATS,
        validity=f"{_SWITCH} and optimizer.at=swats",
    ),
    "ireg/sgd": Quantity(
        title="SGD's implicit regularizer, for every optimizer",
        formula="η/(4m) Σ_k ‖g_k‖²",
        unit="loss",
        source=f"{_SMITH}; Singh, equation 1",
        validity=f"{_SMALL}; the own regularizer of others is ireg/own",
        axis="Eq. 1 for every optimizer",
        mathtext=r"$\frac{\eta}{4m}\Sigma_k\,\Vert\nabla\hat{C}_k\Vert^2$",
        target="ireg.terms.implicit.sgd",
        sets=("default",),
    ),
    "ireg/full_batch": Quantity(
        title="part of ireg/sgd that full batches have, too",
        formula="(η/4) ‖ḡ‖²",
        unit="loss",
        source=f"{_BARRETT}; Singh, equation 2",
        validity=_SMALL,
        target="ireg.terms.implicit.full_batch",
        sets=("default",),
    ),
    "ireg/minibatch_variance": Quantity(
        title="part of ireg/sgd that minibatches add",
        formula="η/(4m) Σ_k ‖g_k − ḡ‖²",
        unit="loss",
        source=f"{_SMITH}; Singh, equation 2",
        validity=_SMALL,
        target="ireg.terms.implicit.minibatch_variance",
        sets=("default",),
    ),
    "ireg/rmsprop": Quantity(
        title="the adaptive term as printed",
        formula="η/(4m) Σ_k ‖s_t ⊙ g_k‖²",
        unit="η·loss⁶/weight⁶",
        source="Singh, section 2",
        validity=_ADAPTIVE,
        axis="the adaptive term,\nas printed in the paper",
        mathtext=r"$\frac{\eta}{4m}\Sigma_k\,\Vert s_t\odot\nabla\hat{C}_k\Vert^2$",
        target="ireg.terms.implicit.rmsprop",
        sets=("default",),
    ),
    "ireg/own": Quantity(
        title="the regularizer of the run's own optimizer",
        formula="(η_e/4) [(1 + 2L) ‖ḡ‖²_P + (1 − τ) (1/m) Σ_k ‖g_k − ḡ‖²_P]",
        axis="its own, with memory\nand preconditioner",
        unit="loss",
        source=_OWN,
        validity=_OWN_VALID,
        target="ireg.terms.own.own",
        sets=("default",),
    ),
    "ireg/own_full_batch": Quantity(
        title="part of ireg/own that full batches have, too",
        formula="(η_e/4) (1 + 2L) ‖ḡ‖²_P; Muon, Lion, Signum, clipped SGD: η_e (½ + L) φ*(ḡ)",
        unit="loss",
        source=_OWN,
        validity=_OWN_VALID,
        target="ireg.terms.own.own_full_batch",
        sets=("default",),
    ),
    "ireg/own_variance": Quantity(
        title="part of ireg/own that minibatches add",
        formula="(η_e/4) (1 − τ) (1/m) Σ_k ‖g_k − ḡ‖²_P",
        unit="loss",
        source=_OWN,
        validity=f"{_OWN_VALID}; minibatches of an epoch, not sampling=independent",
        target="ireg.terms.own.own_variance",
        sets=("default",),
    ),
    **{
        f"ireg/strength{part}": Quantity(
            title=f"size of {title}",
            axis=axis,
            formula=f"‖{letter}‖/‖u‖",
            unit="1",
            source=_FLOW,
            validity=validity,
            target="ireg.terms.theory.strength",
            arguments={"part": part.removeprefix("_") or "whole"},
            sets=("theory", "fluctuation") if part == "_fluctuation" else ("theory",),
        )
        for part, (title, letter, axis, validity) in _PARTS.items()
    },
    **{
        f"ireg/alignment{part}": Quantity(
            title=f"direction of {title}",
            formula=f"⟨{letter}, ∇Q⟩/(‖{letter}‖ ‖∇Q‖)",
            unit="1",
            source=_FLOW,
            validity=validity,
            target="ireg.terms.theory.alignment",
            arguments={"part": part.removeprefix("_") or "whole"},
            sets=("theory", "fluctuation") if part == "_fluctuation" else ("theory",),
        )
        for part, (title, letter, _, validity) in _PARTS.items()
    },
    "ireg/strength_fluctuation_exact": Quantity(
        title="size of F at rate 0, without an expansion",
        formula="‖E[u(g_k, v_k)] − u‖/‖u‖; Muon, Lion: ‖E T(ḡ + ξ) − T(ḡ)‖/‖T(ḡ) + λω‖",
        unit="1",
        source=_EXACT,
        validity=f"{_ADAPTIVE}; no Adagrad, AMSGrad; Muon, Lion",
        target="ireg.terms.theory.strength_exact",
        sets=("fluctuation",),
    ),
    "ireg/alignment_fluctuation_exact": Quantity(
        title="direction of F at rate 0, without an expansion",
        formula="⟨E[u(g_k, v_k)] − u, ∇Q⟩/(‖E[u(g_k, v_k)] − u‖ ‖∇Q‖)",
        unit="1",
        source=_EXACT,
        validity=f"{_ADAPTIVE}; no Adagrad, AMSGrad, centered RMSProp",
        target="ireg.terms.theory.alignment_exact",
        sets=("fluctuation",),
    ),
    "noise/scale": Quantity(
        title="gradient noise scale: examples at which noise equals signal",
        formula="tr Σ/‖∇C‖²",
        unit="1",
        source=_MCCANDLISH,
        validity=_SIZES,
        axis="noise scale (examples)",
        target="ireg.terms.noise.scale",
        name="noise_scale",
        sets=("noise",),
    ),
    "noise/scale_own": Quantity(
        title="noise scale in the geometry of the run's own optimizer",
        formula="tr PΣ/‖∇C‖²_P; Lion and Muon: in the dual norm",
        unit="1",
        source=_NOISE_SCALES,
        validity=(
            f"{_SIZES}; optimizers with a rule, adaptive ones from the first step on; "
            "Lion and Muon from all of an epoch's minibatches"
        ),
        axis="own noise scale (examples)",
        target="ireg.terms.noise.scale_own",
        name="noise_scale_own",
        sets=("noise",),
    ),
    "noise/signal_to_noise": Quantity(
        title="squared gradient over the variance of a minibatch's",
        formula="B ‖∇C‖²/tr Σ",
        unit="1",
        source=_MCCANDLISH,
        validity=_SIZES,
        target="ireg.terms.noise.signal_to_noise",
        name="noise_signal_to_noise",
        sets=("noise",),
    ),
    "noise/trace": Quantity(
        title="variance of one example's gradient",
        formula="tr Σ = B Var (N − 1)/(N − B)",
        unit="loss²/weight²",
        source=_NOISE_SCALES,
        validity="several minibatches that say how many examples they have",
        target="ireg.terms.noise.trace",
        name="noise_trace",
        sets=("noise",),
    ),
    "noise/square": Quantity(
        title="squared gradient, freed of the minibatches' noise",
        formula="‖∇C‖²",
        unit="loss²/weight²",
        source=_NOISE_SCALES,
        validity="several minibatches that say how many examples they have",
        target="ireg.terms.noise.square",
        name="noise_square",
        sets=("noise",),
    ),
    "noise/share": Quantity(
        title="share of ireg/sgd that minibatches add",
        formula="Σ_k ‖g_k − ḡ‖²/Σ_k ‖g_k‖²",
        unit="1",
        source=_NOISE_SCALES,
        validity="gradients that are not 0",
        target="ireg.terms.noise.share",
        name="noise_share",
        sets=("noise",),
    ),
    "noise/step": Quantity(
        title="change of the mean step by the noise of the minibatches, at rate 0",
        formula="‖E U(g_k) − U(ḡ)‖/‖U(ḡ)‖",
        unit="1",
        source=_EXACT,
        validity="optimizers whose memory fades, also without a rule; no Adagrad, AMSGrad",
        target="ireg.terms.noise.step",
        name="noise_step",
        sets=("mean_step",),
    ),
    "noise/step_se": Quantity(
        title="standard error of noise/step, over the drawn orders",
        formula="of S = 8 orders: √(Var_i(mean_{j≠i} ⟨F_i, F_j⟩)/S)/(‖F‖ ‖U(ḡ)‖)",
        unit="1",
        source=_EXACT,
        validity="where noise/step is not 0",
        target="ireg.terms.noise.step_se",
        name="noise_step_se",
        sets=("mean_step",),
    ),
    "noise/update_ratio": Quantity(
        title="length of a step over that of the weights",
        formula="‖ΔW‖/‖W‖",
        unit="1",
        source=_NOISE_SCALES,
        validity="optimizers with a rule, from the first step on; no Nesterov, no NAdam",
        target="ireg.terms.noise.update_ratio",
        name="noise_update_ratio",
        sets=("noise",),
    ),
    "noise/angle": Quantity(
        title="angle by which the last step has turned the weights, in radians",
        formula="∠(W, W + ΔW)",
        unit="1",
        source=_NOISE_SCALES,
        validity="optimizers with a rule and a buffer, from the first step on; no Nesterov, no NAdam",
        target="ireg.terms.noise.angle",
        name="noise_angle",
        sets=("noise",),
    ),
    "noise/equilibrium": Quantity(
        title="norm at which weight decay balances the steps, over the present norm",
        formula="η_e √((1/m) Σ_k ‖P g_k‖²/(1 − (1 − w)²))/‖W‖",
        unit="1",
        source="[Kosson et al. 2023](https://arxiv.org/abs/2305.17212); [theory](theory.md), section 17",
        validity="one weight decay, decoupled or of optimizers that do not divide; scale-invariant or noisy layers",
        target="ireg.terms.noise.equilibrium",
        name="noise_equilibrium",
        sets=("noise",),
    ),
    "norm/l2": Quantity(
        title="norm of all parameters, frozen ones included",
        formula="‖ω‖₂",
        unit="weight",
        axis=r"$\Vert\omega\Vert_2$ of all parameters",
        target="ireg.terms.norm.l2",
        sets=("default",),
    ),
    "norm/distance": Quantity(
        title="distance from the initial parameters",
        formula="‖ω − ω₀‖₂",
        unit="weight",
        target="ireg.terms.norm.distance",
        sets=("default",),
    ),
    "norm/layers": Quantity(
        title="norm of each weight matrix, as norm/layers/NAME",
        formula="‖W_l‖_F of each weight matrix",
        unit="weight",
        target="ireg.terms.norm.layers",
        name="norm_layers",
        sets=("margin",),
    ),
    "norm/product": Quantity(
        title="product of the norms of all weight matrices",
        formula="Π_l ‖W_l‖_F",
        unit="weight^L",
        target="ireg.terms.norm.product",
        name="norm_product",
        sets=("margin", "study"),
    ),
    "norm/spectral_product": Quantity(
        title="product of the largest singular values of all weight matrices",
        formula="Π_l σ₁(W_l)",
        unit="weight^L",
        source="[Bartlett et al. 2017](https://arxiv.org/abs/1706.08498)",
        validity="convolutions: of the kernel as a matrix",
        target="ireg.terms.norm.spectral_product",
        name="norm_spectral_product",
        sets=("margin", "study"),
    ),
    "path/radial": Quantity(
        title="growth of ‖ω‖² along the weights, in the epoch",
        formula="Σ_t −2⟨ω_t, s_t⟩",
        unit="weight²",
        source="[theory](theory.md), section 13",
        validity="epochs whose steps were recorded",
        target="ireg.terms.path.radial",
        name="path_radial",
        sets=("path", "study"),
    ),
    "path/diffusive": Quantity(
        title="growth of ‖ω‖² by the length of the steps, in the epoch",
        formula="Σ_t ‖s_t‖²",
        unit="weight²",
        source="[theory](theory.md), section 13",
        validity="epochs whose steps were recorded",
        target="ireg.terms.path.diffusive",
        name="path_diffusive",
        sets=("path", "study"),
    ),
    "path/whole": Quantity(
        title="squared length of the epoch's whole step",
        formula="‖ω_e − ω_{e−1}‖²",
        unit="weight²",
        source="[theory](theory.md), section 13",
        validity="epochs whose steps were recorded",
        target="ireg.terms.path.whole",
        name="path_whole",
        sets=("path", "study"),
    ),
    "path/settled_radial": Quantity(
        title="growth of ‖y‖² along the settled weights y, in the epoch",
        formula="Σ_t −2⟨y_t, y_t − y_{t+1}⟩",
        unit="weight²",
        source="[theory](theory.md), section 13",
        validity="optimizers with a rule whose memory fades",
        target="ireg.terms.path.settled_radial",
        name="path_settled_radial",
        sets=("path", "study"),
    ),
    "path/settled_diffusive": Quantity(
        title="growth of ‖y‖² by the length of their steps, in the epoch",
        formula="Σ_t ‖y_t − y_{t+1}‖²",
        unit="weight²",
        source="[theory](theory.md), section 13",
        validity="optimizers with a rule whose memory fades",
        target="ireg.terms.path.settled_diffusive",
        name="path_settled_diffusive",
        sets=("path", "study"),
    ),
    "path/settled_whole": Quantity(
        title="squared length of the settled weights' whole step in the epoch",
        formula="‖y_e − y_{e−1}‖²",
        unit="weight²",
        source="[theory](theory.md), section 13",
        validity="optimizers with a rule whose memory fades",
        target="ireg.terms.path.settled_whole",
        name="path_settled_whole",
        sets=("path", "study"),
    ),
    **{
        f"margin/{scaled}{examples}{name}": Quantity(
            title=f"{scaled.replace('_', ' ')}{title} {of}",
            formula=f"{formula} of f_y − max_{{j≠y}} f_j{', over Π‖W_l‖_F' if scaled else ''}",
            unit="1/weight^L" if scaled else "1",
            source="[Bartlett et al. 2017](https://arxiv.org/abs/1706.08498)" if scaled else "",
            validity=validity,
            target="ireg.terms.margin.quantile",
            arguments={"share": share, "among": examples.rstrip("_") or "all", "normalized": bool(scaled)},
            sets=("margin", "study") if f"margin/{scaled}{examples}{name}" in _IN_THE_STUDY else ("margin",),
            name=f"margin_{scaled}{examples}{name}",
        )
        for scaled in ("", "normalized_")
        for examples, (of, validity) in _MARGINS_OF.items()
        for name, (title, formula, share) in _QUANTILES.items()
    },
    "curvature/lambda_max": Quantity(
        title="the largest eigenvalue of the Hessian H",
        formula="λ₁(H)",
        axis="largest eigenvalue of H",
        unit="loss/weight²",
        source="[Cohen et al. 2021](https://arxiv.org/abs/2103.00065)",
        target="ireg.terms.curvature.lambda_max",
        sets=("curvature", "study"),
    ),
    "curvature/lambda_max_residual": Quantity(
        title="residual of curvature/lambda_max",
        formula="‖Hv − θv‖",
        unit="loss/weight²",
        target="ireg.terms.curvature.lambda_max_residual",
        sets=("curvature",),
    ),
    "curvature/lambda_max_products": Quantity(
        title="products with H that curvature/lambda_max took",
        formula="number of products",
        unit="1",
        target="ireg.terms.curvature.lambda_max_products",
        sets=("curvature",),
    ),
    "curvature/preconditioned_sharpness": Quantity(
        title="the same in the metric of the run's own optimizer",
        formula="λ₁(P^½ (H + λ) P^½)",
        unit="1/η",
        source="[Cohen et al. 2022](https://arxiv.org/abs/2207.14484)",
        validity="optimizers with a rule; adaptive ones from the first step on",
        target="ireg.terms.curvature.preconditioned_sharpness",
        sets=("curvature",),
    ),
    "curvature/edge_fraction": Quantity(
        title="fraction of the run's own edge of stability",
        formula="λ₁(P^½ (H + λ) P^½)/h*",
        axis="fraction of the edge",
        unit="1",
        source="[theory](theory.md), section 12",
        validity="optimizers with a rule whose memory fades; adaptive ones from the first step on, "
        f"up to {VALID_EDGE:g} ([curvature](curvature.md#what-it-does-not-show))",
        target="ireg.terms.curvature.edge_fraction",
        sets=("curvature", "study"),
    ),
    "curvature/batch_sharpness": Quantity(
        title="mean curvature of the minibatches along their own gradients",
        formula="(1/m) Σ_k g_kᵀH_kg_k/‖g_k‖²",
        axis="batch sharpness",
        unit="loss/weight²",
        source="[Andreyev & Beneventano 2024](https://arxiv.org/abs/2412.20553)",
        target="ireg.terms.curvature.batch_sharpness",
        sets=("curvature", "study"),
    ),
    "curvature/gni": Quantity(
        title="curvature of C along the minibatches' gradients (random signs)",
        formula="(1/m) Σ_k g_kᵀHg_k/‖ḡ‖²",
        unit="loss/weight²",
        source="[Andreyev & Beneventano 2024](https://arxiv.org/abs/2412.20553)",
        target="ireg.terms.curvature.gni",
        sets=("curvature",),
    ),
    "curvature/gni_se": Quantity(
        title="standard error of curvature/gni",
        formula="s/√8 over the probes",
        unit="loss/weight²",
        target="ireg.terms.curvature.gni_se",
        sets=("curvature",),
    ),
    "curvature/noise_edge": Quantity(
        title="edge of stability in mean square along the steepest direction",
        formula="(η/2) [(σ²/h)/(1 − β) + h/(1 + β)]",
        unit="1",
        source="[theory](theory.md), section 12",
        validity="SGD and heavy-ball momentum; a diagnostic in many dimensions",
        target="ireg.terms.curvature.noise_edge",
        sets=("curvature",),
    ),
    "curvature/trace": Quantity(
        title="trace of H: exact where the diagonal is known, else with random signs",
        axis="trace of H",
        formula="Σ_i H_ii",
        unit="loss/weight²",
        source="Hutchinson 1990",
        target="ireg.terms.curvature.trace",
        sets=("curvature", "study"),
    ),
    "curvature/trace_se": Quantity(
        title="standard error of curvature/trace",
        formula="s/√8 over the probes",
        unit="loss/weight²",
        validity="networks whose diagonal of H is not known exactly",
        target="ireg.terms.curvature.trace_se",
        sets=("curvature",),
    ),
    "curvature/trace_root": Quantity(
        title="sum of the roots of H's diagonal",
        axis="sum of roots of diag H",
        formula="Σ_i √H_ii",
        unit="loss^½/weight",
        source="[2025](https://arxiv.org/abs/2511.02773)",
        validity="piecewise linear networks without normalization or tied weights",
        target="ireg.terms.curvature.trace_root",
        sets=("curvature",),
    ),
    "curvature/adaptive": Quantity(
        title="mean rise of C under weights that vary by their own size, to second order",
        axis="adaptive sharpness",
        formula="½ Σ_i ω_i² H_ii",
        unit="loss",
        source="[Andriushchenko et al. 2023](https://arxiv.org/abs/2302.07011)",
        target="ireg.terms.curvature.adaptive",
        sets=("curvature",),
    ),
    "curvature/adaptive_se": Quantity(
        title="standard error of curvature/adaptive",
        formula="s/√8 over the probes",
        unit="loss",
        validity="networks whose diagonal of H is not known exactly",
        target="ireg.terms.curvature.adaptive_se",
        sets=("curvature",),
    ),
    "curvature/along_step": Quantity(
        title="curvature along the leading step u = Pḡ, over the edge",
        formula="uᵀ(H + λ)u/(ḡᵀu)/h*",
        unit="1",
        source="[2025](https://arxiv.org/abs/2506.04805)",
        validity="optimizers with a rule whose memory fades; adaptive ones from the first step on",
        target="ireg.terms.curvature.along_step",
        sets=("curvature",),
    ),
    "check/replay": Quantity(
        title="difference of a step's gradient, computed again, from the one that the optimizer got",
        formula="‖g − g'‖/‖g'‖",
        unit="1",
        source="[your training](your_training.md#the-trainings-own-gradient-is-the-judge)",
        validity="`ireg.Monitor` and the Lightning callback, without check='off'",
    ),
    "check/noise": Quantity(
        title="difference of the measured loss between two seeds",
        formula="|Ĉ_k − Ĉ_k'|/max(|Ĉ_k|, |Ĉ_k'|)",
        unit="1",
        source="[your training](your_training.md#mode-and-random-numbers)",
        validity="losses that draw numbers which are not known as noise",
    ),
    "check/share": Quantity(
        title="share of the epoch's minibatches that the row has seen",
        unit="1",
        source="[your training](your_training.md#by-steps)",
        validity="the Lightning callback, where it is below 1",
    ),
    "ireg/clipped": Quantity(
        title="share of the epoch's steps in which gradient clipping acted",
        unit="1",
        validity="the Lightning callback, where the trainer clips",
    ),
    "time/epoch": Quantity(title="wall time of the whole epoch", unit="s"),
    "time/terms": Quantity(title="wall time of the terms alone", unit="s"),
}
"""By tag, in the order of the table in docs/terms.md."""

FORMER = {
    "curvature/edge": "curvature/edge_fraction",
    "curvature/lambda_max_own": "curvature/preconditioned_sharpness",
}
"""Tags of earlier versions, and what they are called now."""


def name_of(tag: str) -> str:
    """Return a term's name on the command line."""
    return CATALOGUE[tag].name or tag.partition("/")[2]


NAMES = {name_of(tag): tag for tag, of in CATALOGUE.items() if of.target}
"""The tag by each term's name on the command line."""

FORMER_NAMES = {tag.partition("/")[2]: now for tag, now in FORMER.items()}
"""The same of earlier versions."""

SET_TITLES = {
    "default": "Singh's terms, the optimizer's own, and the norms",
    "theory": "the mean flow of the run's own optimizer (a second pass, with double backward)",
    "fluctuation": "the noise of the preconditioner F, without the expansion of the mean flow and with it",
    "mean_step": "by what share noise changes the mean step, of any optimizer whose memory fades",
    "curvature": "eigenvalues, the optimizer's edge, batch sharpness, traces; at every 25th epoch",
    "noise": "noise scales, steps beside weights, and the norm that weight decay settles at",
    "path": "the growth of the norm: along the weights, and by the length of the steps",
    "margin": "margins, and the norms of the layers",
    "study": "what the study compares: norms and their growth, margins, curvature",
}
"""What each set adds to the default terms, which all sets have."""

SETS = {name: tuple(tag for tag, of in CATALOGUE.items() if {name, "default"} & {*of.sets}) for name in SET_TITLES}
"""The tags of each set, in the order of the table."""

INTERVALS = {"curvature": {"curvature": 25}, "study": {"curvature": 25}}
"""By set, how often the terms of a group are measured, in epochs; others at every `terms.every`-th."""


def present(tag: str) -> str:
    """Return what a tag of any version is called now.

    Example:
        >>> present("curvature/edge"), present("train/loss")
        ('curvature/edge_fraction', 'train/loss')
    """
    return FORMER.get(tag, tag)


def tags_of(name: str) -> tuple[str, ...]:
    """Return the tags of a set, or that of a term by its tag or its name on the command line.

    Raises:
        ValueError: it is neither; the text names the sets and the nearest term.

    Example:
        >>> tags_of("sgd"), tags_of("norm/l2")
        (('ireg/sgd',), ('norm/l2',))
    """
    if name in SETS:
        return SETS[name]
    tag = present({**NAMES, **FORMER_NAMES}.get(name, name))
    if tag not in CATALOGUE or not CATALOGUE[tag].target:
        raise ValueError(
            f"terms: {name!r} is unknown; choose a set ({', '.join(SETS)}) or a term, like "
            f"{nearest(name, NAMES.values())}"
        )
    return (tag,)


def nearest(name: str, tags: Iterable[str]) -> str:
    """Return the tag that is most like a name, as a whole or in its last part."""
    known = list(tags)
    parts = {tag.rpartition("/")[2]: tag for tag in known}
    if similar := get_close_matches(name, known, n=1, cutoff=0.8):
        return similar[0]
    (part,) = get_close_matches(name.rpartition("/")[2], parts, n=1, cutoff=0.0)
    return parts[part]


def composed(choice: str) -> dict[str, Any]:
    """Return a choice of `terms` as a file of it would be in the configuration.

    A term is its function by group and name. A set lists its terms, and says how often groups of them are measured.

    Example:
        >>> composed("sgd")
        {'ireg': {'sgd': {'_target_': 'ireg.terms.implicit.sgd', '_partial_': True}}}

    Raises:
        ValueError: it is neither a term's name nor a set's.
    """
    tags = tags_of(choice)
    if choice in SETS:
        intervals = {group: {"every": every} for group, every in INTERVALS.get(choice, {}).items()}
        return {"defaults": [*map(name_of, tags), "_self_"], **intervals}
    (tag,) = tags
    group, _, name = tag.partition("/")
    of = CATALOGUE[tag]
    return {group: {name: {"_target_": of.target, "_partial_": True, **of.arguments}}}


def entry(tag: str) -> str:
    """Return the tag that `CATALOGUE` has for a tag: that of `norm/layers/1.weight` is `norm/layers`."""
    return "/".join(tag.split("/")[:2])


def quantity(tag: str) -> Quantity | None:
    """Return the entry of a tag; None for a tag that `ireg` does not write."""
    return CATALOGUE.get(entry(tag))
