"""Sketches: which weights a bucket adds up, inner products on the mean, and how long they are."""

import math
from itertools import pairwise

import pytest
import torch

from ireg.core.moments import sketch
from ireg.core.moments.sketch import BUCKETS, LEAST, LEAST_OF_PARTS, Piece, Sketch, buckets_for

SHAPES = {"a": (2, 3), "b": (7, 5), "c": (), "d": (0,)}
"""42 weights; `b` begins in the middle of the buckets."""


def made(buckets, shapes=SHAPES):
    params = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return Sketch(params, torch.Generator().manual_seed(0), buckets)


@pytest.mark.parametrize("at_once", [1, 8, 1000])
def test_each_bucket_has_the_signed_sum_of_its_weights(at_once, monkeypatch):
    monkeypatch.setattr(sketch, "AT_ONCE", at_once)
    one, total = made(4), sum(torch.Size(shape).numel() for shape in SHAPES.values())
    vector = torch.arange(1, total + 1, dtype=torch.float64) ** 2
    into, expected, place = one.empty(torch.float64), [0.0] * 4, 0
    for name, shape in SHAPES.items():
        count = torch.Size(shape).numel()
        own = vector[place : place + count]
        for piece in one.pieces(name):
            one.add(into, one.signed(name, piece, own[piece.place]), piece)
        assert set(one._signs[name].tolist()) <= {-1, 1}
        for value, sign in zip(own.tolist(), one._signs[name].tolist(), strict=True):
            expected[place % 4] += sign * value
            place += 1
    assert into.tolist() == expected


@pytest.mark.parametrize(("at_once", "rows"), [(1, [1] * 8), (8, [2] * 4), (13, [3, 3, 2]), (1000, [8])])
def test_so_many_weights_are_added_up_at_once(at_once, rows, monkeypatch):
    monkeypatch.setattr(sketch, "AT_ONCE", at_once)
    (first, *middle, last) = made(4).pieces("b")
    assert (first, last) == (Piece(slice(0, 2), 2, 0), Piece(slice(34, 35), 0, 0))
    assert [piece.rows for piece in middle] == rows
    assert {piece.first for piece in middle} == {0}


def test_a_vector_that_is_no_longer_than_a_sketch_is_kept_whole():
    assert made(100).empty(torch.float32).shape == (42,)
    assert made(41).empty(torch.float64, 3).shape == (3, 41)
    for count in (0, 1):
        assert made(100, {"a": (count,)}).empty(torch.float32).shape == (1,)
        assert len(list(made(100, {"a": (count,)}).pieces("a"))) == count


def test_sketches_take_an_eighth_of_a_network():
    largest, next_to_it = BUCKETS[:2]
    for vectors, parts in ((1, 1), (6, 1), (6, 5)):
        weights = 8 * largest * vectors * parts
        assert buckets_for(weights, vectors, parts) == largest
        assert buckets_for(weights - 1, vectors, parts) == next_to_it
    assert {LEAST, LEAST_OF_PARTS} <= {*BUCKETS}
    assert [buckets_for(1, 1, parts) for parts in (1, 2)] == [LEAST, LEAST_OF_PARTS]


def sketched(vector, seed, buckets):
    params = {name: torch.zeros_like(value) for name, value in vector.items()}
    made = Sketch(params, torch.Generator().manual_seed(seed), buckets)
    into = made.empty(torch.float64)
    for name, value in vector.items():
        for piece in made.pieces(name):
            made.add(into, made.signed(name, piece, value.flatten()[piece.place]), piece)
    return into


@pytest.mark.parametrize("buckets", [7, 101])
def test_a_sketch_keeps_inner_products_on_the_mean(buckets):
    stream = torch.Generator().manual_seed(5)
    shapes = {"a": (13, 7), "b": (), "c": (5, 101)}
    one, other = (
        {name: torch.randn(shape, generator=stream, dtype=torch.float64) for name, shape in shapes.items()}
        for _ in range(2)
    )
    exact = sum(float((one[name] * other[name]).sum()) for name in shapes)
    sizes = [math.sqrt(sum(float(value.square().sum()) for value in vector.values())) for vector in (one, other)]
    found = [float(sketched(one, seed, buckets) @ sketched(other, seed, buckets)) for seed in range(400)]
    spread = torch.tensor(found).std().item()
    assert sum(found) / 400 == pytest.approx(exact, abs=4 * spread / math.sqrt(400))
    assert spread == pytest.approx(sizes[0] * sizes[1] / math.sqrt(buckets), rel=0.15)


def test_every_weight_is_in_one_bucket():
    params = {"a": torch.zeros(13, 7), "b": torch.zeros(2), "c": torch.zeros(5000)}
    made = Sketch(params, torch.Generator().manual_seed(0), 101)
    seen = 0
    for name, value in params.items():
        pieces = list(made.pieces(name))
        assert pieces[0].place.start == 0
        assert pieces[-1].place.stop == value.numel()
        assert all(one.place.stop == other.place.start for one, other in pairwise(pieces))
        for piece in pieces:
            assert piece.first == seen % 101
            length = piece.place.stop - piece.place.start
            assert length == piece.rows * 101 if piece.rows else piece.first + length <= 101
            seen += length


def test_the_length_of_a_sketch():
    assert [n for n in BUCKETS if all(n % divisor for divisor in range(2, math.isqrt(n) + 1))] == [*BUCKETS]
    assert buckets_for(10**6, 32, 1) == 16381  # the smallest for one vector
    assert buckets_for(10**8, 32, 1) == 262139
    assert buckets_for(10**6, 32, 20) == 1021
    assert buckets_for(10**9, 32, 200) == 16381
