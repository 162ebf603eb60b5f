"""Two stages at once: the next image is in the network while this one is coded and sent."""

import queue
import threading

__all__ = ["run_ahead"]

_END = object()


def run_ahead(iterable, count):
    """Iterates in a thread of its own, ahead of who takes the items.

    Args:
        iterable (iterable): closed, if it can be, when the caller stops early.
        count (int): items that are ready at most, beside the one that is being made; 0 uses no thread.

    Yields:
        the items, in order. What the iterable raises is raised here, after the items before it.
    """
    if count < 1:
        yield from iterable
        return
    ready = queue.Queue(maxsize=count)
    stopped = threading.Event()

    def put(item):
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work():
        iterator = iter(iterable)
        try:
            for item in iterator:
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as error:  # told to who takes the items
            put((_END, error))
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
