"""Errors planted in the formulas, which `python -m ireg.verify` must reject: `python tests/planted.py` plants them all.

Each is made in a copy of the package, and the copy's own certificates judge it, in a process of their own: first the
logged values, training by training up to the first that is wrong, then, if all are right, the whole command.
`--command` runs the whole command each time. A copy without error must be accepted, unless there are `--errors-alone`.
Parts of files' names or of the right texts choose some.
"""

import importlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Planted(NamedTuple):
    """A wrong text for a right one that stands once in a file of the package."""

    file: str
    right: str
    wrong: str


IMPLICIT, OWN, THEORY = "terms/implicit.py", "terms/own.py", "terms/theory.py"
FLUCTUATION = "core/fluctuation.py"
CURVATURE, NORM, MARGIN, PATH = (f"terms/{name}.py" for name in ("curvature", "norm", "margin", "path"))
FLOW, SUMS, SHARPNESS, NORMS, NOISE = (
    f"core/{name}.py" for name in ("mean_flow", "hessian_sums", "sharpness", "norms", "preconditioner_noise")
)
STATE, MEMORY, SCHEDULE, SGD, RMSPROP, ADAM, NADAM, ADAGRAD, READING = (
    f"core/optimizers/{name}.py"
    for name in ("state", "memory", "schedule", "sgd", "rmsprop", "adam", "nadam", "adagrad", "reading")
)

