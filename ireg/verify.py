"""The command `python -m ireg.verify`, see `ireg.certify.command`."""

import argparse
from collections.abc import Sequence

from ireg.system.command import Parser, framed, run_as_process


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    It is 0 if all certificates pass, all logged values are right, the edges and identities hold, and all derivatives of
    the networks are right, 1 if not.
    """
    options = parser().parse_args(arguments)
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
        help="of certificates, logged, edges, identities, penalties, drawings, norms, networks",
    )
    made.add_argument(
        "--lr-range", metavar=("LOW", "HIGH"), nargs=2, help="learning rates, where nothing else is tied to them"
    )
    made.add_argument("--plot", metavar="PATH", help="draw error against rate, as .png, .pdf or .svg")
    made.add_argument("--jobs", metavar="N", help="certificates at a time (default: one a core)")
    return made


if __name__ == "__main__":
    run_as_process(main)
