"""Methods that are trained for a comparison: each fold is judged by a network that has not seen it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compared_heads import write_yaml
from drawn_cohort import write_drawn_cohort
from safetensors.torch import load_file
from tiny_segmenter import TINY as TINY_SEGMENTER
from tiny_segmenter import write_tiny_segmenter
from tiny_training import TINY

from hgisam import __version__
from hgisam.compare.comparison import compare
from hgisam.compare.data import prepare_data
from hgisam.compare.settings import CompareOptions
from hgisam.compare.training import FoldTraining, TrainingEnd, content_of_lessons
from hgisam.config import load_settings
from hgisam.io.nifti import read_ct, read_labels, write_ct, write_labels, write_mask
from hgisam.model.checkpoint import load_segmenter
from hgisam.train.layouts import read_cohort
from hgisam.train.masks import MaskLossOptions
from hgisam.train.recipe import TrainOptions, recorded_settings
from hgisam.train.segmenter_recipe import SegmenterTrainOptions
from hgisam.train.splits import Role, make_splits

pytestmark = pytest.mark.usefixtures("undrawn")

OPTIONS = TrainOptions.model_validate(TINY["train"])


class Trainer:
    """Stands in for a training: divides the patients, and leaves a record, but learns nothing."""

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed
        self.resumed: list[bool] = []

    def __call__(self, options: TrainOptions, data: Path, run: Path, *, resume: bool, **_: Any) -> None:
        self.resumed.append(resume)
        run.mkdir(exist_ok=True)
        make_splits(read_cohort(data), options.split.folds, 0.34, self.seed).save(run / "splits.csv")
        (run / "best.safetensors").write_text("weights")
        record = {"versions": {"hgisam": __version__}, "state": "finished", "settings": recorded_settings(options)}
        (run / "run.json").write_text(json.dumps(record))


def fold_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FoldTraining, Trainer]:
    """The first of two folds of a drawn cohort, not yet begun, and who carries it out."""
    data = write_drawn_cohort(tmp_path / "heads", 4)
    tested = make_splits(read_cohort(data), 2, seed=1).folds[0].patients(Role.TEST)
    monkeypatch.setattr("hgisam.compare.training.train_classifier", trainer := Trainer())
    training = FoldTraining(OPTIONS, data, tmp_path / "run", tested, tmp_path / "cache", "cpu", "lessons")
    return training, trainer


def test_a_finished_training_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, trainer = fold_training(tmp_path, monkeypatch)
    assert not training.finished
    for _ in range(2):
        weights = training.weights(workers=1)
        assert training.finished
    assert (weights, trainer.resumed) == (tmp_path / "run" / "best.safetensors", [False])
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"state": "running"}))
    training.weights(workers=1)
    assert trainer.resumed == [False, True]


@pytest.mark.parametrize("what", ["version", "settings", "data"])
def test_what_has_changed_since_a_training_is_trained_anew(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was broken off: what it had learned by then was of another version, recipe or content."""
    training, trainer = fold_training(tmp_path, monkeypatch)
    training.weights(workers=1)
    (tmp_path / "run" / "checkpoints").mkdir()
    if what == "version":
        monkeypatch.setattr("hgisam.compare.training.__version__", "9.9.9")
    elif what == "settings":
        loop = OPTIONS.loop.model_copy(update={"steps": 9})
        training = replace(training, options=OPTIONS.model_copy(update={"loop": loop}))
    else:
        training = replace(training, taught_on="others")
    assert not training.finished
    training.weights(workers=1)
    assert trainer.resumed == [False, False]
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert (tmp_path / "run_old_1" / "checkpoints").is_dir()


def test_a_training_whose_splits_are_gone_deals_them_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, trainer = fold_training(tmp_path, monkeypatch)
    training.weights(workers=1)
    (tmp_path / "run" / "splits.csv").unlink()
    assert training.weights(workers=1).is_file()
    assert (trainer.resumed, training.finished) == ([False, True], True)


def test_a_mask_is_a_lesson_for_what_learns_from_masks_and_not_of_those_who_are_tested(tmp_path: Path) -> None:
    def lessons(recipe: TrainOptions | SegmenterTrainOptions) -> str:
        dealt = prepare_data(options, tmp_path, tmp_path / "out")
        return content_of_lessons(dealt, recipe, frozenset({tested}))

    data = write_drawn_cohort(tmp_path / "heads", 4, masks=True)
    methods = [{"name": "a", "learned_from": "masks", "kind": "trained"}, {"name": "b", "learned_from": "nothing"}]
    values = {"title": "a test", "data": {"kind": "scans", "folder": "heads"}, "folds": 2, "reference": "b"}
    options = CompareOptions.model_validate(values | {"methods": methods})
    segmenter = SegmenterTrainOptions.model_validate(TINY_SEGMENTER)
    patient = {scan.name: scan.patient for scan in read_cohort(data).scans}
    tested = patient["p0"]
    before = lessons(OPTIONS), lessons(segmenter)
    changed = []
    for name in ("truth/p0_labels.nii.gz", "truth/p2_labels.nii.gz", "p3.nii.gz"):
        if name.startswith("truth"):
            labels, grid = read_labels(data / name)
            write_labels(data / name, torch.roll(labels, 1, 1), grid)
        else:
            ct, grid = read_ct(data / name)
            write_ct(data / name, replace(ct, hu=ct.hu + 1), grid)
        now = lessons(OPTIONS), lessons(segmenter)
        changed.append((now[0] != before[0], now[1] != before[1]))
        before = now
    assert changed == [(False, False), (False, True), (True, True)]


