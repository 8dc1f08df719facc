"""HU windows against values worked out by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hgisam.windowing import BONE, BRAIN, SUBDURAL, HUWindow

finite_hu = st.floats(-3000, 3000, width=32)


@pytest.mark.parametrize(
    ("window", "low_hu", "high_hu"), [(BRAIN, 0.0, 80.0), (SUBDURAL, -20.0, 180.0), (BONE, -800.0, 2000.0)]
)
def test_presets_show_the_published_range(window: HUWindow, low_hu: float, high_hu: float) -> None:
    assert (window.low_hu, window.high_hu) == (low_hu, high_hu)
    shown = window.apply(torch.tensor([low_hu - 100, low_hu, (low_hu + high_hu) / 2, high_hu, high_hu + 100]))
    torch.testing.assert_close(shown, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


def test_the_same_hu_has_the_same_brightness_whatever_else_a_slice_shows() -> None:
    dark, bright = torch.tensor([40.0, -1000.0]), torch.tensor([40.0, 3000.0])
    assert float(BRAIN.apply(dark)[0]) == float(BRAIN.apply(bright)[0]) == 0.5


@given(st.floats(-500, 500), st.floats(1, 4000), st.lists(finite_hu, min_size=2, max_size=20))
def test_brightness_is_in_range_and_rises_with_hu(center_hu: float, width_hu: float, values: list[float]) -> None:
    shown = HUWindow(center_hu=center_hu, width_hu=width_hu).apply(torch.tensor(sorted(values)))
    assert float(shown.min()) >= 0.0
    assert float(shown.max()) <= 1.0
    assert bool((shown.diff() >= 0).all())


@pytest.mark.parametrize("width_hu", [0.0, -1.0])
def test_a_window_without_width_is_refused(width_hu: float) -> None:
    with pytest.raises(ValueError, match="expected a width above 0 HU"):
        HUWindow(center_hu=40.0, width_hu=width_hu)
