"""Tables in Markdown."""

import pytest

from ireg.tables import markdown


def test_rules_below_the_heads():
    assert markdown(["a", "b"], [["1", "2"], ["3", ""]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 |  |\n"
    assert markdown(["a", "b"], [], rule="---") == "| a | b |\n|---|---|\n"
    assert markdown(["a", "b", "c"], [], others=" ---: ") == "| a | b | c |\n| --- | ---: | ---: |\n"


def test_a_row_has_a_cell_for_each_head():
    with pytest.raises(ValueError, match="3 cells: the head has 2"):
        markdown(["a", "b"], [["1", "2"], ["1", "2", "3"]])
