import os

import pytest

from ireg.system.files import making, open_regular, replacing, write_text


def test_the_file_appears_whole_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with replacing(path) as temporary:
        assert temporary.suffix == ".csv"
        assert temporary.parent == path.parent
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"
    assert os.listdir(path.parent) == ["table.csv"]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_folders_that_were_made_for_nothing_are_gone_and_no_others(tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("old/new/er", "new/er"):
        with pytest.raises(ValueError), making(tmp_path / name):
            raise ValueError
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]
    with pytest.raises(FileExistsError), making(tmp_path / "new" / "er"):
        [(tmp_path / "new" / "kept").mkdir() for _ in range(2)]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", "new", "old"]
    with making(tmp_path / "new" / "er"):
        pass
    assert (tmp_path / "new" / "er").is_dir()


@pytest.mark.parametrize("has_links", [True, False])
def test_the_old_file_is_kept_under_another_name(tmp_path, monkeypatch, has_links):
    """Also where the file system has one name a file."""
    if not has_links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError))
    for text in ("first", "second", "third"):
        with replacing(tmp_path / "a", before=tmp_path / "b") as temporary:
            temporary.write_text(text)
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("third", "second")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_what_becomes_a_link_between_two_looks_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    monkeypatch.setattr("ireg.system.files.below", lambda folder, *names: folder.joinpath(*names))
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(tmp_path / "link", os.O_RDWR)
