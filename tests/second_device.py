"""A device without double precision, imitated: `python -m tests.second_device CASES.json` tries everything on it.

Its tensors say that they lie on another device, and hold one of the CPU. As on Apple's GPU, float64 and complex128 are
refused there, so are some of `torch.linalg`'s decompositions, and so are sums of a vector there and one of the CPU. The
device is torch's Python backend, of which a process has at most one: tests run this as a process of its own.
"""

import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "apple"
REFUSED = ("linalg_eigh", "linalg_svd", "linalg_qr", "quantile")
BETWEEN_DEVICES = ("_to_copy", "copy_", "index", "index_put_", "set_data")


class OnDevice(torch.Tensor):
    """A tensor of the device."""

    @staticmethod
    def __new__(cls, held):
        if held.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{NAME} has no {held.dtype}")
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=f"{NAME}:0", **layout)

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f"OnDevice({self.held})"

    def __reduce_ex__(self, protocol):
        return OnDevice, (self.held,)

    def untyped_storage(self):
        return self.held.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _called(function, args, kwargs or {})


class Device(TorchDispatchMode):
    """Catches what makes tensors of nothing, too."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _called(function, args, kwargs or {})


class Constants(TorchFunctionMode):
    """`torch.tensor` makes its tensor out of sight of `Device`."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function not in (torch.tensor, torch.as_tensor):
            return function(*args, **kwargs)
        device = kwargs.pop("device", None)
        found = function(*args, **kwargs)
        return found if device is None else found.to(device)


def _called(function, args, kwargs):
    name = function._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(tensor, OnDevice) for tensor in tensors)
    if there and any(name.startswith(refused) or name == f"_{refused}" for refused in REFUSED):
        raise NotImplementedError(f"{NAME} has no {name}")
    if there and name not in BETWEEN_DEVICES and any(not isinstance(t, OnDevice) and t.ndim for t in tensors):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    held_args, held_kwargs = tree_map_only(OnDevice, lambda tensor: tensor.held, (args, dict(kwargs)))
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]).type == NAME
        held_kwargs["device"] = torch.device("cpu")
    elif name == "copy_":
        there = isinstance(args[0], OnDevice)
    found = function(*held_args, **held_kwargs)
    if not there:
        return found
    found = tree_map_only(
        torch.Tensor, lambda tensor: tensor if isinstance(tensor, OnDevice) else OnDevice(tensor), found
    )
    return return_and_correct_aliasing(function, args, kwargs, found)


# What is tried: each case by name, a function of a device that returns numbers by name.

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "adam": (torch.optim.Adam, {}),
    "nadam": (torch.optim.NAdam, {}),
    "centered": (torch.optim.RMSprop, {"centered": True}),
    "adagrad": (torch.optim.Adagrad, {"lr_decay": 0.1}),
    "adamw, groups": (torch.optim.AdamW, {"weight_decay": 0.1}),
}
WITH_FLOW = ("sgd", "momentum", "adam", "nadam")
WITH_MEAN_STEP = (*WITH_FLOW, "centered")
METHODS = ("loop", "ghost", "layers", "hooks", "vmap")
CONTROLS = ("sgd", "adam, sample", "a network")
MODES = ("as_trained", "two_draws", "eval")
ONE_OF_EACH = (
    "sgd", "adamw, groups", "adam, sample", "a network", "method layers", "mode two_draws", "a run that switches",
)  # fmt: skip


def _stack():
    return nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 3))


def _network():
    return nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))


def _normalized():
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3))


def _batches(device, count=4):
    generator = torch.Generator().manual_seed(3)
    pairs = [
        (torch.randn(4, 5, generator=generator), torch.randint(0, 3, (4,), generator=generator)) for _ in range(count)
    ]
    return [(inputs.to(device), labels.to(device)) for inputs, labels in pairs]


def _terms(optimizer, *, curvature, drawn):
    """All tags, but those that are refused here or asked to be left out."""
    from ireg.core.moments.needs import needs_exact_moments
    from ireg.terms.named import TERMS

    left_out = () if optimizer in WITH_FLOW else ("ireg/strength", "ireg/alignment")
    left_out += () if optimizer in WITH_MEAN_STEP else ("noise/step",)
    left_out += () if curvature else ("curvature/",)
    kept = {tag: term for tag, term in TERMS.items() if not tag.startswith(left_out)}
    return [tag for tag, term in kept.items() if not (drawn and needs_exact_moments(term))]


