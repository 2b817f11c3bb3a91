"""The command `python -m ireg.verify`, see `ireg.certify.command`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ireg.known_optimizers import WITH_RULE
from ireg.system.assignments import require_takes, settings_of
from ireg.system.command import Parser, framed, run_as_process
from ireg.system.errors import UserError, did_you_mean
from ireg.system.files import is_writable

PARTS = (
    "certificates", "logged", "edges", "identities", "penalties", "drawings", "schedules", "norms", "noise", "networks",
)  # fmt: skip
"""What `--only` takes."""

SLOWEST, FASTEST = 1e-4, 1.0
"""Rates that can be asked for: below, rounding shows and the runs are long."""


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    It is 0 if all certificates pass, all logged values are right, the edges and identities hold, and all derivatives of
    the networks are right, 1 if not.

    Raises:
        UserError: as `check`, or a class that is given by its import path cannot be made.
    """
    options = parser().parse_args(arguments)
    check(options)
    from ireg.certify.command import certify  # torch, which --help need not wait for

    return certify(options)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = Parser(
        "verify",
        description="Certify what is logged. Each optimizer's theory: torch's own optimizers, in float64 on small "
        "smooth problems, against their modified flows, and against flows that are wrong in one place. Each value of "
        "ireg.measure, against its formula computed densely. Also the edges of stability, identities of curvature "
        "and of the norm's growth, explicit penalties, and the networks' derivatives.",
    )
    made.add_argument(
        "--optimizer",
        metavar="NAME",
        nargs="+",
        help="certify these only, and no networks; or any class by its import path, like torch.optim.Adam, against the "
        "flow of its own steps",
    )
    made.add_argument("--set", metavar="NAME=VALUE", nargs="+", help="arguments of such classes, like betas=[0.6,0.8]")
    made.add_argument(
        "--only",
        metavar="PART",
        nargs="+",
        help=f"of {', '.join(PARTS)}",
    )
    made.add_argument(
        "--lr-range", metavar=("LOW", "HIGH"), nargs=2, help="learning rates, where nothing else is tied to them"
    )
    made.add_argument("--plot", metavar="PATH", help="draw error against rate, as .png, .pdf or .svg")
    made.add_argument("--jobs", metavar="N", help="certificates at a time (default: one a core)")
    return made


def check(options: argparse.Namespace) -> None:
    """Check what the command line says, before torch is imported.

    Raises:
        UserError: an option has a value that is not allowed, or is not for what is asked.
    """
    if any("." in name for name in options.optimizer or ()):
        _check_paths(options)
        return
    if options.set is not None:
        raise UserError("--set: is for classes by their import path; add --optimizer, like torch.optim.Adam")
    for option, names, known, what in (
        ("--only", options.only, PARTS, "must be one of"),
        ("--optimizer", options.optimizer, WITH_RULE, "no certificate for it; choose among"),
    ):
        for name in names or ():
            if name not in known:
                raise UserError(f"{option} {name}: {what} {', '.join(known)}{did_you_mean(name, known)}")
    if options.only is not None and options.optimizer is not None:
        raise UserError("--only and --optimizer: give one of them; --optimizer runs certificates alone")
    if options.lr_range is not None:
        _check_rates(options.lr_range)
    if options.plot is not None:
        _check_plot(options.plot)
    if options.jobs is not None and not (options.jobs.isdecimal() and int(options.jobs)):
        raise UserError(f"--jobs {options.jobs}: must be a whole number, at least 1")


def _check_paths(options: argparse.Namespace) -> None:
    for name in ("only", "lr_range", "plot", "jobs"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name.replace('_', '-')}: is not for classes by their import path; leave it out")
    for name in options.optimizer:
        if "." not in name:
            raise UserError(f"--optimizer {name}: is no import path; give names of certificates, or paths alone")
    settings = settings_of(options.set or ())
    for name in options.optimizer:
        require_takes(name, settings)


def _check_rates(given: Sequence[str]) -> None:
    text = f"--lr-range {' '.join(given)}"
    try:
        low, high = (float(value) for value in given)
    except ValueError:
        raise UserError(f"{text}: must be two numbers, like 0.001 0.01") from None
    if not SLOWEST <= low < high <= FASTEST:
        raise UserError(f"{text}: must rise, between {SLOWEST:g} and {FASTEST:g}, like 0.001 0.01")


def _check_plot(given: str) -> None:
    """Refuse the path of a picture before the work rather than after it."""
    path = Path(given)
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--plot {given}: must end in .png, .pdf or .svg")
    if path.is_dir() or not is_writable(path.parent):
        raise UserError(f"--plot {given}: cannot be written; choose another place")


if __name__ == "__main__":
    run_as_process(main)
