"""Plant errors in Python source, one at a time, as text: line numbers, comments and all else stay."""

import ast
import random
from typing import NamedTuple

ARITHMETIC = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
              ast.FloorDiv: ("//", "/"), ast.Mod: ("%", "*"), ast.Pow: ("**", "*")}  # fmt: skip
COMPARISONS = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
               ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
               ast.In: ("in", "not in"), ast.NotIn: ("not in", "in")}  # fmt: skip
JUNCTIONS = {ast.And: ("and", "or"), ast.Or: ("or", "and")}
COPIES = ("clone", "detach")
APPEARANCE = {"figsize", "alpha", "color", "linewidth", "linestyle", "fontsize", "frameon", "markersize", "capsize"}
"""Arguments, and of `grid` all, that only change how a figure looks, which no test judges."""
# No error can be planted in a type, and Python 3.11 does not know the place of what stands in an f-string.
LEFT_OUT = ("annotation", "returns", "decorator_list")


class Mutant(NamedTuple):
    """An error: the bytes from `start` to `end` of the file become `text`; `before` and `after` are its lines."""

    file: str
    line: int
    kind: str
    before: str
    after: str
    start: int
    end: int
    text: str

    @property
    def key(self):
        """What it is, wherever in its file it stands."""
        return self.file, self.before, self.after

    def planted(self, source):
        """The source, as bytes, with the error."""
        return source[: self.start] + self.text.encode() + source[self.end :]


class Planter:
    """Finds every error of the kinds above in one source."""

    def __init__(self, file, source):
        self.file, self.source = file, source
        self.lines = [0]
        for line in source.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.found = []
        self.look(ast.parse(source), within=None)

    def span(self, node):
        return (self.lines[node.lineno - 1] + node.col_offset, self.lines[node.end_lineno - 1] + node.end_col_offset)

    def add(self, kind, start, end, text):
        """Note one; the reader is shown the whole lines before and after."""
        first, last = self.source.rfind(b"\n", 0, start) + 1, self.source.find(b"\n", end) % (len(self.source) + 1)
        before, after = self.source[first:last], self.source[first:start] + text.encode() + self.source[end:last]
        shown = (" ".join(part.decode().split()) for part in (before, after))
        line = self.source.count(b"\n", 0, start) + 1
        self.found.append(Mutant(self.file, line, kind, *shown, start, end, text))

    def look(self, node, within):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.If) and "__name__" in ast.dump(node.test)):
            return
        # `strict` raises where lengths differ, which they do not.
        if isinstance(node, ast.keyword) and node.arg in {"strict", *APPEARANCE}:
            return
        if plant := getattr(self, f"of_{type(node).__name__.lower()}", None):
            plant(node, within)
        for name, value in ast.iter_fields(node):
            if name not in LEFT_OUT:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.look(child, node)

    def between(self, kind, left, right, symbols):
        """Exchange the operator between two operands."""
        start, end = self.span(left)[1], self.span(right)[0]
        self.add(kind, start, end, self.source[start:end].decode().replace(*symbols, 1))

    def of_binop(self, node, _within):
        if type(node.op) in ARITHMETIC:
            self.between("arithmetic", node.left, node.right, ARITHMETIC[type(node.op)])

    def of_augassign(self, node, within):
        if type(node.op) in ARITHMETIC:
            self.between("arithmetic", node.target, node.value, ARITHMETIC[type(node.op)])
        self.dropped(node, within)

    def of_compare(self, node, _within):
        operands = [node.left, *node.comparators]
        for left, op, right in zip(operands, node.ops, operands[1:], strict=False):
            self.between("comparison", left, right, COMPARISONS[type(op)])

    def of_boolop(self, node, _within):
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between("and, or", left, right, JUNCTIONS[type(node.op)])

    def of_unaryop(self, node, _within):
        if isinstance(node.op, ast.Not):
            start, end = self.span(node)[0], self.span(node.operand)[0]
            self.add("not", start, end, self.source[start:end].decode().replace("not", "", 1).lstrip())

    def of_constant(self, node, _within):
        value = node.value
        if isinstance(value, bool):
            others = [repr(not value)]
        elif isinstance(value, int):
            others = [repr(value + 1), repr(value - 1)]
        elif isinstance(value, float):
            others = [repr(value * 1.1 if value else 1.0)]
        else:
            return
        for other in others:
            self.add("True, False" if isinstance(value, bool) else "constant", *self.span(node), other)

    def of_call(self, node, _within):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        if name in COPIES and isinstance(node.func, ast.Attribute) and not node.args:
            end = self.span(node)[1]
            self.add("copy", self.source.rindex(b".", 0, end), end, "")
        if name == "where" and len(node.args) == 3:
            (start, middle), (other, end) = self.span(node.args[1]), self.span(node.args[2])
            parts = self.source[other:end], self.source[middle:other], self.source[start:middle]
            self.add("where", start, end, b"".join(parts).decode())

    def of_return(self, node, within):
        if not isinstance(within, ast.FunctionDef):
            self.add("return", *self.span(node), "pass")

    def dropped(self, node, _within):
        self.add("statement", *self.span(node), "pass")

    of_raise = of_delete = dropped

    def of_expr(self, node, within):
        if isinstance(node.value, ast.Call) and getattr(node.value.func, "attr", None) != "grid":
            self.dropped(node, within)

    def of_assign(self, node, within):
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self.dropped(node, within)


def mutants(file, source):
    """Every error of the kinds above, in the order of the source, as bytes; `file` is what the mutants bear."""
    return sorted(Planter(file, source).found, key=lambda mutant: (mutant.start, mutant.end, mutant.text))


def drawn(all_mutants, count, seed):
    """Draw some: a file after the other, in an order by chance; within it a kind, and then one of that kind."""
    generator = random.Random(seed)
    by_file = {}
    for mutant in sorted(all_mutants):
        by_file.setdefault(mutant.file, []).append(mutant)
    files = sorted(by_file)
    generator.shuffle(files)
    chosen = []
    while len(chosen) < count and any(by_file.values()):
        for left in filter(None, [by_file[file] for file in files]):
            kind = generator.choice(sorted({mutant.kind for mutant in left}))
            chosen.append(generator.choice([mutant for mutant in left if mutant.kind == kind]))
            left.remove(chosen[-1])
    return chosen[:count]
