"""What a GPU must do as a CPU does: networks, their moments by method, and how far two results are apart."""

from contextlib import contextmanager

import torch
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ireg
from ireg.core.functional import functional_loss
from ireg.core.moments import METHODS, choose_method, gradient_moments
from ireg.core.moments.needs import EVERYTHING
from ireg.models import CNN, GPT, MLP, ResNet

IMAGES = {"input_shape": (1, 12, 12), "num_classes": 10}
CONTEXT, ALPHABET = 12, 30
NETWORKS = {
    "mlp": lambda: MLP(**IMAGES, hidden=[32, 32]),
    "cnn": lambda: CNN(**IMAGES, channels=(8, 16)),
    "resnet": lambda: ResNet(**IMAGES, channels=(8, 16), groups=4),
    "gpt": lambda: GPT(input_shape=(CONTEXT,), num_classes=ALPHABET, width=24, blocks=2, heads=2),
}
STACKS_ALONE = ("ghost", "layers")
"""The methods that serve stacks of Linear layers, of these networks the mlp, and no others."""
SERVED = [(name, method) for name in NETWORKS for method in METHODS if name == "mlp" or method not in STACKS_ALONE]

AUTO = {"mlp": "layers", "cnn": "hooks", "resnet": "hooks", "gpt": "hooks"}
"""What auto takes on an accelerator. On a CPU it takes the loop instead of hooks where minibatches are large."""

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
"""How far from the loop in float64 on a CPU, as a share of a value's norm.

float64 rounds at 1e-16: sums in another order, through a few layers, are off by 2e-15 on a CPU. float32 rounds at 6e-8:
on a CPU the methods are off by up to 1.1e-6, and other kernels of convolutions, like Winograd's, lose about ten times
that. What `test_on_cpu.py` allows is therefore a tenth.
"""
OF_ROWS = {torch.float64: 1e-7, torch.float32: 1e-2}
"""How far a value after some steps of Adam may be off.

Adam divides by the gradient's size at its first step. Where a gradient is small, its rounding becomes a weight's.
Between float32 and float64 that is up to 2e-4 of a term on a CPU.
"""
WITH_TF32 = 2e-2
"""The same where factors are rounded to TensorFloat32, 5e-4 each, through a few layers."""


def criterion(outputs, targets):
    """The mean cross-entropy of classes, or of the characters at all positions."""
    return cross_entropy(outputs.flatten(0, -2), targets.flatten())


def batches(name, device, dtype, count=4, examples=6):
    """Minibatches of random examples, the last of them smaller."""
    generator = torch.Generator().manual_seed(7)
    made = []
    for size in (*[examples] * (count - 1), examples - 2):
        if name == "gpt":
            characters = torch.randint(ALPHABET, (size, CONTEXT + 1), generator=generator)
            inputs, targets = characters[:, :-1], characters[:, 1:]
        else:
            inputs = torch.randn(size, *IMAGES["input_shape"], generator=generator, dtype=torch.float64).to(dtype)
            targets = torch.randint(10, (size,), generator=generator)
        made.append((inputs.to(device), targets.to(device)))
    return made


def network(name, device, dtype):
    """A network with the same weights on every device."""
    torch.manual_seed(1)
    return NETWORKS[name]().to(dtype).to(device)


def moments(name, method, device, dtype):
    """All moments of a network's minibatch gradients by a method."""
    model = network(name, device, dtype)
    params = {key: value.detach() for key, value in model.named_parameters()}
    loss = functional_loss(model, criterion)
    return gradient_moments(loss, params, batches(name, device, dtype), needs=EVERYTHING, method=method)


def choice(name, device, dtype=torch.float32, **sizes):
    """What auto takes for a network before it looks at a gradient."""
    model = network(name, device, dtype)
    params = {key: value.detach() for key, value in model.named_parameters()}
    return choose_method(functional_loss(model, criterion), params, batches(name, device, dtype, **sizes), EVERYTHING)


