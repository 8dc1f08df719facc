"""Which network: the options of every kind as one type, and the network that they describe."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from hgisam.model.classifier import ClassifierOptions, HemorrhageClassifier
from hgisam.model.cnn import CnnClassifier, CnnOptions
from hgisam.model.slice_classifier import SliceClassifier


def _kind(options: Any) -> str:
    """The kind that options name; a Swin Transformer where they name none, as weights files once did."""
    return str(options.get("kind", "swin") if isinstance(options, dict) else getattr(options, "kind", "swin"))


Architecture = Annotated[
    Annotated[ClassifierOptions, Tag("swin")] | Annotated[CnnOptions, Tag("resnet18")], Discriminator(_kind)
]
"""The options of any network, told apart by `kind`."""


def build_classifier(options: Architecture, *, token_heads: bool = False) -> SliceClassifier:
    """The network of these options, with random weights.

    Args:
        options: of any kind.
        token_heads: add the heads that a token loss trains.

    Raises:
        ValueError: for token heads of a network that has no tokens.
    """
    if isinstance(options, ClassifierOptions):
        return HemorrhageClassifier(options, token_heads=token_heads)
    if token_heads:
        raise ValueError(f"expected no token heads with {options.kind}, which has no tokens; set token_weight to 0")
    return CnnClassifier(options)
