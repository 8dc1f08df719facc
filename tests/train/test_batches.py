"""What a step learns from: balanced, traced where it may be, and the same for one process or many."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from drawn_cohort import write_drawn_cohort
from pydantic import ValidationError
from still import STILL

from hgisam.brain import BrainOptions
from hgisam.labels import Subtype
from hgisam.preprocess import PreprocessOptions
from hgisam.train.augment import AugmentOptions
from hgisam.train.batches import PatientSlices, PhantomSlices, SamplingOptions, TrainingBatch, TrainingBatches
from hgisam.train.cohort import Trouble
from hgisam.train.layouts import read_cohort
from hgisam.train.painting import PaintingOptions
from hgisam.train.prepared import HU_STEP, PreparedScan, PreparedScans, prepare_cohort

SEEN = PreprocessOptions(fov_px=64)
CANVAS = PreprocessOptions(spacing_mm=2.0, fov_px=96)
LINEAR = CANVAS.model_copy(
    update={"relative_range_hu": (-2000.0, 2000.0), "mask_outside": False, "mirror_channel": False}
)
"""Images that HU can be read from again."""
ANY = list(Subtype).index(Subtype.ANY)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> PreparedScans:
    """Four patients, the first and third of whom bled."""
    folder = write_drawn_cohort(tmp_path_factory.mktemp("heads"), 4)
    cache = tmp_path_factory.mktemp("cache")
    return prepare_cohort(read_cohort(folder), BrainOptions(), CANVAS, cache, workers=1)


def head(name: str, sides_px: list[int], *, bled: bool = True) -> PreparedScan:
    """One slice for each side: a square of 40 HU over brain, of that side; 0 for none, 2 for a trace."""
    hu = torch.zeros(len(sides_px), 64, 64)
    for row, side in enumerate(sides_px):
        hu[row, 20 : 20 + side, 20 : 20 + side] = 40.0
    region = torch.zeros(len(sides_px), 64, 64, dtype=torch.bool)
    region[:, 4:60, 4:60] = True
    relative = (hu / HU_STEP).to(torch.int16)
    blood = hu > 20
    if not bled:
        relative, blood = torch.zeros_like(relative), torch.zeros_like(blood)
    rows = list(range(len(sides_px)))
    return PreparedScan(name, relative, 30.0, region, blood, rows, [5.0 * row for row in rows])


def of_phantoms(scans: list[PreparedScan], before: list[PreparedScan], **changed: object) -> TrainingBatches:
    sampling = SamplingOptions.model_validate({"phantom_positive": 4, "phantom_negative": 2, **changed})
    slices = PhantomSlices(scans, before, sampling, SEEN.spacing_mm)
    return TrainingBatches(None, slices, SEEN, sampling, STILL, PaintingOptions(), 0)


def of_patients(
    cohort: PreparedScans,
    patients: set[str],
    augmentation: AugmentOptions = STILL,
    rank: int = 0,
    n_processes: int = 1,
    **changed: object,
) -> TrainingBatches:
    sampling = SamplingOptions.model_validate(changed)
    slices = PatientSlices(cohort, patients, sampling)
    shared = {"rank": rank, "n_processes": n_processes}
    return TrainingBatches(slices, None, CANVAS, sampling, augmentation, PaintingOptions(), 0, **shared)


def test_slices_of_phantoms_with_a_trace_of_blood_are_never_shown() -> None:
    slices = PhantomSlices([head("a", [0, 2, 10])], [], SamplingOptions(), 1.0)
    assert slices.positive == [(0, 2)]
    assert slices.negative == [(0, 0)]


def test_positive_slices_with_too_little_brain_are_counted(cohort: PreparedScans) -> None:
    everyone = {scan.patient for scan in cohort.scans}
    none = PatientSlices(cohort, everyone, SamplingOptions())
    all_of_them = PatientSlices(cohort, everyone, SamplingOptions(min_region_mm2=1e6))
    assert none.findings == ()
    (found,) = all_of_them.findings
    assert (found.trouble, found.count) == (Trouble.LITTLE_BRAIN, len(none.positive))
    assert found.examples[0].startswith("p0 slice ")
    assert len(all_of_them.positive) == 0


def test_labels_of_phantoms_say_which_images_hold_blood() -> None:
    batch = of_phantoms([head("a", [0, 12, 20])], [])[0]
    assert batch.images.shape == (6, 2, 64, 64)
    assert batch.labels[:, ANY].tolist() == [True] * 4 + [False] * 2
    assert torch.equal(batch.blood.any(dim=2).any(dim=1), batch.labels[:, ANY])
    assert batch.traced.all()


def test_training_begins_with_phantoms_whose_blood_shows_and_ends_with_all() -> None:
    made = of_phantoms([head("a", [0, 4, 10, 20])], [], easy_share=0.3, easing_steps=20)
    areas = [made[step].blood[:4].sum(dim=(1, 2)) for step in range(40)]
    assert set(torch.cat(areas[:5]).tolist()) == {400}
    assert set(torch.cat(areas[20:]).tolist()) == {16, 100, 400}


def test_neighbours_are_shown_and_moved_with_their_slice(cohort: PreparedScans) -> None:
    seen = CANVAS.model_copy(update={"neighbours": 1})
    sampling = SamplingOptions(positive=2, painted=3, painted_twins=3, hard_negative=2)
    slices = PatientSlices(cohort, {"p0", "p1", "p2", "p3"}, sampling)
    batches = TrainingBatches(slices, None, seen, sampling, AugmentOptions(noise_hu=0), PaintingOptions(), 0)
    plain = TrainingBatches(slices, None, CANVAS, sampling, AugmentOptions(noise_hu=0), PaintingOptions(), 0)
    batch, without = batches[0], plain[0]
    assert batch.images.shape[1] == 4
    painted, twins = batch.images[2:8:2], batch.images[3:8:2]
    for bled, before, blood in zip(painted, twins, batch.blood[2:8:2], strict=True):
        more = (bled - before).abs()
        assert more[0][blood].mean() > 0
        for beside in (2, 3):  # what goes on in a neighbour goes on where the bleed is
            assert more[beside][blood].mean() > 5 * more[beside][~blood].mean()
    torch.testing.assert_close(batch.images[:2, :2], without.images[:2])  # positive ones: chance is drawn alike


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """But for rounding: HU go by way of the scan's median."""
    return torch.allclose(one, other, atol=1e-5, rtol=0)


