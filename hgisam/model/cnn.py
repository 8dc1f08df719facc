"""A convolutional slice classifier, MONAI's ResNet-18: what class activation maps were made for, to compare with."""

import re
from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from hgisam.model.slice_classifier import HeadOptions, SliceClassifier, Watch, linear_head, pooled

N_STAGES = 4
"""Stages of a ResNet; each halves the grid of the one before, and the first has a quarter of the image's side."""

LEAST_PX = 4 << (N_STAGES - 1)
"""Least side of an image: one place in the last stage."""


class CnnOptions(HeadOptions):
    """A ResNet-18 and what its head puts out.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv 1512.03385), by MONAI.
    """

    kind: Literal["resnet18"] = "resnet18"
    """Tells this network from others."""
    in_channels: int = Field(default=2, gt=0, le=64)
    """Channels of the input image."""
    width: int = Field(default=64, gt=0, le=512)
    """Channels of stage 1; each later stage has twice as many as the one before."""

    @property
    def least_parameters(self) -> int:
        """Those of the last stage's four convolutions of 3 x 3, three quarters of all."""
        return 9 * self.width**2 * (4 * 8 + 3 * 8 * 8)


class CnnClassifier(SliceClassifier):
    """Tells how likely each image shows a hemorrhage, by convolutions alone: it has no tokens.

    Args:
        options: width and outputs.
    """

    options: CnnOptions

    def __init__(self, options: CnnOptions | None = None) -> None:
        from monai.networks.nets.resnet import ResNet  # slow to import, and most networks are no CNN

        super().__init__()
        self.options = options or CnnOptions()
        channels = [self.options.width << stage for stage in range(N_STAGES)]
        self.resnet = ResNet(
            block="basic",
            layers=[2] * N_STAGES,
            block_inplanes=channels,
            spatial_dims=2,
            n_input_channels=self.options.in_channels,
            conv1_t_size=7,
            conv1_t_stride=2,
            bias_downsample=False,
            feed_forward=False,
        )
        self.head = linear_head(channels[-1], self.options.outputs)
        self.token_heads = None

    @property
    def n_stages(self) -> int:
        """Number of stages."""
        return N_STAGES

    def layers_above(self, name: str) -> int:
        """How many stages lie between a parameter and the answer: 0 for the head, the first convolution the most.

        Args:
            name: of one of the parameters.
        """
        within = re.match(r"resnet\.layer(\d)\.", name)
        if within:
            return N_STAGES + 1 - int(within[1])
        return 0 if name.startswith("head.") else N_STAGES + 1

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs"]:
        """Logits of each image.

        Args:
            images: values in [0, 1], of at least LEAST_PX a side.

        Raises:
            ValueError: for images with other channels, or too small ones.
        """
        return self.forward_watched(images, _look_away)

    def forward_watched(
        self, images: Float[Tensor, "batch channels height width"], watch: Watch
    ) -> Float[Tensor, "batch outputs"]:
        """The same, with every stage's feature maps passing through `watch`."""
        if images.dim() != 4 or images.shape[1] != self.options.in_channels or min(images.shape[2:]) < LEAST_PX:
            raise ValueError(
                f"expected images [batch, {self.options.in_channels}, height, width] of at least {LEAST_PX} px; "
                f"got {list(images.shape)}"
            )
        net = self.resnet
        features: Tensor = net.maxpool(net.act(net.bn1(net.conv1(images))))
        for stage, layer in enumerate((net.layer1, net.layer2, net.layer3, net.layer4), start=1):
            features = watch(stage, layer(features))
        return pooled(self.head(features.flatten(2).transpose(1, 2)).float(), self.options.pooling)

    def forward_with_tokens(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch outputs"], list[Float[Tensor, "batch _rows _cols"]]]:
        """Always refused: there are no tokens.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"expected a classifier with token heads; got a CNN for {list(images.shape)}, which has none")


def _look_away(stage: int, features: Tensor) -> Tensor:
    return features
