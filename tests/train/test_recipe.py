"""A whole training: from a folder of labelled scans to weights that segment, whatever happens on the way."""

import gzip
import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from drawn_cohort import write_drawn_cohort
from killed_training import assert_equal_to_the_bit, kill_and_resume
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import TINY, write_shrunk_recipe, write_tiny_recipe
from typer.testing import CliRunner

from hgisam import Segmenter
from hgisam.cli import app
from hgisam.config import SettingsError, load_settings
from hgisam.evaluate.scored import read_scored_slices
from hgisam.labels import Subtype
from hgisam.model.checkpoint import load_weights, phantom_weights_path, save_weights
from hgisam.train.layouts import read_cohort
from hgisam.train.recipe import TrainOptions, gather, recorded_settings, train_classifier
from hgisam.train.splits import Role, load_splits
from hgisam.train.training import BEST, CHECKPOINTS, RUN_RECORD, SPLITS, SplitOptions, as_now

pytestmark = pytest.mark.usefixtures("undrawn")

RUN = CliRunner()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn_cohort(tmp_path_factory.mktemp("heads"), 12)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path, cache: Path) -> Path:
    """A training by the command, from its start to its end."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = write_tiny_recipe(folder / "tiny.yaml")
    done = RUN.invoke(app, [*arguments(recipe, folder / "a"), "--data", str(data), "--cache", str(cache)])
    assert done.exit_code == 0, done.output
    return folder / "a"


def arguments(recipe: Path, output: Path) -> list[str]:
    return ["train", "classifier", "--config", str(recipe), "-o", str(output), "--device", "cpu", "--workers", "1"]


def test_what_a_training_leaves_behind(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {BEST, f"{BEST}.sha256", SPLITS, RUN_RECORD, CHECKPOINTS, "metrics.jsonl", "tensorboard"}
    board = EventAccumulator(str(finished / "tensorboard"))
    board.Reload()
    assert {"loss", "learning_rate", "tuning_auc"} <= set(board.Tags()["scalars"])
    steps = [
        json.loads(row)["step"] for row in (finished / "metrics.jsonl").read_text().splitlines() if '"loss"' in row
    ]
    assert [event.step for event in board.Scalars("loss")] == steps
    assert names >= {"curves.png", "tuning.csv", "tuning.json", "tuning_roc_pr.png", "tuning_reliability.png"}
    assert names >= {"test.csv", "test.json", "test_roc_pr.png", "test_reliability.png"}
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "tuning_auc" in row] == [4, 8]
    assert rows[-2]["loss"] == pytest.approx(rows[-2]["slice_loss"] + rows[-2]["token_loss"], rel=1e-4)
    assert rows[-2]["slice_loss"] > 0
    record = json.loads((finished / RUN_RECORD).read_text())
    assert record["state"] == "finished"
    assert record["settings"]["loop"]["steps"] == 8
    assert 0 <= record["maps_on_painted_bleeds"]["dice"] <= 1


def test_no_patient_is_on_two_sides(finished: Path, data: Path) -> None:
    cohort = read_cohort(data)
    fold = load_splits(finished / SPLITS, cohort).folds[0]
    sides = [fold.patients(role) for role in Role]
    assert sum(map(len, sides)) == len(cohort.patients) == len(frozenset().union(*sides))
    judged = {line.split(",")[0] for line in (finished / "test.csv").read_text().splitlines()[1:]}
    assert judged == fold.patients(Role.TEST)


def test_records_name_no_folder_of_the_machine(finished: Path, data: Path) -> None:
    stored = load_weights(finished / BEST).metadata.model_dump_json()
    for text in (stored, (finished / RUN_RECORD).read_text()):
        assert str(finished.parent) not in text
        assert str(data.parent) not in text


def test_the_weights_find_the_operating_point_s_share_and_segment(finished: Path, data: Path) -> None:
    segmenter = Segmenter(finished / BEST, device="cpu")
    result = segmenter.segment(data / "p0.nii.gz")
    assert result.mask.shape == (110, 110, 14) or result.mask.size == result.ct.hu.numel()
    assert "12-bit" not in " ".join(result.warnings)
    tuning = json.loads((finished / "tuning.json").read_text())["by_target"][-1]
    assert tuning["target"] == "any"
    assert tuning["slices"]["sensitivity"]["value"] >= 0.95


def test_the_scan_s_own_probability_is_judged_as_segment_states_it(finished: Path, data: Path) -> None:
    judged = json.loads((finished / "test.json").read_text())["scans_by_head"]
    tested = load_splits(finished / SPLITS, read_cohort(data)).folds[0].patients(Role.TEST)
    assert (judged["n"], judged["n_patients"]) == (len(tested), len(tested))
    segmenter = Segmenter(finished / BEST, device="cpu")
    squared = []
    for scan in read_cohort(data).of(tested):
        said = segmenter.classify(data / f"{scan.name}.nii.gz").probability
        assert said is not None
        squared.append((said - float(scan.positive.any())) ** 2)
    assert judged["brier"]["value"] == pytest.approx(sum(squared) / len(squared), abs=5e-3)


def test_the_pipeline_says_of_a_scan_what_the_training_said(finished: Path, data: Path) -> None:
    said = {}
    for line in (finished / "test.csv").read_text().splitlines()[1:]:
        cells = line.split(",")
        said[cells[1], int(cells[2])] = float(cells[-1])
    segmenter = Segmenter(finished / BEST, device="cpu")
    for name in {scan for scan, _ in said}:
        found = segmenter.classify(data / f"{name}.nii.gz").slice_probabilities
        expected = [said[name, index] for index in range(len(found))]
        torch.testing.assert_close(torch.from_numpy(found).double(), torch.tensor(expected).double(), atol=2e-3, rtol=0)


def test_a_network_that_sees_neighbours_begins_with_one_that_does_not_and_the_pipeline_shows_them(
    finished: Path, data: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = yaml.safe_load(write_tiny_recipe(tmp_path / "tiny.yaml", steps=4).read_text())["train"]
    train["preprocess"]["neighbours"], train["classifier"]["swin"]["in_channels"] = 1, 4
    options = TrainOptions.model_validate(train | {"initial_weights": finished / BEST})
    with caplog.at_level(logging.INFO):
        done = train_classifier(options, data, tmp_path / "run", cache=cache)
    assert "2 more channels, which begin without a say" in caplog.text
    assert done is not None
    segmenter = Segmenter(done.weights, device="cpu")
    judged = read_scored_slices(tmp_path / "run" / "test.csv")
    for scan, rows in judged.rows_by_scan.items():
        found = torch.from_numpy(segmenter.classify(data / f"{scan}.nii.gz").slice_probabilities).double()
        torch.testing.assert_close(found, judged.probabilities[rows].double(), atol=2e-3, rtol=0)


def test_a_training_killed_in_mid_step_and_resumed_ends_to_the_bit_like_one_never_killed(
    finished: Path, data: Path, cache: Path, tmp_path: Path
) -> None:
    recipe, output = write_tiny_recipe(tmp_path / "tiny.yaml"), tmp_path / "b"
    kill_and_resume([*arguments(recipe, output), "--data", str(data), "--cache", str(cache)], output)
    assert_equal_to_the_bit(finished, output)


def test_weights_of_a_training_that_was_stopped_say_so_until_it_is_finished(
    data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = load_settings(write_tiny_recipe(tmp_path / "tiny.yaml", steps=2)).train
    output, scan = tmp_path / "run", min(data.glob("*.nii.gz"))

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as before_the_end, pytest.raises(KeyboardInterrupt):
        before_the_end.setattr("hgisam.train.recipe.calibrate", stopped)
        train_classifier(options, data, output, cache=cache)
    unfinished = "training that has not come to its end"
    assert any(unfinished in told for told in Segmenter(output / BEST, device="cpu").classify(scan).warnings)
    train_classifier(options, data, output, cache=cache, resume=True)
    assert not any(unfinished in told for told in Segmenter(output / BEST, device="cpu").classify(scan).warnings)


def test_a_folder_with_a_run_is_not_overwritten(finished: Path, data: Path) -> None:
    before = (finished / BEST).read_bytes()
    recipe = write_tiny_recipe(finished.parent / "again.yaml")
    done = RUN.invoke(app, [*arguments(recipe, finished), "--data", str(data)])
    assert done.exit_code == 2
    assert (finished / BEST).read_bytes() == before


def test_other_settings_are_no_resumption(finished: Path, data: Path) -> None:
    recipe = write_tiny_recipe(finished.parent / "other.yaml", learning_rate=1e-4)
    done = RUN.invoke(app, [*arguments(recipe, finished), "--data", str(data), "--resume"])
    assert done.exit_code == 2


def test_a_recipe_that_learns_from_patients_needs_them(tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml")
    assert RUN.invoke(app, arguments(recipe, tmp_path / "out")).exit_code == 2


@pytest.mark.parametrize(("without", "kind"), [(True, "positive"), (False, "painted")])
def test_data_without_a_kind_of_slice_are_refused_in_one_line(
    data: Path, cache: Path, tmp_path: Path, without: bool, kind: str
) -> None:
    """Where nobody chooses, nothing else would have asked for both kinds."""
    folder = shutil.copytree(data, tmp_path / "heads")
    rows = (folder / "slice_labels.csv").read_text().splitlines()
    kept = [",".join([*row.split(",")[:2], *("000000" if without else "000011")]) for row in rows[1:]]
    (folder / "slice_labels.csv").write_text("\n".join([rows[0], *kept]))
    split = {"split": {"folds": 1, "tuning_share": 0.0}}
    recipe = write_shrunk_recipe(tmp_path / "all.yaml", write_tiny_recipe(tmp_path / "tiny.yaml"), split)
    done = RUN.invoke(app, [*arguments(recipe, tmp_path / "out"), "--data", str(folder), "--cache", str(cache)])
    assert done.exit_code == 2, done.output
    assert f"expected slices for train.sampling.{kind}" in done.stderr


def without_subtypes(data: Path, folder: Path) -> Path:
    """The same scans, of whose slices it is only said whether they show blood."""
    shutil.copytree(data, folder)
    rows = [line.split(",") for line in (data / "slice_labels.csv").read_text().splitlines()]
    (folder / "slice_labels.csv").write_text("".join(f"{row[0]},{row[1]},{row[-1]}\n" for row in rows))
    return folder


@pytest.mark.parametrize(("outputs", "warns"), [(1, False), (6, True)])
def test_labels_of_blood_alone_teach_and_subtypes_that_nobody_told_are_a_warning(
    data: Path, cache: Path, tmp_path: Path, outputs: int, warns: bool
) -> None:
    folder = without_subtypes(data, tmp_path / "heads")
    classifier = TINY["train"]["classifier"] | {"outputs": outputs}  # type: ignore[index]
    recipe = write_shrunk_recipe(
        tmp_path / "r.yaml", write_tiny_recipe(tmp_path / "tiny.yaml", steps=2), {"classifier": classifier}
    )
    done = RUN.invoke(app, [*arguments(recipe, tmp_path / "a"), "--data", str(folder), "--cache", str(cache)])
    assert done.exit_code == 0, done.output
    assert ("do not say whether they show epidural, intraparenchymal," in done.stderr) is warns
    scored = read_scored_slices(tmp_path / "a" / "test.csv")
    assert scored.labels[:, -1].any()
    assert not scored.known[scored.labels[:, -1], :-1].any()


def test_subtypes_that_nothing_teaches_are_refused(data: Path, cache: Path, tmp_path: Path) -> None:
    folder = without_subtypes(data, tmp_path / "heads")
    classifier = TINY["train"]["classifier"] | {"outputs": 6}  # type: ignore[index]
    sampling = {"positive": 4, "negative": 4, "painted": 0, "painted_twins": 0, "hard_negative": 0}
    changed = {"classifier": classifier, "sampling": sampling, "judged_maps": 0}
    recipe = write_shrunk_recipe(tmp_path / "r.yaml", write_tiny_recipe(tmp_path / "tiny.yaml"), changed)
    done = RUN.invoke(app, [*arguments(recipe, tmp_path / "a"), "--data", str(folder), "--cache", str(cache)])
    assert done.exit_code == 2, done.output
    assert "expected labels that say of slices with blood whether they show epidural" in done.stderr


@pytest.mark.parametrize("quiet", [False, True])
def test_what_of_the_data_goes_unused_is_a_warning(tmp_path: Path, quiet: bool) -> None:
    """Read and refused for its folds, so that nothing is decoded."""
    data = write_drawn_cohort(tmp_path / "heads", 4)
    (data / "p1.nii.gz").unlink()
    recipe = write_shrunk_recipe(
        tmp_path / "many.yaml", write_tiny_recipe(tmp_path / "tiny.yaml"), {"split": {"folds": 9}}
    )
    options = ["--data", str(data), *(["-q"] if quiet else [])]
    done = RUN.invoke(app, [*arguments(recipe, tmp_path / "out"), *options])
    assert done.exit_code == 2
    levels = [line.split(": ")[1] for line in done.stderr.splitlines()]
    said = [line for line in done.stderr.splitlines() if "left out" in line]
    if quiet:
        assert levels == ["error"]
    else:
        assert said == ["hgisam: warning: 1 x labelled, but there is no file: left out (p1.nii.gz)"]
        assert levels.count("info") == 2 + len(Subtype)  # whose files, how many, and of each subtype


def test_weights_to_begin_with_are_missed_before_anything_is_prepared(data: Path, tmp_path: Path) -> None:
    recipe = write_shrunk_recipe(
        tmp_path / "far.yaml", write_tiny_recipe(tmp_path / "tiny.yaml"), {"initial_weights": "none.safetensors"}
    )
    done = RUN.invoke(app, [*arguments(recipe, tmp_path / "out"), "--data", str(data)])
    assert done.exit_code == 4
    assert "none.safetensors" in done.output
    assert not (tmp_path / "out" / "cache").exists()


def test_weights_of_another_network_are_refused_before_anything_is_prepared(
    finished: Path, data: Path, tmp_path: Path
) -> None:
    tiny = write_tiny_recipe(tmp_path / "tiny.yaml")
    start = {"initial_weights": str(finished / BEST)}
    cnn = {"kind": "resnet18", "width": 4, "in_channels": 2}
    others = {
        "expected embed_dim 16; got 8": {"classifier": {"swin": {"embed_dim": 16}}},
        "expected the tensors of a ResNet": {"classifier": cnn, "loss": {"token_weight": 0.0}},
    }
    for number, (message, other) in enumerate(others.items()):
        recipe = yaml.safe_load(tiny.read_text())
        classifier = other["classifier"]
        if "swin" in classifier:
            classifier = {"swin": recipe["train"]["classifier"]["swin"] | classifier["swin"]}
        recipe["train"] |= other | start | {"classifier": classifier}
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(recipe))
        done = RUN.invoke(app, [*arguments(tmp_path / f"{number}.yaml", tmp_path / "out"), "--data", str(data)])
        assert done.exit_code == 4
        assert message in done.output
        assert not (tmp_path / "out" / "cache").exists()


def test_a_training_whose_scans_cannot_be_kept_ends_before_any_is_prepared(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The patients are dealt by then, and would be dealt alike again."""
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**12, used=10**12 - 10**5, free=10**5))
    done = RUN.invoke(app, [*arguments(recipe, tmp_path / "out"), "--data", str(data)])
    assert done.exit_code == 5
    assert "cache: expected some" in done.stderr and "free; got 100 kB" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [SPLITS]


