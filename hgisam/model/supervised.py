"""Supervised baselines: MONAI's U-Net and Swin-UNETR, which learn from masks and say of each voxel whether it is blood.

Images are [batch, channels, height, width], or [batch, channels, depth, height, width] where slices are seen together.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

SWIN_UNETR_STEP = 32
"""Sides of a Swin-UNETR's input are multiples of this: patches of 2, then four mergings."""


class UNetOptions(BaseModel):
    """A U-Net with residual units.

    Source: Ronneberger et al. 2015, arXiv 1505.04597; Kerfoot et al., STACOM 2018 (residual units), by MONAI.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["unet"] = "unet"
    """Tells this network from others."""
    spatial_dims: Literal[2, 3] = 2
    """2: slice by slice. 3: slices together."""
    in_channels: int = Field(default=2, gt=0)
    """Channels of the image."""
    channels: tuple[int, ...] = Field(default=(16, 32, 64, 128, 256), min_length=2, max_length=10)
    """Channels of each level, the finest first; each level's grid has half the side of the one before."""
    slice_halvings: int = Field(default=2, ge=0)
    """3D only: so many of the last halvings halve the number of slices too, which lie further apart than pixels."""
    residual_units: int = Field(default=2, ge=0, le=16)
    """Residual units in each level."""
    norm: Literal["instance", "batch"] = "instance"
    """How features are normalised."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of features that are dropped in training."""

    @model_validator(mode="after")
    def _halvings_exist(self) -> "UNetOptions":
        if self.slice_halvings > len(self.channels) - 1:
            raise ValueError(f"expected at most {len(self.channels) - 1} slice_halvings; got {self.slice_halvings}")
        return self

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """By how much each level but the first is coarser than the one before, along each axis of the image."""
        n = len(self.channels) - 1
        along_slices = [2 if level >= n - self.slice_halvings else 1 for level in range(n)]
        return tuple((2, 2) if self.spatial_dims == 2 else (step, 2, 2) for step in along_slices)

    @property
    def steps(self) -> tuple[int, ...]:
        """What the image's sides must be multiples of."""
        halvings = len(self.channels) - 1
        in_plane = (2**halvings, 2**halvings)
        return in_plane if self.spatial_dims == 2 else (2**self.slice_halvings, *in_plane)

    @property
    def least_parameters(self) -> int:
        """Those of one convolution from each level to the next, the image being before the first."""
        return sum(math.prod(pair) * 3**self.spatial_dims for pair in pairwise((self.in_channels, *self.channels)))

    def build(self) -> nn.Module:
        """MONAI's network, which gives features, and a convolution of one pixel that makes a logit of them.

        Deviation: asked for the logit itself, MONAI normalises that one channel over each image, so that an image
        without blood is stretched until something stands out.
        """
        from monai.networks.nets.unet import UNet  # slow to import

        convolution = nn.Conv2d if self.spatial_dims == 2 else nn.Conv3d
        network = UNet(
            spatial_dims=self.spatial_dims,
            in_channels=self.in_channels,
            out_channels=self.channels[0],
            channels=self.channels,
            strides=self.strides,  # type: ignore[arg-type]  # a number per axis, which its convolutions take
            num_res_units=self.residual_units,
            norm=self.norm,
            dropout=self.dropout,
        )
        return nn.Sequential(network, convolution(self.channels[0], 1, kernel_size=1))


class SwinUnetrOptions(BaseModel):
    """A Swin Transformer as encoder, convolutions as decoder.

    Source: Hatamizadeh et al. 2022, arXiv 2201.01266, by MONAI.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["swin_unetr"] = "swin_unetr"
    """Tells this network from others."""
    spatial_dims: Literal[2, 3] = 2
    """2: slice by slice. 3: slices together."""
    in_channels: int = Field(default=2, gt=0)
    """Channels of the image."""
    feature_size: int = Field(default=24, gt=0, multiple_of=12)
    """Channels of the finest level."""
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    """Blocks in each stage."""
    heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    """Attention heads in each stage."""
    window: int = Field(default=7, gt=0)
    """Side of an attention window, in tokens."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Chance of skipping a block in training, at the last block; it grows linearly from 0 at the first."""

    @property
    def steps(self) -> tuple[int, ...]:
        """What the image's sides must be multiples of."""
        return (SWIN_UNETR_STEP,) * self.spatial_dims

    @property
    def least_parameters(self) -> int:
        """Those of the embedding, and of the blocks' matrices and tables of positions."""
        places = int((2 * self.window - 1) ** self.spatial_dims)
        stages = zip(self.depths, self.heads, strict=True)
        return self.in_channels * self.feature_size * 2**self.spatial_dims + sum(
            depth * (12 * (self.feature_size << stage) ** 2 + heads * places)
            for stage, (depth, heads) in enumerate(stages)
        )

    def build(self) -> nn.Module:
        """MONAI's network."""
        from monai.networks.nets.swin_unetr import SwinUNETR  # slow to import

        return SwinUNETR(
            in_channels=self.in_channels,
            out_channels=1,
            depths=self.depths,
            num_heads=self.heads,
            window_size=self.window,
            feature_size=self.feature_size,
            dropout_path_rate=self.drop_path,
            spatial_dims=self.spatial_dims,
        )


SegmenterArchitecture = Annotated[UNetOptions | SwinUnetrOptions, Field(discriminator="kind")]
"""The options of any supervised network, told apart by `kind`."""


def can_see(options: SegmenterArchitecture, sides: Sequence[int]) -> bool:
    """Whether a network can see an image of these sides: halved as often as it halves, more than one place is left."""
    if len(sides) != options.spatial_dims or any(side % step for side, step in zip(sides, options.steps, strict=True)):
        return False
    return math.prod(sides) > math.prod(options.steps)


class MaskNetwork(nn.Module):
    """Tells of each pixel or voxel how likely it is blood.

    Args:
        options: of any kind.

    Attributes:
        options: as given.
    """

    def __init__(self, options: SegmenterArchitecture) -> None:
        super().__init__()
        self.options = options
        self.net = options.build()

    def forward(self, images: Float[Tensor, "batch channels *sides"]) -> Float[Tensor, "batch ..."]:
        """Logits of blood.

        Args:
            images: values in [0, 1].

        Raises:
            ValueError: for images of other axes or channels, or with sides that the network cannot halve.
        """
        o = self.options
        sides = images.shape[2:]
        if images.shape[1] != o.in_channels or not can_see(o, sides):
            raise ValueError(
                f"expected images [batch, {o.in_channels}, *sides] with sides that are multiples of {list(o.steps)}, "
                f"not all of them once; got {list(images.shape)}"
            )
        logits: Tensor = self.net(images)
        return logits[:, 0]
