"""What Prometheus reads of a server, in its text format or OpenMetrics."""

from .activity import COUNTED

__all__ = ["Metrics"]

_HISTOGRAMS = {
    "latency_seconds": "Seconds from the arrival of a bitstream until its result was on disk.",
    "cloud_seconds": "Seconds that the cloud sub-model took for the batch of a bitstream.",
    "bitstream_bytes": "Bytes of the bitstreams that were computed.",
    "batch_size": "Bitstreams of the batches that the network computed.",
}
_GAUGES = {
    "queued": "Bitstreams that wait for their batch.",
    "waiting_bytes": "Bytes of the bitstreams that wait or are computed.",
}


class Metrics:
    """Metrics of a service and of its process.

    Args:
        service (CloudService): whose activity is told.
        clients (ClientTable): whose requests are told, by client.

    Raises:
        ImportError: prometheus_client is not installed.
    """

    def __init__(self, service, clients):
        from prometheus_client import CollectorRegistry, ProcessCollector

        self._service = service
        self._clients = clients
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def collect(self):
        """Yields the metrics, as prometheus_client asks for them."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            InfoMetricFamily,
        )

        prefix = "d2_featcomp_"
        activity = self._service.activity
        for name, count in activity.counts().items():
            about = f"{COUNTED[name].capitalize()}."
            yield CounterMetricFamily(f"{prefix}{name}", about, value=count)
        queue = self._service.queue()
        for name, about in _GAUGES.items():
            yield GaugeMetricFamily(f"{prefix}{name}", about, value=queue[name])
        for name, histogram in activity.copy_histograms().items():
            bounds = [*map(str, histogram.bounds), "+Inf"]
            buckets = list(zip(bounds, histogram.cumulative(), strict=True))
            yield HistogramMetricFamily(
                f"{prefix}{name}", _HISTOGRAMS[name], buckets=buckets, sum_value=histogram.total
            )
        about = "Uploads by client and HTTP status of the answer."
        requests = CounterMetricFamily(f"{prefix}requests", about, labels=["client", "code"])
        for (client, code), count in self._clients.codes().items():
            requests.add_metric([client, str(code)], count)
        yield requests
        about = "Bytes of uploads by client."
        sizes = CounterMetricFamily(f"{prefix}client_bytes", about, labels=["client"])
        for client, count in self._clients.bytes().items():
            sizes.add_metric([client], count)
        yield sizes
        told = {name: str(value) for name, value in self._service.about.items()}
        yield InfoMetricFamily(f"{prefix}model", "The model that is served.", value=told)

    def write(self, accept):
        """Writes the metrics.

        Args:
            accept (str): header "Accept" of the request, which chooses the format.

        Returns:
            (bytes, str): the text and its content type.
        """
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
