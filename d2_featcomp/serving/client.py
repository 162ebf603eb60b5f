"""The edge's side of the network: sends bitstreams until they have arrived."""

import random
import time

__all__ = ["CloudClient", "RefusedError"]

# What another attempt may mend: no answer, busy, stopping, a broken gateway.
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)


class RefusedError(ValueError):
    """The server will never take this bitstream: it is damaged, foreign or too large."""


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
                "sending over a network needs httpx: pip install 'd2_featcomp[serve]'"
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
            RefusedError: it does not take this bitstream.
        """
        for attempt in range(self._attempts):
            try:
                answer = self._client.put(f"/v1/bitstreams/{identity}", content=data)
            except self._httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 200:
                return answer.json(), float(answer.headers.get("x-cloud-seconds", "nan"))
            if answer is not None and answer.status_code not in _TRY_AGAIN:
                raise RefusedError(f"{answer.status_code}: {_reason(answer)}")
            if attempt + 1 < self._attempts:
                wait = min(self._backoff * 2**attempt, 30) * self._random.uniform(0.5, 1.5)
                self._sleep(max(wait, _asked_wait(answer)))
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