def _monitored(device, optimizer="sgd", make=_stack, *, curvature=False, drawn=False, **options):
    """A monitored epoch."""
    import ireg

    torch.manual_seed(0)
    module = make().to(device)
    cls, arguments = OPTIMIZERS[optimizer]
    params = list(module.parameters())
    groups = [{"params": params[:2], "lr": 0.01}, {"params": params[2:], "weight_decay": 0.0}]
    made = cls(groups if "groups" in optimizer else params, lr=0.05, **arguments)
    terms = _terms(optimizer, curvature=curvature, drawn=drawn)
    monitor = ireg.Monitor(module, made, criterion=cross_entropy, terms=terms, **options)
    for inputs, labels in _batches(device):
        made.zero_grad()
        cross_entropy(module(inputs), labels).backward()
        made.step()
        monitor.update((inputs, labels))
    return monitor.compute()


def _built_in(device, *overrides):
    """The last row of a run of `train.py`."""
    from ireg.commands import train

    accelerator = "cpu" if device == "cpu" else "mps"
    with tempfile.TemporaryDirectory() as folder:
        sizes = ["data.train_size=32", "data.test_size=32", "model.hidden=[4]", "batch_size=8", "epochs=1"]
        where = ["threads=1", f"hydra.run.dir={folder}/run", f"trainer.accelerator={accelerator}"]
        sys.argv = ["train.py", *sizes, *where, *overrides]
        train.main()
        lines = Path(folder, "run", "metrics.csv").read_text(encoding="utf-8").splitlines()
        status = json.loads(Path(folder, "run", "status.json").read_text(encoding="utf-8"))
    assert status["device"] == ("cpu" if device == "cpu" else f"{NAME}:0"), status["device"]
    row = zip(lines[0].split(","), lines[-1].split(","), strict=True)
    return {tag: float(value) for tag, value in row if value and not tag.startswith("time/")}


def cases():
    """What is tried, by name: one of each kind, or with IREG_SECOND_DEVICE=all everything."""
    asked = every_case()
    return asked if os.environ.get("IREG_SECOND_DEVICE") == "all" else {name: asked[name] for name in ONE_OF_EACH}


def every_case():
    """Everything that can be tried, by name."""
    asked = {optimizer: {"optimizer": optimizer} for optimizer in OPTIMIZERS}
    for optimizer in ("sgd", "adam", "adamw, groups"):
        asked[f"{optimizer}, sample"] = {"optimizer": optimizer, "drawn": True, "num_batches": 3}
    asked["a network"] = {"optimizer": "adam", "make": _network, "curvature": True}
    asked["curvature, groups"] = {"optimizer": "adamw, groups", "curvature": True}
    asked |= {f"method {method}": {"optimizer": "adam", "method": method} for method in METHODS}
    for mode in MODES:
        drawn = mode == "two_draws"
        asked[f"mode {mode}"] = {"make": _normalized, "mode": mode, "drawn": drawn}
    some = "[theory,path,margin,trace]"
    return {name: partial(_monitored, **options) for name, options in asked.items()} | {
        "a built-in run": lambda device: _built_in(device, "optimizer=adam", f"terms={some}"),
        "a run that switches": lambda device: _built_in(device, "optimizer=switch"),
    }


def main(output, only=""):
    """Write {case: [numbers on the CPU, numbers on the device or an error]} of the cases whose name has `only`."""
    from lightning.pytorch.accelerators import MPSAccelerator
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    from ireg.core import wide
    from ireg.sweeps import checks

    checks.require_device = lambda settings: None
    # Lightning's accelerator of Apple's GPU, with this device.
    MPSAccelerator.is_available = staticmethod(lambda: True)
    MPSAccelerator.parse_devices = staticmethod(lambda devices: [0])
    MPSAccelerator.get_parallel_devices = staticmethod(lambda devices: [torch.device(NAME, 0)])
    MPSAccelerator.setup_device = lambda self, device: None
    _setup_privateuseone_for_python_backend(NAME)  # before the first backward pass, which counts the devices
    chosen = {name: case for name, case in cases().items() if only in name}
    found = {name: [case("cpu")] for name, case in chosen.items()}
    # The control: a device that is taken for one with float64.
    tried = [(f"{name}, control", case) for name, case in chosen.items() if name in CONTROLS]
    found |= {name: [None] for name, _ in tried}
    with Device(), Constants():
        for name, case in tried:
            found[name].append(_numbers_or_error(case))
        wide.WITHOUT_FLOAT64 |= {NAME}
        for name, case in chosen.items():
            found[name].append(_numbers_or_error(case))
    Path(output).write_text(json.dumps(found), encoding="utf-8")


def _numbers_or_error(case):
    try:
        return case(NAME)
    except (Exception, SystemExit) as error:
        if "TRACE" in os.environ:
            raise
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main(*sys.argv[1:])