def test_a_training_whose_checkpoints_cannot_be_kept_ends_before_its_first_step(
    finished: Path, data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**12, used=10**12 - 100, free=100))
    command = [*arguments(recipe, tmp_path / "out"), "--data", str(data), "--cache", str(cache)]
    done = RUN.invoke(app, command)
    assert done.exit_code == 5
    assert "out: expected some" in done.stderr and "free; got 0.1 kB" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [SPLITS]
    shutil.copytree(finished, tmp_path / "done")
    done = RUN.invoke(app, [*arguments(recipe, tmp_path / "done"), *command[-4:], "--resume"])
    assert done.exit_code == 0, "all its steps are made"


def test_a_run_goes_on_with_the_initial_weights_that_it_began_with_and_no_others(
    finished: Path, data: Path, cache: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start.safetensors"
    shutil.copy(finished / BEST, start)
    tiny = write_tiny_recipe(tmp_path / "tiny.yaml", steps=1, evaluate_every=1)
    recipe = write_shrunk_recipe(tmp_path / "far.yaml", tiny, {"initial_weights": str(start), "judged_maps": 0})
    command = [*arguments(recipe, tmp_path / "out"), "--data", str(data), "--cache", str(cache)]
    assert RUN.invoke(app, command).exit_code == 0
    assert RUN.invoke(app, [*command, "--resume"]).exit_code == 0
    other = load_weights(start)
    with torch.no_grad():
        next(other.model.parameters()).add_(0.5)
    save_weights(start, other.model, other.metadata)
    again = RUN.invoke(app, [*command, "--resume"])
    assert again.exit_code == 2
    assert "got others in initial_weights" in again.stderr


def test_a_damaged_reference_mask_costs_a_classifier_no_scan(tmp_path: Path) -> None:
    """Nobody looks at it, so that it can be anything: cut off behind its header, or probabilities."""
    data = write_drawn_cohort(tmp_path / "heads", 4, masks=True)
    for path in sorted((data / "truth").iterdir()):
        mask = nib.load(path)
        if path.name.startswith("p0"):
            whole = gzip.decompress(path.read_bytes())
            path.write_bytes(gzip.compress(whole[: len(whole) // 2]))
        else:
            nib.save(nib.Nifti1Image(np.full(mask.shape, 0.3, dtype=np.float32), mask.affine), path)
    options = TrainOptions.model_validate(TINY["train"]).model_copy(
        update={"split": SplitOptions(folds=1, tuning_share=0.0)}
    )
    sources = gather(options, data, tmp_path, tmp_path / "cache", workers=1)
    assert sources.left_out == ()
    assert sources.patients is not None
    assert sources.patients.n_patients == 4


def test_initial_weights_are_recorded_by_name_and_content(tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    options = TrainOptions(initial_weights=path)
    assert recorded_settings(options)["initial_weights"] == "start.safetensors"
    path.write_bytes(b"abc")
    recorded = recorded_settings(options)
    of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert recorded["initial_weights"] == f"start.safetensors sha256 {of_abc}"
    assert as_now(recorded, TrainOptions) == recorded
    assert recorded_settings(TrainOptions(initial_weights="none"))["initial_weights"] == "none"
    packaged = phantom_weights_path()
    told = packaged.with_name(f"{packaged.name}.sha256").read_text().split()[0]
    recorded = recorded_settings(TrainOptions(initial_weights="phantoms"))
    assert recorded["initial_weights"] == f"{packaged.name} sha256 {told}"
    assert as_now(recorded, TrainOptions) == recorded


def test_a_resnet_is_kept_with_its_share_of_the_resnet_it_began_with(data: Path, cache: Path, tmp_path: Path) -> None:
    train = yaml.safe_load(write_tiny_recipe(tmp_path / "tiny.yaml", steps=1, evaluate_every=1).read_text())["train"]
    train |= {"classifier": {"kind": "resnet18", "width": 4, "in_channels": 2}, "loss": {"token_weight": 0.0}}
    train |= {"judged_maps": 0}
    first = train_classifier(TrainOptions.model_validate(train), data, tmp_path / "first", cache=cache)
    assert first is not None
    shared = train | {"initial_weights": first.weights, "initial_share": 0.25}
    shared["loop"] = train["loop"] | {"learning_rate": 0.02}
    train_classifier(TrainOptions.model_validate(shared), data, tmp_path / "second", cache=cache)
    assert_kept_with_a_quarter_of(tmp_path / "first", tmp_path / "second")


def test_the_network_that_is_kept_holds_its_share_of_the_weights_it_began_with(
    finished: Path, data: Path, cache: Path, tmp_path: Path
) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", steps=2, evaluate_every=2, learning_rate=0.02)
    share = {"initial_weights": str(finished / BEST), "initial_share": 0.25, "split": {"tuning_share": 0.0}}
    train_classifier(load_settings(recipe, {"train": share}).train, data, tmp_path / "out", cache=cache)
    assert_kept_with_a_quarter_of(finished, tmp_path / "out")


def assert_kept_with_a_quarter_of(begun_with: Path, output: Path) -> None:
    """What a run keeps is 3/4 of where it arrived and 1/4 of what it began with."""
    before, kept = (load_weights(folder / BEST).model.state_dict() for folder in (begun_with, output))
    arrived = {
        name.removeprefix("averaged."): tensor
        for name, tensor in load_file(max((output / CHECKPOINTS).glob("*.safetensors"))).items()
        if name.startswith("averaged.")
    }
    learned = [name for name in kept if not torch.allclose(arrived[name], before[name], rtol=0.01)]
    assert learned
    for name in learned:
        if kept[name].is_floating_point():
            expected = 0.75 * arrived[name] + 0.25 * before[name]
            torch.testing.assert_close(kept[name], expected, rtol=1e-3, atol=1e-5)


def test_a_share_of_no_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="initial_share"):
        load_settings(write_tiny_recipe(tmp_path / "tiny.yaml"), {"train": {"initial_share": 0.5}})


def test_training_stops_when_the_tuning_set_says_enough(data: Path, cache: Path, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", steps=40, evaluate_every=1, patience=1, learning_rate=1e-9)
    options = load_settings(recipe, {"train": {"split": {"train_patients": 2}}}).train
    trained = train_classifier(options, data, tmp_path / "out", cache=cache, workers=1)
    assert trained is not None
    assert load_weights(trained.weights).metadata.data.startswith("slice labels of 2 patients")
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows) < 40
