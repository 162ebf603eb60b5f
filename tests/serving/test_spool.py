"""The spool keeps what it was given until it is told otherwise, whatever happens in between."""

import os
import tempfile
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from d2_featcomp.serving import Spool, make_stream_id
from d2_featcomp.serving.spool import is_stream_id, read_name

NAMES = st.one_of(
    st.sampled_from(["a", "b", "../a", ".", "a/b", "", "photo 1", "_a", "_=", "写真", "x" * 251]),
    st.text(max_size=250),
    st.binary(max_size=250).map(os.fsdecode),  # whatever a file may be called
)
DATA = st.binary(max_size=20)


class SpoolMachine(RuleBasedStateMachine):
    """Against a dict; the folder is opened again, and writers die, at any time."""

    def __init__(self):
        super().__init__()
        self.root = tempfile.TemporaryDirectory()
        self.folder = os.path.join(self.root.name, "spool")
        self.spool = Spool(self.folder)
        self.kept, self.rejected, self.names = {}, {}, {}

    @rule(name=NAMES, data=DATA)
    def add(self, name, data):
        identity = self.spool.add(name, data)
        assert identity == make_stream_id(name, data)
        self.kept[identity] = data
        self.names[identity] = name

    @rule(at=st.integers(0, 9))
    def remove(self, at):
        for identity in list(self.kept)[at : at + 1]:
            self.spool.remove(identity)
            self.spool.remove(identity)  # by another program, too
            del self.kept[identity]

    @rule(at=st.integers(0, 9), reason=st.text(max_size=20))
    def reject(self, at, reason):
        for identity in list(self.kept)[at : at + 1]:
            self.spool.reject(identity, reason)
            self.rejected[identity] = self.kept.pop(identity)

    @rule()
    def requeue(self):
        assert set(self.spool.requeue()) == set(self.rejected)
        self.kept |= self.rejected
        self.rejected = {}

    @rule(name=st.sampled_from(["a.d2fc", "photo.d2fc", f"{'x' * 220}-{'0' * 16}.d2fc", "a.txt"]))
    def somebody_leaves_a_file(self, name):
        with open(os.path.join(self.folder, name), "wb") as file:
            file.write(b"D2FC")

    @rule(name=st.sampled_from([f"photo-{'0' * 16}", "folder"]))
    def somebody_makes_a_folder(self, name):
        os.makedirs(os.path.join(self.folder, f"{name}.d2fc"), exist_ok=True)

    @rule()
    def somebody_leaves_a_name_that_is_not_utf_8(self):
        with open(os.path.join(os.fsencode(self.folder), b"caf\xe9-0123456789abcdef.d2fc"), "wb"):
            pass

    @rule()
    def open_again(self):
        self.spool = Spool(self.folder)

    @rule(name=NAMES, data=DATA)
    def a_writer_dies(self, name, data):
        with open(os.path.join(self.folder, f"{make_stream_id(name, data)}.d2fc.partial"), "wb") as file:
            file.write(data[:5])

    @invariant()
    def all_is_there(self):
        waiting = self.spool.waiting()
        assert sorted(waiting) == sorted(self.kept)
        for identity, data in self.kept.items():
            assert self.spool.read(identity) == data
            assert self.spool.name(identity) == self.names[identity]
            assert len(identity) <= 197 and identity.isascii()
        assert not set(self.spool.strangers()) & {f"{identity}.d2fc" for identity in self.kept}
        for identity, data in self.rejected.items():
            with open(os.path.join(self.folder, "rejected", f"{identity}.d2fc"), "rb") as file:
                assert file.read() == data
        assert os.listdir(self.root.name) == ["spool"]  # no name leads out of the folder

    def teardown(self):
        self.root.cleanup()


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)


@settings(max_examples=300, deadline=None)
@given(names=st.lists(NAMES, min_size=2, max_size=5, unique=True))
def test_each_name_has_an_id_of_its_own(names):
    ids = [make_stream_id(name, b"bytes") for name in names]
    assert len(set(ids)) == len(names) and all(map(is_stream_id, ids))
    for name, identity in zip(names, ids, strict=True):
        if len(identity) < 197:
            assert read_name(identity) == name


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("photo_1.v2-a", "photo_1.v2-a"),  # as ever
        ("写", "_=E5=86=99"),
        ("été", "_=C3=A9t=C3=A9"),
        ("a=b c", "a=3Db=20c"),
        ("-a", "_=2Da"),
        ("_é", "_=5F=C3=A9"),
        ("", "_="),
        ("x" * 180, "x" * 180),
        # SHA-256 of 181 times "x"
        ("x" * 181, "x" * 163 + "-dc31ed5afb940294"),
    ],
)
def test_ids(name, plain):
    # SHA-256 of nothing begins with e3b0c44298fc1c14.
    assert make_stream_id(name, b"") == f"{plain}-e3b0c44298fc1c14"


def test_what_is_no_bitstream_is_told_and_does_not_stand_in_the_way(tmp_path):
    spool = Spool(str(tmp_path))
    identity = spool.add("photo", b"bytes")
    (tmp_path / f"folder-{'0' * 16}.d2fc").mkdir()
    (tmp_path / "photo.d2fc").write_bytes(b"bytes")
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9-0123456789abcdef.d2fc"), "wb"):
        pass
    assert spool.waiting() == [identity]
    assert spool.strangers() == [
        "caf\udce9-0123456789abcdef.d2fc",
        f"folder-{'0' * 16}.d2fc",
        "photo.d2fc",
    ]


def test_many_writers_of_one_bitstream(tmp_path):
    """Programs that share a spool and see the same image."""
    data, errors = bytes(200_000), []

    def add():
        try:
            for _ in range(20):
                spool = Spool(str(tmp_path))
                identity = spool.add("camera0_000001", data)
                assert spool.read(identity) in (data, None)
                spool.waiting()
                spool.remove(identity)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and list(tmp_path.iterdir()) == []
