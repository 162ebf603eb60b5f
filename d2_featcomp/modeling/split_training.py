"""Training of a split network: images to losses."""

from detectron2.utils.events import get_event_storage, has_event_storage

from .acceleration import find_quick_encoder
from .split_backbone import open_call

__all__ = ["SplitTraining"]


class SplitTraining:
    """The part of :class:`SplitNetwork` that computes losses."""

    def compute_task_losses(self, batched_inputs):
        """Computes the network's own losses, each by its weight.

        Args:
            batched_inputs (list[dict]): as the network takes them in training.

        Returns:
            dict[str, Tensor]

        Raises:
            ValueError: the network has no loss of a name that has a weight.
        """
        losses = dict(self.network(batched_inputs))
        for name, weight in self._loss_weights.items():
            if name not in losses:
                raise ValueError(
                    f"MODEL.FEATCOMP.LOSS_WEIGHTS names {name!r}, which is no loss of the task network; "
                    f"it has {', '.join(sorted(losses))}"
                )
            losses[name] = losses[name] * weight
        return losses

    def _training_losses(self, batched_inputs):
        whole = self._loss != "distill"  # else nothing beyond the features is needed
        quick = find_quick_encoder(self.network.backbone) if self._accelerates_training else None
        with open_call(
            distill=self._loss != "task",
            channel_weights=self.channel_weights,
            tail=whole,
            encode=quick,
        ) as call:
            if whole:
                losses = self.compute_task_losses(batched_inputs)
            else:
                self.network.backbone(self.normalized_images(batched_inputs).tensor)
                losses = {}
        losses.update(call.losses)
        if self.feature_codec.estimated_bytes is not None and has_event_storage():
            get_event_storage().put_scalar("bytes_per_image", self.feature_codec.estimated_bytes)
        for name, rate in call.rates.items():
            losses.update(self._weighted(name, rate))
        return losses

    def _weighted(self, name, rate):
        weight_losses = getattr(self.network, "weight_losses", None)
        if weight_losses is None:
            weight_losses = getattr(self.network, "weigh_losses", None)  # earlier name
        if name == "compressibility" and weight_losses is not None:
            return weight_losses({f"loss_{name}": rate})
        return {f"loss_{name}": self.rate_weights.get(name, 1.0) * rate}
