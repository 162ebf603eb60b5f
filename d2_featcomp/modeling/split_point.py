"""Split points: where a network is split into an edge and a cloud sub-model.

A split point parts a backbone into a head, which the edge computes, and a tail, which the cloud
computes. Between the two lie the features that a :class:`FeatureSplit` reduces and restores.
"""

import abc

from detectron2.layers import ShapeSpec

from .conv_layer import ConvLayer
from .trunks import find_trunk

__all__ = [
    "AfterBackbone",
    "AfterStage",
    "BeforeNetwork",
    "InsideLayer",
    "SplitPoint",
    "build_split_point",
    "list_split_points",
]

BACKBONE, IMAGE, LAYER = "backbone", "image", "layer"


class SplitPoint(abc.ABC):
    """A point at which a network is split.

    Attributes:
        name (str): as `MODEL.FEATCOMP.SPLIT_POINT` names it.
        trains_head (bool): whether training changes the features at the split point.
        identity_split (str): name of the feature split that codes all features at such a point as they
            are, to compare with.

    Args:
        backbone (Backbone): to be split; its weights stay where they are.
    """

    name = ""
    trains_head = True
    identity_split = "PyramidSplit"

    def __init__(self, backbone):
        self.backbone = backbone

    @abc.abstractmethod
    def head(self, images):
        """Computes the part of the backbone before the split point.

        Args:
            images (Tensor): (N, C, h, w) float, as the backbone takes them.

        Returns:
            dict[str, Tensor]: all features that the tail reads, each (N, C, H, W) float.
        """

    @abc.abstractmethod
    def tail(self, features):
        """Computes the rest of the backbone.

        Args:
            features (dict[str, Tensor]): as :meth:`head` returns.

        Returns:
            dict[str, Tensor]: as the backbone returns.
        """

    @abc.abstractmethod
    def feature_shapes(self, image_size):
        """Computes the shapes of the features.

        Args:
            image_size ((int, int)): height and width, in pixels, of a padded image.

        Returns:
            dict[str, (int, int, int)]: C, H, W of each feature of :meth:`head`.
        """

    def count_elements(self, image_size):
        """Returns int: elements of the features of one image, before any reduction."""
        shapes = self.feature_shapes(image_size).values()
        return sum(channels * height * width for channels, height, width in shapes)

    def feature_source(self):
        """Returns what a feature split is built for: an object with `output_shape()`."""
        return self.backbone


class AfterBackbone(SplitPoint):
    """After the whole backbone: the cloud computes the heads alone."""

    name = BACKBONE

    def head(self, images):
        return self.backbone(images)

    def tail(self, features):
        return features

    def feature_shapes(self, image_size):
        return _level_shapes(self.backbone.output_shape(), image_size)


class BeforeNetwork(SplitPoint):
    """Before the network: the image itself is coded, as it is before normalization and padding, and the
    cloud computes everything."""

    name = IMAGE
    trains_head = False

    def head(self, images):
        return {IMAGE: images}

    def tail(self, features):
        return self.backbone(features[IMAGE])

    def feature_shapes(self, image_size):
        return {IMAGE: (3, *image_size)}


class InsideLayer(SplitPoint):
    """Inside a convolutional layer of a Darknet: after its batch norm (feature "z", BaF sec. 3), or
    after its activation ("y").

    Args:
        backbone (Darknet): see :class:`ConvLayer`.
        number (int): of the layer, in Darknet's numbering.
        activated (bool): whether the activation is computed on the edge.
    """

    trains_head = False
    identity_split = "IntermediateLayerSplit"

    def __init__(self, backbone, number, activated):
        super().__init__(backbone)
        self.layer = ConvLayer(backbone, number)
        self.name = f"{LAYER}{number}"
        self.activated = activated
        self.stride = backbone.find_stride(number)

    def head(self, images):
        x = self.backbone.compute_input(self.layer.number, images)
        if not self.activated:
            return {"z": self.layer(x)}
        # In training with the batch's own statistics, where the layer is trained.
        trained = self.backbone.training
        return {"y": self.layer.conv(x) if trained else self.layer.activate(self.layer(x))}

    def tail(self, features):
        y = features["y"] if self.activated else self.layer.activate(features["z"])
        return self.backbone.resume(self.layer.number, y)

    def feature_shapes(self, image_size):
        return _level_shapes(self.output_shape(), image_size)

    def output_shape(self):
        """Returns dict[str, ShapeSpec]: channels and stride of the feature."""
        shape = ShapeSpec(channels=self.layer.out_channels, stride=self.stride)
        return {"y" if self.activated else "z": shape}

    def feature_source(self):
        return self


