"""The preview: sides and proportions are right, the telling slices are in it, and nothing makes it fail."""

import io
import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from hgisam.io.errors import OutputError
from hgisam.io.nifti import NiftiGrid, new_grid_for
from hgisam.preview import (
    MOST_FINDINGS,
    WIDTH_PX,
    Outline,
    finding_slices,
    render_outlines,
    render_preview,
    spread_slices,
    write_preview,
)
from hgisam.volume import CTVolume, MaskVolume

FIRST_TILE = (slice(None), slice(0, WIDTH_PX // 4))


def head(depth: int = 1, spacing_mm: tuple[float, float, float] = (5.0, 1.0, 1.0)) -> CTVolume:
    """A ball of brain of 160 mm in air, on a canvas of 200 mm, the same in every slice."""
    height, width = round(200 / spacing_mm[1]), round(200 / spacing_mm[2])
    rows = (torch.arange(height) - (height - 1) / 2) * spacing_mm[1]
    columns = (torch.arange(width) - (width - 1) / 2) * spacing_mm[2]
    plane = torch.where(rows[:, None] ** 2 + columns[None, :] ** 2 < 80**2, 35.0, -1000.0)
    affine = torch.tensor(
        [[0, 0, -spacing_mm[2], 0], [0, -spacing_mm[1], 0, 0], [spacing_mm[0], 0, 0, 0], [0, 0, 0, 1]],
        dtype=torch.float64,
    )
    return CTVolume(plane.expand(depth, height, width).contiguous(), affine, "scan")


def drawn(ct: CTVolume, mask: Tensor | None = None, saliency: Tensor | None = None, **options: object) -> np.ndarray:
    """The preview's pixels."""
    mask = torch.zeros(ct.hu.shape, dtype=torch.bool) if mask is None else mask
    arguments = {"title": "a", "volume_ml": 1.0, "probability": 0.5, **options}
    picture = render_preview(ct, mask, saliency, torch.zeros(len(mask)), **arguments)  # type: ignore[arg-type]
    opened = Image.open(io.BytesIO(picture))
    assert (opened.format, opened.mode, opened.width) == ("PNG", "RGB", WIDTH_PX)
    return np.asarray(opened).astype(int)


def change(ct: CTVolume, where: tuple[slice, ...]) -> np.ndarray:
    """Where in the picture a bright block in the scan shows: [n, 2] of row, column within the first tile."""
    hu = ct.hu.clone()
    hu[where] = 200.0
    marked = CTVolume(hu, ct.affine, ct.source)
    return np.argwhere((np.abs(drawn(marked) - drawn(ct)).sum(axis=-1) > 100)[FIRST_TILE])


def middle_of_tile() -> np.ndarray:
    rows = change(head(), (slice(None), slice(95, 105), slice(95, 105)))
    return np.asarray(rows.mean(axis=0))


def test_the_patient_s_right_is_on_the_left_and_the_front_on_top() -> None:
    center = middle_of_tile()
    everything = slice(None)
    right = change(head(), (everything, slice(95, 105), slice(40, 50))).mean(axis=0)
    left = change(head(), (everything, slice(95, 105), slice(150, 160))).mean(axis=0)
    front = change(head(), (everything, slice(40, 50), slice(95, 105))).mean(axis=0)
    assert right[1] < center[1] - 50
    assert left[1] > center[1] + 50
    assert front[0] < center[0] - 50
    assert abs(right[0] - center[0]) < 2


def test_the_whole_head_is_shown() -> None:
    beside_the_letters = slice(112, 116)
    for end in (slice(22, 25), slice(175, 178)):
        assert len(change(head(), (slice(None), end, beside_the_letters))) > 10
        assert len(change(head(), (slice(None), beside_the_letters, end))) > 10


@pytest.mark.parametrize("spacing_mm", [(5.0, 1.0, 0.5), (5.0, 0.5, 1.0), (5.0, 2.0, 0.4)])
def test_a_square_in_mm_is_a_square_in_the_picture(spacing_mm: tuple[float, float, float]) -> None:
    ct = head(spacing_mm=spacing_mm)
    height, width = (round(40 / mm) for mm in spacing_mm[1:])
    top, left = (ct.hu.shape[1] - height) // 2, (ct.hu.shape[2] - width) // 2
    found = change(ct, (slice(None), slice(top, top + height), slice(left, left + width)))
    extent = found.max(axis=0) - found.min(axis=0) + 1
    assert extent[0] == pytest.approx(extent[1], rel=0.06)


def test_the_mask_is_outlined_and_not_filled() -> None:
    ct = head()
    mask = torch.zeros(ct.hu.shape, dtype=torch.bool)
    mask[0, 80:120, 80:120] = True
    differing = np.abs(drawn(ct, mask) - drawn(ct)).sum(axis=-1) > 100
    row = round(middle_of_tile()[0])
    columns = np.flatnonzero(differing[row, : WIDTH_PX // 4])
    assert 2 <= len(columns) <= 8, "two thin lines"
    assert 70 < columns.max() - columns.min() < 120, "40 mm apart"


def test_a_finding_has_its_map_to_the_right_of_it() -> None:
    ct = head()
    mask, saliency = torch.zeros(ct.hu.shape, dtype=torch.bool), torch.zeros(ct.hu.shape)
    mask[0, 90:110, 90:110] = True
    saliency[0, 85:115, 85:115] = 1.0
    faint, strong = drawn(ct, mask, 0.2 * saliency), drawn(ct, mask, saliency)
    changed = np.argwhere((faint != strong).any(axis=-1))
    assert changed[:, 1].min() > WIDTH_PX // 4
    assert changed[:, 1].max() < WIDTH_PX // 2
    colour = strong[tuple(changed.mean(axis=0).round().astype(int))]
    assert colour[0] > colour[2] + 50, "the top of the map is warm"


def test_more_mask_or_likelier_slices_come_first() -> None:
    ct = head(30)
    mask = torch.zeros(ct.hu.shape, dtype=torch.bool)
    probabilities = torch.zeros(30)
    assert finding_slices(mask, probabilities, 0.5) == []
    probabilities[[4, 9]] = torch.tensor([0.9, 0.6])
    assert finding_slices(mask, probabilities, 0.5) == [4, 9]
    assert finding_slices(mask, probabilities, 0.7) == [4], "it is the run's operating point that tells"
    assert finding_slices(mask, probabilities, None) == []
    mask[12, 90:95, 90:95] = True
    assert finding_slices(mask, probabilities, 0.5) == [4, 9, 12]
    mask[20:30, 90:92, 90:92] = True
    mask[27, 90:110, 90:110] = True
    chosen = finding_slices(mask, probabilities, 0.5)
    assert len(chosen) == MOST_FINDINGS
    assert {12, 27, 29} <= set(chosen)


@given(
    areas=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    probabilities=st.lists(st.floats(0, 1, width=32), min_size=40, max_size=40),
    n=st.integers(1, 14),
)
def test_chosen_slices_are_distinct_rising_and_hold_the_largest_area(
    areas: list[int], probabilities: list[float], n: int
) -> None:
    depth = len(areas)
    mask = torch.zeros(depth, 2, 2, dtype=torch.bool)
    for index, area in enumerate(areas):
        mask[index].view(-1)[:area] = True
    findings = finding_slices(mask, torch.tensor(probabilities[:depth]), 0.5)
    assert findings == sorted(set(findings))
    assert len(findings) <= MOST_FINDINGS
    if max(areas):
        assert max(areas) == max(areas[index] for index in findings)
        assert len(findings) >= min(MOST_FINDINGS, sum(area > 0 for area in areas))
    ct = CTVolume(torch.full((depth, 8, 8), 30.0), torch.eye(4, dtype=torch.float64), "scan")
    others = spread_slices(ct, findings, n)
    assert others == sorted(set(others) - set(findings))
    assert len(others) == min(n, depth - len(findings))


def test_an_unknown_probability_is_not_written() -> None:
    """Nor is a slice of unknown probability a finding."""
    ct, mask = head(), torch.zeros(1, 200, 200, dtype=torch.bool)
    pictures = [
        render_preview(
            ct, mask, None, torch.full([1], value), title="case", volume_ml=0.0, probability=None, warnings=[]
        )
        for value in (float("nan"), 0.25)
    ]
    assert pictures[0] != pictures[1]
    assert finding_slices(mask, torch.full([1], float("nan")), 0.5) == []


def test_sides_that_the_file_does_not_state_bear_no_letters(tmp_path: Path) -> None:
    """Of the same scan the marks alone differ: one at the middle of each side of a tile."""
    ct = head()
    stated, guessed = drawn(ct), drawn(ct, directions_known=False)
    rows, columns = np.nonzero((stated != guessed).any(axis=-1)[FIRST_TILE])
    middle = middle_of_tile()
    assert len(rows) > 20
    assert (np.minimum(np.abs(rows - middle[0]), np.abs(columns - middle[1])) < 14).all()
    grid = replace(new_grid_for(head(4)), directions_known=False)
    result = Result(head(4), grid, np.zeros(4, dtype=np.float32))
    write_preview(tmp_path / "guessed.png", result)
    write_preview(tmp_path / "stated.png", replace(result, grid=new_grid_for(head(4))))
    assert (tmp_path / "guessed.png").read_bytes() != (tmp_path / "stated.png").read_bytes()


def test_a_volume_that_leaves_out_part_of_the_brain_is_called_a_least_one(tmp_path: Path) -> None:
    """In the header alone: what is written of a slice is all of it. A result's own word on it reaches the picture."""
    ct, mask = head(4), torch.zeros(4, 200, 200, dtype=torch.bool)
    mask[2, 90:110, 90:110] = True
    whole, least = drawn(ct, mask), drawn(ct, mask, volume_is_lower_bound=True)
    little, nothing = (drawn(ct, mask, volume_is_lower_bound=True, volume_ml=ml) for ml in (0.04, 0.0))
    assert (little != nothing).any()
    rows = np.flatnonzero((whole != least).any(axis=(1, 2)))
    assert rows.size
    assert rows.max() < 96  # the header, without warnings
    result = Result(ct, new_grid_for(ct), np.zeros(4, dtype=np.float32))
    write_preview(tmp_path / "whole.png", result)
    write_preview(tmp_path / "least.png", replace(result, volume_is_lower_bound=True))
    assert (tmp_path / "whole.png").read_bytes() != (tmp_path / "least.png").read_bytes()


def test_slices_without_findings_are_spread_over_those_with_brain() -> None:
    ct = head(40)
    ct.hu[:8], ct.hu[36:] = -1000.0, 900.0
    chosen = spread_slices(ct, [], 7)
    assert [index for index in chosen if not 8 <= index < 36] == []
    assert {later - earlier for earlier, later in itertools.pairwise(chosen)} == {4}


@pytest.mark.parametrize("depth", [1, 2, 5, 13])
@pytest.mark.parametrize("value", [-1000.0, 30.0, 3000.0])
def test_scans_that_show_nothing_are_drawn_all_the_same(depth: int, value: float) -> None:
    flat = CTVolume(torch.full((depth, 9, 7), value), torch.eye(4, dtype=torch.float64), "scan")
    drawn(flat)
    drawn(flat, torch.ones(flat.hu.shape, dtype=torch.bool), torch.ones(flat.hu.shape))


@pytest.mark.parametrize(
    "options",
    [
        {"title": "x" * 500, "volume_ml": None, "probability": None},
        {"title": "Schädel 头 голова\n"},
        {"title": ""},
        {"warnings": ["long " * 100, "second\nline", "third"]},
        {"volume_ml": 12345.678},
        {"volume_ml": 0.0004},
    ],
)
def test_no_text_is_too_long_too_strange_or_missing(options: dict[str, object]) -> None:
    drawn(head(), **options)


@dataclass
class Result:
    """A segmentation's result, as far as the preview looks at it."""

    ct: CTVolume
    grid: NiftiGrid
    slice_probabilities: np.ndarray
    volume_ml: float | None = 1.5
    volume_is_lower_bound: bool = False
    probability: float | None = 0.8
    operating_point: float | None = 0.15
    warnings: tuple[str, ...] = ("a warning",)
    saliency_house: Tensor = field(init=False)
    mask_volume: MaskVolume = field(init=False)

    def __post_init__(self) -> None:
        self.saliency_house = torch.zeros(self.ct.hu.shape)
        self.saliency_house[3, 90:110, 90:110] = 0.5
        self.mask_volume = MaskVolume(self.saliency_house > 0, self.ct.affine, "scan")


@pytest.mark.parametrize(("codes", "indices"), [("LPS", [0, 1, 2, 3]), ("LPI", [3, 2, 1, 0])])
def test_a_result_is_drawn_with_the_file_s_own_slice_numbers(tmp_path: Path, codes: str, indices: list[int]) -> None:
    ct = head(4)
    in_file_order = np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)
    result = Result(ct, new_grid_for(ct, codes), in_file_order)
    write_preview(tmp_path / "a_preview.png", result)
    expected = render_preview(
        ct,
        result.mask_volume.voxels,
        result.saliency_house,
        torch.from_numpy(in_file_order[indices]),
        title="scan",
        volume_ml=1.5,
        probability=0.8,
        warnings=("a warning",),
        slice_indices=indices,
        operating_point=0.15,
    )
    assert (tmp_path / "a_preview.png").read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["a_preview.png"]


def test_a_preview_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    ct = head(4)
    with pytest.raises(OutputError):
        write_preview(tmp_path / "none" / "a.png", Result(ct, new_grid_for(ct), np.zeros(4, dtype=np.float32)))


def test_several_masks_of_a_slice_are_outlined_each_in_its_own_tile() -> None:
    ct = head(depth=2)
    masks = [torch.zeros(200, 200, dtype=torch.bool) for _ in range(3)]
    masks[0][90:110, 90:110] = True
    masks[2][60:140, 60:140] = True
    outlines = [Outline(f"method {number}", mask, "dice 0.5") for number, mask in enumerate(masks)]
    with Image.open(io.BytesIO(render_outlines(ct, 1, outlines, title="a case"))) as opened:
        assert opened.width == WIDTH_PX
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    middle = pixels[pixels.shape[0] // 3 : 2 * pixels.shape[0] // 3]
    line = (np.abs(middle - np.array([64, 224, 255])).sum(axis=-1) < 60).astype(int)
    by_tile = [int(part.sum()) for part in np.array_split(line, 4, axis=1)]
    assert by_tile[0] == by_tile[2] == 0, "the slice as it is comes first; an empty mask has no outline"
    assert 0 < by_tile[1] < by_tile[3]
