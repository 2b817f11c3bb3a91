"""Margins, norms of layers, and the growth of the norm as terms."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import ireg
from ireg.core.functional import ModuleLoss, detached_parameters, functional_loss
from ireg.core.margins import margins
from ireg.core.optimizers import view
from ireg.core.random import named_generator
from ireg.core.snapshot import Snapshot
from ireg.measurement import evaluate
from ireg.terms import margin
from ireg.terms.named import TERMS

MARGINS, PATH = ({tag: term for tag, term in TERMS.items() if tag.startswith(group)} for group in ("margin/", "path/"))
LAYERS = {tag: TERMS[tag] for tag in ("norm/layers", "norm/product", "norm/spectral_product")}
BATCHES = [
    (torch.tensor([[2.0, -1.0], [0.5, 1.0], [-3.0, 0.25]]), torch.tensor([0, 2, 1])),
    (torch.tensor([[1.0, 1.0]]), torch.tensor([2])),
]
CORRUPTED = torch.tensor([False, True, False, True])


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)).double()


def seen(module, batches=BATCHES, criterion=cross_entropy, corrupted=CORRUPTED):
    batches = [(inputs.double(), labels) for inputs, labels in batches]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    params = detached_parameters(module)
    return Snapshot(
        params=params, initial=params, loss=functional_loss(module, criterion), batches=batches,
        optimizer=view(optimizer, dict(module.named_parameters())), generator=named_generator("terms"),
        corrupted=corrupted,
    )  # fmt: skip


def by_hand(module):
    """The margins by plain loops, and Π‖W_l‖_F."""
    found = []
    for inputs, labels in BATCHES:
        for outputs, label in zip(module(inputs.double()).tolist(), labels.tolist(), strict=True):
            found.append(outputs[label] - max(output for i, output in enumerate(outputs) if i != label))
    norms = [math.sqrt(sum(entry**2 for row in module[i].weight.tolist() for entry in row)) for i in (0, 2)]
    return np.array(found), math.prod(norms)


def test_margins_are_those_of_plain_loops():
    module = classifier()
    expected, product = by_hand(module)
    wrong = CORRUPTED.numpy()
    values = evaluate(MARGINS, seen(module))
    assert len(values) == len(MARGINS) == 12
    for examples, chosen in (("", expected), ("clean_", expected[~wrong]), ("corrupted_", expected[wrong])):
        for name, share in (("median", 0.5), ("low", 0.01)):
            quantile = np.quantile(chosen, share)
            assert values[f"margin/{examples}{name}"] == pytest.approx(quantile, rel=1e-12, abs=0)
            assert values[f"margin/normalized_{examples}{name}"] == pytest.approx(quantile / product, rel=1e-12, abs=0)


def test_margins_that_do_not_exist():
    module = classifier()
    assert set(evaluate(MARGINS, seen(module, corrupted=None))) == {
        tag for tag in MARGINS if "clean" not in tag and "corrupted" not in tag
    }
    none = evaluate(MARGINS, seen(module, corrupted=torch.zeros(4, dtype=torch.bool)))
    assert not any("corrupted" in tag for tag in none)
    assert "margin/clean_median" in none
    regression = seen(module, [(inputs, inputs.double()) for inputs, _ in BATCHES], lambda outputs, _: outputs.sum())
    assert evaluate(MARGINS, regression) == {}
    single = nn.Linear(2, 1).double()
    assert evaluate(MARGINS, seen(single, criterion=lambda outputs, _: outputs.sum())) == {}
    assert margins(lambda params, batch: batch[0].sum(), {}, BATCHES) is None
    with pytest.raises(ValueError, match="among='noisy': must be one of all, clean, corrupted"):
        margin.quantile(seen(module), share=0.5, among="noisy", normalized=False)


def test_norms_of_layers_are_those_of_numpy():
    module = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(2, 3)).double()
    inputs = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    values = evaluate(LAYERS, seen(module, [(inputs, torch.tensor([0, 1, 2, 0]))]))
    matrices = {
        "0.weight": module[0].weight.detach().numpy().reshape(2, 4),
        "2.weight": module[2].weight.detach().numpy(),
    }
    assert set(values) == {"norm/product", "norm/spectral_product", *(f"norm/layers/{name}" for name in matrices)}
    for name, matrix in matrices.items():
        assert values[f"norm/layers/{name}"] == pytest.approx(np.linalg.norm(matrix), rel=1e-12, abs=0)
    frobenius = math.prod(np.linalg.norm(matrix) for matrix in matrices.values())
    assert values["norm/product"] == pytest.approx(frobenius, rel=1e-12, abs=0)
    spectral = math.prod(np.linalg.norm(matrix, 2) for matrix in matrices.values())
    assert values["norm/spectral_product"] == pytest.approx(spectral, rel=1e-9, abs=0)


def test_norms_of_what_has_diverged_are_nan():
    module = classifier()
    with torch.no_grad():
        module[0].weight[0, 0] = math.inf
    assert math.isnan(evaluate(LAYERS, seen(module))["norm/spectral_product"])
    assert evaluate(LAYERS, seen(module))["norm/product"] == math.inf


def test_the_path_needs_its_steps():
    module = classifier()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    batches = [(inputs.double(), labels) for inputs, labels in BATCHES]
    with pytest.raises(ValueError, match=r"path/radial is a sum over the steps of the epoch.*use ireg\.Monitor"):
        ireg.measure(module, batches, optimizer=optimizer, criterion=cross_entropy, terms="path")
    assert evaluate(PATH, seen(module)) == {}  # before training


def test_a_monitor_sums_the_steps_since_its_reset():
    module = classifier()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    monitor = ireg.Monitor(module, optimizer, criterion=cross_entropy, terms="path")
    for _ in range(2):
        before = sum(float(value.detach().square().sum()) for value in module.parameters())
        squares = 0.0
        for inputs, labels in BATCHES:
            optimizer.zero_grad()
            cross_entropy(module(inputs.double()), labels).backward()
            optimizer.step()
            monitor.update((inputs.double(), labels))
            squares += 0.01 * sum(float(value.grad.square().sum()) for value in module.parameters())
        grown = sum(float(value.detach().square().sum()) for value in module.parameters()) - before
        row = monitor.compute()
        monitor.reset()
        assert row["path/diffusive"] == pytest.approx(squares, rel=1e-9, abs=0)
        assert row["path/radial"] == pytest.approx(grown - squares, rel=1e-9, abs=0)
        assert row["path/settled_diffusive"] == row["path/diffusive"]
        assert row["path/settled_whole"] == row["path/whole"] > 0


def test_a_sample_of_minibatches_leaves_them_as_they_are():
    """They are of all steps, and of the sample's examples."""
    module = classifier()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    tags = ["ireg/sgd", "path/diffusive", "margin/median"]
    monitor = ireg.Monitor(module, optimizer, criterion=cross_entropy, terms=tags, num_batches=3)
    for _ in range(5):
        inputs, labels = BATCHES[0]
        optimizer.zero_grad()
        cross_entropy(module(inputs.double()), labels).backward()
        optimizer.step()
        monitor.update((inputs.double(), labels))
    assert set(monitor.compute()) == {"ireg/sgd", "ireg/sgd_se", "path/diffusive", "margin/median", "check/replay"}


