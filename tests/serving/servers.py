"""Servers in this process, on real sockets, for tests."""

import contextlib
import threading
import time

from d2_featcomp.serving.http_server import build_server


@contextlib.contextmanager
def running(service, tokens=None, tls=None):
    """Runs a server of a service; yields the socket at which it listens. It stops the service, too."""
    server = build_server(lambda: service, "127.0.0.1", 0, tokens, tls)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0]
    finally:
        server.should_exit = True
        thread.join()


def port_of(listening):
    return listening.getsockname()[1]
