"""The arguments of Lightning's Trainer that a run takes, with values."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

Check = tuple[str, Any, bool, str]
"""Key, value, whether it is allowed, what is allowed and what to do."""

PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed")
# Arguments of Lightning's Trainer that leave a row what it is: one epoch over all minibatches, all evaluated after it.
# (`fused` is ours, for the optimizer.)
TRAINER = (
    "accelerator",
    "benchmark",
    "detect_anomaly",
    "deterministic",
    "devices",
    "fused",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "precision",
    "profiler",
)
_CHOICES: dict[str, tuple[Any, ...]] = {
    "accelerator": ("auto", "cpu", "cuda", "gpu", "mps", "tpu"),
    "benchmark": (True, False, None),
    "detect_anomaly": (True, False),
    "deterministic": (True, False, "warn", None),
    "fused": ("auto", True, False),
    "gradient_clip_algorithm": ("norm", "value", None),
    "precision": PRECISIONS,
    "profiler": ("simple", "advanced", "pytorch", None),
}
# Lightning's other arguments that have a counterpart here: what to write instead.
_INSTEAD = {
    "accumulate_grad_batches": "batch_size=… is the number of examples a step",
    "check_val_every_n_epoch": "every epoch is evaluated; terms.every=… measures the terms less often",
    "default_root_dir": "hydra.run.dir=… is the run's folder",
    "enable_checkpointing": "checkpoint.every=… says when checkpoints are written",
    "fast_dev_run": "use epochs=1 data.train_size=500 data.test_size=200",
    "limit_test_batches": "data.test_size=… takes a part of the test examples",
    "limit_train_batches": "data.train_size=… takes a part of the training examples",
    "limit_val_batches": "data.test_size=… takes a part of the test examples",
    "max_epochs": "use epochs=…",
    "max_steps": "use max_steps=… terms.every_n_steps=… of the run",
    "max_time": "use epochs=…; a run that was interrupted resumes with the same command",
    "min_epochs": "use epochs=…",
    "min_steps": "use epochs=…",
    "num_nodes": "a run uses one device; use a sweep for several",
    "overfit_batches": "data.train_size=… takes a part of the training examples",
    "strategy": "a run uses one device; use a sweep for several",
    "val_check_interval": "every row is evaluated; max_steps=… terms.every_n_steps=… has a row every so many steps",
}
# Classes of torch.optim with a fused kernel: they stand here because torch is not imported before the checks.
FUSED = ("Adagrad", "Adam", "AdamW", "SGD")


def instead(argument: str) -> str | None:
    """Say what to write instead of a Trainer's argument; None for another word."""
    return _INSTEAD.get(argument)


def unsupported(argument: str) -> str:
    """Say what to do about an argument that a run refuses."""
    return f"not supported; {_INSTEAD.get(argument) or 'supported are ' + ', '.join(TRAINER)}"


def trainer_ranges(trainer: Mapping[str, Any], optimizer: Mapping[str, Any]) -> Iterator[Check]:
    """Check each argument of the trainer, then all together: Lightning refuses some combinations."""
    for key, value in trainer.items():
        yield f"trainer.{key}", value, key in TRAINER, unsupported(key)
    for key, allowed in ((key, _CHOICES[key]) for key in _CHOICES if key in trainer):
        value = trainer[key]
        # True equals 1, but is another value.
        ok = any(type(value) is type(choice) and value == choice for choice in allowed)
        named = ", ".join(json.dumps(choice).strip('"') for choice in allowed)
        yield f"trainer.{key}", value, ok, f"choose one of {named}"
    devices = trainer.get("devices", 1)
    what = "a run uses one device: trainer.devices=1 (CUDA_VISIBLE_DEVICES says which GPU); use a sweep for several"
    yield "trainer.devices", devices, type(devices) is int and devices == 1, what
    clip = trainer.get("gradient_clip_val")
    number = isinstance(clip, int | float) and not isinstance(clip, bool) and 0 <= clip < math.inf
    what = "must be a finite number > 0, or 0 or null for no clipping"
    yield "trainer.gradient_clip_val", clip, clip is None or number, what
    yield from _combinations({"trainer": trainer, "optimizer": optimizer})


def _combinations(groups: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    trainer = groups["trainer"]
    algorithm = trainer.get("gradient_clip_algorithm")
    bounded = algorithm is None or trainer.get("gradient_clip_val") is not None
    what = "clips nothing without a bound; add it, like ++trainer.gradient_clip_val=1"
    yield "trainer.gradient_clip_algorithm", algorithm, bounded, what
    precision = trainer.get("precision")
    half = precision == "16-mixed" and trainer.get("accelerator") == "cpu"
    yield "trainer.precision", precision, not half, "a CPU computes in bf16 only; use trainer.precision=bf16-mixed"
    fused = next((name for name, group in groups.items() if group.get("fused") is True), None)
    refused = clips_in_mixed_precision(trainer) and fused is not None and _has_fused_kernel(groups["optimizer"])
    what = f"a fused optimizer clips no gradients in {precision}; use {fused}.fused=false or trainer.precision=32-true"
    yield "trainer.gradient_clip_val", trainer.get("gradient_clip_val"), not refused, what


def clips_in_mixed_precision(trainer: Mapping[str, Any]) -> bool:
    """Say whether mixed precision clips gradients, which Lightning refuses with a fused optimizer.

    It finds that at the first step: such an optimizer unscales its gradients itself, after they have been clipped.
    """
    return bool(trainer.get("gradient_clip_val")) and str(trainer.get("precision")).endswith("-mixed")


def _has_fused_kernel(optimizer: Mapping[str, Any]) -> bool:
    """Say whether the class may have a fused kernel; of torch's classes it is known, of others it is not."""
    module, _, name = str(optimizer.get("_target_")).rpartition(".")
    return name in FUSED or not module.startswith("torch.optim")
