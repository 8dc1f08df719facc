"""A segmenter from a folder of scans with masks to masks of its own, by the commands, whatever happens on the way."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from drawn_cohort import write_drawn_cohort
from killed_training import assert_equal_to_the_bit, stopped_before_its_end
from pydantic import ValidationError
from tiny_segmenter import TINY, write_tiny_segmenter
from tiny_training import write_tiny_recipe
from typer.testing import CliRunner

from hgisam.cli import app
from hgisam.config import load_settings
from hgisam.io.errors import InputError
from hgisam.model.checkpoint import load_segmenter
from hgisam.pipeline import MaskSegmenter
from hgisam.train.layouts import read_cohort
from hgisam.train.segmenter_recipe import SegmenterTrainOptions, gather_masks, train_segmenter
from hgisam.train.splits import Role, load_splits, make_splits
from hgisam.train.training import BEST, CHECKPOINTS, CURVES, RUN_RECORD, SPLITS

pytestmark = pytest.mark.usefixtures("undrawn")

RUN = CliRunner()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn_cohort(tmp_path_factory.mktemp("masked"), 12, masks=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def arguments(recipe: Path, output: Path, data: Path, cache: Path) -> list[str]:
    given = ["train", "segmenter", "--config", str(recipe), "-o", str(output), "--data", str(data)]
    return [*given, "--cache", str(cache), "--device", "cpu", "--workers", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path, cache: Path) -> Path:
    """A training by the command, from its start to its end."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = write_tiny_segmenter(folder / "tiny.yaml")
    done = RUN.invoke(app, arguments(recipe, folder / "a", data, cache))
    assert done.exit_code == 0, done.output
    return folder / "a"


def test_what_a_training_leaves_behind(finished: Path, data: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {BEST, f"{BEST}.sha256", SPLITS, RUN_RECORD, CHECKPOINTS, CURVES, "tuning.csv", "test.csv"}
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "tuning_dice" in row] == [20, 40, 60]
    losses = [row for row in rows if "loss" in row]
    assert losses[-1]["loss"] == pytest.approx(losses[-1]["dice_loss"] + losses[-1]["cross_entropy"], rel=1e-4)
    record = json.loads((finished / RUN_RECORD).read_text())
    assert record["state"] == "finished"
    assert record["test"]["n_scans"] == 6
    metadata = load_segmenter(finished / BEST).metadata
    assert metadata.figures["tuning_dice"] == pytest.approx(record["kept"]["score"], abs=1e-4)
    for text in (metadata.model_dump_json(), json.dumps(record)):
        assert str(finished.parent) not in text and str(data.parent) not in text


def test_no_patient_is_on_two_sides(finished: Path, data: Path) -> None:
    cohort = read_cohort(data)
    fold = load_splits(finished / SPLITS, cohort).folds[0]
    sides = [fold.patients(role) for role in Role]
    assert sum(map(len, sides)) == len(cohort.patients) == len(frozenset().union(*sides))
    with (finished / "test.csv").open(newline="") as file:
        assert {row["patient"] for row in csv.DictReader(file)} == fold.patients(Role.TEST)


