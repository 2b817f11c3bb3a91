"""Gradients of a sample that are summed up as they come: values exact, standard errors by sketches."""

import pytest
import torch

from ireg.core.moments import Foreseen, compute, sampled_gradients, sketch, standard_error
from ireg.core.moments import streamed as streamed_module
from ireg.core.moments.sketch import LEAST
from tests.terms.test_sampling import BATCHES, OPTIMIZERS, POPULATION, measured, stepped

LONG = {"a": (300, 400), "b": (37,), "c": (200, 450)}
"""Shapes of more weights than a sketch has numbers."""


def linear(params, batch):
    """A loss whose gradient is the minibatch."""
    return sum((value * batch[name]).sum() for name, value in params.items())


def drawn(count, rank=4, seed=0):
    """Gradients with a common part, and noise in some random directions."""
    stream = torch.Generator().manual_seed(seed)
    shapes = LONG.items()
    common = {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in shapes}
    directions = [
        {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in shapes} for _ in range(rank)
    ]
    found = []
    for weights in torch.randn(count, rank, generator=stream, dtype=torch.float64):
        noise = zip(weights, directions, strict=True)
        parts = [{name: weight * value for name, value in direction.items()} for weight, direction in noise]
        found.append({name: value + sum(part[name] for part in parts) for name, value in common.items()})
    return found


def weights(seed=1):
    stream = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in LONG.items()}


@pytest.fixture
def streamed(monkeypatch):
    """No gradient is kept."""
    monkeypatch.setattr(compute, "KEPT_MEMORY", 0)


@pytest.fixture
def passes(monkeypatch):
    """The passes that have been taken."""
    taken, fill = [], compute._fill
    monkeypatch.setattr(compute, "_fill", lambda sums, *rest: taken.append(type(sums).__name__) or fill(sums, *rest))
    return taken