def test_what_is_shown_of_neighbours_is_what_they_show_of_themselves() -> None:
    """Of the middle one of three slices those beside it; at the ends the slice itself, painted or noisy as it is."""
    seen = SEEN.model_copy(update={"neighbours": 1})
    scan = head("a", [12, 16, 20])
    sampling = SamplingOptions(phantom_positive=3, easy_share=1.0)
    phantoms = PhantomSlices([scan], [], sampling, 1.0)
    batches = TrainingBatches(None, phantoms, seen, sampling, STILL, PaintingOptions(), 0)
    of_side = {int(blood.sum()): image for image, blood in zip(batches[0].images, batches[0].blood, strict=True)}
    first, middle, last = (of_side[side**2] for side in (12, 16, 20))
    assert same(middle[2], first[0]) and same(middle[3], last[0])
    assert same(first[2], first[0]) and same(first[3], middle[0])
    assert same(last[2], middle[0]) and same(last[3], last[0])
    noisy = TrainingBatches(None, phantoms, seen, sampling, AugmentOptions(noise_hu=8.0), PaintingOptions(), 0)[0]
    ends = [image for image, blood in zip(noisy.images, noisy.blood, strict=True) if int(blood.sum()) < 13**2]
    assert len(ends) == 1
    assert same(ends[0][2], ends[0][0])


def test_a_bleed_painted_at_the_end_of_a_scan_is_in_the_slice_that_stands_for_its_neighbour(
    cohort: PreparedScans,
) -> None:
    seen = CANVAS.model_copy(update={"neighbours": 1})
    sampling = SamplingOptions(painted=4)
    slices = PatientSlices(cohort, {"p1"}, sampling)
    scan = cohort[[labelled.patient for labelled in cohort.scans].index("p1")]
    batches = TrainingBatches(slices, None, seen, sampling, STILL, PaintingOptions(), 0)
    images = torch.cat([batches[step].images for step in range(12)])
    alike = [same(image[0], image[2]) or same(image[0], image[3]) for image in images]
    assert 0 < sum(alike) <= len(images) * 4 / len(scan.slices)  # two of its slices are ends, each drawn as often


def test_a_phantom_s_twin_is_the_same_slice_without_its_blood() -> None:
    scans, twins = [head("a", [0, 20])], [head("a", [0, 20], bled=False)]
    batch = of_phantoms(scans, twins, phantom_twins=3)[0]
    assert int(batch.labels[:, ANY].sum()) == 4
    assert len(batch.labels) == 9
    assert not batch.blood[~batch.labels[:, ANY]].any()


def test_heads_without_a_twin_make_do_without() -> None:
    batch = of_phantoms([head("a", [0, 20])], [head("b", [0, 20], bled=False)], phantom_twins=3)[0]
    assert len(batch.labels) == 6


def test_slices_come_from_the_training_patients_alone(cohort: PreparedScans) -> None:
    slices = PatientSlices(cohort, {"p0", "p3"}, SamplingOptions())
    assert {slices.at(int(index))[0].name for index in slices.positive} == {"p0"}
    assert {slices.at(int(index))[0].name for index in slices.negative} == {"p0", "p3"}
    assert not {*slices.positive.tolist()} & {*slices.negative.tolist()}


