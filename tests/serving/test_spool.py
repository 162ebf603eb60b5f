"""The spool keeps what it was given until it is told otherwise, whatever happens in between."""

import os
import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from d2_featcomp.serving import Spool, stream_id

NAMES = st.one_of(st.sampled_from(["a", "b", "../a", ".", "a/b", "", "photo 1"]), st.text(max_size=250))
DATA = st.binary(max_size=20)


class SpoolMachine(RuleBasedStateMachine):
    """Against a dict; the folder is opened again, and writers die, at any time."""

    def __init__(self):
        super().__init__()
        self.root = tempfile.TemporaryDirectory()
        self.folder = os.path.join(self.root.name, "spool")
        self.spool = Spool(self.folder)
        self.kept, self.rejected = {}, {}

    @rule(name=NAMES, data=DATA)
    def add(self, name, data):
        identity = self.spool.add(name, data)
        assert identity == stream_id(name, data)
        self.kept[identity] = data

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
    def open_again(self):
        self.spool = Spool(self.folder)

    @rule(name=NAMES, data=DATA)
    def a_writer_dies(self, name, data):
        with open(os.path.join(self.folder, f"{stream_id(name, data)}.d2fc.partial"), "wb") as file:
            file.write(data[:5])

    @invariant()
    def all_is_there(self):
        waiting = self.spool.waiting()
        assert sorted(waiting) == sorted(self.kept)
        for identity, data in self.kept.items():
            assert self.spool.read(identity) == data
        for identity, data in self.rejected.items():
            with open(os.path.join(self.folder, "rejected", f"{identity}.d2fc"), "rb") as file:
                assert file.read() == data
        assert os.listdir(self.root.name) == ["spool"]  # no name leads out of the folder

    def teardown(self):
        self.root.cleanup()


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
