"""A simulated network between edge and cloud."""

import math
import random

__all__ = ["Link"]

PACKET_BYTES = 1400


class Link:
    """Transfer times over a network of given properties; lost packets are sent again.

    Args:
        bandwidth (float or None): kbit/s, 1000 bits a second; None: any amount at once.
        latency (float): ms, one way.
        loss (float): share of packets that are lost, each on its own, 0 to below 1.
        seed (int): of the losses.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, bandwidth=None, latency=0.0, loss=0.0, seed=0):
        if bandwidth is not None and not bandwidth > 0:
            raise ValueError(f"bandwidth is {bandwidth} kbit/s: it must be above 0")
        if not 0 <= latency < math.inf:
            raise ValueError(f"latency is {latency} ms: it must be a number, and not negative")
        if not 0 <= loss < 1:
            raise ValueError(f"loss is {loss}: it goes from 0 to below 1")
        self.bandwidth = bandwidth
        self.latency = latency
        self.loss = loss
        self._random = random.Random(seed)

    def seconds(self, size):
        """Draws the time that a transfer takes.

        Args:
            size (int): bytes.

        Returns:
            float: from the first byte sent to the last received. Packets of 1400 bytes; each round of
            losses costs a round trip and the lost bytes again.
        """
        total, left = 0.0, size
        while left > 0:
            total += self.latency / 1000
            if self.bandwidth is not None:
                total += 8 * left / (1000 * self.bandwidth)
            packets = -(-left // PACKET_BYTES)
            lost = sum(self._random.random() < self.loss for _ in range(packets))
            left = min(left, lost * PACKET_BYTES)
            if left:
                total += self.latency / 1000  # until the sender knows
        return total
