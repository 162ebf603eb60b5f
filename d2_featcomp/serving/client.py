"""The edge's side of the network: sends bitstreams until they have arrived."""

import random
import time

__all__ = ["CloudClient", "RefusedError"]

# Busy or stopping: another attempt may be answered; a fault of the server's: perhaps; and what is final.
_BUSY = (408, 429, 503)
_FAULT = (500, 502, 504)
_REFUSED = (400, 409, 413)


class RefusedError(ValueError):
    """The server will never take this bitstream: it is damaged, foreign or too large."""


class ServerFaultError(RuntimeError):
    """The server failed with this bitstream, each time that it was sent; others may fare better."""


class CloudClient:
    """Sends bitstreams to a :class:`CloudService` over HTTP.

    Args:
        address (str): HOST:PORT, or a URL.
        timeout (float): seconds to wait for a connection, and for each answer.
        attempts (int): for each bitstream, before it is left for later.
        backoff (float): seconds before the second attempt; doubled each time, up to 30, and varied at
            random so that many clients do not come at once.
        sleep (callable): waits for so many seconds.

    Raises:
        ImportError: the package httpx is not installed.
    """

    def __init__(self, address, *, timeout=30.0, attempts=5, backoff=0.5, sleep=time.sleep):
        try:
            import httpx
        except ImportError as error:
            raise ImportError(
                "sending over a network needs httpx: pip install 'd2_featcomp[edge]'"
            ) from error
        self._httpx = httpx
        url = address if "://" in address else f"http://{address}"
        self._client = httpx.Client(base_url=url, timeout=timeout)
        self._attempts = attempts
        self._backoff = backoff
        self._sleep = sleep
        self._random = random.Random()

    def send(self, identity, data):
        """Sends one bitstream; the same one sent again is not computed again.

        Args:
            identity (str): of :func:`stream_id`.
            data (bytes): the bitstream.

        Returns:
            (dict, float) or None: the result, as :func:`result_of` gives, and the seconds that the cloud
            half took; None if the server was not reached or stayed busy.

        Raises:
            RefusedError, ServerFaultError: see there. ValueError: what answers at this address is no
            such server, or something before it wants what this client does not send.
        """
        answer = None
        for attempt in range(self._attempts):
            try:
                answer = self._client.put(f"/v1/bitstreams/{identity}", content=data)
            except self._httpx.TransportError:
                answer = None
            status = answer.status_code if answer is not None else None
            if status == 200:
                return answer.json(), float(answer.headers.get("x-cloud-seconds", "nan"))
            if status in _REFUSED:
                raise RefusedError(f"{status}: {_reason(answer)}")
            if status not in (None, *_BUSY, *_FAULT):
                raise ValueError(
                    f"{self._client.base_url} answers {status} ({_reason(answer)}): is it the address "
                    "of tools/cloud.py --serve?"
                )
            if attempt + 1 < self._attempts:
                wait = min(self._backoff * 2**attempt, 30) * self._random.uniform(0.5, 1.5)
                self._sleep(max(wait, _asked_wait(answer)))
        if answer is not None and answer.status_code in _FAULT:
            raise ServerFaultError(f"{answer.status_code}: {_reason(answer)}")
        return None

    def close(self):
        self._client.close()


def _asked_wait(answer):
    """Seconds that a busy server asked to wait."""
    try:
        return min(float(answer.headers["retry-after"]), 30.0)
    except (AttributeError, KeyError, ValueError):
        return 0.0


def _reason(answer):
    try:
        return answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