class AfterStage(SplitPoint):
    """After a named stage inside a backbone, e.g. "res3" of a ResNet, alone or below an FPN.

    The features are the stage's output and those of earlier stages that the tail still reads, e.g.
    "res2" below an FPN.

    Args:
        backbone (Backbone): of a kind that :func:`find_trunk` knows.
        stage (str): one of its stages.

    Raises:
        ValueError: it has no such stage.
    """

    identity_split = "IntermediateLayerSplit"

    def __init__(self, backbone, stage):
        super().__init__(backbone)
        self._trunk = find_trunk(backbone)
        stages = [] if self._trunk is None else list(self._trunk.stage_shapes())
        if stage not in stages:
            raise ValueError(_no_such_point(stage, backbone))
        self.name = stage
        position = stages.index(stage) + 1
        self._before, self._after = stages[:position], stages[position:]
        read = self._trunk.outputs()
        self._names = [name for name in self._before if name in read or name == stage]

    def head(self, images):
        found = self._trunk.run(images, None, self._before)
        return {name: found[name] for name in self._names}

    def tail(self, features):
        found = dict(features)
        if self._after:
            found.update(self._trunk.run(features[self.name], self.name, self._after))
        return self._trunk.finish({name: found[name] for name in self._trunk.outputs()})

    def feature_shapes(self, image_size):
        return _level_shapes(self.output_shape(), image_size)

    def output_shape(self):
        """Returns dict[str, ShapeSpec]: channels and strides of the features."""
        shapes = self._trunk.stage_shapes()
        return {name: shapes[name] for name in self._names}

    def feature_source(self):
        return self


def _level_shapes(shapes, image_size):
    return {
        name: (shape.channels, *(-(-side // shape.stride) for side in image_size))
        for name, shape in shapes.items()
    }


def list_split_points(backbone):
    """Names the places inside and after a backbone at which it can be split.

    Args:
        backbone (Backbone): any.

    Returns:
        list[str]: from the first to the last, for `MODEL.FEATCOMP.SPLIT_POINT`; "image", before the
        network, is not among them.
    """
    if hasattr(backbone, "list_split_layers"):
        return [*(f"{LAYER}{number}" for number in backbone.list_split_layers()), BACKBONE]
    trunk = find_trunk(backbone)
    return [*([] if trunk is None else trunk.stage_shapes()), BACKBONE]


def build_split_point(name, backbone, *, layer=None, activated=True):
    """Builds a split point of a backbone.

    Args:
        name (str): "backbone", "image", "layer12" or "layer" (its number by `layer`), or a stage's name,
            with or without the name of the module that it is in: "res3", "bottom_up.res3".
        backbone (Backbone): to be split.
        layer (int or None): number of the layer for the name "layer".
        activated (bool): see :class:`InsideLayer`.

    Returns:
        SplitPoint

    Raises:
        ValueError: the backbone cannot be split there; lists where it can be.
    """
    if name == BACKBONE:
        return AfterBackbone(backbone)
    if name == IMAGE:
        return BeforeNetwork(backbone)
    number = name.removeprefix(LAYER).removeprefix("s.") if name.startswith(LAYER) else ""
    if name == LAYER or number.isdigit():
        return InsideLayer(backbone, int(number) if number else layer, activated)
    return AfterStage(backbone, name.rpartition(".")[2])


def _no_such_point(name, backbone):
    places = ", ".join([IMAGE, *list_split_points(backbone)])
    return (
        f"MODEL.FEATCOMP.SPLIT_POINT is {name!r}: this {type(backbone).__name__} can be split at one of "
        f"{places}"
    )
