import os
import resource
import stat

import pytest

from d2_featcomp.files import prepare_file, remove_partial_files, write_bytes, write_csv, write_text


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
        prepare_file(tmp_path / ("a" * 256))
    with pytest.raises(OSError, match=r"cannot write .*b\.txt"):
        prepare_file(path / "b.txt")
    longest = tmp_path / ("a" * 255)  # what file systems allow
    prepare_file(longest)
    write_text("two", longest)
    assert longest.read_text() == "two"


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


@pytest.fixture
def full_disk():
    """No file can grow beyond 10 000 bytes, which writers see as they see a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, full_disk):
    path = tmp_path / "a.txt"
    write_text("old", path)
    for write in (
        lambda: write_text("x" * 20000, path),
        lambda: write_bytes(bytes(20000), path),
        lambda: write_csv(["head"], [["x" * 20000]], path),
        lambda: write_bytes(bytes(20000), tmp_path / "new.bin"),
    ):
        with pytest.raises(OSError):
            write()
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "old"


def test_errors_name_the_file_and_no_other(tmp_path, full_disk):
    """Of a disk that is full, a folder that is gone, a name that is too long, and one that is taken."""
    (tmp_path / "folder").mkdir()
    for name in ("a.txt", "gone/a.txt", "a" * 256, "folder"):
        with pytest.raises(OSError) as raised:
            write_bytes(bytes(20000 if name == "a.txt" else 2), tmp_path / name)
        assert raised.value.filename == str(tmp_path / name)
        assert str(raised.value).endswith(f": {str(tmp_path / name)!r}")
        with pytest.raises(OSError) as raised:
            prepare_file(tmp_path / "a" / ("a" * 256))
        assert "partial" not in str(raised.value)


def test_what_killed_writers_left_is_removed(tmp_path):
    """A writer is killed in the middle; an hour later, its partial file goes, and nothing else."""
    path = tmp_path / "a.bin"
    writer = os.fork()
    if not writer:
        os.fsync = lambda descriptor: os._exit(9)  # between the writing and the renaming
        write_bytes(b"12345", path)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) == 9
    (left,) = tmp_path.iterdir()
    assert left.read_bytes() == b"12345"
    write_text("a user's", tmp_path / "my.partial")
    os.utime(tmp_path / "my.partial", (0, 0))
    remove_partial_files(tmp_path)
    assert left.exists()  # it might still be written
    hour_ago = left.stat().st_mtime - 3601
    os.utime(left, (hour_ago, hour_ago))
    remove_partial_files(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "my.partial"]


def test_a_file_that_cannot_be_moved_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text("text", tmp_path / "folder")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


@pytest.mark.parametrize("inside", [True, False])
def test_what_was_written_is_on_disk(tmp_path, monkeypatch, inside):
    """The whole content is synchronized before the file gets its name, and then the folder."""
    events = []
    sync, move = os.fsync, os.replace

    def watched_sync(descriptor):
        sync(descriptor)
        about = os.fstat(descriptor)
        folder = stat.S_ISDIR(about.st_mode)
        events.append(("folder", about.st_ino) if folder else ("file", about.st_size))

    def watched_move(source, target):
        move(source, target)
        events.append(("moved", os.fspath(target)))

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_move)
    monkeypatch.chdir(tmp_path)
    path = "a.bin" if inside else str(tmp_path / "a.bin")
    write_bytes(b"12345", path)
    assert events == [("file", 5), ("moved", path), ("folder", tmp_path.stat().st_ino)]
