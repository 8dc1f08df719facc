"""tools/refinement_ablation.py: the candidates for an outline that are not in the package."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from hgisam.refine import Components, Threshold, refine
from hgisam.volume import CTVolume

SPACING_MM = (5.0, 0.8, 0.8)
BRAIN_HU = 30.0
Ball = tuple[float, float, float]


@pytest.fixture
def tool(tools: None) -> ModuleType:
    import refinement_ablation

    return refinement_ablation


def places_mm() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where each voxel lies, from the middle: Superior, Posterior, Left."""
    up, back, left = ((torch.arange(n) - (n - 1) / 2) * mm for n, mm in zip((11, 120, 100), SPACING_MM, strict=True))
    return up[:, None, None], back[None, :, None], left[None, None, :]


def within(center_mm: Ball, radius_mm: float) -> torch.Tensor:
    """A ball."""
    return sum((at - c) ** 2 for at, c in zip(places_mm(), center_mm, strict=True)) < radius_mm**2


def look(tool: ModuleType, blood: torch.Tensor, also: torch.Tensor, pointed_at: Ball, blood_hu: float = 30.0) -> Any:
    """A round head with noise, what bled, what else is dense, and a map around one place."""
    up, back, left = places_mm()
    region = (up / 25) ** 2 + (back / 44) ** 2 + (left / 34) ** 2 < 1
    hu = BRAIN_HU + 3.0 * torch.randn(region.shape, generator=torch.Generator().manual_seed(3))
    hu = torch.where(region, hu, 900.0)
    hu[(blood | also) & region] += blood_hu
    away = sum((at - c) ** 2 for at, c in zip(places_mm(), pointed_at, strict=True))
    saliency = 0.9 * torch.exp(-away / 150.0) * region
    house = np.array([[0, 0, -SPACING_MM[2], 0], [0, -SPACING_MM[1], 0, 0], [SPACING_MM[0], 0, 0, 0], [0, 0, 0, 1]])
    ct = CTVolume(hu, torch.from_numpy(house), "a head")
    return tool.Look("phantom", "1", ct, region, saliency, BRAIN_HU, blood & region)


NOWHERE = torch.zeros(11, 120, 100, dtype=torch.bool)
AT: Ball = (0.0, 4.0, 14.0)


def outlined(tool: ModuleType, row: str, seen: Any, threshold: float = 0.3) -> torch.Tensor:
    found: torch.Tensor = tool.ROWS[row].outline(seen, threshold)
    return found


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    return 2 * int((one & other).sum()) / int(one.sum() + other.sum())


def test_rows_are_compared_with_rows_that_stand_above_them(tool: ModuleType) -> None:
    seen: list[str | None] = [None]
    for name, row in tool.ROWS.items():
        assert row.against in seen
        seen.append(name)


def test_every_row_finds_a_clear_bleed_inside_the_region_and_the_same_again(tool: ModuleType) -> None:
    seen = look(tool, within(AT, 10.0), NOWHERE, AT)
    for name in tool.ROWS:
        mask = outlined(tool, name, seen)
        assert dice(mask, seen.reference) > (0.5 if name.startswith(("threshold", "gate")) else 0.85), name
        assert not (mask & ~seen.region).any(), name
        assert torch.equal(mask, outlined(tool, name, seen)), name


def test_a_map_of_zeros_gives_no_mask(tool: ModuleType) -> None:
    seen = look(tool, within(AT, 10.0), NOWHERE, AT)
    dark = tool.Look("phantom", "1", seen.ct, seen.region, 0 * seen.saliency, BRAIN_HU, seen.reference)
    for name in tool.ROWS:
        assert not outlined(tool, name, dark).any(), name


def test_rows_of_the_package_are_the_packages(tool: ModuleType) -> None:
    seen = look(tool, within(AT, 10.0), within((0.0, -20.0, -10.0), 6.0), AT)
    for name, method in (("threshold", Threshold()), ("components", Components())):
        expected = refine(seen.saliency, seen.ct, seen.region, BRAIN_HU, 0.3, method).voxels
        assert torch.equal(outlined(tool, name, seen), expected)
    contrast = torch.from_numpy(seen.excess_hu)
    both = (seen.saliency >= 0.3) & (contrast >= Components().contrast_hu)
    gated = outlined(tool, "gate that knows the rim", seen)
    assert not (gated & ~both).any()
    assert int((both & ~gated).sum()) * seen.ct.slice_voxel_ml[0] < 0.05


def test_a_watershed_parts_two_balls_that_touch(tool: ModuleType) -> None:
    """The map points at one; what joins them is 6 mm wide, where a ball of depth 9 mm is 18."""
    other: Ball = (0.0, -16.0, 14.0)
    both = within(AT, 9.0) | within(other, 9.0) | (within((0.0, -6.0, 14.0), 3.0))
    seen = look(tool, both, NOWHERE, AT)
    whole, cut = outlined(tool, "whole components", seen), outlined(tool, "cut by a watershed", seen)
    assert (whole & within(other, 7.0)).any()
    assert not (cut & within(other, 7.0)).any()
    assert dice(cut, within(AT, 9.0)) > 0.85


