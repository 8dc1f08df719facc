"""What every weak-label method with a network is: the network and its images in, saliency maps out."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from hgisam.attention import Combination, combine_stages, fuse_stages
from hgisam.labels import Subtype
from hgisam.model.slice_classifier import SliceClassifier


@dataclass(frozen=True, eq=False)
class SaliencyMaps:
    """Where a network saw hemorrhage.

    Attributes:
        maps: in [0, 1], 0 outside the intracranial region; zeros for a slice with nothing to show.
        log_odds: of hemorrhage in each image; their sigmoid is the probability.
    """

    maps: Float[Tensor, "batch height width"]
    log_odds: Float[Tensor, " batch"]


class WeakLabeler(BaseModel):
    """A method that finds hemorrhage with a network that tells slices apart: frozen options, two calls.

    Every method treats each image by itself, whatever else is in the batch, and leaves the network as it found it: its
    gradients, train flags, requires_grad flags and hooks. A method's options carry a `method` tag of its own, by which
    settings choose it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    combination: ClassVar[Combination]
    """How the method's raw maps become one."""

    @abstractmethod
    def check(self, model: SliceClassifier) -> None:
        """Whether a network has what the method looks at.

        Raises:
            ValueError: where it has not.
        """

    @abstractmethod
    def stage_maps(
        self,
        model: SliceClassifier,
        images: Float[Tensor, "batch channels height width"],
        target: Subtype = Subtype.ANY,
    ) -> tuple[Float[Tensor, " batch"], list[Float[Tensor, "batch _ _"]]]:
        """Log-odds of each image and raw saliency at one or more resolutions, coarse and not normalised, at least 0.

        Raw means comparable between images: for those who normalise across windows and slices.

        Args:
            model: left as it is found.
            images: values in [0, 1]; each is treated by itself.
            target: which hemorrhage.

        Raises:
            ValueError: where the network has not what the method looks at, or lacks the target.
        """

    def __call__(
        self,
        model: SliceClassifier,
        images: Float[Tensor, "batch channels height width"],
        region: Bool[Tensor, "batch height width"],
        target: Subtype = Subtype.ANY,
    ) -> SaliencyMaps:
        """One map in [0, 1] per image, at the images' resolution, combined as published and normalised by itself.

        Args:
            model: a network whose parameters need no preparation; left as it is found.
            images: values in [0, 1]; each is treated by itself.
            region: intracranial region; the map is 0 outside it, and zeros where it is empty.
            target: which hemorrhage.

        Raises:
            ValueError: as for `stage_maps`.
        """
        log_odds, stages = self.stage_maps(model, images, target)
        combine = combine_stages if self.combination == "product" else fuse_stages
        return SaliencyMaps(maps=combine(stages, region), log_odds=log_odds)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no parameter that requires a gradient, inside; every flag as it was, afterwards.

    Gradients are on inside, whatever the caller's mode, for what requires them.
    """
    modules = [(module, module.training) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modules:
            module.training = training
        for parameter, requires_grad in parameters:
            parameter.requires_grad_(requires_grad)