@pytest.mark.parametrize("method", ["loop", "vmap", "ghost", "layers", "hooks"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_short_gradients_give_the_same_estimates_in_one_pass(name, method, passes, monkeypatch):
    model, optimizer = stepped(OPTIMIZERS[name])
    arguments = {"population": POPULATION, "method": method}
    expected = measured(model, optimizer, BATCHES[1:], **arguments)
    monkeypatch.setattr(compute, "KEPT_MEMORY", 0)
    found = measured(model, optimizer, BATCHES[1:], **arguments)
    assert found == pytest.approx(expected, rel=1e-9, abs=0)
    assert passes == ["KeptGradients", "StreamedSums"]


def both(monkeypatch, gradients, foreseen, seed):
    """The same sample kept and streamed."""
    params = {name: torch.zeros_like(value) for name, value in gradients[0].items()}
    kept = sampled_gradients(linear, params, gradients, 50, method="loop")
    monkeypatch.setattr(compute, "KEPT_MEMORY", 0)
    generator = torch.Generator().manual_seed(seed)
    return kept, sampled_gradients(linear, params, gradients, 50, method="loop", foreseen=foreseen, generator=generator)


@pytest.mark.parametrize("with_scale", [False, True])
def test_each_jackknife_value_of_short_gradients_is_the_same(monkeypatch, with_scale):
    """Standard errors do not show what all of them have in common."""
    stream = torch.Generator().manual_seed(4)
    *gradients, place = [
        {name: torch.randn(size, generator=stream, dtype=torch.float64) for name, size in (("a", 3), ("b", 2))}
        for _ in range(6)
    ]
    scale = {name: value.abs() + 0.1 for name, value in place.items()} if with_scale else None

    def shift(gradient):
        return {name: value + 0.5 * place[name] for name, value in gradient.items()}

    kept, found = both(monkeypatch, gradients, Foreseen(scales=(scale,), factors=(place,)), 0)
    for pair in (
        [sample.square_of_mean(scale, shift) for sample in (kept, found)],
        [sample.square_of_mean(scale) for sample in (kept, found)],
        [sample.mean_square(scale) for sample in (kept, found)],
        [sample.mean_square_of_product(place) for sample in (kept, found)],
    ):
        assert len(pair[0]) == 6
        assert pair[1].tolist() == pytest.approx(pair[0].tolist(), rel=1e-12, abs=0)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("with_scale", [False, True])
def test_long_gradients_have_exact_values_and_near_errors(monkeypatch, with_scale, shifted, passes):
    """A standard error is off by about √(r/n) of itself; noise and mean lie in r = 5 directions, n is 65,521."""
    monkeypatch.setattr(sketch, "LEAST", 65521)
    gradients, place = drawn(6), weights()
    scale = {name: value.abs() + 0.1 for name, value in weights(2).items()} if with_scale else None
    foreseen = Foreseen(scales=(scale,), factors=(place,))

    def shift(gradient):
        return {name: value + 0.5 * place[name] for name, value in gradient.items()} if shifted else gradient

    ratios = []
    for seed in range(5):
        with monkeypatch.context() as patch:
            kept, found = both(patch, gradients, foreseen, seed)
            assert found.square_of_mean(scale, shift)[0] == pytest.approx(kept.square_of_mean(scale, shift)[0].item())
            exact = [(kept.mean_square(scale), found.mean_square(scale))]
            exact.append((kept.mean_square_of_product(place), found.mean_square_of_product(place)))
            for one, other in exact:
                assert other.tolist() == pytest.approx(one.tolist(), rel=1e-12, abs=0)
            pair = [standard_error(sample.square_of_mean(scale, shift), 50) for sample in (kept, found)]
            ratios.append(pair[1] / pair[0])
            parts = [standard_error(one.mean_square(scale) - one.square_of_mean(scale), 50) for one in (kept, found)]
            assert parts[1] == pytest.approx(parts[0], rel=0.03)
    assert passes == ["KeptGradients", "StreamedSums"] * 5
    assert ratios == pytest.approx([1.0] * 5, rel=0.03)
    assert sum(ratios) / 5 == pytest.approx(1, rel=0.01)
    assert max(ratios) - min(ratios) > 1e-6  # a sketch, and not the gradients


def test_estimates_whose_sum_is_known_are_moved_to_it():
    moved = streamed_module._centered(torch.tensor([1.0, 2.0, 6.0]), torch.tensor(12.0))
    assert moved.tolist() == [2.0, 3.0, 7.0]


def test_fewer_numbers_in_a_sketch_are_worse(monkeypatch):
    """A negative control: errors grow like 1/√n."""
    gradients = drawn(6)
    monkeypatch.setattr(sketch, "BUCKETS", (61,))
    monkeypatch.setattr(sketch, "LEAST", 61)
    off = []
    for seed in range(5):
        with monkeypatch.context() as patch:
            kept, found = both(patch, gradients, Foreseen(), seed)
            errors = [standard_error(sample.square_of_mean(None), 50) for sample in (kept, found)]
            assert found.square_of_mean(None)[0] == pytest.approx(kept.square_of_mean(None)[0].item())
            off.append(abs(errors[1] / errors[0] - 1))
    assert max(off) > 0.05


def test_another_metric_takes_another_pass(streamed, passes):
    gradients = drawn(4)
    params = {name: torch.zeros_like(value) for name, value in gradients[0].items()}
    scale = weights()
    scale = {name: value.abs() for name, value in scale.items()}
    found = sampled_gradients(linear, params, gradients, 50, method="loop")
    values = [found.mean_square(None), found.square_of_mean(None)]
    assert passes == ["StreamedSums"]
    for _ in range(2):
        values += [found.mean_square(scale), found.square_of_mean(scale), found.mean_square_of_product(scale)]
    assert passes == ["StreamedSums"] * 3
    squares = [sum(float((scale[name] * value**2).sum()) for name, value in one.items()) for one in gradients]
    assert values[2][0] == pytest.approx(sum(squares) / 4, rel=1e-12)


@pytest.mark.parametrize("count", [4, 24])
def test_what_is_held_does_not_grow_with_the_sample(streamed, count):
    gradients = drawn(count)
    params = {name: torch.zeros_like(value) for name, value in gradients[0].items()}
    found = sampled_gradients(
        linear, params, gradients, 50, method="loop", foreseen=Foreseen(scales=(None, weights(3)))
    )
    sums = found._sums[0]
    held = [*sums.mean.values(), *sums.square.values()]
    held += [signs for _, one in sums.sketches for signs in one._signs.values()]
    network = sum(value.numel() * 8 for value in params.values())
    assert sum(value.numel() * value.element_size() for value in held) == network * 1.125  # a byte for each sign
    assert all(rows.shape == (count, LEAST) for part in sums.sketched for rows in part)


def test_some_of_the_parameters(monkeypatch):
    monkeypatch.setattr(sketch, "LEAST_OF_PARTS", 16381)
    gradients, place = drawn(5), weights()
    scale = {name: value.abs() for name, value in place.items()}

    def shift(gradient):
        return {name: value - place[name] for name, value in gradient.items()}

    kept, found = both(monkeypatch, gradients, Foreseen(scales=(scale,), parts=[["a", "b"], ["c"]]), 0)
    for names in (["a", "b"], ["c"]):
        one, other = kept.of(names), found.of(names)
        alone = [{name: gradient[name] for name in names} for gradient in gradients]
        mean = {name: sum(gradient[name] for gradient in alone) / 5 - place[name] for name in names}
        whole = sum(float((scale[name] * value**2).sum()) for name, value in mean.items())
        spread = float(one.mean_square(scale)[0] - one.square_of_mean(scale)[0]) * 50 / 49
        assert one.square_of_mean(scale, shift)[0] == pytest.approx(whole - (1 / 5 - 1 / 50) * spread, rel=1e-9)
        assert other.square_of_mean(scale, shift)[0] == pytest.approx(
            float(one.square_of_mean(scale, shift)[0]), rel=1e-9
        )
        assert other.mean_square(scale).tolist() == pytest.approx(one.mean_square(scale).tolist(), rel=1e-12)
        errors = [standard_error(sample.square_of_mean(scale, shift), 50) for sample in (one, other)]
        assert errors[1] == pytest.approx(errors[0], rel=0.1)