def test_a_watershed_leaves_one_ball_whole(tool: ModuleType) -> None:
    seen = look(tool, within(AT, 10.0), NOWHERE, AT)
    assert torch.equal(outlined(tool, "cut by a watershed", seen), outlined(tool, "whole components", seen))


def test_a_film_that_is_nowhere_a_millimetre_deep_survives_the_watershed(tool: ModuleType) -> None:
    up, back, left = places_mm()
    film = (up.abs() < 8) & (back.abs() < 15) & ((left - 10.0).abs() < 0.9)
    seen = look(tool, film, NOWHERE, (0.0, 0.0, 10.0))
    cut, whole = outlined(tool, "cut by a watershed", seen), outlined(tool, "whole components", seen)
    assert int((cut & film).sum()) > 0.9 * int((whole & film).sum()) > 0


def test_grab_cut_takes_the_bleed_and_nothing_that_is_far_from_the_default(tool: ModuleType) -> None:
    far = within((0.0, -24.0, -8.0), 6.0)
    seen = look(tool, within(AT, 10.0), far, AT)
    cut = outlined(tool, "GrabCut", seen)
    assert not (cut & far).any()
    assert dice(cut, seen.reference) > 0.9


def test_what_is_dense_on_both_sides_is_taken_off(tool: ModuleType) -> None:
    """A pair in mirror-image places, as choroid plexus is: 15 HU each, half of which is less than the contrast."""
    seen = look(tool, within(AT, 9.0), within((AT[0], AT[1], -AT[2]), 9.0), AT, blood_hu=15.0)
    default, mirrored = outlined(tool, "components", seen), outlined(tool, "left minus right", seen)
    assert dice(default, seen.reference) > 0.85
    assert not mirrored.any()


def test_a_thin_sheet_at_the_midline_is_left_out_and_a_ball_there_is_not(tool: ModuleType) -> None:
    up, back, left = places_mm()
    sheet = (up.abs() < 12) & (back.abs() < 25) & (left.abs() < 1.5)
    middle: Ball = (0.0, 0.0, 0.0)
    assert outlined(tool, "components", look(tool, NOWHERE, sheet, middle)).any()
    assert not outlined(tool, "midline sheets left out", look(tool, NOWHERE, sheet, middle)).any()
    ball = look(tool, within(middle, 9.0), NOWHERE, middle)
    assert dice(outlined(tool, "midline sheets left out", ball), ball.reference) > 0.85


def test_a_thin_sheet_off_the_midline_is_left_out_where_it_is_deep_and_a_crescent_never(tool: ModuleType) -> None:
    """As the tentorium is, and as subdural blood is."""
    up, back, left = places_mm()
    sheet = (up.abs() < 12) & ((back - left).abs() < 2.0) & (left.abs() < 14)
    beside: Ball = (0.0, 8.0, 8.0)
    seen = look(tool, NOWHERE, sheet, beside)
    assert outlined(tool, "midline sheets left out", seen).any()
    assert not outlined(tool, "deep sheets left out", seen).any()
    radius = torch.sqrt((up / 25) ** 2 + (back / 44) ** 2 + (left / 34) ** 2)
    crescent = (up.abs() < 8) & (left > 0) & (back.abs() < 18) & (radius < 1) & (radius > 0.88)
    shallow = look(tool, crescent, NOWHERE, (0.0, 0.0, 32.0))
    kept = outlined(tool, "deep sheets left out", shallow)
    assert torch.equal(kept, outlined(tool, "components", shallow))
    assert kept.any()


def test_the_rim_under_the_skull_is_no_blood_where_it_is_known(tool: ModuleType) -> None:
    """Bone blurred into brain: 25 HU more at the outline, nothing 4 mm below it, all around."""
    from scipy.ndimage import distance_transform_edt

    seen = look(tool, within(AT, 10.0), NOWHERE, AT)
    depth_mm = torch.from_numpy(
        np.stack([distance_transform_edt(plane, sampling=SPACING_MM[1:]) for plane in seen.region.numpy()])
    )
    seen.ct.hu[seen.region] += (25.0 * (1 - depth_mm / 4.0).clamp(min=0.0))[seen.region].float()
    rim = seen.region & (depth_mm < 1.0)
    naive, knowing = outlined(tool, "dense tissue, no map", seen), outlined(tool, "the rim known, no map", seen)
    assert int((naive & rim).sum()) > 0.9 * int(rim.sum())
    assert int((knowing & rim).sum()) < 0.2 * int(rim.sum())
    assert dice(knowing, seen.reference) > dice(naive, seen.reference)


