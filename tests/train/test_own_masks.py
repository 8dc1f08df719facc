"""Masks that nobody drew: what two weak methods say, cleaned by labels; and what learns from them sees no reference."""

import csv
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from analytic_head import house_affine
from drawn_cohort import BLED, write_drawn_cohort
from hypothesis import given
from hypothesis import strategies as st
from killed_training import stopped_before_its_end
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny_segmenter import TINY, write_tiny_segmenter
from torch import Tensor

from hgisam.config import load_settings
from hgisam.io.errors import InputError, ScanRefused
from hgisam.io.nifti import read_labels, write_ct, write_labels
from hgisam.labels import Subtype
from hgisam.model.checkpoint import load_segmenter
from hgisam.pipeline import Segmenter, SegmentOptions
from hgisam.train.cohort import UNKNOWN, Cohort, LabelledScan, NiftiFile
from hgisam.train.layouts import read_cohort
from hgisam.train.own_masks import OpinionOptions, OwnMaskOptions, joined_masks, outline_by_ourselves
from hgisam.train.segmenter_recipe import (
    OWN_MASKS,
    SegmenterTrainOptions,
    gather_masks,
    recorded_segmenter_settings,
    train_segmenter,
)
from hgisam.train.splits import Role, load_splits, make_splits
from hgisam.train.training import BEST, CHECKPOINTS, RUN_RECORD, SPLITS
from hgisam.volume import CTVolume, MaskVolume
from hgisam.weak import HuThreshold

pytestmark = pytest.mark.usefixtures("undrawn")

CPU = torch.device("cpu")


def row(text: str) -> list[bool]:
    return [letter == "1" for letter in text]


def slices(*texts: str) -> Tensor:
    """Slices of one row each, as text."""
    return torch.tensor([[row(text)] for text in texts])


def test_two_opinions_and_a_label_make_a_mask_by_hand() -> None:
    first = slices("1100", "1110", "1111", "0000", "1100", "0100", "0001")
    second = slices("1100", "0111", "0001", "0000", "0011", "0100", "0000")
    free = torch.tensor([True, False, False, False, False, False, False])
    u = UNKNOWN
    expected = [
        [0, 0, 0, 0],  # labelled free of blood: whatever they say
        [u, 1, 1, u],  # Dice 4 / 6
        [u, u, u, u],  # Dice 2 / 5, too little
        [u, u, u, u],  # blood is there, and nobody has found it
        [u, u, u, u],  # they share no voxel
        [0, 1, 0, 0],
        [u, u, u, u],  # only one has found any
    ]
    assert joined_masks(first, second, free, 0.5)[:, 0].tolist() == expected
    expected[2] = [u, u, u, 1]
    assert joined_masks(first, second, free, 0.4)[:, 0].tolist() == expected
    assert joined_masks(first, second, free, 0.0)[:, 0].tolist() == expected


