"""What every weak-label method is: a network and its images in, saliency maps out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

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


class WeakLabeler(Protocol):
    """A method that finds hemorrhage with a network that learned from slice labels only: frozen options, two calls.

    Every method treats each image by itself, whatever else is in the batch, and leaves the network as it found it: its
    gradients, train flags, requires_grad flags and hooks. A method's options carry a `method` tag of its own.
    """

    @property
    def method(self) -> str:
        """The method's name, by which settings choose it."""
        ...

    def stage_maps(
        self,
        model: SliceClassifier,
        images: Float[Tensor, "batch channels height width"],
        target: Subtype = Subtype.ANY,
    ) -> tuple[Float[Tensor, " batch"], list[Float[Tensor, "batch _ _"]]]:
        """Log-odds of each image and raw saliency at one or more resolutions, coarse and not normalised, at least 0.

        Raw means comparable between images: for those who normalise across windows and slices.
        """
        ...

    def __call__(
        self,
        model: SliceClassifier,
        images: Float[Tensor, "batch channels height width"],
        region: Bool[Tensor, "batch height width"],
        target: Subtype = Subtype.ANY,
    ) -> SaliencyMaps:
        """One map in [0, 1] per image, at the images' resolution, normalised by itself.

        Args:
            model: a network whose parameters need no preparation.
            images: values in [0, 1].
            region: intracranial region; the map is 0 outside it.
            target: which hemorrhage.
        """
        ...


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
