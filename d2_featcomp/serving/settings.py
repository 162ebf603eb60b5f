"""Settings of a service: how it batches, and what requests and clients may cost."""

import dataclasses

from ..codecs import DecodeLimits

__all__ = ["ServiceSettings"]


@dataclasses.dataclass(frozen=True)
class ServiceSettings:
    """Settings of a service.

    Attributes:
        max_batch (int): bitstreams that the network computes at once, of images of one padded size.
        max_wait (float): seconds for which a bitstream may wait for others to fill its batch.
        queue_size (int): bitstreams that wait; more are answered "busy, retry".
        max_bytes (int): of a request.
        max_receiving (int): bytes of all requests that are being received, and again of all that wait
            or are computed; beyond, "busy, retry".
        max_answer_bytes (int): memory for what the network finds in the images of a batch, at their
            original sizes; a bitstream that alone could need more is refused.
        max_connections (int): beyond, those that ask nothing are closed, the oldest first.
        client_requests (int): bitstreams of one client that are received, wait or are computed; beyond,
            "too many, retry", so that one client cannot fill the queue.
        client_bytes (int): of those bitstreams together.
        client_rate (float or None): bitstreams a second of one client, on average; None: any number.
        header_timeout (float): seconds in which a TLS handshake, and then the head of a connection's
            first request, must have arrived.
        idle_timeout (float): seconds for which a connection is kept for another request.
        receive_timeout (float): seconds in which a request must have arrived.
        answer_timeout (float): seconds after which a request is answered "retry".
        score_threshold (float): instances of a lower score, 0 to 1, are left out of results.
        limits (DecodeLimits): of a bitstream.

    Raises:
        ValueError: one is out of range.
    """

    max_batch: int = 8
    max_wait: float = 0.005
    queue_size: int = 64
    max_bytes: int = 2**24
    max_receiving: int = 2**28
    max_answer_bytes: int = 2**31  # masks of 16.7 megapixels, at 116 bytes a pixel
    max_connections: int = 512
    client_requests: int = 32
    client_bytes: int = 2**27
    client_rate: float | None = None
    header_timeout: float = 10.0
    idle_timeout: float = 30.0
    receive_timeout: float = 30.0
    answer_timeout: float = 60.0
    score_threshold: float = 0.0
    limits: DecodeLimits = dataclasses.field(default_factory=DecodeLimits)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("max_wait", "score_threshold", "limits") or value is None:
                continue
            if not value > 0:
                raise ValueError(f"{field.name} is {value}: it must be above 0")
        if self.max_wait < 0:
            raise ValueError(f"max_wait is {self.max_wait}: it must not be negative")
        if not 0 <= self.score_threshold <= 1:
            raise ValueError(f"score_threshold is {self.score_threshold}: it goes from 0 to 1")
        if self.client_bytes < self.max_bytes:
            raise ValueError(
                f"client_bytes is {self.client_bytes}: it must not be below max_bytes, "
                f"{self.max_bytes}, or a bitstream of that size could never be sent"
            )