def test_what_it_learned_is_outlined_by_the_command_on_heads_never_seen(
    finished: Path, data: Path, tmp_path: Path
) -> None:
    fold = load_splits(finished / SPLITS, read_cohort(data)).folds[0]
    unseen = sorted(fold.patients(Role.TEST))
    scans = [str(data / f"{Path(name).name.split('.')[0]}.nii.gz") for name in unseen]
    flags = ["--method", "unet", "--weights", str(finished / BEST), "--device", "cpu", "-o", str(tmp_path)]
    done = RUN.invoke(app, ["segment", *scans, *flags, "--save-map"])
    assert done.exit_code == 0, done.output
    for scan in map(Path, scans):
        name = scan.name.removesuffix(".nii.gz")
        truth = np.asarray(nib.load(data / "truth" / f"{name}_labels.nii.gz").dataobj) > 0
        mask = np.asarray(nib.load(tmp_path / f"{name}_mask.nii.gz").dataobj) > 0
        record = json.loads((tmp_path / f"{name}.json").read_text())
        highest = np.asarray(nib.load(tmp_path / f"{name}_map.nii.gz").dataobj).max()
        assert record["probability"] == pytest.approx(float(highest), abs=1e-5)
        assert record["operating_point"] == 0.5
        if truth.any():
            assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.7
            assert record["volume_ml"] == pytest.approx(mask.sum() * 10.0 * 2.0 * 2.0 / 1000.0)
        else:
            assert not mask.any()
            assert record["volume_ml"] == 0.0
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["settings"]["supervised"]["method"] == "unet"
    assert "gate" not in json.dumps(run["settings"])


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--method", "unet"], 2, "expected --weights with unet"),
        (["--method", "swin_unetr", "--weights", "WEIGHTS"], 4, "expected weights of a swin_unetr; got a unet"),
        (["--method", "unet", "--weights", "WEIGHTS", "--operating-point", "0.3"], 2, "--threshold"),
        (["--weights", "WEIGHTS"], 4, "got those of a segmenter; use them with `hgisam segment --method`"),
        (["--method", "unett", "--weights", "WEIGHTS"], 2, "'segment.weak'"),
    ],
)
def test_what_does_not_fit_the_method_is_refused_in_one_line(
    finished: Path, data: Path, tmp_path: Path, flags: list[str], status: int, said: str
) -> None:
    given = [str(finished / BEST) if flag == "WEIGHTS" else flag for flag in flags]
    done = RUN.invoke(app, ["segment", str(data / "p0.nii.gz"), *given, "-o", str(tmp_path)])
    assert done.exit_code == status, done.output
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_classifying_with_a_segmenter_is_refused(finished: Path, data: Path, tmp_path: Path) -> None:
    done = RUN.invoke(
        app, ["classify", str(data / "p0.nii.gz"), "--weights", str(finished / BEST), "-o", str(tmp_path)]
    )
    assert done.exit_code == 4
    assert "expected weights of a classifier; got those of a segmenter" in done.stderr


def test_a_training_that_goes_on_from_a_checkpoint_ends_to_the_bit_like_one_that_never_stopped(
    data: Path, cache: Path, tmp_path: Path
) -> None:
    recipe = write_tiny_segmenter(tmp_path / "tiny.yaml", steps=8, evaluate_every=4, checkpoint_every=3)
    assert RUN.invoke(app, arguments(recipe, tmp_path / "whole", data, cache)).exit_code == 0
    stopped = stopped_before_its_end(tmp_path / "whole", tmp_path / "stopped")
    again = RUN.invoke(app, [*arguments(recipe, stopped, data, cache), "--resume"])
    assert "goes on from step 6" in again.stderr
    assert_equal_to_the_bit(tmp_path / "whole", stopped)


