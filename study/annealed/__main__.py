"""`python -m study.annealed mnist10k_30`: run and record a setting of the second study."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ireg.system.command import framed, run_as_process
from ireg.system.errors import UserError
from study.annealed.claims import families_in
from study.annealed.language_tables import write_language
from study.annealed.pages import write_page
from study.annealed.plan import SETTINGS, add_jobs, add_optimizers, add_places, optimizers_of, require_optimizers
from study.annealed.sizes import write_sizes
from study.annealed.trials import finish, tuned


@framed
def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is not yet recorded of a setting."""
    parser = argparse.ArgumentParser(
        prog="python -m study.annealed",
        description="Tune each optimizer of SETTING in sequence, and do its final runs. Runs that stand in the files "
        "of --data are not done again; others are continued in --sweeps. lion needs the extra optimizers.",
    )
    known = ", ".join(SETTINGS)
    parser.add_argument("settings", metavar="SETTING", nargs="*", help=f"one or several of {known}")
    what = "then write the pages' tables, figures and comparisons in FOLDER, from its data"
    parser.add_argument("--page", metavar="FOLDER", type=Path, help=what)
    add_optimizers(parser)
    add_places(parser)
    add_jobs(parser)
    given = parser.parse_args(arguments)
    require_optimizers(given.optimizer or ())
    for setting, optimizers in {setting: optimizers_of(setting) for setting in given.settings}.items():
        for optimizer in (name for name in optimizers if name in (given.optimizer or optimizers)):
            best = tuned(setting, optimizer, given.data, given.sweeps, given.jobs)
            print(f"{setting}: {best}", flush=True)
            finish(setting, best, given.data, given.sweeps, given.jobs)
    if given.page is not None:
        if next(families_in(given.page / "data"), None) is None:
            raise UserError(f"{given.page}: its data holds no final runs; do a setting first")
        for path in (*write_page(given.page), *write_sizes(given.page), *write_language(given.page)):
            print(f"written: {path}")
    return 0


if __name__ == "__main__":
    run_as_process(main)
