"""The subtypes' order and codes, which files and weights rely on."""

import pytest

from hgisam.labels import SUBTYPES, Subtype, label_value


def test_the_order_of_rsna_2019_is_kept() -> None:
    assert [str(s) for s in Subtype] == [
        "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any",
    ]  # fmt: skip
    assert [label_value(s) for s in SUBTYPES] == [1, 2, 3, 4, 5]


def test_any_has_no_value_of_its_own() -> None:
    with pytest.raises(ValueError, match="every value above 0"):
        label_value(Subtype.ANY)
