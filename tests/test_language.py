"""The language of docs, docstrings, configuration and messages: the field's plain words, in short sentences."""

import statistics

import pytest

from tests.language import FIRST_LINE, NOT_PLAIN, PROSE, SENTENCE, SOURCES, first_lines, other_words, sentences, words


def test_words_are_plain():
    assert len(SOURCES) > 100
    assert other_words() == []


@pytest.mark.parametrize("text", ["the run goes on", "It is TOLD.", "a number of order 1", "in this way"])
def test_other_words_are_seen(text):
    assert NOT_PLAIN.search(text)


def test_docstrings_begin_with_a_short_line():
    lines = [line for path in SOURCES for line in first_lines(path.read_text(encoding="utf-8"))]
    assert len(lines) > 700
    assert [line for line in lines if len(line) > FIRST_LINE] == []


def test_first_lines_are_those_of_modules_classes_and_functions():
    source = '"""Module."""\nclass A:\n    """Class.\n\n    More.\n    """\n    def f(self):\n        """Method."""\n'
    assert first_lines(source) == ["Module.", "Class.", "Method."]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_sentences_are_short(path):
    lengths = [words(sentence) for sentence in sentences(path.read_text(encoding="utf-8"))]
    assert statistics.median(lengths) <= SENTENCE


def test_sentences_are_those_of_the_prose():
    page = (
        "# A title\n\nOne claim\nstands here. Another one: it\nis 0.5 long.\n- an item here\n\n    code is no prose\n"
    )
    assert sentences(page) == ["One claim stands here.", "Another one: it is 0.5 long.", "an item here"]