def test_each_kind_comes_in_its_number_with_its_labels(cohort: PreparedScans) -> None:
    made = of_patients(
        cohort, {"p0", "p1"}, positive=2, painted=2, painted_twins=1, hard_negative=1, negative=2, start_difficulty=1.0
    )
    batch = made[0]
    positive, painted = [True, True], [True, False, True]
    assert batch.labels[:, ANY].tolist() == positive + painted + [False] * 3
    assert batch.traced.tolist() == [False, False] + [True] * 6
    assert batch.blood.any(dim=2).any(dim=1).tolist() == [False, False] + painted + [False] * 3
    assert batch.labels[:2, list(Subtype).index(Subtype.INTRAPARENCHYMAL)].all()
    assert (batch.labels[:, :ANY].any(dim=1) == batch.labels[:, ANY]).all()


def test_no_reference_mask_is_ever_traced(cohort: PreparedScans) -> None:
    batch = of_patients(cohort, {"p0", "p2"}, positive=4)[0]
    assert not batch.traced.any()
    assert not batch.blood.any()


def test_a_painted_slice_differs_from_its_twin_by_its_blood_alone(cohort: PreparedScans) -> None:
    augmentation = AugmentOptions(blur_px=0.0)
    batch = of_patients(cohort, {"p1"}, augmentation, painted=1, painted_twins=1, start_difficulty=0.0)[3]
    bled, before = batch.images[:, 0]
    changed = (bled - before).abs() > 1e-4
    assert changed[batch.blood[0]].float().mean() > 0.9
    assert bled[batch.blood[0]].mean() > before[batch.blood[0]].mean()
    assert not batch.blood[1].any()