PLANTED = (
    Planted(IMPLICIT, "snapshot.optimizer.lr / 4", "snapshot.optimizer.lr / 3"),
    Planted(IMPLICIT, "* snapshot.gradients.mean_square(", "* 1.1 * snapshot.gradients.mean_square("),
    Planted(IMPLICIT, "factor * snapshot.gradients.square_of_mean", "snapshot.gradients.square_of_mean"),
    Planted(IMPLICIT, "factor * (gradients.mean_square(shares)", "(gradients.mean_square(shares)"),
    Planted(IMPLICIT, "- gradients.square_of_mean(shares))", "- 0.9 * gradients.square_of_mean(shares))"),
    Planted(
        IMPLICIT,
        "_quarter_rate(snapshot) * snapshot.gradients.mean_square_of_product",
        "2 * _quarter_rate(snapshot) * snapshot.gradients.mean_square_of_product",
    ),
    Planted(OWN, "of_mean * snapshot.descended", "1.1 * of_mean * snapshot.descended"),
    Planted(OWN, "of_variance * (gradients", "1.1 * of_variance * (gradients"),
    Planted(STATE, "quarter * (1 + 2 * memory.lag)", "quarter * (1 + memory.lag)"),
    Planted(STATE, "quarter = memory.effective_rate / 4", "quarter = self.lr / 4"),
    Planted(STATE, "quarter * (1 - memory.overlap(num_batches))", "quarter"),
    Planted(STATE, "one.step_filter(rate) for one", "one.step_filter(self.lr) for one"),
    Planted(SCHEDULE, "(squares + 2 * remembered)", "(squares + remembered)"),
    Planted(SCHEDULE, "- squares - 2 * within", "- squares - within"),
    Planted(SCHEDULE, "last.held / (1 - last.decay)", "last.held"),
    Planted(SCHEDULE, "first.gain / (1 - first.decay)", "first.gain"),
    Planted(SCHEDULE, "/ (4 * (num_batches - 1) * total)", "/ (4 * num_batches * total)"),
    Planted(OWN, "snapshot.shared.gradient, 1.0)", "snapshot.shared.gradient, 0.9)"),
    Planted(THEORY, "ratio(vector, snapshot.mean_flow.leading)", "ratio(vector, snapshot.mean_flow.leading) ** 2"),
    Planted(THEORY, "cosine(vector, gradient)", "cosine(gradient, vector) / 2"),
    Planted(THEORY, "noise.mean.new_tensor(noise.square).sqrt()", "noise.mean.new_tensor(noise.square)"),
    Planted(THEORY, "squares) * noisy.sqrt()", "squares)"),
    Planted(NOISE, "mean * change / (2 * root * below)", "mean * change / (root * below)"),
    Planted(FLUCTUATION, "rows.var(0) / len(rows)", "rows.var(0)"),
    Planted(FLUCTUATION, "products.diagonal()) / (orders - 1)", "products.diagonal()) / orders"),
    Planted(FLUCTUATION, "float(others.var() / orders)", "float(others.var())"),
    Planted(NOISE, "else gradients.mean.square()", "else gradients.square"),
    Planted(NOISE, "torch.lerp(first, gradient, bare)", "torch.lerp(first, gradient, bare / 2)"),
    Planted(NORMS, "(squares[0] / squares[1]).sqrt()", "squares[0] / squares[1]"),
    Planted(NORMS, "inner_product(left, right) / product.sqrt()", "inner_product(left, right) / squared_norm(right)"),
    Planted(CURVATURE, "_number(pair.value / limit)", "_number(1.1 * pair.value / limit)"),
    Planted(CURVATURE, "return total / 2", "return total"),
    Planted(CURVATURE, "snapshot.probed_adaptive.value / 2", "snapshot.probed_adaptive.value"),
    Planted(CURVATURE, "snapshot.probed_adaptive.error / 2", "snapshot.probed_adaptive.error"),
    Planted(CURVATURE, "variance / mean / (1 - beta)", "variance / mean / (1 + beta)"),
    Planted(CURVATURE, "return optimizer.lr / 2 *", "return optimizer.lr *"),
    Planted(CURVATURE, "curvatures.var(correction=0)", "curvatures.var()"),
    Planted(CURVATURE, "return curvature / limit", "return curvature"),
    Planted(CURVATURE, "value.sqrt() for name, value in diagonal", "value for name, value in diagonal"),
    Planted(NORM, "norms = [norm_of(matrix) for", "norms = [norm_of(matrix) ** 2 for"),
    Planted(NORM, "eigvalsh(square)[-1].sqrt()", "eigvalsh(square)[-1]"),
    Planted(MARGIN, "value / norms", "value * norms"),
    Planted(MARGIN, 'corrupted if among == "corrupted"', 'corrupted if among == "clean"'),
    Planted("catalogue.py", '"1 % quantile", 0.01)', '"1 % quantile", 0.05)'),
    Planted(PATH, "_number(growth.diffusive)", "_number(1.1 * growth.diffusive)"),
    Planted(FLOW, "return 2 * product", "return product"),
    Planted(FLOW, "of_mean * along + of_spread", "along / 2 + of_spread"),
    Planted(FLOW, "if self.independent else of_spread", "if self.independent else 1.1 * of_spread"),
    Planted(FLOW, "+ of_decay * point.velocity[name]", ""),
    Planted(FLOW, "(1 - dividing.decay) + 0.5 + dividing", "(1 - dividing.decay) + dividing"),
    Planted(FLOW, "(dividing.decay / (1 - dividing.decay) + 0.5", "(1 / (1 - dividing.decay) + 0.5"),
    Planted(FLOW, "-rate * share * point.scaled", "-1.1 * rate * share * point.scaled"),
    Planted(FLOW, "-share / 2 * (cubes", "-1.1 * share / 2 * (cubes"),
    Planted(FLOW, "(share / 4 + share.square() / 2) * mean", "1.1 * (share / 4 + share.square() / 2) * mean"),
    Planted(FLOW, "/ (2 * (1 + rho)) * (1 - drawing.overlap(rho))", "/ (2 * (1 + rho))"),
    Planted(FLOW, "(1 - (tau_rho + tau_beta) / 2)", "(1 - tau_rho)"),
    Planted(FLOW, "(1 - rho) * (1 - beta) / (1 - beta * rho)", "(1 - rho) / (1 - beta * rho)"),
    Planted(FLOW, "(1 - bare) * _shared(rho, dividing", "_shared(rho, dividing"),
    Planted(SUMS, "value.ndim > total[name].ndim", "value.ndim >= total[name].ndim"),
    Planted(SUMS, "mean + self.mean[name]", "mean"),
    Planted(
        SHARPNESS,
        "for name, value in gradient.items()) / length",
        "for name, value in gradient.items()) / length**0.5",
    ),
    Planted(SHARPNESS, "products / squares.where", "1.1 * products / squares.where"),
    Planted(SHARPNESS, "signs / count**0.5", "signs / count"),
    Planted(SHARPNESS, "values.std() / len(values) ** 0.5", "values.std()"),
    Planted(SHARPNESS, "/ inner(gradient, step)", "/ inner(step, step)"),
    Planted(SHARPNESS, "value.sqrt() for name, value in scale", "value for name, value in scale"),
    Planted("terms/noise.py", "(examples - 1) * count", "examples * count"),
    Planted("terms/noise.py", "(parts - count) / (parts * (count - 1))", "(parts - count) / (parts * count)"),
    Planted("terms/noise.py", "parts[0] * inverse", "parts[0]"),
    Planted(SHARPNESS, "value, alpha=decay[name])", "value, alpha=2 * decay[name])"),
    Planted(SHARPNESS, ".mul_(weights[name])", ".mul_(weights[name] ** 2)"),
    Planted(SHARPNESS, "TOLERANCE = 1e-2", "TOLERANCE = 1e-1"),
    Planted(STATE, "4 / self.lr * value", "value / self.lr"),
    Planted(STATE, "(2 - self.lr * self.decoupled_decay) /", "2 /"),
    Planted(STATE, "root if shares is None else root * shares[name]", "root"),
    Planted(STATE, "value * shares[name] / scale[name]", "value / scale[name]"),
    Planted(STATE, "params[name], alpha=decays[name])", "params[name], alpha=self.weight_decay)"),
    Planted(STATE, "0.0 if self.decoupled else self.weight_decay", "self.weight_decay"),
    Planted(MEMORY, "1 - 2 * self.tail_scale * self.decay", "1 - self.tail_scale * self.decay"),
    Planted(MEMORY, "self.tail_scale * overlap(self.decay", "overlap(self.decay"),
    Planted(MEMORY, "return 2 * sum(terms)", "return sum(terms)"),
    Planted(MEMORY, "(num_batches - distance) * decay", "num_batches * decay"),
    Planted(MEMORY, "(root + eps).reciprocal_()", "(root.square() + eps).rsqrt_()"),
    Planted(SGD, "lr * (1 - self.dampening) / (1 - beta)", "lr / (1 - beta)"),
    Planted(SGD, "lag=beta * lag", "lag=lag"),
    Planted(SGD, "tail_scale=beta)", "tail_scale=1.0)"),
    Planted(SGD, "beta ** (2 if self.nesterov else 1)", "beta"),
    Planted(SGD, "gain=(1 - self.dampening) / (1 - beta)", "gain=1 / (1 - beta)"),
    Planted(SGD, "return None if self.nesterov else lr", "return lr"),
    Planted(RMSPROP, "effective_rate=lr / (1 - beta), lag=", "effective_rate=lr, lag="),
    Planted(RMSPROP, "gain=1 / (1 - beta)", "gain=1.0"),
    Planted(RMSPROP, "ahead=lr * beta / (1 - beta)", "ahead=lr / (1 - beta)"),
    Planted(RMSPROP, "value=-1)", "value=-0.9)"),
    Planted(RMSPROP, "lag_after=self.memory(1.0).lag", "lag_after=0.0"),
    Planted(
        ADAM, "largest[name] / (1 - self.betas[1] ** steps[name])", "largest[name] / (1 - self.betas[0] ** steps[name])"
    ),
    Planted(ADAM, "lag=beta / (1 - beta), decay", "lag=1 / (1 - beta), decay"),
    Planted(ADAM, "numerator_decay=self.betas[0]", "numerator_decay=0.0"),
    Planted(ADAM, "ahead=lr * beta / (1 - beta)", "ahead=lr / (1 - beta)"),
    Planted(ADAM, "lr / (1 - self.betas[0] ** steps)", "lr"),
    Planted(ADAM, 'second / (1 - float(group["betas"][1]) ** int(slots["step"]))', "second"),
    Planted(NADAM, "(taken + 1) * decay", "taken * decay"),
    Planted(NADAM, "lag=share * beta / (1 - beta)", "lag=beta / (1 - beta)"),
    Planted(NADAM, "tail_scale=share)", "tail_scale=1.0)"),
    Planted(NADAM, "self._share() * held.ahead", "held.ahead"),
    Planted(NADAM, "numerator_bare=1 - self._share()", "numerator_bare=0.0"),
    Planted(ADAGRAD, "value / max(steps[name], 1)", "value"),
    Planted(ADAGRAD, "max(max(steps.values()) - 1, 0)", "max(steps.values())"),
    Planted(READING, "by_group[group] / largest", "1.0"),
    Planted(READING, "/ len(used) for group", "/ max(len(used) - 1, 1) for group"),
)


