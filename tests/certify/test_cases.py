"""The certificates themselves, at their larger rates; `python -m ireg.verify` runs all of all."""

from dataclasses import replace

import pytest
import torch

from ireg.certify import CERTIFICATES
from ireg.core import mean_flow
from ireg.core.moments.needs import needs
from ireg.core.optimizers import Memory
from ireg.core.optimizers.sgd import SGDRule
from ireg.known_optimizers import WITH_RULE
from ireg.terms.named import TERMS

FREE = [certificate for certificate in CERTIFICATES if certificate.experiment.free]
SAMPLED = {certificate.setting: certificate for certificate in CERTIFICATES if not certificate.experiment.free}
FEW_ORDERS = ("sampled orders, m = 4, momentum 0.5", "sampled orders, m = 4, β = 0.9")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def named(name):
    return next(certificate for certificate in CERTIFICATES if certificate.name == name)


def test_every_optimizer_with_a_rule_has_certificates():
    assert {certificate.optimizer for certificate in CERTIFICATES} == set(WITH_RULE)
    assert len({certificate.name for certificate in CERTIFICATES}) == len(CERTIFICATES)


@pytest.mark.parametrize("certificate", FREE, ids=lambda certificate: certificate.name)
def test_without_sampling(certificate):
    outcome = certificate.run(certificate.experiment.rates[:2])
    assert outcome.holds
    assert outcome.rejected == list(outcome.controls)
    assert outcome.controls
    assert outcome.coefficients


@pytest.mark.parametrize("setting", FEW_ORDERS)
def test_over_sampled_orders(setting):
    outcome = SAMPLED[setting].experiment.outcome((0.1, 0.05))
    assert replace(outcome, coefficients={}).passes
    assert [share.value for share in outcome.coefficients.values()] == pytest.approx([1.0, 1.0], abs=0.07)
    for standard_error, error in zip(outcome.standard_errors, outcome.modified.errors, strict=True):
        assert 0 < standard_error < 0.1 * error


def test_a_wrong_memory_fails(monkeypatch):
    certificate = named("momentum, full batch, β = 0.9: C + (η_e/4)(1+2L)‖ḡ‖²_P")

    right = SGDRule.memory

    def wrong(rule, lr):
        known = right(rule, lr)
        return Memory(effective_rate=known.effective_rate, lag=known.lag + 0.5, decay=known.decay)

    monkeypatch.setattr(SGDRule, "memory", wrong)
    assert not certificate.run(certificate.experiment.rates[:2]).holds


@pytest.mark.parametrize("term", ["own_full_batch", "own_variance"])
def test_a_wrong_constant_of_a_term_fails(monkeypatch, term):
    right = TERMS[f"ireg/{term}"]
    certificate = named("sgd, all orders, m = 4: C + (η_e/4)[(1+2L)‖ḡ‖²_P + (1−τ)Var_P]")
    wrong = needs(right.needs, estimable=True)(lambda snapshot: 1.05 * right(snapshot))
    monkeypatch.setitem(TERMS, f"ireg/{term}", wrong)
    outcome = certificate.run(certificate.experiment.rates[:2])
    assert not outcome.holds
    wrong_part = outcome.coefficients["‖ḡ‖²" if term == "own_full_batch" else "Var"]
    assert wrong_part.value == pytest.approx(1 / 1.05, abs=0.005)


@pytest.mark.parametrize("part", ["_memory", "_lag"])
def test_a_wrong_part_of_the_mean_flow_fails(monkeypatch, part):
    right = getattr(mean_flow, part)
    certificate = named("rmsprop, full batch, ρ = 0.9, ε = 0.1: u + M + V")

    def wrong(*arguments):
        return {name: 1.05 * value for name, value in right(*arguments).items()}

    monkeypatch.setattr(mean_flow, part, wrong)
    outcome = certificate.run(certificate.experiment.rates[-2:])
    assert not outcome.holds
    assert outcome.coefficients["M" if part == "_memory" else "V"].value == pytest.approx(1 / 1.05, abs=0.005)