def thickened(
    prepared: PreparedScans, patient: str, neighbours: Sequence[Sequence[int]], **wanted: int
) -> dict[int, list[float]]:
    """For each of a patient's slices the shares that its neighbours made up of it, whenever it was drawn.

    What is drawn must be one share of the mean of the neighbours that are named for its slice, and else the slice.
    """
    sampling = SamplingOptions.model_validate(wanted)
    slices = PatientSlices(prepared, {patient}, sampling)
    scan = prepared[[labelled.patient for labelled in prepared.scans].index(patient)]
    as_they_are = scan.relative_hu.float() * HU_STEP
    row_of = {number: row for row, number in enumerate(scan.slices)}
    still, thick = (
        TrainingBatches(slices, None, LINEAR, sampling, augmentation, PaintingOptions(), 0)
        for augmentation in (STILL, STILL.model_copy(update={"thickness": 0.6}))
    )
    found: dict[int, list[float]] = {}
    for step in range(40):
        one, other = still[step], thick[step]
        for name in ("labels", "known", "blood", "traced"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        for image, mixed in zip(one.images[:, 0] * 4000 - 2000, other.images[:, 0] * 4000 - 2000, strict=True):
            row = int((as_they_are - image).abs().amax(dim=(1, 2)).argmin())
            beside = [row_of[number] for number in neighbours[scan.slices[row]] if number in row_of]
            share = 0.0
            if beside:
                towards = as_they_are[beside].mean(dim=0) - image
                share = float(((mixed - image) * towards).sum() / (towards**2).sum())
                image = image + share * towards
            torch.testing.assert_close(mixed, image, atol=0.02, rtol=0)
            found.setdefault(scan.slices[row], []).append(share)
    return found


def test_a_thicker_slice_holds_a_share_of_its_neighbours(cohort: PreparedScans) -> None:
    both_sides = [[row - 1, row + 1] for row in range(20)]
    found = thickened(cohort, "p1", both_sides, negative=4)
    shares = [share for of_slice in found.values() for share in of_slice]
    assert len(found) > 5
    assert 0 <= min(shares) < 0.1
    assert 0.5 < max(shares) <= 0.6


def test_a_slice_with_blood_is_thickened_by_slices_with_blood_alone_and_one_without_by_those_without(
    cohort: PreparedScans,
) -> None:
    neighbours = [[row - 1, row + 1] for row in range(20)]
    neighbours[5], neighbours[6], neighbours[8], neighbours[9] = [4], [7], [7], [10]
    found = thickened(cohort, "p0", neighbours, positive=2, negative=4)
    assert {5, 6, 7, 8, 9} <= set(found)
    assert min(max(found[number]) for number in (5, 6, 7, 8, 9)) > 0.2


def test_a_slice_of_which_nothing_is_known_thickens_no_other(tmp_path: Path) -> None:
    heads = read_cohort(write_drawn_cohort(tmp_path / "heads", 2))
    labelled = list(heads.scans)
    known = labelled[1].known.clone()
    known[6] = False
    labelled[1] = replace(labelled[1], known=known)
    partly = replace(heads, scans=tuple(labelled))
    prepared = prepare_cohort(partly, BrainOptions(), CANVAS, tmp_path / "cache", workers=1)
    neighbours = [[row - 1, row + 1] for row in range(20)]
    neighbours[5], neighbours[7] = [4], [8]
    found = thickened(prepared, "p1", neighbours, negative=4)
    assert {5, 7} <= set(found)
    assert 6 not in found


def sorted_by_sum(parts: list[TrainingBatch]) -> torch.Tensor:
    images = torch.cat([part.images for part in parts])
    return images[images.double().sum(dim=(1, 2, 3)).argsort()]


def test_processes_show_together_what_one_shows_alone(cohort: PreparedScans) -> None:
    wanted = {"positive": 3, "painted": 3, "painted_twins": 2, "negative": 3}
    patients = {"p0", "p1", "p2", "p3"}
    alone = of_patients(cohort, patients, AugmentOptions(), **wanted)
    shared = [of_patients(cohort, patients, AugmentOptions(), rank, 2, **wanted) for rank in range(2)]
    for step in (0, 5):
        together = sorted_by_sum([made[step] for made in shared])
        torch.testing.assert_close(together, sorted_by_sum([alone[step]]), rtol=0, atol=0)


def test_a_batch_follows_from_its_step_whatever_came_before(cohort: PreparedScans) -> None:
    wanted = {"positive": 2, "painted": 2, "negative": 2}
    from_start, at_once = (of_patients(cohort, {"p0", "p1"}, AugmentOptions(), **wanted) for _ in "ab")
    seventh = [from_start[step] for step in range(8)][7]
    again = at_once[7]
    for name in ("images", "labels", "known", "blood", "traced"):
        assert torch.equal(getattr(seventh, name), getattr(again, name))
    assert not torch.equal(from_start[6].images, seventh.images)


def test_negative_slices_are_all_shown_before_one_is_shown_again(cohort: PreparedScans) -> None:
    sampling = SamplingOptions(negative=1)
    slices = PatientSlices(cohort, {"p1"}, sampling)
    made = TrainingBatches(slices, None, CANVAS, sampling, STILL, PaintingOptions(), 0)
    sums = {float(made[step].images.double().sum()) for step in range(len(slices.negative))}
    assert len(sums) == len(slices.negative)


def test_a_slice_of_a_patient_with_many_positive_ones_is_shown_less_often(tmp_path: Path) -> None:
    folder = write_drawn_cohort(tmp_path / "heads", 4)
    table = folder / "slice_labels.csv"
    kept = [line for line in table.read_text().splitlines() if not line.startswith(("p2.nii.gz,6,", "p2.nii.gz,7,"))]
    rows = [f"p2.nii.gz,{index},0,0,0,0,0,0" for index in (6, 7)]
    table.write_text(
        "\n".join([line.replace("p2.nii.gz,8,0,1,0,0,0", "p2.nii.gz,8,0,0,0,0,1") for line in kept + rows])
    )
    prepared = prepare_cohort(read_cohort(folder), BrainOptions(), CANVAS, tmp_path / "cache", workers=1)
    slices = PatientSlices(prepared, {"p0", "p1", "p2", "p3"}, SamplingOptions())
    assert slices.weights(balance_subtypes=False).tolist() == pytest.approx([3**-0.5] * 3 + [1.0])
    assert slices.weights(balance_subtypes=True).tolist() == pytest.approx([3**-1.5] * 3 + [1.0])


def test_a_batch_falls_into_parts_that_are_it() -> None:
    batch = of_phantoms([head("a", [0, 12])], [])[0]
    parts = batch.split(4)
    assert [len(part.images) for part in parts] == [2, 2, 1, 1]
    assert [len(part.images) for part in batch.split(9)] == [1] * 6
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)


@pytest.mark.parametrize("wrong", [{"painted": 1, "painted_twins": 2}, {"phantom_twins": 1}, {"positive": -1}])
def test_impossible_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        SamplingOptions.model_validate(wrong)


def test_slices_that_nobody_has_are_refused(cohort: PreparedScans) -> None:
    with pytest.raises(ValueError, match="phantom_positive"):
        of_patients(cohort, {"p0"}, phantom_positive=1)
    with pytest.raises(ValueError, match="any"):
        of_patients(cohort, {"p0"})


def test_as_many_processes_as_slices_have_one_each(cohort: PreparedScans) -> None:
    assert len(of_patients(cohort, {"p0", "p1"}, AugmentOptions(), 1, 2, positive=1, negative=1)[0].images) == 1