@given(seed=st.integers(0, 2**16), min_dice=st.floats(0, 1))
def test_whoever_comes_first_the_joined_mask_is_one(seed: int, min_dice: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.rand(2, 5, 3, 4, generator=generator) < 0.5
    free = torch.rand(5, generator=generator) < 0.3
    joined = joined_masks(first, second, free, min_dice)
    assert torch.equal(joined, joined_masks(second, first, free, min_dice))
    assert not bool(((joined == 1) & ~(first & second)).any())
    assert torch.equal(joined_masks(first, first, free, min_dice) == 1, first & ~free[:, None, None])


class Outliner(Segmenter):
    """Stands in for a weak method: what is denser than its contrast is blood. Counts what it was asked."""

    asked = 0

    def __init__(self, weights: Path | None, *, options: SegmentOptions, device: str) -> None:
        self._contrast_hu = options.weak.contrast_hu  # type: ignore[union-attr]

    @property
    def settings(self) -> dict[str, Any]:
        return {"contrast_hu": self._contrast_hu}

    def ensure_able(self, command: str) -> None:
        """It can."""

    def segment(self, ct: CTVolume) -> Any:  # type: ignore[override]
        Outliner.asked += 1
        if ct.source.startswith("bad"):
            raise ScanRefused(f"{ct.source}: expected a head CT; got\nsomething else")
        return SimpleNamespace(mask_volume=MaskVolume(ct.hu > self._contrast_hu, ct.affine, ct.source))


def by_hu(contrast_hu: float) -> dict[str, Any]:
    """A method without a network."""
    weak = {"method": "hu_threshold", "contrast_hu": contrast_hu}
    return {"segment": {"gate": False, "weak": weak, "refine": {"method": "threshold"}}}


OPTIONS = OwnMaskOptions.model_validate({"first": by_hu(50), "second": by_hu(70)})


def write_scan(folder: Path, name: str, rows: list[list[float]]) -> LabelledScan:
    """Slices of one row of HU; the first is labelled free of blood, the last not labelled, all others positive."""
    hu = torch.tensor(rows)[:, None, :]
    write_ct(folder / f"{name}.nii.gz", CTVolume(hu, house_affine((5.0, 1.0, 1.0)), name))
    labels = torch.zeros(len(rows), len(Subtype), dtype=torch.bool)
    labels[1:-1, -1] = True
    known = torch.ones_like(labels)
    known[-1] = False
    reference = folder / "truth.nii.gz"  # is not there: whoever opens it fails
    return LabelledScan(name, f"patient {name}", NiftiFile(folder / f"{name}.nii.gz"), labels, known, reference)


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    monkeypatch.setattr("hgisam.train.own_masks.Segmenter", Outliner)
    monkeypatch.setattr(Outliner, "asked", 0)
    dense, both, brain = 60.0, 80.0, 30.0
    one = [[both, both, brain], [both, dense, brain], [brain, brain, brain], [both, brain, both]]
    two = [[brain, brain, brain], [both, both, both], [dense, dense, both], [brain, brain, brain]]
    scans = [write_scan(tmp_path, name, rows) for name, rows in (("a", one), ("bad", one), ("c", two))]
    return Cohort("drawn", tuple(scans))


def test_scans_are_outlined_cleaned_counted_and_what_is_refused_is_left_out(
    cohort: Cohort, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        own = outline_by_ourselves(cohort, OPTIONS, tmp_path / "cache", 1, CPU)
    assert "bad is left out: bad.nii.gz: expected a head CT; got something else" in caplog.text
    assert [scan.name for scan in own.cohort.scans] == ["a", "c"]
    assert all(scan.reference is None for scan in own.cohort.scans)
    masks = [scan.load_own_mask() for scan in own.cohort.scans]
    u = UNKNOWN
    assert [None if mask is None else mask[:, 0].tolist() for mask in masks] == [
        [[0, 0, 0], [1, u, 0], [u, u, u], [1, 0, 1]],
        [[0, 0, 0], [1, 1, 1], [u, u, 1], [u, u, u]],
    ]
    first, second = own.rows
    assert (first.patient, first.scan, first.n_slices, first.n_free, first.n_unlabelled) == ("patient a", "a", 4, 1, 1)
    assert (first.n_outlined, first.n_left_out, first.n_blood, first.n_unsure, first.n_wiped) == (2, 1, 3, 1, 2)
    assert first.dice == pytest.approx(2 * 3 / (4 + 3))
    assert (second.n_outlined, second.n_left_out, second.n_blood, second.n_unsure) == (2, 1, 4, 2)
    assert {"n_scans": 2, "n_outlined": 4, "n_left_out": 2, "n_wiped": 2}.items() <= own.figures.items()
    own.write(tmp_path / "own.csv")
    with (tmp_path / "own.csv").open(newline="") as file:
        assert [line["n_blood"] for line in csv.DictReader(file)] == ["3", "4"]


def test_a_scan_is_outlined_once_and_again_only_where_something_is_missing_or_other(
    cohort: Cohort, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    own = outline_by_ourselves(cohort, OPTIONS, cache, 1, CPU)
    assert Outliner.asked == 2 + 1 + 2  # the refused one is not asked about twice
    again = outline_by_ourselves(cohort, OPTIONS, cache, 1, CPU)
    assert (Outliner.asked, again.rows) == (5, own.rows)
    assert [scan.own_mask for scan in again.cohort.scans] == [scan.own_mask for scan in own.cohort.scans]
    stricter = outline_by_ourselves(cohort, OPTIONS.model_copy(update={"min_dice": 0.7}), cache, 1, CPU)
    assert (Outliner.asked, stricter.rows[0].n_outlined) == (5 + 1, 1)  # the outlines are there; the refused is asked
    relabelled = [
        LabelledScan(scan.name, scan.patient, scan.voxels, ~scan.labels, scan.known | True) for scan in cohort.scans
    ]
    other = outline_by_ourselves(Cohort("drawn", tuple(relabelled)), OPTIONS, cache, 1, CPU)
    assert other.rows[0].n_free == 2
    alone = outline_by_ourselves(cohort, OPTIONS.model_copy(update={"second": None}), cache, 1, CPU)
    assert (alone.rows[0].n_unsure, alone.rows[0].dice, alone.facts["second"]) == (0, 1.0, None)


TEACHERS = {"first": by_hu(24), "second": by_hu(28)}


def write_recipe(path: Path, **loop: object) -> Path:
    changed = {
        "own_masks": TEACHERS,
        "split": TINY["split"] | {"tuning_share": 0},
        "loss": {"cross_entropy_power": 0.7},
    }
    return write_tiny_segmenter(path, changed, **loop)


def options_of(tmp_path: Path, **loop: object) -> SegmenterTrainOptions:
    return load_settings(write_recipe(tmp_path / "own.yaml", **loop)).train_segmenter


def scramble(data: Path, how: str) -> None:
    """Make the reference masks wrong, whoever they are of."""
    for path in (data / "truth").iterdir():
        if how == "inverted":
            labels, grid = read_labels(path)
            write_labels(path, (labels == 0).to(torch.uint8), grid)
        elif how == "garbage":
            path.write_bytes(b"no mask")
        else:
            path.unlink()


def test_reference_masks_that_are_wrong_broken_or_gone_give_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    """And teach whoever learns from references something else, so that it would be seen."""
    options = options_of(tmp_path, steps=4)
    weights, tensors, taught = [], [], []
    for how in ("right", "inverted", "garbage", "gone"):
        data = write_drawn_cohort(tmp_path / how / "heads", 4, masks=True)
        if how != "right":
            scramble(data, how)
        trained = train_segmenter(options, data, tmp_path / how / "run")
        assert trained is not None
        assert len(trained.test) == (2 if how in {"right", "inverted"} else 0)
        weights.append(load_file(trained.weights))
        checkpoint = max((tmp_path / how / "run" / CHECKPOINTS).glob("*.safetensors"))
        tensors.append(load_file(checkpoint))
        if how in {"right", "inverted"}:
            (tmp_path / how / "supervised").mkdir()
            from_references = options.model_copy(update={"own_masks": None})
            taught.append(gather_masks(from_references, data, tmp_path / how / "supervised", tmp_path / how / "c", 1))
    for found in (weights, tensors):
        for other in found[1:]:
            assert other.keys() == found[0].keys()
            assert all(torch.equal(other[name], found[0][name]) for name in other)
    assert len(taught[0].slices.bleeding) != len(taught[1].slices.bleeding)


def test_it_learns_what_both_methods_see_and_says_what_it_learned_from(tmp_path: Path) -> None:
    data = write_drawn_cohort(tmp_path / "heads", 12, masks=True)
    trained = train_segmenter(options_of(tmp_path), data, tmp_path / "run")
    assert trained is not None
    assert (trained.tuning, trained.kept.step, trained.kept.score) == ([], 60, None)
    assert min(found.dice or 0.0 for found in trained.test if found.n_reference) > 0.7
    fold = load_splits(tmp_path / "run" / SPLITS, read_cohort(data)).folds[0]
    with (tmp_path / "run" / OWN_MASKS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {line["patient"] for line in rows} == fold.patients(Role.TRAIN)
    assert {line["patient"] for line in rows}.isdisjoint(fold.patients(Role.TEST))
    bled = [line for line in rows if line["n_free"] != line["n_slices"]]
    assert {int(line["n_slices"]) - int(line["n_free"]) for line in bled} == {len(BLED)}
    record = json.loads((tmp_path / "run" / RUN_RECORD).read_text())
    assert record["own_masks"]["n_scans"] == len(rows) == 6
    assert record["own_masks"]["first"]["segment"]["weak"]["method"] == "hu_threshold"
    assert record["own_masks"]["n_outlined"] == sum(int(line["n_outlined"]) for line in rows) > 0
    metadata = load_segmenter(tmp_path / "run" / BEST).metadata
    assert metadata.data.startswith("our own masks of 6 patients (phantoms, cohort ")
    assert metadata.figures == {}


def test_slice_labels_alone_are_enough(tmp_path: Path) -> None:
    data = write_drawn_cohort(tmp_path / "heads", 4)
    (tmp_path / "run").mkdir()
    sources = gather_masks(options_of(tmp_path), data, tmp_path / "run", tmp_path / "cache", 1)
    assert len(sources.slices.bleeding) > 0
    assert (sources.tuning, sources.test) == ([], [])


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    data = write_drawn_cohort(tmp_path / "heads", 4)
    options = options_of(tmp_path, steps=6, checkpoint_every=3)
    whole = train_segmenter(options, data, tmp_path / "whole", cache=tmp_path / "cache")
    stopped = stopped_before_its_end(tmp_path / "whole", tmp_path / "mended")
    mended = train_segmenter(options, data, stopped, cache=tmp_path / "other", resume=True)
    assert whole is not None and mended is not None
    left, right = load_file(whole.weights), load_file(mended.weights)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_nobody_may_choose_where_no_reference_may_be_seen() -> None:
    recipe = {"own_masks": {}, "split": {"tuning_share": 0.2}}
    with pytest.raises(ValidationError, match=r"expected split\.tuning_share 0 with own_masks"):
        SegmenterTrainOptions.model_validate(recipe)


def test_splits_that_name_who_chooses_are_refused_before_any_mask_is_made(tmp_path: Path) -> None:
    data = write_drawn_cohort(tmp_path / "heads", 8)
    make_splits(read_cohort(data), 2, 0.3, seed=0).save(tmp_path / "other.csv")
    options = options_of(tmp_path)
    given = options.model_copy(update={"split": options.split.model_copy(update={"splits": tmp_path / "other.csv"})})
    with pytest.raises(InputError, match="expected splits without tuning patients with own_masks"):
        train_segmenter(given, data, tmp_path / "run")
    assert not (tmp_path / "run" / OWN_MASKS).exists()


def test_a_record_names_the_weights_by_their_content_and_not_by_their_folder(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    by_hu_alone = OpinionOptions(segment=SegmentOptions(gate=False, weak=HuThreshold()))
    own = OwnMaskOptions(first=OpinionOptions(weights=weights), second=by_hu_alone)
    options = SegmenterTrainOptions.model_validate({"own_masks": own, "split": {"tuning_share": 0}})
    recorded = []
    for content in (b"", b"one", b"another", None):
        weights.unlink(missing_ok=True)
        if content is not None:
            weights.write_bytes(content)
        recorded.append(recorded_segmenter_settings(options)["own_masks"])
    names = [own["first"]["weights"] for own in recorded]
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert names[0] == f"w.safetensors sha256 {nothing}"
    assert len(set(names)) == 4
    assert names[3] == "w.safetensors"
    assert all(own["second"]["weights"] is None for own in recorded)  # no network looks
    assert tmp_path.name not in json.dumps(recorded)
