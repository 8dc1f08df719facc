"""The hemorrhage subtypes: one ordering, their names and codes."""

from enum import StrEnum


class Subtype(StrEnum):
    """A subtype of intracranial hemorrhage, or `any` of them. The order is that of RSNA-2019 and is never changed."""

    EPIDURAL = "epidural"
    INTRAPARENCHYMAL = "intraparenchymal"
    INTRAVENTRICULAR = "intraventricular"
    SUBARACHNOID = "subarachnoid"
    SUBDURAL = "subdural"
    ANY = "any"


SUBTYPES: tuple[Subtype, ...] = tuple(s for s in Subtype if s is not Subtype.ANY)
"""The five subtypes, in order. In a label volume, value k + 1 stands for SUBTYPES[k] and 0 for no hemorrhage."""

ANY_COLUMN = tuple(Subtype).index(Subtype.ANY)
"""Where `any` stands in a table with a column for each of `Subtype`."""


def label_value(subtype: Subtype) -> int:
    """The value that stands for a subtype in a label volume: 1 to 5.

    Raises:
        ValueError: for `any`, which is every value above 0.
    """
    if subtype is Subtype.ANY:
        raise ValueError("expected one of the five subtypes, got 'any'; in a label volume it is every value above 0")
    return SUBTYPES.index(subtype) + 1