def test_how_a_training_ended_is_read_from_its_record(tmp_path: Path) -> None:
    """Two looks of 50 steps after the best one the recipe has enough; with one it had made all its steps."""
    loop = OPTIONS.loop.model_copy(update={"steps": 400, "evaluate_every": 50, "patience": 2})
    training = FoldTraining(
        OPTIONS.model_copy(update={"loop": loop}), tmp_path, tmp_path, frozenset(), tmp_path / "cache", "cpu", "lessons"
    )
    ends = []
    for step, looks_since in ((250, 2), (350, 1)):
        kept = {"score": 0.5, "step": step, "looks_since": looks_since}
        (tmp_path / "run.json").write_text(json.dumps({"versions": {"hgisam": __version__}, "kept": kept}))
        ends.append(training.end)
    assert ends == [TrainingEnd(0, 0.5, 250, 350, 400), TrainingEnd(0, 0.5, 350, 400, 400)]


def test_a_training_that_saw_patients_of_its_fold_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_drawn_cohort(tmp_path / "heads", 6)
    of_seed = {seed: make_splits(read_cohort(data), 2, seed=seed).folds[0].patients(Role.TEST) for seed in range(9)}
    other = next(seed for seed in of_seed if of_seed[seed] != of_seed[1])
    monkeypatch.setattr("hgisam.compare.training.train_classifier", Trainer(other))
    with pytest.raises(ValueError, match="expected 3 patients kept for judging"):
        FoldTraining(OPTIONS, data, tmp_path / "run", of_seed[1], tmp_path / "cache", "cpu", "lessons").weights(1)


def test_a_segmenter_trained_before_a_setting_existed_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_drawn_cohort(tmp_path / "heads", 4)
    tested = make_splits(read_cohort(data), 2, seed=1).folds[0].patients(Role.TEST)
    options = SegmenterTrainOptions.model_validate(TINY_SEGMENTER)
    calls: list[object] = []

    def learn(options: SegmenterTrainOptions, data: Path, run: Path, **_: Any) -> None:
        calls.append(options)
        run.mkdir(exist_ok=True)
        make_splits(read_cohort(data), options.split.folds, 0.34, 1).save(run / "splits.csv")
        (run / "best.safetensors").write_text("weights")
        settings = options.model_dump(mode="json")
        del settings["own_masks"], settings["loss"]["cross_entropy_power"]
        record = {"versions": {"hgisam": __version__}, "state": "finished", "settings": settings}
        (run / "run.json").write_text(json.dumps(record))

    monkeypatch.setattr("hgisam.compare.training.train_segmenter", learn)
    other = options.model_copy(update={"loss": MaskLossOptions(cross_entropy_power=0.5)})
    for recipe, n_calls in ((options, 1), (options, 1), (other, 2)):
        FoldTraining(recipe, data, tmp_path / "run", tested, tmp_path / "cache", "cpu", "lessons").weights(workers=1)
        assert len(calls) == n_calls


