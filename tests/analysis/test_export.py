import pytest

from ireg.analysis import table
from ireg.analysis.__main__ import main


@pytest.fixture
def sweep(make_run):
    for optimizer, norm in (("sgd", 2.5), ("my_adam", 31000.0)):
        for seed in (0, 1):
            tags = {"test/error": [0.9, 0.3 + 0.02 * seed * (norm > 3)], "ireg/own": [1.0, norm * 1e-7]}
            sweep = make_run(f"{optimizer}-{seed}", tags, {"optimizer.name": optimizer, "seed": seed})
    return sweep


def test_markdown(sweep, capsys):
    assert main([str(sweep), "--table", "markdown"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| setting | seeds | test error | best test error | ireg/own |",
        "|---|---|---|---|---|",
        "| **sgd** | **2** | **30.00, 30.00 %** | **30.00, 30.00 %** | **2.50e-07** |",
        "| my_adam | 2 | 30.00, 32.00 % | 30.00, 32.00 % | 3.10e-03 |",
    ]
    assert not (sweep / "summary.csv").exists()


def test_a_name_with_a_bar_is_one_cell_of_markdown(make_run):
    for name in ("a|b", "c"):
        sweep = make_run(name.replace("|", ""), {"test/error": [0.9, 0.3]}, {"optimizer.name": name})
    head, _, *rows = table(sweep, "markdown").splitlines()
    assert {row.replace(r"\|", "").count("|") for row in rows} == {head.count("|")}
    assert any(r"a\|b" in row for row in rows)


def test_latex(sweep):
    assert table(sweep, "latex").splitlines() == [
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"setting & seeds & test error & best test error & ireg/own \\",
        r"\midrule",
        r"\textbf{sgd} & \textbf{2} & \textbf{30.00, 30.00 \%} & \textbf{30.00, 30.00 \%} & "
        r"\textbf{$2.50\cdot10^{-7}$} \\",
        r"my\_adam & 2 & 30.00, 32.00 \% & 30.00, 32.00 \% & $3.10\cdot10^{-3}$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_another_form_is_refused(sweep):
    with pytest.raises(ValueError, match="form='html': must be one of markdown, latex"):
        table(sweep, "html")