def farthest(found, expected):
    """The largest distance of a part of moments from what is expected, as a share of its norm."""
    pairs = [(found.losses, expected.losses), (found.sq_norms, expected.sq_norms)]
    for name, value in expected.mean.items():
        pairs += [(found.mean[name], value), (found.square[name], expected.square[name])]
    return max(_distance(one.detach().cpu().double(), other.double()) for one, other in pairs)


def _distance(one, other):
    return float((one - other).norm() / other.norm())


def trained(name, device, dtype, steps=4, **options):
    """The terms of a monitor after some steps of Adam; the replay of a step agreed with the step."""
    model = network(name, device, dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    monitor = ireg.Monitor(model, optimizer, criterion=criterion, **options)
    rows = [step(model, optimizer, monitor, batch) for batch in batches(name, device, dtype, count=steps)]
    row = rows[-1] or monitor.compute()
    assert row["check/replay"] < 1e-4
    return {tag: value for tag, value in row.items() if not tag.startswith(("check/", "time/"))}


def step(model, optimizer, monitor, batch):
    """A step of training that a monitor sees; its row, if one is due."""
    optimizer.zero_grad()
    criterion(model(batch[0]), batch[1]).backward()
    optimizer.step()
    return monitor.update(batch)


class Waits(TorchDispatchMode):
    """Counts what a program must wait for the device for: a number, a copy, or a shape that depends on values.

    It can also count for a CPU, where nothing waits. Of copies it then sees only those by `tolist` and `numpy`.

    Args:
        device: the device's type. What a program reads of another device, as Adam its count of steps, is no wait.
    """

    NAMES = ("_local_scalar_dense", "equal", "nonzero", "_unique2", "unique_dim", "masked_select")

    def __init__(self, device):
        super().__init__()
        self.device = device
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        masked = name == "index" and any(leaf.dtype in (torch.bool, torch.uint8) for leaf in _tensors(args[1]))
        there = any(leaf.device.type == self.device for leaf in _tensors((args, kwargs)))
        self.count += there and (name in self.NAMES or masked or self._fetches(name, args, kwargs))
        return function(*args, **kwargs)

    def _fetches(self, name, args, kwargs):
        if name == "copy_":
            return args[0].device.type != self.device
        to = kwargs.get("device")
        return name == "_to_copy" and to is not None and torch.device(to).type != self.device


class _Copies(TorchFunctionMode):
    """Counts `tolist` and `numpy`, which read a CPU's memory out of sight of `Waits`."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.tolist, torch.Tensor.numpy) and self.waits.device == args[0].device.type == "cpu":
            self.waits.count += 1
        return function(*args, **(kwargs or {}))


def _tensors(values):
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


@contextmanager
def waits(device):
    """Count waits for a device within the block: the attribute `count` of what is yielded."""
    counter = Waits(device)
    with counter, _Copies(counter):
        yield counter


def waits_of_measurement(name, device, counting, *, few=3, many=6, **options):
    """The waits of a measurement of few minibatches, and how many each further one adds.

    Args:
        name: of the network.
        device: where it is.
        counting: a context that yields what has the attribute `count` at its end.
        few: minibatches.
        many: minibatches.
        options: of `ireg.measure`.
    """
    model = network(name, device, torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    counts = []
    for count in (few, few, many):  # the first sets up what later ones use
        given = batches(name, device, torch.float32, count=count)
        with counting() as counter:
            ireg.measure(model, given, optimizer=optimizer, criterion=criterion, **options)
        counts.append(counter.count)
    return counts[1], (counts[2] - counts[1]) / (many - few)


def waits_of_steps(name, device, counting, *, steps=10, **options):
    """The waits of each step of SGD that a monitor sees."""
    model = network(name, device, torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    monitor = ireg.Monitor(model, optimizer, criterion=criterion, **options)
    counts = []
    for batch in batches(name, device, torch.float32, count=steps):
        with counting() as counter:
            step(model, optimizer, monitor, batch)
        counts.append(counter.count)
    return counts
