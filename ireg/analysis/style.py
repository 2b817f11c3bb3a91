"""How the report looks, and the script that sorts its tables."""

import textwrap

STYLE = textwrap.dedent("""
    :root { color-scheme: light dark; --ink: #1d1d1f; --paper: #fff; --line: #d5d5da; --pale: #63636b }
    @media (prefers-color-scheme: dark) {
      :root { --ink: #e8e8ea; --paper: #17181b; --line: #3a3b40; --pale: #a3a3ad }
    }
    * { box-sizing: border-box }
    body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
    main { max-width: 72rem; margin: 0 auto; padding: 1rem } p, figcaption { max-width: 46rem }
    h1, h2 { line-height: 1.2; overflow-wrap: anywhere } h2 { margin-top: 2.2rem; font-size: 1.2rem }
    h3 { margin: 0 0 .4rem; font-size: 1rem } a { color: inherit } code { overflow-wrap: anywhere; font-size: .86rem }
    .question { font-size: 1.15rem; margin-top: 0 }
    .facts { display: grid; grid-template-columns: auto 1fr; gap: .1rem 1rem; margin: 0 } dd { margin: 0 }
    dt { color: var(--pale) } dd { overflow-wrap: anywhere }
    nav ul, .legend { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; padding: 0; list-style: none }
    nav { margin-top: 1.2rem; border: solid var(--line); border-width: 1px 0 }
    .best { font-size: 1.1rem } .warnings { color: #b34700 }
    @media (prefers-color-scheme: dark) { .warnings { color: #ffb27a } }
    /* A table that needs more room than the text takes that of the window, and only then is scrolled. */
    .wide { width: max-content; min-width: 100%; max-width: calc(100vw - 2rem); position: relative; left: 50%;
            transform: translateX(-50%); overflow-x: auto; border: 1px solid var(--line); border-radius: 6px }
    table { border-collapse: collapse; width: 100%; font-size: .86rem }
    td, th { padding: .3rem .6rem; text-align: left; vertical-align: top; max-width: 32rem }
    td, th { border-bottom: 1px solid var(--line) }
    tbody tr:last-child td { border-bottom: 0 } tr.first { font-weight: 600 }
    th button { all: unset; cursor: pointer; font-weight: 600 } th button:focus-visible { outline: 2px solid }
    .number { white-space: nowrap; text-align: right; font-variant-numeric: tabular-nums }
    .name { min-width: 8rem; padding-left: 1.7rem; position: relative }
    .dot { position: absolute; left: .6rem; top: .65rem; width: .7em; height: .7em; border-radius: 50% }
    .figures, .panels { display: grid; gap: 1rem }
    .panels { grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)) }
    .figures { row-gap: 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)) }
    figure { margin: 0; min-width: 0 } figure.several { grid-column: 1 / -1 }
    figcaption, .note, .legend { font-size: .86rem }
    .note, .legend { margin: 0 0 .4rem }
    .sample { width: 30px; height: 9px; margin-right: .4rem; vertical-align: middle }
    .panel { width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px }
    .points { fill: transparent } .points circle:hover { fill: #0004 } figcaption { margin-top: .3rem }
    /* White figures turn dark; turning the hues back keeps each optimizer's. */
    @media screen and (prefers-color-scheme: dark) {
      .panel, .sample, .dot { filter: invert(.9) hue-rotate(180deg) }
    }
    @media print { .wide { overflow: visible; border: 0 } figure, tr { break-inside: avoid } }
""")
"""The style sheet: both colour schemes, and windows of any width."""

SCRIPT = textwrap.dedent("""
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
"""A click on a heading sorts the rows by it, a second one in reverse."""
