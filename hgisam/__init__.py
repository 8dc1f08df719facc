"""hgisam: intracranial hemorrhage in head CT, learned from slice labels. Research use only, not a medical device."""

from typing import TYPE_CHECKING

__version__ = "0.2.0"
NOTICE = "Research use only, not a medical device."
__all__ = ["NOTICE", "Segmenter", "__version__"]

if TYPE_CHECKING:
    from hgisam.pipeline import Segmenter


def __getattr__(name: str) -> object:
    """Import `Segmenter` when it is first asked for, so that `import hgisam` stays light."""
    if name == "Segmenter":
        from hgisam.pipeline import Segmenter

        return Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
