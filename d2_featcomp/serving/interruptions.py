"""SIGTERM and SIGINT end a program in order: what is written at the end is written."""

import contextlib
import signal
import sys
import threading

__all__ = ["orderly_end"]


@contextlib.contextmanager
def orderly_end():
    """Lets SIGTERM end the program as an interruption does, by SystemExit of 128 + its number.

    An import that either of them stops may end with ImportError, as if a package were broken: that is
    an end by the signal, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = []

    def stop(number, frame):
        received.append(number)
        _end(number)

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's "&" has it ignored
        before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except ImportError:
        if received:
            _end(received[0])
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number):
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
