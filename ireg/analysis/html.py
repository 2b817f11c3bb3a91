"""The report of a sweep: one page that needs nothing else."""

from __future__ import annotations

import base64
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ireg.analysis.compare import Comparison, comparisons
from ireg.analysis.equal_fit import cells, equal_fit, sentences
from ireg.analysis.export import shown_columns
from ireg.analysis.facts import facts, length
from ireg.analysis.looks import colour_of
from ireg.analysis.overview import HEADINGS, Row, best_of, rows_of, value_text
from ireg.analysis.verdict import verdict
from ireg.catalogue import CATALOGUE, entry
from ireg.runs.find import run_folders
from ireg.runs.readable import read_records

CAPTIONS = {
    "training_error": "Figure 1 of the paper: training error on the observed labels, over the epoch as it ran.",
    "test_error": "Figure 2 of the paper: test error after each epoch.",
    "implicit_regularization": "Figure 3 of the paper: equation 1 for every optimizer, and the term as printed there.",
    "parameter_norm": "Figure 4 of the paper: the norm of all parameters.",
    "memorization": "What became of the training examples with wrong labels, and of the others.",
    "own_regularization": "Each optimizer's own regularizer, beside equation 1.",
    "mean_flow": "Strength and direction of the correction to the optimizer's mean path.",
    "equal_fit": "At equal fit: against training loss in place of epochs.",
    "rates": "Final errors against the learning rate.",
    "sharpness": "The largest eigenvalue of the Hessian, and the fraction of each optimizer's edge of stability.",
    "traces": "The trace of the Hessian, the sum of its diagonal's roots, and adaptive sharpness.",
    "growth": "How the squared norm has grown since the beginning: along the weights, and by diffusion.",
}


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a report is made of.

    Attributes:
        folder: of the sweep.
        summary: of `summary.summarize`.
        epochs: of `load.load`.
        warnings: of the choice of rates.
        criterion: the tag that sorts the settings.
        figures: SVG by name.
    """

    folder: Path
    summary: pd.DataFrame
    epochs: pd.DataFrame
    warnings: Sequence[str]
    criterion: str
    figures: Mapping[str, bytes]


def page(content: Content) -> str:
    """Return the report as HTML, without anything from elsewhere."""
    rows = rows_of(content.summary, content.criterion)
    statuses = list(read_records(run_folders(content.folder)).statuses.values())
    title = content.folder.name
    parts = [
        f"<h1>{escape(title)}</h1>",
        _what(content, statuses),
        _best(content),
        _settings(rows, content.criterion),
        _at_equal_fit(content),
        _comparisons(comparisons(content.summary, content.criterion), content.criterion),
        *(_figure(name, svg, content, statuses) for name, svg in content.figures.items()),
        _definitions(content.epochs),
        _software(statuses),
        _failures(content.summary),
    ]
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)} – ireg</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style></head>\n<body><main>\n" + "\n".join(filter(None, parts)) + "\n</main>\n"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def _what(content: Content, statuses: Sequence[Mapping[str, Any]]) -> str:
    lines = (f"<li>{escape(fact)}</li>" for fact in facts(content.summary, statuses))
    return f"<ul class=facts>{''.join(lines)}</ul>"


def _best(content: Content) -> str:
    lines = [
        f"<p class=best>{escape(line[:1].upper() + line[1:])}</p>"
        for line in verdict(content.summary, content.criterion)
    ]
    if content.warnings:
        lines.append("<ul class=warnings>" + "".join(f"<li>{escape(line)}</li>" for line in content.warnings) + "</ul>")
        lines.append(
            f"<p>{escape(content.criterion)} chose these rates, so its means are optimistic: each is the luckiest of "
            "several. New seeds at the chosen rate had no say in the choice.</p>"
        )
    return "\n".join(lines)


def _settings(rows: Sequence[Row], criterion: str) -> str:
    columns = shown_columns(rows, criterion)
    head = ["setting", "seeds", *(HEADINGS.get(column, column) for column in columns)]
    body = []
    best = best_of(rows, criterion)
    for row in rows:
        values = [row.values[column] for column in columns]
        cells = "".join(
            f'<td class=number data-value="{interval.mean}">{value_text(column, interval)}</td>'
            for column, interval in zip(columns, values, strict=True)
        )
        dot = f'<span class=dot style="background:{colour_of(row.optimizer)}"></span>'
        name = f"<td class=name>{dot}{escape(row.name)}</td>"
        first = " class=first" if row is best else ""
        body.append(f'<tr{first}>{name}<td data-value="{row.states.get("done", 0)}">{row.seeds}</td>{cells}</tr>')
    return _section(
        "Settings",
        _table(head, body),
        "Mean ± half of the 95 % interval over the seeds (Student); of two seeds both values.",
    )


def _at_equal_fit(content: Content) -> str:
    fit = equal_fit(content.epochs, content.summary)
    if fit is None:
        return ""
    head, lines = cells(fit)
    body = [
        f"<tr><td class=name>{escape(place)}</td>{''.join(f'<td class=number>{text}</td>' for text in texts)}</tr>"
        for place, *texts in lines
    ]
    text = (
        "At a training loss: the mean over the passage of it, as far as all runs pass it. At the end: the mean over "
        f"the last five epochs. {'. '.join(line[:1].upper() + line[1:] for line in sentences(fit))}. Differences are "
        "seed by seed, by paired t-tests with Holm's adjustment over all pairs and places."
    )
    return _section("At equal training loss, and at the end", _table(head, body), text)


def _comparisons(comparisons: Sequence[Comparison], criterion: str) -> str:
    if not comparisons:
        return ""
    share = CATALOGUE[criterion].unit == "share" if criterion in CATALOGUE else False
    scale, unit = (100, " points") if share else (1, "")
    body = []
    for comparison in comparisons:
        difference = comparison.difference
        student = difference.student
        mean = f"{scale * student.mean:.3g}{unit}"
        interval = "–" if math.isnan(student.low) else f"{scale * student.low:.3g} to {scale * student.high:.3g}"
        body.append(
            f"<tr><td>{escape(comparison.left)}</td><td>{escape(comparison.right)}</td>"
            f"<td>{difference.count}</td><td class=number data-value={student.mean}>{mean}</td>"
            f"<td class=number>{interval}</td>"
            f"<td class=number data-value={difference.p}>{difference.p:.2g}</td>"
            f"<td class=number data-value={comparison.adjusted}>{comparison.adjusted:.2g}</td></tr>"
        )
    head = ["setting", "less", "seeds", "difference", "95 % (Student)", "p", "p, Holm"]
    text = (
        f"Of {HEADINGS.get(criterion, criterion)}, seed by seed: paired t-test; Holm's adjustment is over this table."
    )
    return _section("Differences between settings", _table(head, body), text)


def _figure(name: str, svg: bytes, content: Content, statuses: Sequence[Mapping[str, Any]]) -> str:
    data = statuses[0]["config"].get("data", {}).get("name", "") if statuses else ""
    sizes = ", ".join(f"{size:g}" for size in sorted(content.summary["batch_size"].dropna().unique().tolist()))
    seeds = content.summary["seed"].nunique()
    what, long = length(content.summary)
    caption = (
        f"{CAPTIONS.get(name, name)} Data: {data}; batch size: {sizes}; {what}: {long.max():g}; "
        f"{seeds} seed{'s' if seeds > 1 else ''}."
    )
    source = base64.b64encode(svg).decode()
    return (
        f'<figure><img alt="{escape(CAPTIONS.get(name, name))}" src="data:image/svg+xml;base64,{source}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _definitions(epochs: pd.DataFrame) -> str:
    there = {entry(str(tag)) for tag in epochs if epochs[tag].notna().any()}
    used = [tag for tag in CATALOGUE if tag in there]
    body = [
        f"<tr><td><code>{escape(tag)}</code></td><td>{escape(CATALOGUE[tag].title)}</td>"
        f"<td>{escape(CATALOGUE[tag].formula)}</td><td>{escape(CATALOGUE[tag].validity or 'all')}</td></tr>"
        for tag in used
    ]
    return _section("What the tags mean", _table(["tag", "what", "formula", "valid for"], body))


def _software(statuses: Sequence[Mapping[str, Any]]) -> str:
    used: dict[str, set[str]] = {}
    for status in statuses:
        for start in status.get("starts", []):
            for name, version in start.get("versions", {}).items():
                used.setdefault(name, set()).add(str(version))
    lines = [f"{name} {', '.join(sorted(of_name))}" for name, of_name in sorted(used.items())]
    return _section("Software", f"<p>{escape('; '.join(lines))}</p>") if lines else ""


def _failures(summary: pd.DataFrame) -> str:
    failed = summary[summary["state"] == "failed"]
    lines = [
        f"<li>{escape(str(row.run))}: {escape(' '.join(str(row.error).split()))}</li>" for row in failed.itertuples()
    ]
    return _section("Failures", f"<ul>{''.join(lines)}</ul>") if lines else ""


def _section(title: str, body: str, text: str = "") -> str:
    return f"<h2>{escape(title)}</h2>" + (f"<p>{escape(text)}</p>" if text else "") + body


def _table(head: Iterable[str], body: Iterable[str]) -> str:
    cells = "".join(f"<th><button>{escape(name)}</button></th>" for name in head)
    return f"<div class=wide><table><thead><tr>{cells}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"


_STYLE = textwrap.dedent("""
    :root { color-scheme: light dark; --ink: #1d1d1f; --paper: #fff; --line: #d5d5da; --soft: #f4f4f6; }
    @media (prefers-color-scheme: dark) {
      :root { --ink: #e8e8ea; --paper: #17181b; --line: #3a3b40; --soft: #222327; }
    }
    * { box-sizing: border-box }
    body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
    main { max-width: 62rem; margin: 0 auto; padding: 1rem }
    h1, h2 { line-height: 1.2; overflow-wrap: anywhere } h2 { margin-top: 2.2rem; font-size: 1.2rem }
    .facts { padding-left: 1.1rem } .best { font-size: 1.1rem } .warnings { color: #b34700 }
    @media (prefers-color-scheme: dark) { .warnings { color: #ffb27a } }
    .wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px }
    table { border-collapse: collapse; width: 100%; font-size: .86rem }
    td, th { padding: .3rem .6rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
    tbody tr:last-child td { border-bottom: 0 } tr.first { font-weight: 600 }
    th button { all: unset; cursor: pointer; font-weight: 600 } th button:focus-visible { outline: 2px solid }
    .number { white-space: nowrap; text-align: right; font-variant-numeric: tabular-nums }
    .name { min-width: 11rem; padding-left: 1.7rem; position: relative }
    .dot { position: absolute; left: .6rem; top: .65rem; width: .7em; height: .7em; border-radius: 50% }
    figure { margin: 2rem 0 } figcaption { font-size: .86rem }
    figure img { width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px }
    /* White figures turn dark; turning the hues back keeps each optimizer's. */
    @media screen and (prefers-color-scheme: dark) {
      figure img, .dot { filter: invert(.9) hue-rotate(180deg) }
    }
    @media print { .wide { overflow: visible; border: 0 } figure, tr { break-inside: avoid } }
""")

_SCRIPT = textwrap.dedent("""
    for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
      const head = button.parentNode, body = head.closest("table").tBodies[0];
      const place = [...head.parentNode.children].indexOf(head), down = head.dataset.down !== "1";
      const key = row => { const cell = row.cells[place], value = parseFloat(cell.dataset.value);
                           return "value" in cell.dataset ? (isNaN(value) ? Infinity : value) : cell.textContent };
      const rows = [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
                                                   return (x < y ? -1 : x > y ? 1 : 0) * (down ? 1 : -1) });
      body.append(...rows); head.dataset.down = down ? "1" : "0";
    });
""")