def test_weights_of_a_training_that_was_stopped_say_so_until_it_is_finished(
    data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, output, scan = write_tiny_segmenter(tmp_path / "tiny.yaml"), tmp_path / "run", min(data.glob("*.nii.gz"))

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as before_the_end:
        before_the_end.setattr("hgisam.train.segmenter_recipe.write_masks_judgement", stopped)
        assert RUN.invoke(app, arguments(recipe, output, data, cache)).exit_code != 0
    unfinished = "training that has not come to its end"
    assert any(unfinished in told for told in MaskSegmenter(output / BEST, device="cpu").segment(scan).warnings)
    assert RUN.invoke(app, [*arguments(recipe, output, data, cache), "--resume"]).exit_code == 0
    assert not any(unfinished in told for told in MaskSegmenter(output / BEST, device="cpu").segment(scan).warnings)


def test_each_look_at_the_tuning_set_leaves_a_checkpoint_of_what_it_kept(
    data: Path, cache: Path, tmp_path: Path
) -> None:
    recipe = write_tiny_segmenter(tmp_path / "tiny.yaml", steps=4, evaluate_every=2, checkpoint_every=100)
    assert RUN.invoke(app, arguments(recipe, tmp_path / "run", data, cache)).exit_code == 0
    assert len(list((tmp_path / "run" / CHECKPOINTS).glob("*.safetensors"))) == 2


def test_a_cohort_without_masks_is_refused_in_one_line(tmp_path: Path) -> None:
    labelled = write_drawn_cohort(tmp_path / "labelled", 2)
    recipe = write_tiny_segmenter(tmp_path / "tiny.yaml")
    done = RUN.invoke(app, [*arguments(recipe, tmp_path / "out", labelled, tmp_path / "cache"), "-q"])
    assert done.exit_code == 2
    assert "expected scans with reference masks" in done.stderr
    assert "got 2 scans with slice labels alone" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_scans_without_masks_are_dealt_as_for_a_classifier_and_teach_nobody(tmp_path: Path) -> None:
    data = write_drawn_cohort(tmp_path / "some", 8, masks=True)
    for number in (3, 5):
        (data / "truth" / f"p{number}_labels.nii.gz").unlink()
    options = load_settings(write_tiny_segmenter(tmp_path / "tiny.yaml")).train_segmenter
    (tmp_path / "out").mkdir()
    sources = gather_masks(options, data, tmp_path / "out", tmp_path / "cache", 1)
    cohort = read_cohort(data)
    fold = make_splits(cohort, 2, 0.34, seed=1).folds[0]
    assert load_splits(tmp_path / "out" / SPLITS, cohort).folds[0] == fold
    masked = set(cohort.patients) - {"p3", "p5"}
    assert sources.slices.n_patients == len(fold.patients(Role.TRAIN) & masked)
    assert {judge.patient for judge in sources.test} == fold.patients(Role.TEST) & masked
    assert {judge.patient for judge in sources.tuning} == fold.patients(Role.TUNING) & masked


def test_a_classifier_s_recipe_is_not_taken_for_a_segmenter_s_nor_the_reverse(data: Path, tmp_path: Path) -> None:
    for what, recipe in (
        ("segmenter", write_tiny_recipe(tmp_path / "classifier.yaml")),
        ("classifier", write_tiny_segmenter(tmp_path / "segmenter.yaml")),
    ):
        done = RUN.invoke(
            app, ["train", what, "--config", str(recipe), "--data", str(data), "-o", str(tmp_path / what)]
        )
        assert done.exit_code == 2
        assert f"expected a recipe with 'train{'' if what == 'classifier' else '_segmenter'}'" in done.stderr


def test_training_stops_when_the_tuning_set_says_enough(data: Path, cache: Path, tmp_path: Path) -> None:
    loop = {"steps": 40, "evaluate_every": 1, "patience": 2, "learning_rate": 1e-9}
    options = load_settings(write_tiny_segmenter(tmp_path / "tiny.yaml", **loop)).train_segmenter
    trained = train_segmenter(options, data, tmp_path / "out", cache=cache)
    assert trained is not None
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    last = max(row["step"] for row in rows)
    assert last == trained.kept.step + 2
    again = train_segmenter(options, data, tmp_path / "out", cache=cache, resume=True)
    assert again is not None and again.kept == trained.kept


def test_a_3d_network_learns_from_stacks_and_outlines_scans_on_their_own_grid(
    data: Path, cache: Path, tmp_path: Path
) -> None:
    changed = {
        "network": {"kind": "unet", "spatial_dims": 3, "channels": [8, 16], "slice_halvings": 1, "norm": "batch"},
        "stack": {"slice_mm": 6.0, "window_slices": 8},
        "sampling": {"bleeding": 2, "anywhere": 1},
    }
    recipe = write_tiny_segmenter(tmp_path / "tiny.yaml", changed, steps=60)
    trained = train_segmenter(load_settings(recipe).train_segmenter, data, tmp_path / "out", cache=cache)
    assert trained is not None
    bled = [found.dice or 0.0 for found in trained.test if found.n_reference]
    assert (len(trained.test), len(bled)) == (6, 3)
    assert min(bled) > 0.5
    segmenter = MaskSegmenter(trained.weights, device="cpu")
    result = segmenter.segment(data / "p0.nii.gz")
    scan = nib.load(data / "p0.nii.gz")
    assert result.mask.shape == result.saliency.shape == scan.shape
    np.testing.assert_allclose(result.affine, scan.affine)
    assert 0.0 < float(result.probability or 0.0) < 1.0
    assert segmenter.settings["stack"] == {"slice_mm": 6.0, "window_slices": 8}


def test_a_3d_swin_unetr_in_bfloat16_is_refused_on_the_cpu(data: Path, tmp_path: Path) -> None:
    network = {"kind": "swin_unetr", "spatial_dims": 3, "feature_size": 12}
    wrong = {"network": network, "stack": {"window_slices": 32}, "preprocess": {"spacing_mm": 3.0, "fov_px": 64}}
    options = load_settings(write_tiny_segmenter(tmp_path / "tiny.yaml", wrong, bfloat16=True)).train_segmenter
    with pytest.raises(InputError, match="bfloat16 gradients are wrong"):
        train_segmenter(options, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"preprocess": {"spacing_mm": 4.0, "fov_px": 50}}, "expected windows of multiples of"),
        ({"network": {"kind": "unet", "in_channels": 3}}, "expected a network for the 2 channels"),
        ({"preprocess": {"neighbours": 1}, "network": {"kind": "unet", "in_channels": 4}}, "neighbours 0"),
        ({"loop": {"layer_decay": 0.9}}, "layers learn as one"),
        ({"augmentation": {"thickness": 0.3}}, "their masks are not known"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SegmenterTrainOptions.model_validate(yaml.safe_load(json.dumps(TINY)) | changed)
