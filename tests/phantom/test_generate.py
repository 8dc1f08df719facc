"""Phantoms: a seed means one phantom, the truth is exact, and the scan has the HU and geometry of a head CT."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from hgisam.labels import SUBTYPES, Subtype, label_value
from hgisam.phantom import (
    POSITIVE_SLICE_MM2,
    BleedRecord,
    Phantom,
    PhantomOptions,
    generate_phantoms,
    make_phantom,
    slice_labels,
)
from hgisam.phantom.scanner import Protocol
from hgisam.volume import CTVolume, MaskVolume

COARSE = {"size_px": 100, "pixel_mm": 2.3, "n_slices": 30}
"""Everything of a phantom at a sixth of its voxels."""


def coarse(**changes: object) -> PhantomOptions:
    return PhantomOptions.model_validate({**COARSE, **changes})


@pytest.fixture(scope="module")
def normal() -> Phantom:
    return make_phantom(3, coarse(bleed_probability=0.0))


@pytest.fixture(scope="module")
def bled() -> Phantom:
    """The same head with two bleeds."""
    kinds = (Subtype.INTRAPARENCHYMAL, Subtype.EPIDURAL)
    return make_phantom(3, coarse(kinds=kinds, volumes_ml=(20.0, 15.0)))


def test_a_seed_means_one_phantom_on_any_number_of_threads(bled: Phantom) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        again = make_phantom(3, coarse(kinds=[b.subtype for b in bled.bleeds], volumes_ml=(20.0, 15.0)))
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again.ct.hu, bled.ct.hu)
    assert torch.equal(again.labels, bled.labels)
    assert again.bleeds == bled.bleeds


def test_seeds_differ(normal: Phantom) -> None:
    other = make_phantom(4, coarse(bleed_probability=0.0))
    assert (other.ct.hu != normal.ct.hu).float().mean() > 0.2


def test_workers_make_the_same_phantoms_in_order() -> None:
    options = coarse(n_slices=6, pixel_mm=4.0, size_px=60)
    alone = list(generate_phantoms(2, 20, options))
    together = list(generate_phantoms(2, 20, options, workers=2))
    assert [p.seed for p in together] == [20, 21]
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.ct.hu, other.ct.hu)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.ct.affine, other.ct.affine)
        assert one.bleeds == other.bleeds
        assert one.ct.source == other.ct.source


@pytest.mark.parametrize(("n", "workers"), [(-1, 1), (1, 0)])
def test_generator_refuses_what_makes_no_sense(n: int, workers: int) -> None:
    with pytest.raises(ValueError, match="expected n >= 0 and workers >= 1"):
        next(generate_phantoms(n, 0, workers=workers))


def test_none_is_no_phantom() -> None:
    assert list(generate_phantoms(0, 0)) == []


def test_a_normal_head_has_no_labels(normal: Phantom) -> None:
    assert normal.bleeds == ()
    assert not normal.labels.any()
    assert not any(any(row.present.values()) for row in slice_labels(normal))


def test_without_its_bleeds_a_seed_is_the_same_head(normal: Phantom, bled: Phantom) -> None:
    assert torch.equal(normal.ct.affine, bled.ct.affine)
    same = normal.ct.hu == bled.ct.hu
    assert same.float().mean() > 0.8  # skull, face, noise and scanner; the brain was pushed
    assert same[:3].float().mean() > 0.95  # far below the bleeds


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_labelled_volume_is_the_volume_asked_for(subtype: Subtype) -> None:
    made = make_phantom(7, coarse(kinds=(subtype,), volumes_ml=(14.0,)))
    (record,) = made.bleeds
    assert record.requested_ml == 14.0
    assert record.volume_ml == pytest.approx(14.0, rel=0.05)
    mask = MaskVolume(made.labels == label_value(subtype), made.ct.affine, "labels")
    assert mask.volume_ml == pytest.approx(record.volume_ml, rel=0.3)
    assert torch.equal(mask.voxels, made.labels > 0)


def test_blood_is_brighter_than_the_same_place_without_it(normal: Phantom, bled: Phantom) -> None:
    for record in bled.bleeds:
        found = bled.labels == label_value(record.subtype)
        assert found.any()
        if record.subtype is Subtype.INTRAPARENCHYMAL:
            rise = float((bled.ct.hu - normal.ct.hu)[found].mean())
            assert rise == pytest.approx(record.contrast_hu, abs=8)
        assert record.contrast_hu > 2


def test_hu_are_those_of_a_head_ct(normal: Phantom) -> None:
    hu = normal.ct.hu
    assert torch.equal(hu, hu.round())
    assert float(hu.min()) >= -1024
    assert float(hu.max()) <= 3071
    air = hu[hu < -900]
    assert float(air.median()) == pytest.approx(-1000, abs=40)
    soft = hu[(hu > 10) & (hu < 70)]
    assert 25 < float(soft.median()) < 45
    assert 0.005 < float((hu > 500).float().mean()) < 0.2


def test_geometry_is_in_house_axes_with_the_vertex_on_top(normal: Phantom) -> None:
    options = coarse()
    assert normal.ct.hu.shape == (options.n_slices, options.size_px, options.size_px)
    assert normal.ct.spacing_mm == pytest.approx((options.slice_mm, options.pixel_mm, options.pixel_mm))
    linear = normal.ct.affine[:3, :3]
    assert (linear.T[0] > -1e-9).all()
    assert float(linear[2, 0]) > 0
    assert float(linear[1, 1]) < 0
    assert float(linear[0, 2]) < 0
    area = (normal.ct.hu > -300).flatten(1).sum(dim=1)
    assert area[-2] < 0.5 * area.max()  # the head narrows to its vertex
    assert (normal.ct.slice_positions_mm.diff() > 0).all()


def test_a_matrix_of_twice_the_pixels_shows_the_same_head() -> None:
    few = make_phantom(5, coarse(n_slices=3, pixel_mm=0.9, size_px=256, bleed_probability=0.0))
    many = make_phantom(5, coarse(n_slices=3, pixel_mm=0.45, size_px=512, bleed_probability=0.0))
    coarse_bone = torch.nn.functional.max_pool2d((many.ct.hu > 300).float(), 2) > 0
    bone = few.ct.hu > 300
    assert float((coarse_bone & bone).sum() / (coarse_bone | bone).sum()) > 0.8


def labelled(areas: dict[int, dict[Subtype, int]]) -> Phantom:
    """A volume of 2 x 2 mm pixels with a number of labelled pixels per slice and subtype."""
    labels = torch.zeros(4, 20, 20, dtype=torch.uint8)
    for index, counts in areas.items():
        for row, (subtype, count) in enumerate(counts.items()):
            labels[index, row, :count] = label_value(subtype)
    affine = torch.tensor([[0, 0, -2.0, 0], [0, -2.0, 0, 0], [5.0, 0, 0, 10], [0, 0, 0, 1]], dtype=torch.float64)
    ct = CTVolume(torch.zeros(labels.shape), affine, "made up")
    return Phantom(ct=ct, labels=labels, bleeds=(BleedRecord(Subtype.SUBDURAL, 1, 1, 20),), seed=0)


def test_blood_outside_the_field_of_view_is_no_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the scan shows air, nobody could find it."""
    draw = Protocol.draw
    monkeypatch.setattr(Protocol, "draw", lambda machine: replace(draw(machine), clip_radius_mm=64.0))
    found = make_phantom(3, coarse(kinds=(Subtype.EPIDURAL,), volumes_ml=(25.0,), n_slices=24))
    rows, columns = (torch.arange(100) - 50.0 for _ in range(2))
    outside = (rows[:, None] ** 2 + columns**2).sqrt() * 2.3 > 64.0
    assert (found.ct.hu[:, outside] == -1000.0).all()
    assert not found.labels[:, outside].any()
    assert found.labels.any()


