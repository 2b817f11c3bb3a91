"""The section of `docs/benchmarks.md` that `python -m benchmarks.gpu` writes."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.tables import MISSING, Grid, ratio_text

TITLE = "## On a GPU"
NOT_TESTED = f"""{TITLE}

**NOT TESTED**: no GPU was there. Where there is one, `make gpu` compares CUDA with the CPU, and then writes here what
networks up to 124 M weights cost.
"""


def section_of(page: Path) -> str:
    """Return a page's section of the GPU; where it has none, one that says so."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    return text[text.index(TITLE) :] if TITLE in text else NOT_TESTED


def put(text: str, section: str) -> str:
    """Put the section at the end of a page, in place of the one that is there."""
    return text.partition(TITLE)[0].rstrip() + "\n\n" + section


def section(report: Mapping[str, Any]) -> str:
    """Write the section of a report, as it stands in the file."""
    networks = report["networks"]
    left_out = [
        f"- {name}, {part}: {reason}." for name, found in networks.items() for part, reason in found["left_out"].items()
    ]
    return _SECTION.format(
        title=TITLE,
        device=report["device"],
        torch=report["torch"],
        tests=report["tests"],
        seconds=report["seconds"],
        costs=costs(networks).markdown(),
        methods=methods(networks).markdown(),
        left_out="\n".join(left_out) or "Nothing was left out.",
        sample=report["sample"],
        every=_common(networks, "every"),
        distinct=_common(networks, "distinct"),
    )


def costs(networks: Mapping[str, Mapping[str, Any]]) -> Grid:
    """Tabulate time, memory and overhead by network."""
    columns = ["network", "weights", "batch", "step, ms", "step, MB", "terms, MB", "terms, models", "overhead, %"]
    columns += ["lowest to highest"]
    rows = []
    for name, found in networks.items():
        terms, shares = found["terms_memory"], [100 * share for share in found["overhead"]]
        rows.append(
            [
                name,
                f"{found['weights']:,}",
                str(found["batch"]),
                _scaled(found["step"], 1e3),
                _scaled(found["training_memory"], 1e-6),
                _scaled(terms, 1e-6),
                _scaled(terms, 1 / found["model_memory"]),
                f"{statistics.median(shares):.1f}" if shares else MISSING,
                f"{min(shares):.1f} to {max(shares):.1f}" if shares else MISSING,
            ]
        )
    return Grid("Training and terms by steps", columns, rows)


def methods(networks: Mapping[str, Mapping[str, Any]]) -> Grid:
    """Tabulate a pass of the default terms over a pass of training, by method."""
    names = sorted({method for found in networks.values() for method in found["terms"]})
    rows = [
        [
            name,
            found["auto"],
            *(
                ratio_text(found["terms"][method] / found["step"] if method in found["terms"] else None)
                for method in names
            ),
        ]
        for name, found in networks.items()
    ]
    return Grid("Terms / training by method", ["network", "auto takes", *names], rows)


def _common(networks: Mapping[str, Mapping[str, Any]], key: str) -> str:
    return " or ".join(map(str, sorted({found[key] for found in networks.values()})))


def _scaled(value: float | None, factor: float) -> str:
    return MISSING if value is None else f"{value * factor:.2f}"


_SECTION = """{title}

Every number of this section is from one run of `make gpu`, which took {seconds:.0f} s, on {device}, torch {torch}.
Before it, {tests} compared CUDA with the CPU.

{costs}

AdamW trains in float32, with torch's default precision, on random examples that are on the device. **step** is the
median time of a training step. **MB** are peak bytes of tensors above what is held between steps: of a training step,
and of a measurement of the default terms from {sample} minibatches; **models** are those over the bytes of the weights.
**overhead** is of `every_n_steps={every}, num_batches={sample}`, default terms, over the training alone, in turns.

{methods}

The default terms of {distinct} minibatches by `ireg.measure`, over a training pass of as many. A dash: the method does
not serve the network, or was left out.

Left out:

{left_out}
"""