def test_a_run_measures_no_path_it_has_not_followed(tmp_path, small_run):
    """Of every second epoch: nothing is summed in between, and the last epoch's sums are its own."""
    arguments = ("terms=[path,margin]", "epochs=3", "optimizer=sgd", "lr=0.01")
    small_run(tmp_path / "each", *arguments)
    small_run(tmp_path / "some", *arguments, "+terms.path.every=2")
    each, some = (ireg.load(tmp_path / name)[["epoch", *PATH]].set_index("epoch") for name in ("each", "some"))
    assert some.notna().all(axis=1).tolist() == [False, False, True, True]
    assert some.loc[[2, 3]].equals(each.loc[[2, 3]])
    assert each.notna().all(axis=1).tolist() == [False, True, True, True]
    rows = ireg.load(tmp_path / "each")
    assert rows[[*MARGINS, "norm/product", "norm/layers/1.weight"]].notna().all(axis=None)


def test_margins_of_two_classes_and_of_one_output():
    loss = ModuleLoss(nn.Identity(), cross_entropy)
    outputs, labels = torch.tensor([[3.0, 1.0], [0.5, 4.0], [2.0, 2.5]]), torch.tensor([0, 1, 0])
    assert margins(loss, {}, [(outputs, labels)]).tolist() == [2.0, 3.5, -0.5]
    assert margins(loss, {}, [(outputs[:, :1], torch.tensor([0, 0, 0]))]) is None
