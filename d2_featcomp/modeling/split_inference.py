"""Inference with a split network: images to bitstreams, bitstreams to outputs."""

from dataclasses import dataclass

import torch
from detectron2.structures import ImageList

from ..codecs import (
    BitstreamError,
    FeatureBitstream,
    ImageSizes,
    compress_stream,
    decompress_stream,
    describe_stream,
    meet_target,
    read_step_sizes,
)
from .split_backbone import DecodedLatents, find_size_divisibility, open_call
from .split_checks import require_latents

__all__ = ["EdgeFeatures", "SplitInference"]


@dataclass(frozen=True)
class EdgeFeatures:
    """Latents of one image, before they are coded.

    Attributes:
        tensors (list[Tensor]): the latent y, each (C', H', W') float.
        sizes (ImageSizes): of the image.
        elements (int): of the features at the split point, before any reduction.
    """

    tensors: list
    sizes: ImageSizes
    elements: int


class SplitInference:
    """The inference of :class:`SplitNetwork`: images, latents, bitstreams, latents, outputs."""

    @torch.no_grad()
    def edge_inference(self, batched_inputs):
        """Runs the edge sub-model: images to bitstreams.

        Args:
            batched_inputs (list[dict]): each with "image", (C, H, W) Tensor, and optionally "height"
                and "width", the size in pixels that outputs refer to (default: the image's).

        Returns:
            list[FeatureBitstream]: one for each image. Each is computed at the image's own padded
            size, so that it does not depend on what else is in the batch.

        Raises:
            RuntimeError: the network is in training mode, or was left with its cloud sub-model alone.
            ValueError: the features are not finite, or :meth:`edge_features` raises it.
        """
        return [self.encode(features) for features in self.edge_features(batched_inputs)]

    @torch.no_grad()
    def edge_features(self, batched_inputs):
        """Runs the edge sub-model, without the codec: for coding the same features in several ways.

        Args:
            batched_inputs (list[dict]): as :meth:`edge_inference` takes them.

        Returns:
            list[EdgeFeatures]: one for each image.

        Raises:
            RuntimeError: the network is in training mode. ValueError: the backbone's features have other
            sizes than it tells, see :meth:`FeatureSplit.reduced_shapes`.
        """
        self._require_ready("edge")
        _require_list(batched_inputs, dict, "edge_inference", "make_input makes one of a picture")
        return [self._compute_features([record])[0] for record in batched_inputs]

    @torch.no_grad()
    def compute_batch_features(self, batched_inputs):
        """Runs the edge sub-model, without the codec, for several images at once: what a GPU needs to be
        busy.

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
        return self._compute_features(batched_inputs) if batched_inputs else []

    def _compute_features(self, records):
        split_backbone = self.network.backbone
        if self.sends_image:
            images = torch.stack([record["image"].float() for record in records])
            padded = resized = tuple(images.shape[-2:])
            tensors = split_backbone.encode_features(images)
        else:
            images = self.normalized_images(records)
            padded, resized = tuple(images.tensor.shape[-2:]), tuple(images.image_sizes[0])
            tensors = self.accelerated("edge").encode_features(images.tensor)
        elements = split_backbone.split_point.count_elements(padded)
        tensors = [y.float() for y in tensors]
        require_latents(self.feature_split, tensors, padded)
        return [
            EdgeFeatures(
                tensors=[y[index].clone() if len(records) > 1 else y[index] for y in tensors],
                sizes=ImageSizes(
                    padded=padded,
                    resized=resized,
                    original=(record.get("height", resized[0]), record.get("width", resized[1])),
                ),
                elements=elements,
            )
            for index, record in enumerate(records)
        ]

    edge_features_of_batch = compute_batch_features  # earlier name

    @torch.no_grad()
    def encode(self, features, feature_codec=None):
        """Codes what the edge sub-model computed.

        Where the codec has `target_bytes`, the features are coded up to six times, until the bitstream's
        size is within 3 percent of them; where none of these is, the nearest of them is sent.

        Args:
            features (EdgeFeatures): of this network.
            feature_codec (FeatureCodec or None): in place of the network's own; :meth:`decode` needs it
                too, then.

        Returns:
            FeatureBitstream

        Raises:
            ValueError: the features are not finite.
        """
        codec = feature_codec or self.feature_codec
        fingerprint = self.fingerprint(codec)

        def code():
            return compress_stream(
                features.tensors,
                codec,
                split=self.stored_split_name,
                fingerprint=fingerprint,
                sizes=features.sizes,
                feature_elements=features.elements,
            )

        return code() if codec.target_bytes is None else meet_target(codec, code)

    @torch.no_grad()
    def cloud_inference(self, bitstreams):
        """Runs the cloud sub-model: bitstreams, and nothing else, to outputs.

        Args:
            bitstreams (list[FeatureBitstream]): of this model's edge sub-model.

        Returns:
            list[dict]: for each, what the network returns for an image in evaluation mode, and
            "bitstream", the :class:`FeatureBitstream` that it was computed from.

        Raises:
            RuntimeError: the network is in training mode, or was left with its edge sub-model alone.
            BitstreamError: another model wrote it, it does not fit this one, or its payload is damaged.
        """
        self._require_ready("cloud")
        advice = "FeatureBitstream.from_bytes makes one of bytes"
        _require_list(bitstreams, FeatureBitstream, "cloud_inference", advice)
        outputs = []
        for stream in bitstreams:
            stream = self.describe_stream(stream)
            outputs.append({**self.compute_outputs(self.decode(stream), stream), "bitstream": stream})
        return outputs

    def describe_stream(self, stream, feature_codec=None):
        """Checks that a bitstream is of this network's edge, and adds what its bytes leave out.

        Args:
            stream (FeatureBitstream): as it was read from bytes.
            feature_codec (FeatureCodec or None): that it was written with; None is the network's own.

        Returns:
            FeatureBitstream: with its description: codec, bit depth, shapes, feature elements.

        Raises:
            BitstreamError: another model wrote it, or it does not fit this one.
        """
        codec = feature_codec or self.feature_codec
        own = self.fingerprint(codec) if stream.version > 1 else self.fingerprint_v1()
        if stream.fingerprint != own:
            raise BitstreamError(
                f"this bitstream was written by another model (fingerprint "
                f"{stream.fingerprint.hex()}, here {own.hex()}): load the same weights on the "
                "edge and in the cloud, with the same codec and preprocessing"
            )
        sizes = stream.sizes
        if any(inner > outer for inner, outer in zip(sizes.resized, sizes.padded, strict=True)):
            raise BitstreamError(f"this bitstream holds image sizes that do not fit together: {sizes}")
        expected = describe_stream(
            codec,
            split=self.stored_split_name,
            shapes=self.feature_split.reduced_shapes(sizes.padded),
            feature_elements=self.split_point.count_elements(sizes.padded),
        )
        found = stream.description
        if found is not None and (found.split != expected.split or found.shapes != expected.shapes):
            raise BitstreamError(
                f"this bitstream holds tensors of shapes {found.shapes} of feature split "
                f"{found.split!r} for image sizes {sizes}; this model expects {expected.shapes} of "
                f"{expected.split!r}"
            )
        return stream.described(expected) if found is None else stream

    @torch.no_grad()
    def decode(self, stream, feature_codec=None):
        """Runs the first part of the cloud sub-model: checks a bitstream and decodes its payload.

        Args:
            stream (FeatureBitstream): of this model's edge sub-model.
            feature_codec (FeatureCodec or None): that it was written with; None is the network's own.

        Returns:
            list[Tensor]: y_hat, each (C', H', W') float32 on the model's device.

        Raises:
            BitstreamError: as :meth:`cloud_inference`.
        """
        stream = self.describe_stream(stream, feature_codec)
        return decompress_stream(stream, feature_codec or self.feature_codec, device=self.device)

    def compute_outputs(self, tensors, stream, feature_codec=None):
        """Runs the rest of the cloud sub-model, for one image.

        Args:
            tensors (list[Tensor]): from :meth:`decode`.
            stream (FeatureBitstream): that they were decoded from; its payload is not read.
            feature_codec (FeatureCodec or None): as for :meth:`decode`.

        Returns:
            dict: what the network returns for an image in evaluation mode.
        """
        return self.compute_batch_outputs([tensors], [stream], feature_codec)[0]

    @torch.no_grad()
    def compute_batch_outputs(self, batch, streams, feature_codec=None):
        """Runs the rest of the cloud sub-model, for several images at once.

        Args:
            batch (list[list[Tensor]]): of each image what :meth:`decode` returned.
            streams (list[FeatureBitstream]): that they were decoded from; all of one padded size.
            feature_codec (FeatureCodec or None): as for :meth:`decode`.

        Returns:
            list[dict]: of each image what the network returns in evaluation mode: equal, up to the
            rounding of floating-point sums, to what :meth:`compute_outputs` returns.

        Raises:
            ValueError: the padded sizes differ.
        """
        if not streams:
            return []
        sizes = {stream.sizes.padded for stream in streams}
        if len(sizes) != 1:
            raise ValueError(f"images of padded sizes {sorted(sizes)} cannot be computed at once")
        (padded,) = sizes
        codec = feature_codec or self.feature_codec
        y_hats = [torch.stack(tensors) for tensors in zip(*batch, strict=True)]
        if self.sends_image:
            images = self.feature_split.restore(y_hats, padded)["image"]
            decoded = None
        else:
            streams = [self.describe_stream(stream, codec) for stream in streams]
            every = [read_step_sizes(stream, codec, device=self.device) for stream in streams]
            steps = [torch.stack(tensors) for tensors in zip(*every, strict=True)]
            decoded = DecodedLatents(y_hats, steps, padded)
            # The meta-architecture wants images, for their sizes only.
            nothing = torch.zeros((), device=self.device)
            images = [nothing.expand(len(self.pixel_mean), *stream.sizes.resized) for stream in streams]
        records = [
            {"image": image, "height": stream.sizes.original[0], "width": stream.sizes.original[1]}
            for image, stream in zip(images, streams, strict=True)
        ]
        with open_call(decoded=decoded):
            return self.accelerated("cloud")(records)

    outputs_of, outputs_of_batch = compute_outputs, compute_batch_outputs  # earlier names

    def normalized_images(self, batched_inputs):
        """Converts list[dict] of images to an ImageList, normalized and padded as the network itself
        does."""
        preprocess_image = getattr(self.network, "preprocess_image", None)
        if preprocess_image is not None:
            return preprocess_image(batched_inputs)
        images = [record["image"].to(self.device) for record in batched_inputs]
        return ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            find_size_divisibility(self.network),
            padding_constraints=self.backbone.padding_constraints,
        )


def _require_list(given, kind, method, advice):
    """Raises TypeError unless `given` is a list, or tuple, of such objects."""
    found = f"a {type(given).__name__}"
    if isinstance(given, (list, tuple)):
        wrong = [type(each).__name__ for each in given if not isinstance(each, kind)]
        if not wrong:
            return
        found = f"one of {wrong[0]}"
    raise TypeError(f"{method} takes a list of {kind.__name__}, not {found}: {advice}")
