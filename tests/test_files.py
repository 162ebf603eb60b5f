import pytest

from d2_featcomp.files import prepare_file, write_text


def test_a_file_is_prepared(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    prepare_file(path)
    assert list(path.parent.iterdir()) == []
    write_text("one", path)
    prepare_file(path)
    assert path.read_text() == "one"
    for folder in (path.parent, f"{tmp_path}/other/", ""):
        with pytest.raises(IsADirectoryError, match="is a folder"):
            prepare_file(folder)
    assert not (tmp_path / "other").exists()
    with pytest.raises(OSError, match=r"cannot write .*File name too long"):
        prepare_file(tmp_path / ("a" * 250))
    with pytest.raises(OSError, match=r"cannot write .*b\.txt"):
        prepare_file(path / "b.txt")


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("one", "zwölf\n"):
        write_text(text, path)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_file_stays_when_the_new_one_cannot_be_written(tmp_path):
    path = tmp_path / "a.txt"
    write_text("old", path)
    with pytest.raises(UnicodeEncodeError):
        write_text("new \udc80", path)
    assert path.read_text() == "old"