LIKELY = {
    FLOW: "adamw, decay", STATE: "groups", MEMORY: "nesterov", SCHEDULE: "momentum, rates", SGD: "momentum",
    READING: "groups",
}  # fmt: skip
"""What trainings see an error soonest; for other files those of their name. The others follow."""


def rejects(folder: Path, first: str, *, command: bool = False) -> str:
    """What of the certificates of a copy of the package in `folder` rejects it; empty if nothing does.

    Trainings with `first` in their name are looked at first.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        sys.path.insert(0, str(folder))
        os.write(write, _judged(first, command).encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        verdict = pipe.read()
    os.waitpid(child, 0)
    return verdict


def _judged(first: str, command: bool, only: int | None = None) -> str:
    """Run the certificates of the package that is found first; with `only` those of so many trainings."""
    import torch

    torch.set_num_threads(1)
    try:
        if not command:
            logged = importlib.import_module("ireg.certify.logged")
            trainings = importlib.import_module("ireg.certify.trainings").TRAININGS
            ordered = sorted(trainings, key=lambda name: first not in name)[:only]
            for comparison in logged.all_logged({name: trainings[name] for name in ordered}):
                if not comparison.holds:
                    return f"{comparison.tag} of {comparison.where}: {comparison.error:.1e}"
        if only is not None:
            return ""
        code = importlib.import_module("ireg.verify").main(["--jobs", "1"])
        return f"exit code {code}" if code else ""
    except Exception:
        return f"an error: {traceback.format_exc().splitlines()[-1]}"


def plant(planted: Planted | None, folder: Path) -> None:
    """Copy the package to a folder, and make the error; None makes none."""
    shutil.copytree(ROOT / "ireg", folder / "ireg", ignore=shutil.ignore_patterns("__pycache__", "assets"))
    if planted is None:
        return
    path = folder / "ireg" / planted.file
    text = path.read_text(encoding="utf-8")
    assert text.count(planted.right) == 1
    path.write_text(text.replace(planted.right, planted.wrong), encoding="utf-8")


def warm(folder: Path) -> None:
    """Import what the certificates import, once for all, but the package itself."""
    sys.path.insert(0, str(folder))
    _judged("sgd", command=False, only=1)
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "ireg"]:
        del sys.modules[name]


def main(arguments: list[str]) -> int:
    """Plant each error; return 0 if all are rejected."""
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() not in (ROOT, ROOT / "tests")]
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory() as folder:
        plant(None, Path(folder))
        warm(Path(folder))
    command, names = "--command" in arguments, [name for name in arguments if not name.startswith("--")]
    chosen = [one for one in PLANTED if not names or any(name in f"{one.file} {one.right}" for name in names)]
    seen, sound = 0, True
    for one in chosen if "--errors-alone" in arguments else (None, *chosen):
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            plant(one, Path(folder))
            first = "" if one is None else LIKELY.get(one.file, Path(one.file).stem)
            verdict = rejects(Path(folder), first, command=command)
        what = "no error" if one is None else f"{one.file}: {one.right} → {one.wrong}"
        if one is None:
            sound = not verdict
        else:
            seen += bool(verdict)
        print(f"{'rejected' if verdict else 'accepted'}: {what}: {verdict or 'nothing is wrong'} "
              f"({time.monotonic() - begin:.0f} s)", flush=True)  # fmt: skip
    print(f"{seen} of {len(chosen)} planted errors are rejected" + ("" if sound else ", and a copy without error, too"))
    return 0 if chosen and sound and seen == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
