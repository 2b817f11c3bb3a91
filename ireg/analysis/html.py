"""The report of a sweep: one page that needs nothing else."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ireg.analysis.compare import Comparison, comparisons
from ireg.analysis.equal_fit import cells, equal_fit, sentences
from ireg.analysis.export import shown_columns, to_csv
from ireg.analysis.facts import length
from ireg.analysis.head import head, questions
from ireg.analysis.looks import colour_of
from ireg.analysis.overview import HEADINGS, Row, best_of, rows_of, value_text
from ireg.analysis.style import SCRIPT, STYLE
from ireg.analysis.verdict import verdict
from ireg.catalogue import CATALOGUE, entry
from ireg.runs.find import run_folders
from ireg.runs.readable import read_records

TITLES = {
    "training_error": "Training error",
    "test_error": "Test error",
    "implicit_regularization": "Implicit regularization",
    "parameter_norm": "Norm of the weights",
    "memorization": "Wrong labels",
    "own_regularization": "Each optimizer's own regularizer",
    "mean_flow": "Mean flow",
    "equal_fit": "Equal fit",
    "rates": "Learning rates",
    "sharpness": "Sharpness",
    "traces": "Traces of the Hessian",
    "growth": "Growth of the norm",
}
"""What the figures are called on the page."""

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
        figures: parts of a page by name, see `inline.inline`.
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
    by_folder = read_records(run_folders(content.folder)).statuses
    statuses = list(by_folder.values())
    title = content.folder.resolve().name
    sections = [
        _best(content),
        _settings(rows, content.criterion),
        _at_equal_fit(content),
        _comparisons(comparisons(content.summary, content.criterion), content.criterion),
        _figures(content, statuses),
        _definitions(content.epochs),
        _failures(content.summary),
    ]
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p class=question>{escape(question)}</p>" for question in questions(statuses)),
        _head(head(content.summary, by_folder)),
        _contents("".join(sections), _download(content.summary, title)),
        *sections,
    ]
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)} – ireg</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style></head>\n<body><main>\n" + "\n".join(filter(None, parts)) + "\n</main>\n"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _head(entries: Sequence[tuple[str, str]]) -> str:
    lines = []
    for name, text in entries:
        said = [f"<code>{escape(line)}</code>" for line in text.splitlines()] if name in _TYPED else [escape(text)]
        lines.append(f"<dt>{escape(name)}</dt><dd>{'<br>'.join(said)}</dd>")
    return f"<dl class=facts>{''.join(lines)}</dl>"


def _contents(body: str, download: str) -> str:
    """List the headings of the page, and what can be taken from it."""
    entries = [f'<a href="#{place}">{heading}</a>' for place, heading in _HEADING.findall(body)]
    return f"<nav><ul>{''.join(f'<li>{entry}</li>' for entry in [*entries, download])}</ul></nav>"


def _download(summary: pd.DataFrame, title: str) -> str:
    """Link the table of all runs, which the page holds itself."""
    source = base64.b64encode(to_csv(summary).encode()).decode()
    name = escape(f"{title}_summary.csv")
    return f'<a download="{name}" href="data:text/csv;base64,{source}">summary.csv, a row a run</a>'


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
    return _section("At equal training loss and at the end", _table(head, body), text)


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


def _figures(content: Content, statuses: Sequence[Mapping[str, Any]]) -> str:
    figures = [_figure(name, part.decode(), content, statuses) for name, part in content.figures.items()]
    text = "Point at a curve, and its values are shown."
    return _section("Figures", f"<div class=figures>{''.join(figures)}</div>", text) if figures else ""


def _figure(name: str, part: str, content: Content, statuses: Sequence[Mapping[str, Any]]) -> str:
    data = statuses[0]["config"].get("data", {}).get("name", "") if statuses else ""
    sizes = ", ".join(f"{size:g}" for size in sorted(content.summary["batch_size"].dropna().unique().tolist()))
    seeds = content.summary["seed"].nunique()
    what, long = length(content.summary)
    caption = (
        f"{CAPTIONS.get(name, name)} Data: {data}; batch size: {sizes}; {what}: {long.max():g}; "
        f"{seeds} seed{'s' if seeds > 1 else ''}."
    )
    panels = "several" if part.count('class="panel"') > 1 else "one"
    title = f'<h3 id="{escape(name)}">{escape(TITLES.get(name, name))}</h3>'
    return f"<figure class={panels}>{title}{part}<figcaption>{escape(caption)}</figcaption></figure>\n"


def _definitions(epochs: pd.DataFrame) -> str:
    there = {entry(str(tag)) for tag in epochs if epochs[tag].notna().any()}
    used = [tag for tag in CATALOGUE if tag in there]
    body = [
        f"<tr><td><code>{escape(tag)}</code></td><td>{escape(CATALOGUE[tag].title)}</td>"
        f"<td>{escape(CATALOGUE[tag].formula)}</td><td>{escape(CATALOGUE[tag].validity or 'all')}</td></tr>"
        for tag in used
    ]
    return _section("What the tags mean", _table(["tag", "what", "formula", "valid for"], body))


def _failures(summary: pd.DataFrame) -> str:
    failed = summary[summary["state"] == "failed"]
    lines = [
        f"<li>{escape(str(row.run))}: {escape(' '.join(str(row.error).split()))}</li>" for row in failed.itertuples()
    ]
    return _section("Failures", f"<ul>{''.join(lines)}</ul>") if lines else ""


def _section(title: str, body: str, text: str = "") -> str:
    place = title.lower().replace(" ", "-")
    return f'<h2 id="{escape(place)}">{escape(title)}</h2>' + (f"<p>{escape(text)}</p>" if text else "") + body


def _table(head: Sequence[str], body: Sequence[str]) -> str:
    kinds = re.findall(r"<td( class=\w+)?", body[0]) if body else [""] * len(head)  # a heading stands as its numbers do
    cells = "".join(f"<th{kind}><button>{escape(name)}</button></th>" for name, kind in zip(head, kinds, strict=True))
    return f"<div class=wide><table><thead><tr>{cells}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"


_TYPED = ("command", "commands", "set")
"""Entries of the head that are of the command line."""

_HEADING = re.compile(r'<h[23] id="([^"]+)">(.*?)</h[23]>')
