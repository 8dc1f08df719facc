"""Grids and orientation: every one of the 48 axis orders leads to house axes and exactly back."""

import itertools
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hgisam.volume import CTVolume, MaskVolume, Orientation, corners_apart_mm, same_grid, voxel_volume_ml

ALL_CODES = tuple(
    "".join(pair[choice] for pair, choice in zip(pairs, choices, strict=True))
    for pairs in itertools.permutations(("RL", "AP", "SI"))
    for choices in itertools.product((0, 1), repeat=3)
)


def eye_volume(shape: tuple[int, int, int], affine: np.ndarray | None = None) -> MaskVolume:
    matrix = torch.eye(4, dtype=torch.float64) if affine is None else torch.from_numpy(affine)
    return MaskVolume(torch.ones(shape, dtype=torch.bool), matrix, "test")


def test_there_are_48_orientations_and_each_is_told_apart() -> None:
    orientations = {Orientation.from_axis_codes(codes) for codes in ALL_CODES}
    assert len(ALL_CODES) == len(orientations) == 48


@pytest.mark.parametrize("codes", ALL_CODES)
def test_an_orientation_by_letters_is_the_one_that_nibabel_reads_from_the_affine(codes: str) -> None:
    house = np.array([[0, 0, -0.5, 90.0], [0, -0.7, 0, 80], [5, 0, 0, -20], [0, 0, 0, 1]])
    orientation = Orientation.from_axis_codes(codes)
    affine = orientation.file_affine(house, (7, 8, 9))
    assert "".join(nib.aff2axcodes(affine)) == codes
    assert Orientation.from_affine(affine) == orientation


@given(codes=st.sampled_from(ALL_CODES), shape=st.tuples(*[st.integers(1, 5)] * 3))
def test_to_file_undoes_to_house_and_the_affines_follow(codes: str, shape: tuple[int, int, int]) -> None:
    orientation = Orientation.from_axis_codes(codes)
    array = np.arange(math.prod(shape)).reshape(shape)
    house = orientation.to_house(array)
    np.testing.assert_array_equal(orientation.to_file(house), array)
    affine = np.array([[0.4, 0.1, 0, 3], [0, 0.6, 0.2, 4], [0.3, 0, 5, 5], [0, 0, 0, 1.0]])
    house_affine = orientation.house_affine(affine, shape)
    np.testing.assert_allclose(orientation.file_affine(house_affine, shape), affine, atol=1e-12)
    for index in np.ndindex(*house.shape):
        file_index = np.unravel_index(house[index], shape)
        np.testing.assert_allclose(house_affine @ (*index, 1), affine @ (*file_index, 1), atol=1e-9)


@pytest.mark.parametrize("codes", ["LP", "LPSR", "LRS", "XPS", "", "lps"])
def test_letters_that_are_no_orientation_are_refused(codes: str) -> None:
    with pytest.raises(ValueError, match="expected three directions"):
        Orientation.from_axis_codes(codes)


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([1.0, 1.0, 0.0, 1.0])])
def test_an_affine_without_directions_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="invertible affine"):
        Orientation.from_affine(bad)


def test_a_sheared_voxel_s_volume_is_the_determinant_not_the_product_of_spacings() -> None:
    tilt = math.radians(18.5)
    affine = np.array([[-0.5, 0, 0, 0], [0, -0.5, 5 * math.tan(tilt), 0], [0, 0, 5, 0], [0, 0, 0, 1]])
    mask = eye_volume((2, 3, 4), Orientation.from_axis_codes("LPS").house_affine(affine, (4, 3, 2)))
    assert mask.voxel_ml == pytest.approx(0.5 * 0.5 * 5 / 1000)
    assert mask.volume_ml == pytest.approx(24 * 0.5 * 0.5 * 5 / 1000)
    assert math.prod(mask.spacing_mm) / 1000 == pytest.approx(1.0545 * mask.voxel_ml, rel=1e-4)


def test_an_empty_mask_has_no_volume() -> None:
    mask = MaskVolume(torch.zeros(2, 2, 2, dtype=torch.bool), torch.eye(4, dtype=torch.float64), "test")
    assert mask.volume_ml == 0.0


def test_slice_positions_are_those_of_the_slices_middles_along_superior() -> None:
    affine = torch.tensor([[0, 0, -1, 0], [0, -1, 0, 0], [5, 0, 0.5, -20], [0, 0, 0, 1]], dtype=torch.float64)
    ct = CTVolume(torch.zeros(3, 4, 5), affine, "test")
    assert ct.slice_positions_mm.tolist() == [-19.0, -14.0, -9.0]
    assert ct.spacing_mm == pytest.approx((5.0, 1.0, math.sqrt(1.25)))


def test_grids_are_the_same_up_to_a_quarter_of_a_voxel_at_every_corner() -> None:
    shape = (10, 500, 500)
    affine, moved, turned, half = (np.diag([5.0, 0.5, 0.5, 1.0]) for _ in range(4))
    moved[0, 3] = 0.12
    turned[0, 1] = 3e-4  # 0.15 mm at the far corner
    half[1, 3] = 0.25
    assert same_grid(eye_volume(shape, affine), eye_volume(shape, moved))
    assert not same_grid(eye_volume(shape, affine), eye_volume(shape, turned))
    assert not same_grid(eye_volume(shape, affine), eye_volume(shape, half))
    assert not same_grid(eye_volume(shape), eye_volume((10, 500, 501)))
    assert same_grid(CTVolume(torch.zeros(shape), torch.eye(4, dtype=torch.float64), "ct"), eye_volume(shape))


def test_a_grid_that_went_through_a_qform_is_the_same_grid() -> None:
    """A head turned by 0.01, 0.001 and 0.0002 rad; float32 cannot say the last of these to a quaternion."""
    turn = nib.eulerangles.euler2mat(z=2e-4, y=1e-3, x=1e-2)
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ turn @ np.diag([0.45, 0.45, 5.0])
    scan = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), affine)
    scan.set_qform(affine, code=1)
    grids = [Orientation.from_affine(affine).house_affine(each, (512, 512, 32)) for each in (affine, scan.get_qform())]
    first, second = (eye_volume((32, 512, 512), each) for each in grids)
    assert 0.01 < corners_apart_mm(first, second) < 0.11
    assert same_grid(first, second)


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((0, 2, 2), torch.eye(4, dtype=torch.float64), "at least one voxel"),
        ((2, 2, 2), torch.full((4, 4), float("nan"), dtype=torch.float64), "finite"),
        ((2, 2, 2), torch.diag(torch.tensor([1.0, 0, 1, 1], dtype=torch.float64)), "invertible"),
    ],
)
def test_a_volume_without_a_grid_cannot_be_made(shape: tuple[int, ...], affine: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"scan 7: .*{message}"):
        CTVolume(torch.zeros(shape), affine, "scan 7")


def test_voxel_volume_does_not_depend_on_handedness() -> None:
    affine = torch.diag(torch.tensor([-2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    assert voxel_volume_ml(affine) == pytest.approx(0.024)
