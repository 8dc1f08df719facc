"""Labels gathered row by row into one number per slice, with repetitions and contradictions found on the way."""

from collections.abc import Hashable, Mapping
from functools import lru_cache

import torch
from jaxtyping import Bool
from torch import Tensor

from hgisam.labels import Subtype
from hgisam.train.cohort import Findings, Trouble

_ORDER = tuple(Subtype)
_BIT = {subtype: 1 << position for position, subtype in enumerate(_ORDER)}
_ALL = (1 << len(_ORDER)) - 1
_ANY = _BIT[Subtype.ANY]
_SUBTYPES = _ALL & ~_ANY
_DISAGREEING = 1 << 2 * len(_ORDER)
"""A slice is one int, so that a million of them are a small dict: which labels are 1, then which are known, then
whether two rows disagreed."""


class LabelTable:
    """What the rows of a table say of each slice.

    Rows may come in any order and any number for a slice, one subtype at a time or all at once. Rows that say the same
    again are counted; where two disagree, nothing is known of that slice.
    """

    def __init__(self, findings: Findings) -> None:
        """An empty table that notes its trouble in `findings`."""
        self._findings = findings
        self._slices: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._slices)

    def add(self, key: Hashable, labels: Mapping[Subtype, bool]) -> None:
        """Take in a row.

        Args:
            key: which slice it speaks of.
            labels: what it says.
        """
        positive = sum(_BIT[subtype] for subtype, value in labels.items() if value)
        self._merge(key, positive, sum(_BIT[subtype] for subtype in labels))

    def add_one(self, key: Hashable, subtype: Subtype, value: bool) -> None:
        """Take in a row of a single subtype."""
        bit = _BIT[subtype]
        self._merge(key, bit if value else 0, bit)

    def pop(self, key: Hashable) -> tuple[int, int] | None:
        """Labels and known labels of a slice as bits in the order of `Subtype`, completed; None where no row had it.

        A subtype makes `any` positive, no `any` makes every subtype negative, five negative subtypes make `any`
        negative. A slice with contradictory labels is known in nothing, which is noted.
        """
        packed = self._slices.pop(key, None)
        if packed is None:
            return None
        labels, known, consistent = _completed(packed & (_DISAGREEING - 1))
        if packed & _DISAGREEING:
            self._findings.add(Trouble.DISAGREEING, str(key))
        elif consistent:
            return labels, known
        else:
            self._findings.add(Trouble.CONTRADICTING, str(key))
        return 0, 0

    def drop(self, key: Hashable) -> None:
        """Forget a slice, whatever was said of it."""
        self._slices.pop(key, None)

    def left(self) -> tuple[Hashable, ...]:
        """Slices that nobody popped or dropped."""
        return tuple(self._slices)

    def _merge(self, key: Hashable, positive: int, known: int) -> None:
        packed = self._slices.get(key)
        row = positive | known << len(_ORDER)
        if packed is None:
            self._slices[key] = row
            return
        both = packed >> len(_ORDER) & known
        if (packed ^ positive) & both:
            self._slices[key] = packed | _DISAGREEING
        elif both:
            self._findings.add(Trouble.DUPLICATE, str(key))
        self._slices[key] |= row


@lru_cache(maxsize=_DISAGREEING)
def _completed(packed: int) -> tuple[int, int, bool]:
    """Labels, known labels, and whether they agree with each other."""
    labels, known = packed & _ALL, packed >> len(_ORDER)
    if labels & _SUBTYPES and not known & _ANY:
        labels, known = labels | _ANY, known | _ANY
    if known & _SUBTYPES == _SUBTYPES and not labels & _SUBTYPES:
        known |= _ANY
        if labels & _ANY:
            return labels, known, False
    if known & _ANY and not labels & _ANY:
        known |= _SUBTYPES
        if labels & _SUBTYPES:
            return labels, known, False
    return labels, known, True


def as_rows(bits: list[int]) -> Bool[Tensor, "slices 6"]:
    """Bits in the order of `Subtype`, one number per slice, as rows of booleans."""
    places = torch.arange(len(_ORDER))
    return (torch.tensor(bits, dtype=torch.int64)[:, None] >> places & 1).bool()
