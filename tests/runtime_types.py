"""The checker that looks at every annotation of the package while its tests run."""

import io
from typing import Any, BinaryIO, Self

from beartype import BeartypeConf, FrozenDict, beartype

checked = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,
        hint_overrides=FrozenDict({Self: Any, BinaryIO: io.BufferedIOBase}),
    )
)
"""beartype, reading as mypy does: an int is a float; `Self` cannot be known from a method without its class; gzip's
files are binary files though their mode does not say so."""