def test_hysteresis_takes_a_faint_part_that_touches_a_dense_one_and_no_other(tool: ModuleType) -> None:
    """Dense by 24 HU, and by 11 beside it; what is dense by 11 elsewhere is brain, whatever the map says."""
    beside: Ball = (0.0, -12.0, 14.0)
    alone: Ball = (0.0, -4.0, -14.0)
    seen = look(tool, within(AT, 9.0), NOWHERE, AT, blood_hu=24.0)
    seen.ct.hu[(within(beside, 9.0) & ~within(AT, 9.0)) | within(alone, 9.0)] += 11.0
    grown = outlined(tool, "hysteresis 16 -> 8 HU", seen)
    assert int((grown & within(beside, 6.0)).sum()) > 0.6 * int(within(beside, 6.0).sum())
    assert not (grown & within(alone, 9.0)).any()


@pytest.mark.parametrize("name", ["dense CRF", "GrabCut"])
def test_a_cut_that_weighs_what_lies_beside_closes_a_hole(tool: ModuleType, name: str) -> None:
    """A hole as faint as brain in the midst of a bleed: HU alone leave it open, whoever looks beside it closes more."""
    _, back, left = places_mm()
    hole = ((back - AT[1]).abs() < 1.8) & ((left - AT[2]).abs() < 1.8) & within(AT, 8.0)
    seen = look(tool, within(AT, 10.0), NOWHERE, AT)
    seen.ct.hu[hole] -= 28.0
    default, cut = outlined(tool, "components", seen), outlined(tool, name, seen)
    assert int((cut & hole).sum()) >= int((default & hole).sum()) + 5


def test_a_crescent_is_filled_out_to_the_skull(tool: ModuleType) -> None:
    """Of a crescent 8 mm thick, the outer 2 mm are as faint as partial volume leaves them."""
    up, back, left = places_mm()
    radius = torch.sqrt((up / 25) ** 2 + (back / 44) ** 2 + (left / 34) ** 2)
    near = (up.abs() < 8) & (left > 0) & (back.abs() < 18)
    crescent = near & (radius < 1) & (radius > 0.76)
    seen = look(tool, crescent, NOWHERE, (0.0, 0.0, 30.0))
    seen.ct.hu[crescent & (radius > 0.95)] -= 20.0
    default, filled = outlined(tool, "components", seen), outlined(tool, "crescent filled", seen)
    assert int((filled & crescent).sum()) > int((default & crescent).sum())
    assert not (default & ~filled).any()


def test_least_variance_cuts_between_a_halo_and_a_clot(tool: ModuleType) -> None:
    """A clot 40 HU over brain in a halo of 15: the default takes both, two even classes part them."""
    halo = within(AT, 14.0)
    seen = look(tool, within(AT, 8.0), NOWHERE, AT, blood_hu=40.0)
    seen.ct.hu[halo & seen.region & ~within(AT, 8.0)] += 15.0
    whole = outlined(tool, "whole components", seen)
    assert int((whole & halo).sum()) > 0.8 * int((halo & seen.region).sum())
    parted = outlined(tool, "contrast by least variance", seen)
    assert dice(parted, within(AT, 8.0)) > dice(whole, within(AT, 8.0)) + 0.1


def test_a_look_comes_back_from_the_cache_as_it_was_put(tool: ModuleType, tmp_path: Path) -> None:
    from ablation_heads import Head

    class Fixed:
        """A segmenter with a result at hand, asked once."""

        def segment(self, scan: object) -> object:
            return type("Result", (), {
                "brain_median_hu": BRAIN_HU, "saliency_house": seen.saliency, "ct": seen.ct, "region": seen.region,
            })  # fmt: skip

    seen = look(tool, within(AT, 10.0), NOWHERE, AT)
    head = Head("phantom", "1", None, lambda: (seen.ct, seen.reference))
    for segmenter in (Fixed(), None):
        found = tool.kept(tmp_path, head, segmenter)
        for name in ("region", "saliency", "reference"):
            assert torch.equal(getattr(found, name), getattr(seen, name)), name
        assert torch.equal(outlined(tool, "components", found), outlined(tool, "components", seen))


def test_rows_that_are_asked_for_are_all_that_is_printed(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = look(tool, within(AT, 10.0), NOWHERE, AT)
    monkeypatch.setattr(tool, "looks", lambda given: iter([seen]))
    monkeypatch.setattr("sys.argv", ["tool", "--cache", str(tmp_path / "cache"), "--rows", "dense tissue, no map"])
    tool.main()
    heading, _, *lines = capsys.readouterr().out.strip().splitlines()
    assert heading == "phantom: 1 heads that bled, 1 of them 1 ml or more; normal: 0 that did not"
    assert [line[:28].strip() for line in lines] == ["threshold", "dense tissue, no map"]
    assert tool.with_compared((), tool.ROWS) == list(tool.ROWS)
