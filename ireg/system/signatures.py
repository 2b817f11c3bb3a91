"""What a class or a function takes, read from its source; nothing is imported.

Importing torch takes seconds, which a mistyped argument should not. What is read here is what Python would run, so that
nothing is said twice. Where the source leaves a question open, there is no answer, and the call itself has the word.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ireg.system.errors import did_you_mean

MOST_HOPS = 8
"""From `from … import` to `from … import` until a definition is found."""

_NUMBERS, _SCALARS = frozenset({"int", "float"}), frozenset({"int", "float", "bool", "str"})
_SEQUENCES = frozenset({"list", "tuple", "Sequence", "List", "Tuple"})
_DYNAMIC = frozenset({"globals", "locals", "vars", "setattr", "exec", "eval", "__dict__", "__getattr__", "modules"})
"""Names by which a module may get further names while it runs."""


class NoSuchNameError(LookupError):
    """A module of ours or of torch has no such name, nor a module in it."""


@dataclass(frozen=True)
class Kind:
    """Which values an annotation allows, of those that a configuration can hold.

    Attributes:
        scalars: of `int`, `float`, `bool` and `str`.
        none: whether null is allowed.
        lengths: of lists that are allowed; None among them for any length.
        numbers: whether a list holds numbers.
    """

    scalars: frozenset[str] = frozenset()
    none: bool = False
    lengths: frozenset[int | None] = frozenset()
    numbers: bool = False

    def allows(self, value: Any) -> bool:
        """Say whether a value is of this kind; one that Hydra will make an object of may be of any."""
        if isinstance(value, Mapping):
            return "_target_" in value
        if value is None:
            return self.none
        if isinstance(value, list | tuple):
            fits = bool({None, len(value)} & self.lengths)
            return fits and (not self.numbers or all(isinstance(one, int | float) for one in value))
        if isinstance(value, str):
            return "str" in self.scalars
        if self.scalars & {*_NUMBERS, "str"}:  # with which annotations are often taken lightly
            return True
        return "bool" in self.scalars and value in (0, 1)

    def __str__(self) -> str:
        """Say what a value must be."""
        of = "numbers" if self.numbers else "values"
        parts = ["an integer" if self.scalars & _NUMBERS == {"int"} else "a number"] * bool(self.scalars & _NUMBERS)
        parts += ["true or false"] * ("bool" in self.scalars) + ["a word"] * ("str" in self.scalars)
        parts += [f"a list of {of}" if length is None else f"a list of {length} {of}" for length in self.lengths]
        return ", or ".join([*parts, *["null"] * self.none])


class Fault(NamedTuple):
    """What is wrong with arguments.

    Attributes:
        argument: the name of the one that is wrong.
        text: what is wrong.
    """

    argument: str
    text: str


@dataclass(frozen=True)
class Argument:
    """One argument.

    Attributes:
        kind: which values it takes; None where that is not known.
        required: whether it has no default.
        default: its default, where that is a literal.
    """

    kind: Kind | None
    required: bool
    default: Any = ...


@dataclass(frozen=True)
class Signature:
    """What a class or a function takes.

    Attributes:
        name: its own.
        arguments: by name, in their order.
        others: whether it takes further ones by name.
    """

    name: str
    arguments: Mapping[str, Argument]
    others: bool

    @property
    def defaults(self) -> dict[str, Any]:
        """The defaults that are literals."""
        return {name: one.default for name, one in self.arguments.items() if one.default is not ...}

    def fault(self, given: Mapping[str, Any], supplied: Collection[str] = ()) -> Fault | None:
        """Find what is wrong with arguments.

        Args:
            given: by name.
            supplied: names of those that will be given beside them.

        Returns:
            None where nothing is known to be wrong.

        Example:
            >>> signature = signature_at("ireg.models.MLP")
            >>> signature.fault({"hidden": [8], "dephts": 3}, ["input_shape", "num_classes"]).text
            'MLP has no such argument; it takes hidden, activation, bias, init_scale'
        """
        for name in given:
            if name not in self.arguments and not self.others:
                taken = ", ".join(known for known in self.arguments if known not in supplied)
                like = did_you_mean(name, self.arguments) or f"; it takes {taken}"
                return Fault(name, f"{self.name} has no such argument{like}")
        for name, one in self.arguments.items():
            if name not in given:
                if one.required and name not in supplied:
                    return Fault(name, f"{self.name} needs it; give it a value")
            elif given[name] != one.default and one.kind is not None and not one.kind.allows(given[name]):
                return Fault(name, f"must be {one.kind}")
        return None


@cache
def signature_at(path: str) -> Signature | None:
    """Read what the class or the function at an import path takes.

    Args:
        path: like `torch.optim.SGD`.

    Returns:
        None where the source does not say: it is not Python's, is made in another way than by `class` or `def`, is
        decorated, or inherits what it takes.

    Raises:
        NoSuchNameError: a module of torch or of ours has no such name.

    Example:
        >>> signature = signature_at("ireg.models.ViT")
        >>> signature.defaults["heads"], signature.arguments["heads"].kind.allows("four")
        (4, False)
    """
    module, _, name = path.rpartition(".")
    for _ in range(MOST_HOPS):
        file = _file_of(module)
        if file is None:
            _require_module(module)
            return None
        tree = _tree(file)
        found = [] if tree is None else _definitions(tree, module, file.name == "__init__.py", name)
        if len(found) != 1:  # none, or which of them it is depends on what happens
            _require(module, name, tree)
            return None
        (definition,) = found
        if isinstance(definition, tuple):
            module, name = definition
            continue
        return _read(definition)
    return None


def _require_module(module: str) -> None:
    """Refuse a module of torch or of ours that is one of theirs misspelled."""
    package, _, name = module.rpartition(".")
    file = _file_of(package) if package.partition(".")[0] in ("torch", "ireg") else None
    if file is None or file.name != "__init__.py":
        return
    known = {other.name.partition(".")[0] for other in file.parent.iterdir()}
    like = did_you_mean(name, [other for other in known if not other.startswith("_")])
    if name not in known and like:  # without a likeness it may be a module that no file holds, as torch has some
        raise NoSuchNameError(f"{package} has no {name}{like}")


def _require(module: str, name: str, tree: ast.Module | None) -> None:
    """Refuse a name that a module is known not to have.

    Only modules that are tested to be read in full are known so well.
    """
    if module not in ("torch.optim", "ireg.models", "ireg.optim", "ireg.regularizers") or tree is None:
        return
    names = names_in(module)
    if names is not None and name not in names:
        public = [known for known in names if not known.startswith("_") and known[:1].isupper()]
        raise NoSuchNameError(f"{module} has no {name}{did_you_mean(name, public, cutoff=0.6)}")


def names_in(module: str) -> frozenset[str] | None:
    """List the names that a module has, those of its submodules among them.

    Returns:
        None where the source does not say.
    """
    file = _file_of(module)
    tree = None if file is None else _tree(file)
    if file is None or tree is None:
        return None
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and (
            getattr(node, "id", None) in _DYNAMIC or getattr(node, "attr", None) in _DYNAMIC
        ):
            return None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    if names & {"*", "__getattr__"}:
        return None
    if file.name == "__init__.py":
        names |= {other.name.partition(".")[0] for other in file.parent.iterdir()}
    return frozenset(names)


def _file_of(module: str) -> Path | None:
    """Find the source of a module without importing the packages that it is in."""
    top, *inner = module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    place = Path(spec.origin)
    for part in inner:
        if place.name != "__init__.py":
            return None
        beside = place.parent / part
        place = beside / "__init__.py" if beside.is_dir() else beside.with_suffix(".py")
    return place if place.suffix == ".py" and place.is_file() else None


@lru_cache(maxsize=64)
def _tree(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


Definition = ast.ClassDef | ast.FunctionDef | tuple[str, str] | None


def _definitions(tree: ast.Module, module: str, is_package: bool, name: str) -> list[Definition]:
    """List what gives a module a name: a definition, where it is imported from, or None for anything else."""
    found: list[Definition] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level == 0:
                source = node.module or ""
            else:  # relative to the package, which a package's own file is already in
                parts = module.split(".")
                source = ".".join([*parts[: len(parts) - node.level + is_package], *filter(None, [node.module])])
            found += [(source, one.name) for one in node.names if (one.asname or one.name) == name]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name:
            found.append(None)
    outer = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name]
    return [*found, *outer]


def _read(definition: Definition) -> Signature | None:
    """Read a signature from a definition; None where it does not hold all of it."""
    if definition is None or isinstance(definition, tuple) or definition.decorator_list:
        return None
    function: ast.AST | None = definition
    if isinstance(definition, ast.ClassDef):
        own = [node for node in definition.body if isinstance(node, ast.FunctionDef)]
        makers = [node for node in own if node.name in ("__init__", "__new__")]
        if len(makers) != 1 or makers[0].name != "__init__" or makers[0].decorator_list or definition.keywords:
            return None
        (function,) = makers
    assert isinstance(function, ast.FunctionDef)
    taken = function.args
    if taken.vararg is not None:
        return None
    positional = [*taken.posonlyargs, *taken.args]
    defaults: list[ast.expr | None] = [*[None] * (len(positional) - len(taken.defaults)), *taken.defaults]
    pairs = [*zip(positional, defaults, strict=True), *zip(taken.kwonlyargs, taken.kw_defaults, strict=True)]
    pairs = pairs[1:] if isinstance(definition, ast.ClassDef) else pairs  # self
    arguments = {one.arg: _argument(one, default) for one, default in pairs}
    return Signature(definition.name, arguments, taken.kwarg is not None)


def _argument(one: ast.arg, default: ast.expr | None) -> Argument:
    kind = None if one.annotation is None else _kind(one.annotation)
    if default is None:
        return Argument(kind, required=True)
    try:
        return Argument(kind, required=False, default=ast.literal_eval(default))
    except ValueError:
        return Argument(kind, required=False)


def _kind(annotation: ast.expr) -> Kind | None:
    """Read an annotation; None where a configuration's value may fit in ways that are not known here."""
    scalars: set[str] = set()
    lengths: set[int | None] = set()
    none, numbers = False, True
    for one in _alternatives(annotation):
        name = _last_name(one.value if isinstance(one, ast.Subscript) else one)
        if isinstance(one, ast.Constant) and one.value is None:
            none = True
        elif isinstance(one, ast.Subscript) and name in _SEQUENCES:
            inner = one.slice.elts if isinstance(one.slice, ast.Tuple) else [one.slice]
            fixed = name in ("tuple", "Tuple") and not any(isinstance(part, ast.Constant) for part in inner)
            lengths.add(len(inner) if fixed else None)
            of = [_kind(part) for part in inner if not isinstance(part, ast.Constant)]
            numbers &= all(kind is not None and kind.scalars and not kind.none for kind in of)
            numbers &= all(kind.scalars <= _NUMBERS for kind in of if kind is not None)
        elif not isinstance(one, ast.Subscript) and name in _SCALARS:
            scalars.add(name)
        elif name != "Tensor":  # which no value of a configuration is
            return None
    if not scalars and not lengths:
        return None
    return Kind(frozenset(scalars), none, frozenset(lengths), numbers and bool(lengths))


def _alternatives(annotation: ast.expr) -> Iterator[ast.expr]:
    """List the parts of `A | B`, `Union[A, B]` and `Optional[A]`."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            yield annotation
            return
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        yield from _alternatives(annotation.left)
        yield from _alternatives(annotation.right)
    elif isinstance(annotation, ast.Subscript) and _last_name(annotation.value) in ("Union", "Optional"):
        inner = annotation.slice
        for part in inner.elts if isinstance(inner, ast.Tuple) else [inner]:
            yield from _alternatives(part)
        if _last_name(annotation.value) == "Optional":
            yield ast.Constant(None)
    else:
        yield annotation


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
