"""A network that waits: shared by the tests of the service and of its server."""

import threading


class Gate:
    """Stands before a network, so that a test decides when it begins.

    Args:
        network (nn.Module): does the work.
        fails_first (bool): the first batch of more than one bitstream fails as a whole.

    Attributes:
        open (threading.Event): nothing is decoded until it is set.
        batches (list[list]): padded sizes of the bitstreams of each batch.
    """

    def __init__(self, network, fails_first=False):
        self.network, self.fails_first = network, fails_first
        self.open, self.batches = threading.Event(), []

    def fingerprint(self):
        return self.network.fingerprint()

    def fingerprint_v1(self):
        return self.network.fingerprint_v1()

    def decode(self, stream):
        assert self.open.wait(60)
        return self.network.decode(stream)

    def compute_batch_outputs(self, batch, streams):
        self.batches.append([stream.sizes.padded for stream in streams])
        if self.fails_first and len(self.batches) == 1 and len(streams) > 1:
            raise RuntimeError("too much at once")
        return self.network.compute_batch_outputs(batch, streams)
