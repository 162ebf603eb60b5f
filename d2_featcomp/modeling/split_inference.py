"""The two halves of a network that was cut, one for the edge and one for the cloud; and training."""

import hashlib
from dataclasses import dataclass
from functools import partial

import torch
from detectron2.structures import ImageList
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..codecs import (
    BitstreamError,
    FeatureBitstream,
    ImageSizes,
    compress_stream,
    decompress_stream,
    describe_stream,
    stream_step_sizes,
)
from ..codecs.bitstream import FINGERPRINT_BYTES
from .fusion import CompiledEdge, fused_copies, with_modules

__all__ = ["EdgeFeatures", "SplitInference"]


@dataclass(frozen=True)
class EdgeFeatures:
    """What the edge half computes of one image.

    Attributes:
        tensors (list[Tensor]): to quantize and send, each (C', H', W') float.
        sizes (ImageSizes): of the image.
        elements (int): of the features at the cut, before any reduction.
    """

    tensors: list
    sizes: ImageSizes
    elements: int


class SplitInference:
    """What :func:`split_network` adds to a network's class.

    Attributes:
        feature_split (FeatureSplit): reduces and restores the features at the cut.
        feature_codec (FeatureCodec): codes what the edge half sends.
    """

    def _install(self, loss, freeze_task_network, compressibility):
        self._training_loss = loss
        self._task_network_frozen = freeze_task_network
        self._compressibility = compressibility
        self._cut_losses = {}
        self._fingerprint_cache = None
        self._given_fingerprint = None
        self._half = None  # both
        self._fused = {}  # half -> the network that computes it in this one's place
        self._edge_layout = {"memory_format": torch.preserve_format}
        self._compiled_edge = None
        self.register_load_state_dict_post_hook(_forget_fused)
        # In training the network's own forward runs unchanged; only what comes out of the module at the
        # cut is replaced by what the cloud half would see.
        self.feature_split.cut_module(self.backbone).register_forward_hook(self._cut)
        if freeze_task_network:
            for name, parameter in self.named_parameters():
                if not name.startswith("feature_split."):
                    parameter.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        if mode:
            self._fused = {}
        if mode and self._task_network_frozen:
            for name, module in self.named_modules():
                if isinstance(module, _BatchNorm) and not name.startswith("feature_split."):
                    module.eval()
        return self

    def _apply(self, *args, **kwargs):  # moved to another device, or to another type
        self._fused = {}
        return super()._apply(*args, **kwargs)

    def fuse_for_inference(self, edge_dtype=torch.float32, compile_edge=False):
        """Makes both halves faster: batch norms are multiplied into convolutions, and weights are kept
        with their channels last where that helps. Outputs are equal but for rounding: a symbol on the
        border to the next may change.

        The parameters stay as they are, with their names, beside a fused set for each half: checkpoints
        are loaded and saved as before. Loading other weights, :meth:`train` and moving the network undo
        it; after weights were changed in another way, call it again.

        Args:
            edge_dtype (torch.dtype): of the edge half. torch.bfloat16 is faster still where the
                processor computes in it, and changes symbols: measure what that costs.
            compile_edge (bool): compile the edge half, too, by torch.compile. It needs a C++ compiler,
                and half a minute for each image size and number of images at once: for cameras, not for
                photographs of many sizes.

        Raises:
            RuntimeError: the network is in training mode. ValueError: another dtype.
        """
        if self.training:
            raise RuntimeError("fuse_for_inference needs evaluation mode: call model.eval() first")
        if edge_dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"edge_dtype is {edge_dtype}: give torch.float32 or torch.bfloat16")
        self._fused = {}
        self._fused = fused_copies(self, edge_dtype, compiled=compile_edge)
        if compile_edge:
            edge = self._fused["edge"]
            edge._compiled_edge = CompiledEdge(edge.feature_split, edge.backbone)

    def _cut(self, module, inputs, features):
        if not self.training:
            return features
        restored, sent = self.feature_split.replace(features, inputs[0])
        self._cut_losses = {}
        if self._training_loss != "task":
            loss = self.feature_split.distillation_loss(restored, features)
            self._cut_losses["loss_distill"] = loss
        self._add_compressibility(sent)
        return restored

    def _add_compressibility(self, sent):
        if self._compressibility is not None:
            loss = self._compressibility(sent, self.feature_codec)
            # A network that balances its losses balances this one too; else its weight is fixed.
            weigh = getattr(self, "weigh_losses", self._compressibility.weigh)
            self._cut_losses.update(weigh({"loss_compressibility": loss}))

    def forward(self, batched_inputs):
        """As the network's own `forward`.

        In training: its losses, with the features cut and restored. Otherwise every image is coded
        to bytes and its outputs are computed from those bytes alone.

        Args:
            batched_inputs (list[dict]): as the network takes them.

        Returns:
            dict[str, Tensor] of losses in training, else as :meth:`cloud_inference`.
        """
        if self.training:
            return self._losses(batched_inputs)
        sent = [stream.to_bytes() for stream in self.edge_inference(batched_inputs)]
        return self.cloud_inference([FeatureBitstream.from_bytes(data) for data in sent])

    def _losses(self, batched_inputs):
        if self._training_loss == "distill":  # nothing beyond the features is needed
            self.feature_split.run_to_cut(self.backbone, self.normalized_images(batched_inputs).tensor)
            return self._cut_losses
        # In place, not in a view: what a network remembers of a step, it sets on itself.
        own, others = dict(self._modules), {}
        if self._training_loss == "task":  # which needs no more of the features than what is sent
            quick = partial(self._quick_cut, self.backbone)
            others = self.feature_split.cloud_modules(self)
            others["backbone"] = _BackboneStandIn(self.backbone, quick)
        self._modules.update(others)
        try:
            losses = super().forward(batched_inputs)
        finally:
            self._modules.update(own)
        losses.update(self._cut_losses)
        return losses

    def _quick_cut(self, backbone, images):
        """In training: what the cloud half would see of the backbone's output."""
        split = self.feature_split
        sent = split.quick_reduce(backbone, images)
        if sent is None:
            return backbone(images)
        self._cut_losses = {}
        self._add_compressibility(sent)
        return split.restore(split.stand_in(sent), images.shape[-2:])

    @torch.no_grad()
    def edge_inference(self, batched_inputs):
        """The edge half: images to bitstreams.

        Args:
            batched_inputs (list[dict]): each with "image", (C, H, W) Tensor, and optionally "height"
                and "width", the size in pixels that outputs refer to (default: the image's).

        Returns:
            list[FeatureBitstream]: one for each image. Each is computed at the image's own padded
            size, so that it does not depend on what else is in the batch.

        Raises:
            RuntimeError: the network is in training mode, or was left with its cloud half alone.
            ValueError: the features are not finite.
        """
        return [self.encode(features) for features in self.edge_features(batched_inputs)]

    @torch.no_grad()
    def edge_features(self, batched_inputs):
        """The edge half, without the codec: for coding the same features in several ways.

        Args:
            batched_inputs (list[dict]): as :meth:`edge_inference` takes them.

        Returns:
            list[EdgeFeatures]: one for each image.

        Raises:
            RuntimeError: the network is in training mode.
        """
        self._require_ready("edge")
        network = self._fused.get("edge", self)
        return [network._run_edge([record])[0] for record in batched_inputs]

    @torch.no_grad()
    def edge_features_of_batch(self, batched_inputs):
        """The edge half, without the codec, for several images at once: what a GPU needs to be busy.

        Args:
            batched_inputs (list[dict]): as :meth:`edge_inference` takes them; all of one size.

        Returns:
            list[EdgeFeatures]: one for each image: equal, up to the rounding of floating-point sums, to
            what :meth:`edge_features` returns. So a symbol may depend on what else is in the batch.

        Raises:
            RuntimeError: the network is in training mode.
            ValueError: the images' sizes differ.
        """
        self._require_ready("edge")
        sizes = {tuple(record["image"].shape) for record in batched_inputs}
        if len(sizes) > 1:
            raise ValueError(f"images of sizes {sorted(sizes)} cannot be computed at once")
        return self._fused.get("edge", self)._run_edge(batched_inputs) if batched_inputs else []

    def _run_edge(self, records):
        if self.feature_split.sends_image:
            images = torch.stack([record["image"].float() for record in records])
            padded = resized = tuple(images.shape[-2:])
            tensors = self.feature_split.reduce({"image": images})
            elements = images[0].numel()
        else:
            images = self.normalized_images(records)
            padded, resized = tuple(images.tensor.shape[-2:]), tuple(images.image_sizes[0])
            batch = images.tensor.to(**self._edge_layout)
            if self._compiled_edge is not None:
                tensors, elements = self._compiled_edge(batch)
            else:
                tensors, elements = self.feature_split.edge(self.backbone, batch)
        tensors = [z.float() for z in tensors]
        return [
            EdgeFeatures(
                tensors=[z[index].clone() if len(records) > 1 else z[index] for z in tensors],
                sizes=ImageSizes(
                    padded=padded,
                    resized=resized,
                    original=(record.get("height", resized[0]), record.get("width", resized[1])),
                ),
                elements=elements,
            )
            for index, record in enumerate(records)
        ]

    @torch.no_grad()
    def encode(self, features, feature_codec=None):
        """Codes what the edge half computed.

        Args:
            features (EdgeFeatures): of this network.
            feature_codec (FeatureCodec or None): in place of the network's own.

        Returns:
            FeatureBitstream

        Raises:
            ValueError: the features are not finite.
        """
        return compress_stream(
            features.tensors,
            feature_codec or self.feature_codec,
            split=self.feature_split.name,
            fingerprint=self.fingerprint(),
            sizes=features.sizes,
            feature_elements=features.elements,
        )

    @torch.no_grad()
    def cloud_inference(self, bitstreams):
        """The cloud half: bitstreams, and nothing else, to outputs.

        Args:
            bitstreams (list[FeatureBitstream]): of this model's edge half.

        Returns:
            list[dict]: for each, what the network returns for an image in evaluation mode, and
            "bitstream", the :class:`FeatureBitstream` that it was computed from.

        Raises:
            RuntimeError: the network is in training mode, or was left with its edge half alone.
            BitstreamError: another model wrote it, it does not fit this one, or its payload is damaged.
        """
        self._require_ready("cloud")
        streams = [self.described(stream) for stream in bitstreams]
        return [
            {**self.outputs_of(self.decode(stream), stream), "bitstream": stream} for stream in streams
        ]

    def described(self, stream, feature_codec=None):
        """Returns a bitstream with its description; BitstreamError if another model wrote it."""
        codec = feature_codec or self.feature_codec
        if stream.version == 2 and stream.description is None:
            padded = stream.sizes.padded
            stream = stream.described(
                describe_stream(
                    codec,
                    split=self.feature_split.name,
                    shapes=self.feature_split.reduced_shapes(padded),
                    feature_elements=self._feature_elements(padded),
                )
            )
        self._require_own(stream)
        return stream

    def _feature_elements(self, padded):
        split = self.feature_split
        if split.sends_image:
            return 3 * padded[0] * padded[1]
        if hasattr(split, "layer"):
            return split.layer.out_channels * (padded[0] // split.stride) * (padded[1] // split.stride)
        levels = self.backbone.output_shape().values()
        return sum(
            level.channels * -(-padded[0] // level.stride) * -(-padded[1] // level.stride)
            for level in levels
        )

    @torch.no_grad()
    def decode(self, stream, feature_codec=None):
        """The first part of the cloud half: checks a bitstream and decodes its payload.

        Args:
            stream (FeatureBitstream): of this model's edge half.

        Returns:
            list[Tensor]: what was sent, each (C', H', W') float32 on the model's device.

        Raises:
            BitstreamError: as :meth:`cloud_inference`.
        """
        codec = feature_codec or self.feature_codec
        return decompress_stream(self.described(stream, codec), codec, device=self.pixel_mean.device)

    def outputs_of(self, tensors, stream, feature_codec=None):
        """The rest of the cloud half, for one image.

        Args:
            tensors (list[Tensor]): from :meth:`decode`.
            stream (FeatureBitstream): that they were decoded from; its payload is not read.

        Returns:
            dict: what the network returns for an image in evaluation mode.
        """
        return self.outputs_of_batch([tensors], [stream], feature_codec)[0]

    @torch.no_grad()
    def outputs_of_batch(self, batch, streams, feature_codec=None):
        """The rest of the cloud half, for several images at once.

        Args:
            batch (list[list[Tensor]]): of each image what :meth:`decode` returned.
            streams (list[FeatureBitstream]): that they were decoded from; all of one padded size.

        Returns:
            list[dict]: of each image what the network returns in evaluation mode: equal, up to the
            rounding of floating-point sums, to what :meth:`outputs_of` returns.

        Raises:
            ValueError: the padded sizes differ.
        """
        if not streams:
            return []
        sizes = {stream.sizes.padded for stream in streams}
        if len(sizes) != 1:
            raise ValueError(f"images of padded sizes {sorted(sizes)} cannot be computed at once")
        codec = feature_codec or self.feature_codec
        streams = [self.described(stream, codec) for stream in streams]
        return self._fused.get("cloud", self)._run_cloud(batch, streams, *sizes, codec)

    def _run_cloud(self, batch, streams, padded, codec):
        device = self.pixel_mean.device
        received = [torch.stack(tensors) for tensors in zip(*batch, strict=True)]
        if self.feature_split.sends_image:
            images = self.feature_split.restore(received, padded)["image"]
            cloud = self
        else:
            every = [stream_step_sizes(stream, codec, device=device) for stream in streams]
            steps = [torch.stack(tensors) for tensors in zip(*every, strict=True)]
            features = self.feature_split.cloud(self.backbone, received, padded, steps)
            # The network's own code wants images, for their sizes only.
            nothing = torch.zeros((), device=device)
            images = [nothing.expand(len(self.pixel_mean), *stream.sizes.resized) for stream in streams]
            modules = self.feature_split.cloud_modules(self)
            received = _BackboneStandIn(self.backbone, lambda images: features)
            cloud = with_modules(self, backbone=received, **modules)
        return super(SplitInference, cloud).forward(
            [
                {"image": image, "height": stream.sizes.original[0], "width": stream.sizes.original[1]}
                for image, stream in zip(images, streams, strict=True)
            ]
        )

    def _require_ready(self, half):
        if self.training:
            raise RuntimeError(f"{half}_inference needs evaluation mode: call model.eval() first")
        if self._half not in (None, half):
            raise RuntimeError(
                f"this network holds the weights of its {self._half} half only: it cannot run "
                f"{half}_inference"
            )

    def _require_own(self, stream):
        if stream.split != self.feature_split.name:
            raise BitstreamError(
                f"this bitstream was written by feature split {stream.split!r}, but this model has "
                f"{self.feature_split.name!r}"
            )
        if stream.fingerprint != self.fingerprint():
            raise BitstreamError(
                f"this bitstream was written by another model (fingerprint "
                f"{stream.fingerprint.hex()}, here {self.fingerprint().hex()}): load the same "
                "weights on the edge and in the cloud"
            )
        shapes = self.feature_split.reduced_shapes(stream.sizes.padded)
        found = list(stream.description.shapes)
        if (
            len(stream.tensors) != len(shapes)
            or found != [tuple(shape) for shape in shapes]
            or any(
                inner > outer
                for inner, outer in zip(stream.sizes.resized, stream.sizes.padded, strict=True)
            )
        ):
            raise BitstreamError(
                f"this bitstream holds tensors of shapes {found} for image sizes {stream.sizes}; this "
                f"model expects {shapes}"
            )

    def fingerprint(self):
        """Tells the weights of the edge half: equal for equal weights, on any device.

        Returns:
            bytes: 4, that every bitstream of this model carries.
        """
        if self._given_fingerprint is not None:
            return self._given_fingerprint
        tensors = [
            (name, tensor)
            for name, tensor in self.feature_split.edge_state(self.backbone)
            if not name.endswith("num_batches_tracked")
        ]
        # In-place changes raise a tensor's version, loading other tensors changes its address.
        state = tuple((tensor.data_ptr(), _version(tensor)) for _, tensor in tensors)
        if self._fingerprint_cache is None or self._fingerprint_cache[0] != state:
            digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES)
            for name, tensor in tensors:
                digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
            self._fingerprint_cache = state, digest.digest()
        return self._fingerprint_cache[1]

    def keep_half(self, half, fingerprint=None):
        """Gives up the weights that one half does not need, and with them the other half.

        Args:
            half (str): "edge" or "cloud": which one to keep.
            fingerprint (bytes or None): of the edge half's weights, where they were not loaded.

        Returns:
            set[str]: names of the weights that are kept, of the network's state dict.
        """
        kept = self.half_state(half)
        for prefix, module in self.named_modules():
            for values in (module._parameters, module._buffers):
                for name, value in values.items():
                    full = f"{prefix}.{name}" if prefix else name
                    if value is None or full in kept or name in module._non_persistent_buffers_set:
                        continue
                    gone = value.detach().to("meta")
                    values[name] = nn.Parameter(gone, False) if values is module._parameters else gone
        self._given_fingerprint, self._half = fingerprint, half
        self._fused = {}
        return kept

    def half_state(self, half):
        """set[str]: names, in the state dict, of what the half "edge" or "cloud" depends on."""
        split = self.feature_split
        if half == "edge":
            return {name for name, _ in split.edge_state(self.backbone)}
        if half != "cloud":
            raise ValueError(f"unknown half {half!r}: choose edge or cloud")
        heads = {n for n in self.state_dict() if not n.startswith(("backbone.", "feature_split."))}
        return heads | {name for name, _ in split.cloud_state(self.backbone)}

    def normalized_images(self, batched_inputs):
        """list[dict] of images -> ImageList, normalized and padded as the network itself does."""
        preprocess_image = getattr(self, "preprocess_image", None)
        if preprocess_image is not None:
            return preprocess_image(batched_inputs)
        images = [record["image"].to(self.pixel_mean.device) for record in batched_inputs]
        return ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )


class _BackboneStandIn(nn.Module):
    """Stands in the backbone's place: features come from elsewhere, e.g. from a bitstream."""

    def __init__(self, backbone, features_of):
        super().__init__()
        self.size_divisibility = backbone.size_divisibility
        self.padding_constraints = backbone.padding_constraints
        self.features_of = features_of

    def forward(self, images):
        return self.features_of(images)


def _forget_fused(network, incompatible_keys):
    """When other weights are loaded."""
    network._fused = {}


def _version(tensor):
    """Counts in-place changes; a tensor made in inference mode counts none."""
    return -1 if tensor.is_inference() else tensor._version
