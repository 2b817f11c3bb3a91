"""What CONTRIBUTING.md says of optimizers, done literally by its own blocks of code."""

import importlib
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.nn.functional import cross_entropy

import ireg
from ireg.analysis.looks import COLOURS, colour_of
from ireg.certify import cases_modified_loss, edges, growth
from ireg.config.read import read
from ireg.core import optimizers
from ireg.core.optimizers import RULES, rule_of, view
from ireg.drift.small_steps import refine
from ireg.experiment.build import make_classifier
from ireg.known_optimizers import EdgeSetting, KnownOptimizer
from tests.conftest import ROOT
from tests.test_docs import written_in_contributing

BLOCKS = written_in_contributing("### An optimizer\n")
ENTRY = "ireg/known_optimizers.py, in OPTIMIZERS"
CASES = "ireg/certify/cases_modified_loss.py"


@pytest.fixture
def averaged(tmp_path, monkeypatch):
    """The page's module, imported; what it has registered is gone afterwards."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "averaged.py").write_text(BLOCKS["averaged.py"], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("averaged")
    yield module
    RULES.pop(module.Averaged, None)
    del sys.modules["averaged"]


def small():
    """A network and its minibatches, the same each time."""
    generator = torch.Generator().manual_seed(0)
    module = torch.nn.Linear(3, 2).double()
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    batches = [
        (torch.randn(4, 3, generator=generator, dtype=torch.float64), torch.randint(2, (4,), generator=generator))
        for _ in range(3)
    ]
    return module, batches


def test_the_blocks_are_the_ones_below():
    assert set(BLOCKS) == {"conf/optimizer/averaged.yaml", "averaged.py", ENTRY, CASES}


def test_a_run_takes_it_by_its_file(averaged, tmp_path):
    file = tmp_path / "conf" / "optimizer" / "averaged.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(BLOCKS["conf/optimizer/averaged.yaml"], encoding="utf-8")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        chosen = ["optimizer=averaged", "lr=0.5", f"hydra.searchpath=[file://{tmp_path}/conf]"]
        settings = read(compose("config", chosen))
    weight = torch.nn.Parameter(torch.zeros(1))
    made = make_classifier(settings, torch.nn.Linear(2, 2)).make_optimizer([weight])
    assert type(made) is averaged.Averaged

    def closure():
        loss = 2 * weight.sum()
        loss.backward()
        return loss

    assert made.step(closure).item() == 0.0
    assert weight.item() == pytest.approx(-0.5 * 0.1 * 2)


def test_it_is_measured_with_its_rule_and_without(averaged):
    module, batches = small()

    def measured(optimizer):
        return ireg.measure(module, batches, optimizer=optimizer, criterion=cross_entropy, terms=["sgd", "ireg/own"])

    found = measured(averaged.Averaged(module.parameters(), lr=0.1, beta=0.8))
    # torch's heavy ball, dampened by its own momentum, is the same optimizer.
    same = measured(torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.8, dampening=0.8))
    assert found == pytest.approx(same, rel=1e-12, abs=0)
    assert found["ireg/own"] > found["ireg/sgd"]
    del RULES[averaged.Averaged]
    assert set(measured(averaged.Averaged(module.parameters(), lr=0.1))) == {"ireg/sgd"}


def test_its_entry_has_its_colour_and_its_edge(averaged):
    assert colour_of("averaged") not in COLOURS.values()  # without an entry, by its name
    names = {"KnownOptimizer": KnownOptimizer, "EdgeSetting": EdgeSetting}
    (entry,) = eval(f"{{{BLOCKS[ENTRY]}}}", names).values()
    assert entry.colour not in COLOURS.values()
    assert entry.load() is averaged.Averaged
    (edge,) = edges.of_optimizers(edges.cases({"averaged": entry})).values()
    assert edge.predicted == pytest.approx(38, rel=1e-12)
    assert edge.holds
    assert growth.growth_of(growth.makers({"averaged": entry})["averaged"]).holds


def certificates(averaged):
    """Those that the page adds."""
    names = {**vars(cases_modified_loss), "Averaged": averaged.Averaged}
    exec(BLOCKS[CASES], names)
    return names["FULL_BATCH"][-1], names["ALL_ORDERS"][-1]


def test_its_certificates_hold_and_reject(averaged):
    for certificate in certificates(averaged):
        assert certificate.optimizer == "averaged"
        outcome = certificate.run(certificate.experiment.rates[:2])
        assert outcome.passes


def test_a_wrong_rule_is_refused_by_its_certificate(averaged, monkeypatch):
    right = averaged.AveragedRule.memory

    def wrong(self, lr):
        return right(averaged.AveragedRule(beta=self.beta - 0.05), lr)

    monkeypatch.setattr(averaged.AveragedRule, "memory", wrong)
    full, _ = certificates(averaged)
    assert not full.run(full.experiment.rates[:2]).holds


def test_its_smaller_steps_take_the_time_of_one(averaged):
    ends = []
    for refinement in (1, 2):
        weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        made = averaged.Averaged([weight], lr=0.1, beta=0.81)
        refine(made, refinement)
        for _ in range(400 * refinement):
            weight.grad = torch.ones_like(weight)
            made.step()
        ends.append(weight.item())
        assert made.param_groups[0]["beta"] == pytest.approx(0.81 ** (1 / refinement))
    # Σ_t η(1 − βᵗ) = ηT − ηβ/(1 − β): the time ηT is the same, the late start that of each memory.
    assert ends == pytest.approx([-40 + 0.1 * 0.81 / 0.19, -40 + 0.05 * 0.9 / 0.1], rel=1e-9)


def test_a_file_in_the_folder_of_rules_is_imported(tmp_path, monkeypatch):
    (tmp_path / "averaged.py").write_text(BLOCKS["averaged.py"], encoding="utf-8")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(optimizers, "__path__", [*optimizers.__path__, str(tmp_path)])
    optimizers.load_rules()
    name = "ireg.core.optimizers.averaged"
    module = sys.modules[name]
    assert rule_of(module.Averaged).__module__ == name
    del RULES[module.Averaged], sys.modules[name], optimizers.averaged


def test_its_buffer_still_moves_the_weights_as_it_says(averaged):
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    made = averaged.Averaged([weight], lr=0.1, beta=0.8)
    weight.grad = torch.full_like(weight, 3.0)
    made.step()
    seen, now = view(made, {"w": weight}), weight.item()
    held = seen.first_moment["w"].item()
    weight.grad = torch.zeros_like(weight)
    for _ in range(300):
        made.step()
    assert now - weight.item() == pytest.approx(seen.buffer.ahead * held, rel=1e-12, abs=0)
