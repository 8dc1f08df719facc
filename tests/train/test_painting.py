"""Painted bleeds lie where their kind lies, are as bright as they are drawn, and leave the rest of the slice alone."""

import numpy as np
import pytest
import torch
from analytic_head import draw_head
from scipy.ndimage import distance_transform_edt

from hgisam.labels import SUBTYPES, Subtype
from hgisam.train.painting import SKULL_HU, PaintedSlice, PaintingOptions, carry_over, paint_distractor, paint_slice

SPACING_MM = 1.0


@pytest.fixture(scope="module")
def head_slice() -> tuple[torch.Tensor, torch.Tensor]:
    """HU over the brain median, and the intracranial region, of a slice with ventricles."""
    head = draw_head((10.0, SPACING_MM, SPACING_MM))
    middle = int(head.up_mm[:, 0, 0].abs().argmin())
    return head.ct.hu[middle] - 35.0, head.inside[middle]


def painted(head_slice: tuple[torch.Tensor, torch.Tensor], kind: Subtype, n: int = 12) -> list[PaintedSlice]:
    """Bleeds of one kind; those that found no room and became a clot are left out."""
    options = PaintingOptions(shares={kind: 1.0})
    found = [paint_slice(*head_slice, SPACING_MM, 0.5, options, np.random.default_rng(seed)) for seed in range(n)]
    return [one for one in found if one is not None and one.subtype is kind]


@pytest.mark.parametrize("kind", [k for k in SUBTYPES if k is not Subtype.SUBARACHNOID])
def test_blood_lies_in_the_skull_and_is_brighter_than_what_was_there(
    head_slice: tuple[torch.Tensor, torch.Tensor], kind: Subtype
) -> None:
    hu, region = head_slice
    found = painted(head_slice, kind)
    assert len(found) > 4
    for one in found:
        assert not (one.blood & ~region).any()
        assert one.relative_hu[one.blood].mean() > hu[one.blood].mean() + 5.0
        far = torch.from_numpy(distance_transform_edt(~one.blood.numpy()) > 20.0)
        assert float(((one.relative_hu - hu).abs()[far] > 0.05).float().mean()) < 1e-3  # fluid that is a little bloody


@pytest.mark.parametrize("kind", [Subtype.EPIDURAL, Subtype.SUBDURAL])
def test_blood_under_the_skull_touches_it(head_slice: tuple[torch.Tensor, torch.Tensor], kind: Subtype) -> None:
    depth_mm = distance_transform_edt(head_slice[1].numpy(), sampling=SPACING_MM)
    for one in painted(head_slice, kind):
        assert depth_mm[one.blood.numpy()].min() <= 2.5


def test_blood_in_the_ventricles_replaces_fluid_and_nothing_else(
    head_slice: tuple[torch.Tensor, torch.Tensor],
) -> None:
    for one in painted(head_slice, Subtype.INTRAVENTRICULAR):
        assert float(head_slice[0][one.blood].mean()) < -15.0


def test_bone_stays_as_it_is(head_slice: tuple[torch.Tensor, torch.Tensor]) -> None:
    bone = head_slice[0] > SKULL_HU
    for kind in SUBTYPES:
        for one in painted(head_slice, kind, 4):
            torch.testing.assert_close(one.relative_hu[bone], head_slice[0][bone])


def test_training_begins_with_large_and_bright_bleeds(head_slice: tuple[torch.Tensor, torch.Tensor]) -> None:
    def seen(difficulty: float) -> tuple[float, float]:
        options = PaintingOptions(shares={Subtype.INTRAPARENCHYMAL: 1.0})
        made = [
            paint_slice(*head_slice, SPACING_MM, difficulty, options, np.random.default_rng(seed)) for seed in range(40)
        ]
        found = [one for one in made if one is not None]
        areas = [int(one.blood.sum()) for one in found]
        contrasts = [float((one.relative_hu - head_slice[0])[one.blood].mean()) for one in found]
        return float(np.median(areas)), float(np.median(contrasts))

    (easy_area, easy_contrast), (hard_area, hard_contrast) = seen(0.0), seen(1.0)
    assert easy_area > 1.3 * hard_area
    assert easy_contrast > hard_contrast + 2.0


def test_a_slice_without_room_stays_as_it_is() -> None:
    region = torch.zeros(64, 64, dtype=torch.bool)
    region[30:34, 30:34] = True
    assert paint_slice(torch.zeros(64, 64), region, 1.0, 0.5, PaintingOptions(), np.random.default_rng(0)) is None
    hu = torch.randn(64, 64)
    assert paint_distractor(hu, region, 1.0, np.random.default_rng(0)) is hu


def test_chance_is_all_in_the_generator(head_slice: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, again = (
        paint_slice(*head_slice, SPACING_MM, 0.5, PaintingOptions(), np.random.default_rng(11)) for _ in "ab"
    )
    assert first is not None
    assert again is not None
    assert torch.equal(first.relative_hu, again.relative_hu)


def test_distractors_brighten_the_inside_alone(head_slice: tuple[torch.Tensor, torch.Tensor]) -> None:
    hu, region = head_slice
    brightened = 0
    for seed in range(20):
        changed = paint_distractor(hu, region, SPACING_MM, np.random.default_rng(seed)) - hu
        assert float(changed.min()) > -1e-3
        assert float(changed[~region].abs().max()) == 0.0
        assert float(changed[hu > SKULL_HU].abs().max()) == 0.0
        brightened += float(changed.max()) > 5.0
    assert brightened > 12


def test_what_is_painted_goes_on_in_neighbours_by_no_more_than_all_and_fades() -> None:
    beside, change = torch.rand(4, 8, 8), torch.zeros(8, 8)
    change[2:5, 3:6] = 20.0
    for seed in range(20):
        added = carry_over(beside, change, np.random.default_rng(seed)) - beside
        shares = (added[:, 3, 4] / 20.0).tolist()
        torch.testing.assert_close(added, torch.tensor(shares)[:, None, None] * change, atol=1e-5, rtol=0)
        assert 1 >= shares[0] >= shares[2] >= 0  # above: the nearest, and the next
        assert 1 >= shares[1] >= shares[3] >= 0
        assert shares[0] != shares[1]
    random = np.random.default_rng(0)
    assert carry_over(beside[:0], change, random).shape == (0, 8, 8)
    assert random.random() == np.random.default_rng(0).random()
