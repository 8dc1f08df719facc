"""The shipped atlas: small, symmetric, licensed, and anatomically where the template says."""

from importlib.resources import files

import pytest
import torch

from hgisam.phantom.atlas import Atlas, Grid, Tissue, sample
from hgisam.phantom.structures import FIRST_LOW_STRUCTURE, LOW_TOP_MM, Structure

DATA = files("hgisam.phantom") / "data"


def at(atlas: Atlas, x: float, y: float, z: float) -> tuple[torch.Tensor, torch.Tensor]:
    point = torch.tensor([x, y, z], dtype=torch.float32)[:, None, None, None]
    tissue = sample(atlas.tissue, atlas.tissue_grid, point, padding="zeros")
    return tissue.flatten(), sample(atlas.structures, atlas.structure_grid, point).flatten()


def test_atlas_is_under_one_megabyte_and_carries_its_notice() -> None:
    assert len((DATA / "atlas.npz").read_bytes()) < 1_000_000
    notice = (DATA / "NOTICE").read_text(encoding="utf-8")
    assert "Copyright (C) 1993-2004 Louis Collins" in notice
    assert "above copyright notice appear in all copies" in " ".join(notice.split())


def test_atlas_is_symmetric(atlas: Atlas) -> None:
    assert torch.equal(atlas.tissue, atlas.tissue.flip(3))
    torch.testing.assert_close(atlas.structures, atlas.structures.flip(3), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("place", "tissue"),
    [
        ((0.0, 27.0, 4.0), Tissue.WHITE),  # genu of the corpus callosum
        ((24.0, -20.0, 34.0), Tissue.WHITE),  # corona radiata
        ((26.0, 4.0, 0.0), Tissue.GREY),  # putamen
        ((12.0, 12.0, 10.0), Tissue.GREY),  # head of the caudate
        ((24.0, -44.0, 16.0), Tissue.VENTRICLE),  # atrium
        ((8.0, 20.0, 10.0), Tissue.VENTRICLE),  # frontal horn
    ],
)
def test_tissue_lies_where_the_mni_atlases_have_it(
    atlas: Atlas, place: tuple[float, float, float], tissue: Tissue
) -> None:
    fractions, _ = at(atlas, *place)
    assert int(fractions.argmax()) == tissue


def test_tissue_are_fractions_within_the_dura(atlas: Atlas) -> None:
    assert atlas.tissue.min() >= 0
    assert atlas.tissue.max() <= 1
    brain_ml = float(atlas.tissue[: Tissue.VENTRICLE].sum()) / 1000
    assert 1500 < brain_ml < 2000  # the template is larger than most brains


@pytest.mark.parametrize(
    ("place", "structure"),
    [
        ((32.0, 60.0, -34.0), Structure.GLOBE),
        ((-32.0, 60.0, -34.0), Structure.GLOBE),
        ((0.0, -7.0, -25.0), Structure.BASE_BONE),  # dorsum sellae
        ((30.0, -25.0, -38.0), Structure.BASE_BONE),  # petrous ridge
        ((7.0, 18.0, -38.0), Structure.SINUS),  # sphenoid sinus
        ((0.0, -90.0, 40.0), Structure.VENOUS_SINUS),  # sagittal sinus
        ((0.0, -46.0, -70.0), Structure.CORD),
    ],
)
def test_structures_hold_their_landmarks(atlas: Atlas, place: tuple[float, float, float], structure: Structure) -> None:
    assert at(atlas, *place)[1][structure] > 0


def test_dura_lies_between_brain_and_skin(atlas: Atlas) -> None:
    _, middle = at(atlas, 0, -20, 20)
    _, outside = at(atlas, 0, -20, 99)
    assert middle[Structure.DURA] > 20
    assert outside[Structure.DURA] < 0 < middle[Structure.SKIN]
    assert (atlas.structures[Structure.SKIN] >= atlas.structures[Structure.DURA] - 1e-3)[60:].all()


def test_low_structures_lie_low(atlas: Atlas) -> None:
    z = atlas.structure_grid.corner_mm[2] + atlas.structure_grid.spacing_mm * torch.arange(atlas.structures.shape[1])
    above = atlas.structures[FIRST_LOW_STRUCTURE:, z > LOW_TOP_MM]
    assert (above < 0).all()


def test_sample_gives_voxels_back_and_is_linear_between_them() -> None:
    values = torch.arange(24.0).reshape(1, 2, 3, 4)
    grid = Grid((10.0, 20.0, 30.0), 2.0)
    x, y, z = torch.meshgrid(
        10 + 2.0 * torch.arange(4), 20 + 2.0 * torch.arange(3), 30 + 2.0 * torch.arange(2), indexing="ij"
    )
    points = torch.stack([x, y, z]).permute(0, 3, 2, 1)
    torch.testing.assert_close(sample(values, grid, points), values)
    between = torch.tensor([11.0, 20.0, 30.0])[:, None, None, None]
    assert float(sample(values, grid, between)) == pytest.approx(0.5)
    far = torch.tensor([1000.0, 20.0, 30.0])[:, None, None, None]
    assert float(sample(values, grid, far)) == 3.0
    assert float(sample(values, grid, far, padding="zeros")) == 0.0
