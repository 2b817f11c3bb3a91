"""Text between marks of a page."""

import pytest

from ireg.analysis.pages import between_marks

PAGE = "# Page\n<!-- a -->\nold\n<!-- /a -->\nbetween\n<!-- b -->\n<!-- /b -->\n"


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    between_marks(page, "a", "new\n")
    assert page.read_text() == PAGE.replace("old\n", "new\n")
    between_marks(page, "b", "both\n")
    assert page.read_text() == PAGE.replace("old\n", "new\n").replace("<!-- b -->\n", "<!-- b -->\nboth\n")


@pytest.mark.parametrize("missing", ["<!-- a -->\n", "<!-- /a -->"])
def test_one_mark_is_not_enough(tmp_path, missing):
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace(missing, ""))
    with pytest.raises(ValueError, match="page.md has no marks <!-- a --> and <!-- /a -->"):
        between_marks(page, "a", "new")
    assert page.read_text() == PAGE.replace(missing, "")
