"""A small network on both sides, its command lines as processes, and its server."""

import contextlib
import functools
import os
import re
import signal
import socket
import ssl
import time
import uuid

import networks
import processes

with contextlib.suppress(ImportError):  # without which the tests that need it are skipped
    import httpx

CONFIG = networks.MSFC
SMALL = {
    **networks.TINY,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "TEST.DETECTIONS_PER_IMAGE": 3,
    "INPUT.MIN_SIZE_TEST": 64,
}
OPTS = networks.listed(SMALL)
IMAGES = 6
CERTIFICATES = ssl.create_default_context()  # no request needs them; each would read them


def arguments(root, tool, *more):
    weights = root / f"{tool}.pth"
    return list(map(str, ("--config-file", CONFIG, "--weights", weights, *more, *OPTS)))


def start(root, tool, *more):
    """The process of a command line; its output goes to files of its own."""
    return processes.start(
        f"tools/{tool}.py", arguments(root, tool, *more), root / f"{tool}-{uuid.uuid4().hex}"
    )


def call(root, tool, *more):
    """(exit status, standard output, standard error) of a command line."""
    return start(root, tool, *more).wait()


class Server:
    """tools/cloud.py --serve as a process, on a port of its own."""

    def __init__(self, root, output, *more, port=None):
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.running = start(root, "cloud", "--serve", self.address, "--output", output, *more)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.running.process.is_alive():
            with contextlib.suppress(httpx.TransportError):
                if self.get("/healthz").json() == {"status": "ok"}:
                    return
            time.sleep(0.05)
        raise AssertionError(f"the server did not start: {self.stop()}")

    def get(self, path):
        return httpx.get(f"http://{self.address}{path}", timeout=30, verify=CERTIFICATES)

    def put(self, identity, data, client=None):
        put = client.put if client else functools.partial(httpx.put, verify=CERTIFICATES)
        return put(f"http://{self.address}/v1/bitstreams/{identity}", content=data, timeout=120)

    def metric(self, name):
        return float(re.search(rf"^d2_featcomp_{name} (.+)$", self.get("/metrics").text, re.M)[1])

    def memory(self):
        """Bytes that the process holds."""
        with open(f"/proc/{self.running.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, how=signal.SIGTERM):
        """What it wrote."""
        if self.running.process.is_alive():
            os.kill(self.running.process.pid, how)
        self.status, told, errors = self.running.wait()
        return told + errors


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
