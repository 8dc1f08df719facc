"""Of whom a training learns: as many as it is told, fewer among more, and somebody who bled among the fewest; by which
splits, where its folder holds some; and with whom.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from drawn_cohort import write_drawn_cohort

from hgisam import __version__
from hgisam.io.errors import InputError
from hgisam.io.tables import write_json
from hgisam.train.batches import SamplingOptions
from hgisam.train.cohort import Cohort, CohortRefused
from hgisam.train.crops import CropSampling
from hgisam.train.encoder_recipe import EncoderTrainOptions, train_encoder
from hgisam.train.hiding import HidingOptions
from hgisam.train.layouts import read_cohort
from hgisam.train.processes import joined
from hgisam.train.recipe import TrainOptions, train_classifier
from hgisam.train.segmenter_recipe import SegmenterTrainOptions, train_segmenter
from hgisam.train.splits import Role, load_splits, make_splits
from hgisam.train.training import (
    RUN_RECORD,
    SPLITS,
    SplitOptions,
    as_now,
    check_together,
    fold_of,
    taught_by,
    warn_of_few,
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Sixteen heads; those of even numbers bleed."""
    return read_cohort(write_drawn_cohort(tmp_path_factory.mktemp("heads"), 16))


@pytest.mark.parametrize("seed", range(8))
def test_fewer_patients_are_among_more_and_half_of_them_have_bled_where_half_of_all_have(
    cohort: Cohort, seed: int
) -> None:
    fold = make_splits(cohort, 4, seed=seed).folds[0]
    everyone = fold.patients(Role.TRAIN)
    drawn = [taught_by(fold, SplitOptions(seed=seed, train_patients=n), cohort) for n in range(1, len(everyone) + 1)]
    assert [len(some) for some in drawn] == list(range(1, len(everyone) + 1))
    assert all(fewer < more for fewer, more in pairwise(drawn))
    bled = [sum(int(patient[1:]) % 2 == 0 for patient in some) for some in drawn]
    assert bled == [-(-n // 2) for n in range(1, len(everyone) + 1)]
    assert drawn[-1] == everyone == taught_by(fold, SplitOptions(seed=seed), cohort)


@pytest.mark.parametrize(
    ("learned", "tuning", "said"),
    [
        (range(12), range(12, 12), []),
        (range(10), range(6, 16), []),
        (
            range(2),
            range(2, 5),
            ["training set: 1 patient with hemorrhage and 1 patient without", "tuning set: 2 patients"],
        ),
        (
            range(0, 16, 2),
            range(1, 16, 2),
            ["training set: 8 patients with hemorrhage and 0 patients without", "tuning"],
        ),
        (range(0), range(12), []),
    ],
)
def test_a_handful_of_patients_is_warned_of_with_its_numbers(
    cohort: Cohort, learned: range, tuning: range, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    teachers, choosers = (frozenset(f"p{number}" for number in numbers) for numbers in (learned, tuning))
    warn_of_few(cohort.scans, teachers, choosers)
    assert len(caplog.messages) == len(said)
    assert all(line.startswith(start) for line, start in zip(caplog.messages, said, strict=True))
    assert {record.levelname for record in caplog.records} <= {"WARNING"}


def test_more_than_there_are_is_all(cohort: Cohort) -> None:
    fold = make_splits(cohort, 2, seed=0).folds[1]
    assert taught_by(fold, SplitOptions(train_patients=99), cohort) == fold.patients(Role.TRAIN)


def begun(output: Path) -> Path:
    """A folder with the record of a run that goes on."""
    write_json(output / RUN_RECORD, {"versions": {"hgisam": __version__}, "state": "running"})
    return output


def test_splits_that_no_run_has_used_are_made_anew(cohort: Cohort, tmp_path: Path) -> None:
    """A training that was refused leaves splits behind, perhaps by another seed."""
    make_splits(cohort, 2, 0.2, seed=1).save(tmp_path / SPLITS)
    expected = make_splits(cohort, 4, 0.15, seed=0)
    assert fold_of(SplitOptions(folds=4, fold=2), cohort, tmp_path) == expected.folds[2]
    assert load_splits(tmp_path / SPLITS, cohort).folds == expected.folds


def test_another_run_s_splits_are_gone_by_and_kept(cohort: Cohort, tmp_path: Path) -> None:
    splits = make_splits(cohort, 4, 0.3, seed=7)
    splits.save(tmp_path / "other.csv")
    given = SplitOptions(folds=2, fold=3, splits=tmp_path / "other.csv")
    assert fold_of(given, cohort, begun(tmp_path)) == splits.folds[3]
    (tmp_path / "other.csv").unlink()
    assert fold_of(given, cohort, tmp_path) == splits.folds[3]  # as it goes on: its own copy
    assert given.model_dump(mode="json")["splits"] == "other.csv"
    with pytest.raises(InputError, match="expected a fold below 4; got 4"):
        fold_of(given.model_copy(update={"fold": 4}), cohort, tmp_path)


def test_a_fold_that_does_not_exist_leaves_no_splits_behind(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a fold below 2; got 5"):
        fold_of(SplitOptions(folds=2, fold=5), cohort, tmp_path)
    assert not (tmp_path / SPLITS).exists()


def test_splits_that_are_not_there_or_of_another_cohort_are_refused(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a table of splits; got none"):
        fold_of(SplitOptions(splits=tmp_path / "none.csv"), cohort, tmp_path)
    fewer = read_cohort(write_drawn_cohort(tmp_path / "heads", 4))
    make_splits(fewer, 2, 0.2, seed=0).save(tmp_path / "other.csv")
    with pytest.raises(CohortRefused, match="expected splits of the cohort"):
        fold_of(SplitOptions(splits=tmp_path / "other.csv"), cohort, tmp_path)


def test_settings_on_record_from_before_one_existed_have_its_default() -> None:
    now = TrainOptions().model_dump(mode="json")
    before = {key: value for key, value in now.items() if key != "judged_maps"}
    before["split"] = {key: value for key, value in now["split"].items() if key != "splits"}
    assert before != now == as_now(before, TrainOptions)
    assert as_now(before | {"judged_maps": 6}, TrainOptions) != now
    assert as_now({"no": "settings"}, TrainOptions) == {"no": "settings"}


def test_a_run_that_goes_on_keeps_its_splits(cohort: Cohort, tmp_path: Path) -> None:
    splits = make_splits(cohort, 2, 0.2, seed=5)
    splits.save(begun(tmp_path) / SPLITS)
    assert fold_of(SplitOptions(folds=2, fold=1), cohort, tmp_path) == splits.folds[1]
    with pytest.raises(CohortRefused, match="expected 4 folds; got 2"):
        fold_of(SplitOptions(folds=4, fold=1), cohort, tmp_path)


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b'patient,fold_0,cohort_sha256\n"p0'])
def test_damaged_splits_are_refused_in_one_line(cohort: Cohort, tmp_path: Path, damage: bytes) -> None:
    (begun(tmp_path) / SPLITS).write_bytes(damage)
    with pytest.raises(CohortRefused, match=SPLITS):
        fold_of(SplitOptions(), cohort, tmp_path)


def test_processes_that_found_other_checkpoints_do_not_learn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hgisam.train.training.shared_out", lambda n, work: [work(0), 200])
    check_together(200)
    with pytest.raises(InputError, match="got 0, 200"):
        check_together(0)


def test_fewer_gpus_than_processes_are_told_before_anything_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="a GPU for each process"), joined(torch.device("cuda")):
        raise AssertionError("joined")


@pytest.mark.parametrize(
    ("train", "options", "setting"),
    [
        (train_classifier, TrainOptions(sampling=SamplingOptions(positive=1, negative=1)), "train.sampling"),
        (
            train_segmenter,
            SegmenterTrainOptions(sampling=CropSampling(bleeding=1, anywhere=1)),
            "train_segmenter.sampling",
        ),
        (train_encoder, EncoderTrainOptions(hiding=HidingOptions(slices=2)), "train_encoder.hiding.slices"),
    ],
)
def test_more_processes_than_slices_in_a_step_are_refused_before_anything_is_read(
    train: Callable[..., object], options: object, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hgisam.train.training.n_processes", lambda: 3)
    with pytest.raises(InputError, match=rf"got 2 of them and 3 processes; .* {setting}$"):
        train(options, tmp_path / "data that nobody reads", tmp_path / "run")
    assert not (tmp_path / "run").exists()
