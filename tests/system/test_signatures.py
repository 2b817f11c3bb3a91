"""What is read from source is what Python finds: names, arguments and defaults."""

import inspect
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from torch import nn

from ireg.system.signatures import Fault, NoSuchNameError, names_in, signature_at
from tests.conftest import ROOT

OF_TORCH = sorted(
    name
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
)
READ = [
    *(f"torch.optim.{name}" for name in OF_TORCH),
    *(f"ireg.models.{name}" for name in ("CNN", "GPT", "MLP", "ResNet", "ViT")),
    *("ireg.optim.Switch", "ireg.data.cifar.cifar10", "ireg.data.idx.idx", "ireg.data.text.text"),
]


@pytest.mark.parametrize("path", READ)
def test_arguments_and_defaults_are_pythons(path):
    module, _, name = path.rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters
    read = signature_at(path)
    assert list(read.arguments) == list(parameters)
    assert [one.required for one in read.arguments.values()] == [
        one.default is inspect.Parameter.empty for one in parameters.values()
    ]
    for argument, value in read.defaults.items():
        assert parameters[argument].default == value
        assert type(parameters[argument].default) is type(value)


@pytest.mark.parametrize("module", ["torch.optim", "ireg.models", "ireg.optim", "ireg.regularizers"])
def test_every_name_of_a_module_is_read(module):
    """Those that start a refusal are known in full."""
    assert {name for name in vars(import_module(module)) if not name.startswith("_")} <= names_in(module)
    with pytest.raises(NoSuchNameError, match=rf"^{module} has no Nonesuch$"):
        signature_at(f"{module}.Nonesuch")


@pytest.mark.parametrize("name", OF_TORCH)
def test_what_is_refused_is_refused_by_torch(name):
    """And what torch makes is not refused: each number as it is, and with another sign; each word."""
    signature = signature_at(f"torch.optim.{name}")
    weight, made = nn.Parameter(torch.zeros(2, 2)), getattr(torch.optim, name)
    refused = set()
    for argument, default in signature.defaults.items():
        for value in (default, None, -1.0, 1.5, [0.5, -1.0], [0.5], "fast", True, False):
            fault = signature.fault({argument: value}, ["params"])
            try:
                made([weight], **{argument: value})
            except Exception:
                refused |= {argument} if fault else set()
                continue
            # torch takes a word for true, and looks at some values in the first step only.
            if fault is not None:
                assert fault == Fault(argument, f"must be {signature.arguments[argument].kind}")
                assert isinstance(value, str | list | None) or not signature.arguments[argument].kind.scalars - {"bool"}
    assert refused


SOURCE = """
from typing import Optional, Union
from numbers import Number
from mine_elsewhere import Gone

def tool(first, *, width: int = 4, scale: "float | None" = None, flags: tuple[bool, ...] = (), mode: str = "a",
         pair: Optional[tuple[float, float]] = (0.5, 1), any_of: Union[int, str] = 1, free=None, number: Number = 1,
         fixed: tuple[float | None, float] = (None, 1.0)):
    pass

def open_ended(first, **others): pass
def many(*things): pass
@decorated
def other(width): pass
class Inherits(Base): pass
class Made:
    @decorated
    def __init__(self): pass
class Meta(metaclass=Base):
    def __init__(self, width): pass
class New:
    def __new__(cls, width): pass
class Twice:
    def __init__(self, width): pass
class Twice:
    def __init__(self, height): pass
if Number:
    class Perhaps:
        def __init__(self, width): pass
Assigned = Inherits
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The import path of a package in a folder of its own, with the source above."""
    package = tmp_path / "mine_read"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import tool as mine\nfrom mine_read.inner import *\nraise 1\n")
    (package / "inner.py").write_text(SOURCE)
    (package / "broken.py").write_text("def tool(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    signature_at.cache_clear()
    yield "mine_read"
    signature_at.cache_clear()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"width": 6, "scale": 1, "flags": [True], "mode": "b", "pair": [1, 2], "any_of": "x", "free": {}}, None),
        ({"scale": None, "pair": None, "number": "anything", "fixed": [None, 2.0]}, None),
        ({"width": {"_target_": "math.floor"}}, None),
        ({"width": "wide"}, ("width", "must be an integer")),
        ({"width": {"a": 1}}, ("width", "must be an integer")),
        ({"width": None}, ("width", "must be an integer")),
        ({"scale": "large"}, ("scale", "must be a number, or null")),
        ({"flags": True}, ("flags", "must be a list of values")),
        ({"mode": [1]}, ("mode", "must be a word")),
        ({"pair": [1]}, ("pair", "must be a list of 2 numbers, or null")),
        ({"pair": [1, "b"]}, ("pair", "must be a list of 2 numbers, or null")),
        ({"any_of": [1]}, ("any_of", "must be an integer, or a word")),
        ({"widht": 4}, ("widht", "tool has no such argument, did you mean width?")),
        ({"zzz": 4}, ("zzz", "tool has no such argument; it takes width, scale, flags, mode, pair, any_of, free, ")),
    ],
)
def test_a_fault(mine, given, expected):
    fault = signature_at(f"{mine}.inner.tool").fault(given, ["first"])
    if expected is None:
        assert fault is None
    else:
        assert fault.argument == expected[0]
        assert fault.text.startswith(expected[1])
    assert signature_at(f"{mine}.mine") == signature_at(f"{mine}.inner.tool")  # by way of an import


def test_what_is_needed_is_named(mine):
    assert signature_at(f"{mine}.inner.tool").fault({}) == ("first", "tool needs it; give it a value")
    assert signature_at(f"{mine}.inner.open_ended").fault({"first": 1, "further": 2}) is None


@pytest.mark.parametrize(
    "path",
    [
        *("inner.many", "inner.other", "inner.Inherits", "inner.Made", "inner.Meta", "inner.New", "inner.Twice"),
        *("inner.Perhaps", "inner.Assigned", "inner.Gone", "inner.nothing", "broken.tool", "gone.tool", "tool"),
        *("inner.deep.tool", ".tool"),
    ],
)
def test_a_source_that_does_not_say_has_no_signature(mine, path):
    assert signature_at(f"{mine}.{path}") is None


def test_other_places_have_no_signature():
    for path in ("math.floor", "no_such_library.tool", "plain", "sys.exit", "..", "torch.nn.functional.relu.x"):
        assert signature_at(path) is None
    assert names_in("no_such_library") is None
    assert names_in("torch") is None  # which gets names while it is imported


def test_a_module_of_torch_that_is_misspelled():
    with pytest.raises(NoSuchNameError, match=r"^torch has no optm, did you mean optim\?$"):
        signature_at("torch.optm.Adam")
    assert signature_at("torch.ops.Adam") is None  # no file, and a module all the same


def test_imports_in_a_circle_end(tmp_path, monkeypatch):
    (tmp_path / "circle_one.py").write_text("from circle_two import thing\n")
    (tmp_path / "circle_two.py").write_text("from circle_one import thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert signature_at("circle_one.thing") is None


def test_nothing_is_imported():
    code = (
        "import sys; from ireg.system.signatures import signature_at\n"
        f"for path in {READ!r}: assert signature_at(path) is not None, path\n"
        "sys.exit('torch' in sys.modules or 'ireg.models' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
