"""Each term of the catalogue against its reference, which is written by hand."""

from functools import cache

import pytest

from ireg.catalogue import CATALOGUE
from ireg.core.functional import functional_loss
from ireg.core.hessian import MeanHessian
from ireg.core.optimizers import view
from ireg.core.path import PathRecorder
from ireg.core.random import named_generator
from ireg.core.snapshot import Snapshot
from ireg.measurement import evaluate
from ireg.terms.named import TERMS
from tests.terms.references import REFERENCES, TOLERANCES, Case, cross_entropy


def test_every_term_has_a_reference():
    assert {tag for tag, of in CATALOGUE.items() if of.target} == set(REFERENCES)


@cache
def trained(kind):
    """A case after its epoch, and a snapshot of it."""
    case = Case(kind)
    recorder = PathRecorder(case.optimizer)
    recorder.start()
    case.train()
    path = recorder.path()
    recorder.stop()
    params = {name: value.detach() for name, value in case.module.named_parameters()}
    kept = {}
    seen = Snapshot(
        params=params, initial=case.initial, loss=functional_loss(case.module, cross_entropy), batches=case.batches,
        optimizer=view(case.optimizer, dict(case.module.named_parameters())), generator=named_generator("terms"),
        path=path, corrupted=case.corrupted, kept=kept,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        calls, product = [], MeanHessian.__call__
        patch.setattr(MeanHessian, "__call__", lambda self, direction: calls.append(1) or product(self, direction))
        _ = seen.steepest
    case.products, case.steepest = len(calls), kept["lambda_max"]
    return case, seen


@pytest.mark.parametrize("tag", REFERENCES)
def test_a_term_has_the_value_of_its_reference(tag):
    kind, expected = REFERENCES[tag]
    case, seen = trained(kind)
    found = evaluate({tag: TERMS[tag]}, seen)
    value = found["norm/layers/2.weight"] if tag == "norm/layers" else found[tag]
    assert value == pytest.approx(expected(case), rel=TOLERANCES.get(tag, 1e-9), abs=0)
    assert value != 0
