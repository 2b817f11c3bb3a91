"""The examples run, and their numbers are those of loops over `.backward()`."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests import reference

EXAMPLES = Path(__file__).parents[1] / "examples"
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-8)], ids=["single", "double"]
)
pytestmark = pytest.mark.filterwarnings("ignore")


def load(name):
    specification = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def in_precision(dtype):
    """Everything that the example makes is of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def gradients_of(model, loss, batches):
    """In double precision, whatever the model's."""
    found = []
    for batch in batches:
        twin = copy.deepcopy(model).double()
        loss(twin, batch).backward()
        found.append({name: parameter.grad for name, parameter in twin.named_parameters()})
    return found


def parts(gradients, names):
    return [{name: gradient[name] for name in names} for gradient in gradients]


def test_every_example_is_here():
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == [
        "diagonal_network",
        "own_module",
        "plain_torch",
        "tokens",
    ]


@PRECISIONS
def test_plain_torch(dtype, tolerance, in_precision, capsys):
    example = load("plain_torch")
    model = example.make_model()
    row = example.train(model, epochs=2).rows.iloc[-1]
    images, labels = example.make_data()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    batches = [(images[index].double(), labels[index]) for index in order.split(32)]
    gradients = gradients_of(model, lambda m, b: cross_entropy(m(b[0]), b[1]), batches)
    assert row["ireg/sgd"] == pytest.approx(reference.sgd(gradients, 1e-3), rel=tolerance, abs=0)
    assert row["ireg/full_batch"] == pytest.approx(reference.full_batch(gradients, 1e-3), rel=tolerance, abs=0)
    assert capsys.readouterr().out.startswith("epoch 1: loss ")


@PRECISIONS
def test_own_module(dtype, tolerance, in_precision):
    example = load("own_module")

    class Recording(example.Module):
        used = ()

        def training_step(self, batch, batch_idx):
            self.used = (*self.used, batch)
            return super().training_step(batch, batch_idx)

    module = Recording()
    row = example.train(module, epochs=1).rows.iloc[-1]
    assert len(module.used) == 3

    def loss(net, batch):
        return cross_entropy(net(batch[0].double()), batch[1], label_smoothing=0.1)

    gradients = gradients_of(module.net, loss, module.used)
    last = [name for name in gradients[0] if name.startswith("fc.")]
    rest = [name for name in gradients[0] if name not in last]
    for tag, term in (("ireg/sgd", reference.sgd), ("ireg/full_batch", reference.full_batch)):
        expected = term(parts(gradients, rest), 0.01) + term(parts(gradients, last), 0.05)
        assert row[tag] == pytest.approx(expected, rel=tolerance, abs=0)


@PRECISIONS
def test_tokens(dtype, tolerance, in_precision):
    example = load("tokens")
    model = example.Transformer()
    row = example.train(model, epochs=3).rows.iloc[-1]
    gradients = gradients_of(model, example.loss, example.make_batches(2))
    rates = [3e-3 * (0.1 + 0.9 * min(step / 20, 1)) for step in range(16, 24)]
    total, squares = sum(rates), sum(rate**2 for rate in rates)
    full = squares / (4 * total) * reference.squared_norm(reference.mean(gradients))
    variance = (total**2 - squares) / (7 * total) * reference.minibatch_variance(gradients, 1.0)
    assert row["ireg/full_batch"] == pytest.approx(full, rel=tolerance, abs=0)
    assert row["ireg/minibatch_variance"] == pytest.approx(variance, rel=tolerance, abs=0)


@PRECISIONS
def test_diagonal_network(dtype, tolerance, in_precision, monkeypatch):
    example = load("diagonal_network")
    batches, update = [], example.ireg.Monitor.update
    monkeypatch.setattr(
        example.ireg.Monitor, "update", lambda self, batch: batches.append(batch) or update(self, batch)
    )
    errors, monitor = example.train("sgd", steps=40)
    assert errors.shape == (example.PROBLEMS,)
    last = [tuple(values.double() for values in batch) for batch in batches[-4:]]
    gradients = gradients_of(monitor.model, example.loss, last)
    rates = [0.02 * min(1.0, 5 * (1 - step / 40)) for step in range(36, 40)]
    total, squares = sum(rates), sum(rate**2 for rate in rates)
    full = squares / (4 * total) * reference.squared_norm(reference.mean(gradients))
    variance = (total**2 - squares) / (3 * total) * reference.minibatch_variance(gradients, 1.0)
    row = monitor.rows.iloc[-1]
    assert row["ireg/own"] == pytest.approx(full + variance, rel=tolerance, abs=0)
    assert row["ireg/own_se"] == 0  # four of four minibatches


def test_the_notebook(tmp_path, monkeypatch, capsys):
    """Its code cells run one after the other, and the last number is that of a plain loop."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = json.loads((EXAMPLES / "any_model.ipynb").read_text())
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    gradients = gradients_of(names["model"], lambda m, b: cross_entropy(m(b[0].double()), b[1]), names["batches"])
    expected = reference.sgd(gradients, names["optimizer"].param_groups[0]["lr"])
    assert names["values"]["ireg/sgd"] == pytest.approx(expected, rel=1e-4, abs=0)
    assert len(names["monitor"].rows) == 5