def test_a_comparison_hands_no_reference_to_what_trains_itself(tmp_path: Path) -> None:
    """Wrong references change every score and no weight, to the bit."""
    first, second = (
        {"segment": {"gate": False, "weak": {"method": "hu_threshold", "contrast_hu": hu}, "refine": {"method": how}}}
        for hu, how in ((24, "threshold"), (28, "components"))
    )
    write_tiny_segmenter(
        tmp_path / "own.yaml", {"split": {"tuning_share": 0}, "own_masks": {"first": first, "second": second}}, steps=4
    )
    write_yaml(tmp_path / "hu.yaml", {"source": "a test", **first})
    found, weights = [], []
    for how in ("right", "wrong"):
        data = write_drawn_cohort(tmp_path / how, 4, masks=True)
        for path in (data / "truth").iterdir() if how == "wrong" else ():
            labels, grid = read_labels(path)
            write_labels(path, (labels == 0).to(torch.uint8), grid)
        options = {
            "title": "A segmenter that trains itself",
            "data": {"kind": "scans"},
            "folds": 2,
            "seed": 1,
            "reference": "own",
            "methods": [
                {"name": "HU", "learned_from": "nothing", "config": "hu.yaml"},
                {"name": "own", "learned_from": "our own masks", "kind": "trained", "config": "own.yaml", "folds": [0]},
            ],
        }
        write_yaml(tmp_path / "a.yaml", {"source": "a test", "compare": options})
        hu, own = compare(tmp_path / "a.yaml", tmp_path / f"out_{how}", data_folder=data, device="cpu").methods
        assert (own.failure, len(own.cases)) == (None, 2)
        found.append([one.score.overlap.dice or 0.0 for one in hu.cases])
        weights.append(load_file(tmp_path / f"out_{how}" / "methods" / "own" / "fold_0" / "best.safetensors"))
    assert max(found[1]) < 0.1 < 0.5 < max(found[0])
    left, right = weights
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_trained_method_beside_a_given_one(tmp_path: Path) -> None:
    data = write_drawn_cohort(tmp_path / "heads", 8)
    (data / "truth").mkdir()
    for number in range(8):
        ct, grid = read_ct(data / f"p{number}.nii.gz")
        write_mask(data / "truth" / f"p{number}_mask.nii.gz", (ct.hu > 68) & (ct.hu < 100), grid)
    threshold = {"gate": False, "weak": {"method": "hu_threshold"}, "refine": {"method": "threshold"}}
    network = {"gate": False, "mirrored": False}
    options = {
        "title": "A trained classifier on drawn heads",
        "data": {"kind": "scans"},
        "folds": 2,
        "seed": 1,
        "reference": "HU",
        "methods": [
            {"name": "HU", "learned_from": "nothing", "segment": threshold},
            {"name": "trained", "learned_from": "labels of other folds", "kind": "trained", "config": "tiny.yaml",
             "segment": network, "train": {"loop": {"steps": 4}}},
        ],
    }  # fmt: skip
    train = {key: value for key, value in TINY["train"].items() if key != "split"}  # type: ignore[attr-defined]
    recipe = {"source": "a test", "train": train | {"split": {"tuning_share": 0.5}}}
    write_yaml(tmp_path / "tiny.yaml", recipe)
    write_yaml(tmp_path / "a.yaml", {"source": "a test", "compare": options})
    found = compare(tmp_path / "a.yaml", tmp_path / "out", data_folder=data, device="cpu")
    assert [method.failure for method in found.methods] == [None, None]
    assert [len(method.cases) for method in found.methods] == [8, 8]
    weights = {}
    for one in found.methods[1].cases:
        record = json.loads((tmp_path / "out" / "methods" / "trained" / f"{one.case.name}.json").read_text())
        weights.setdefault(one.case.fold, set()).add(record["weights_sha256"])
    assert {len(hashes) for hashes in weights.values()} == {1}
    assert weights[0] != weights[1]


def test_segmenters_trained_per_fold_beside_one_with_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bright squares are learned from masks of other folds; of one patient less well than of all, and the page says so.

    Two trainings run side by side. The weights of the first fold then stand for a network that was trained elsewhere.
    """
    data = write_drawn_cohort(tmp_path / "heads", 8, masks=True)
    write_tiny_segmenter(tmp_path / "unet.yaml", {"split": {}}, steps=40)
    trained = {"learned_from": "masks", "kind": "trained", "config": "unet.yaml"}
    short = {"split": {"tuning_share": 0, "train_patients": 1}, "loop": {"steps": 2}}
    weights = tmp_path / "out" / "methods" / "U-Net" / "fold_0" / "best.safetensors"
    given = {"name": "given", "learned_from": "masks", "config": "unet.yaml", "weights": str(weights)}
    options = {
        "title": "Segmenters on drawn heads",
        "data": {"kind": "scans"},
        "folds": 2,
        "seed": 1,
        "reference": "U-Net",
        "methods": [
            trained | {"name": "U-Net", "train_segmenter": {"split": {"tuning_share": 0}}},
            trained | {"name": "one mask", "train_segmenter": short, "folds": [0]},
            given | {"supervised": {"mirrored": False}},
        ],
    }
    write_yaml(tmp_path / "a.yaml", {"source": "a test", "compare": options})
    monkeypatch.delattr("hgisam.compare.training.train_segmenter")  # it is other processes that train
    found = compare(tmp_path / "a.yaml", tmp_path / "out", data_folder=data, device="cpu", workers=2)
    assert [method.failure for method in found.methods] == [None, None, None]
    assert [len(method.cases) for method in found.methods] == [8, 4, 8]
    learned, barely, _ = ([one.score.overlap.dice for one in method.cases] for method in found.methods)
    assert min(dice for dice in learned if dice is not None) > 0.7
    assert max(dice for dice in barely if dice is not None) < 0.5
    for name, n_patients in (("U-Net", 4), ("one_mask", 1)):
        metadata = load_segmenter(weights.parents[2] / name / "fold_0" / weights.name).metadata
        assert metadata.data.startswith(f"masks of {n_patients} patients (phantoms, cohort ")
    report = (tmp_path / "out" / "report.md").read_text()
    assert "masks (judged in 1 of 2 folds)" in report
    assert "Not ranked, since they were judged on other or fewer cases: one mask" in report
    (row,) = (line for line in report.splitlines() if line.startswith("| one mask | 2 + 2 |"))
    assert row.split(" | ")[2].endswith("(n = 2)"), "the others have 4"
    steps = load_settings(tmp_path / "unet.yaml").train_segmenter.loop.steps
    assert f" | 0, 1 | -, - | {steps}, {steps} | {steps}, {steps} | {steps} | 0 of 2 |" in report.replace("**", "")
    assert "| one mask | 0 | - | 2 | 2 | 2 | 0 of 1 |" in report