def test_slices_are_positive_from_ten_square_millimetres() -> None:
    rows = slice_labels(
        labelled({1: {Subtype.SUBDURAL: 2}, 2: {Subtype.SUBDURAL: 3}, 3: {Subtype.SUBDURAL: 2, Subtype.EPIDURAL: 1}})
    )
    assert POSITIVE_SLICE_MM2 == 10
    assert [row.slice_index for row in rows] == [0, 1, 2, 3]
    assert [row.position_mm for row in rows] == [10.0, 15.0, 20.0, 25.0]
    assert [row.present[Subtype.SUBDURAL] for row in rows] == [False, False, True, False]
    assert [row.present[Subtype.ANY] for row in rows] == [False, False, True, True]
    assert not any(row.present[Subtype.INTRAPARENCHYMAL] for row in rows)


def test_slice_labels_agree_with_the_voxels(bled: Phantom) -> None:
    area = (bled.labels > 0).flatten(1).sum(dim=1) * 2.3**2
    assert [row.present[Subtype.ANY] for row in slice_labels(bled)] == (area >= 10).tolist()
    assert slice_labels(bled, min_mm2=1e9)[15].present[Subtype.ANY] is False


def test_some_heads_bleed_and_some_do_not() -> None:
    options = coarse(n_slices=1, pixel_mm=6.0, size_px=40)
    heads = list(generate_phantoms(12, 100, options))
    assert 2 <= sum(bool(p.bleeds) for p in heads) <= 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"kinds": ("subdural",), "volumes_ml": (1.0, 2.0)},
        {"kinds": ("any",)},
        {"slice_mm": 0.0},
        {"bleed_probability": 1.5},
        {"colour": "red"},
    ],
)
def test_options_refuse_what_they_do_not_know(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PhantomOptions.model_validate(wrong)


def test_kinds_force_the_subtypes() -> None:
    made = make_phantom(40, coarse(kinds=("subdural", "intraventricular")))
    assert [b.subtype for b in made.bleeds] == [Subtype.SUBDURAL, Subtype.INTRAVENTRICULAR]
    assert {int(v) for v in made.labels.unique()} == {
        0,
        label_value(Subtype.SUBDURAL),
        label_value(Subtype.INTRAVENTRICULAR),
    }
