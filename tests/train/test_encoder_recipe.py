"""An encoder from scans whose labels nobody asks for, by the command, to a classifier that begins with it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from drawn_cohort import write_drawn_cohort
from killed_training import assert_equal_to_the_bit, stopped_before_its_end
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny_training import TINY, write_tiny_recipe
from typer.testing import CliRunner

from hgisam.cli import app
from hgisam.config import load_settings
from hgisam.model.checkpoint import EncoderMetadata, WeightsError, load_segmenter, load_weights, read_tensors
from hgisam.train.encoder_recipe import PICTURES, EncoderTrainOptions, train_encoder
from hgisam.train.recipe import train_classifier
from hgisam.train.training import BEST, CHECKPOINTS, CURVES, RUN_RECORD, SPLITS

pytestmark = pytest.mark.usefixtures("undrawn")

RUN = CliRunner()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn_cohort(tmp_path_factory.mktemp("heads"), 6)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def write_recipe(path: Path, **loop: object) -> Path:
    tiny: dict[str, object] = TINY["train"]  # type: ignore[assignment]
    train = {
        "preprocess": tiny["preprocess"],
        "classifier": tiny["classifier"],
        "split": {"tuning_share": 0.0},
        "hiding": {"slices": 6, "hidden_px": 16},
        "loop": {"steps": 20, "learning_rate": 5.0e-3, "checkpoint_every": 10, "bfloat16": False} | loop,
    }
    path.write_text(yaml.safe_dump({"source": "a test", "train_encoder": train}), encoding="utf-8")
    return path


def arguments(recipe: Path, output: Path, data: Path, cache: Path) -> list[str]:
    given = ["train", "encoder", "--config", str(recipe), "-o", str(output), "--data", str(data)]
    return [*given, "--cache", str(cache), "--device", "cpu", "--workers", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path, cache: Path) -> Path:
    """A training by the command, from its start to its end."""
    folder = tmp_path_factory.mktemp("runs")
    done = RUN.invoke(app, arguments(write_recipe(folder / "tiny.yaml"), folder / "a", data, cache))
    assert done.exit_code == 0, done.output
    return folder / "a"


def test_what_a_training_leaves_behind(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} >= {BEST, SPLITS, RUN_RECORD, CHECKPOINTS, CURVES, PICTURES}
    assert json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 20
    record = json.loads((finished / RUN_RECORD).read_text())
    assert record["state"] == "finished"
    metadata = EncoderMetadata.model_validate_json(read_tensors(finished / BEST).metadata or "")
    assert metadata.data.startswith("slices of 6 patients without their labels (slice_labels, cohort ")
    assert metadata.command.startswith("hgisam train encoder --config tiny.yaml")
    assert all(name.startswith("swin.") for name in load_file(finished / BEST))


def test_labels_teach_it_nothing(finished: Path, data: Path, cache: Path, tmp_path: Path) -> None:
    other = shutil.copytree(data, tmp_path / "other")
    first, *rows = (data / "slice_labels.csv").read_text().splitlines()
    unbled = [",".join([*row.split(",")[:2], *"000000"]) for row in rows]
    (other / "slice_labels.csv").write_text("\n".join([first, *unbled]))
    options = load_settings(write_recipe(tmp_path / "tiny.yaml")).train_encoder
    trained = train_encoder(options, other, tmp_path / "b", cache=cache)
    assert trained is not None
    before, after = load_file(finished / BEST), load_file(trained.weights)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_classifier_begins_with_it_and_says_so(finished: Path, data: Path, cache: Path, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", steps=1, evaluate_every=1, learning_rate=1e-9)
    begun = {"initial_weights": str(finished / BEST), "judged_maps": 0}
    trained = train_classifier(load_settings(recipe, {"train": begun}).train, data, tmp_path / "out", cache=cache)
    assert trained is not None
    encoder, classifier = load_file(finished / BEST), load_weights(trained.weights)
    learned = classifier.model.state_dict()
    assert all(torch.allclose(learned[name], encoder[name].float(), atol=1e-4) for name in encoder)
    assert "initial weights: slices of 6 patients without their labels" in classifier.metadata.data


def test_weights_of_a_training_that_was_stopped_are_warned_of_where_a_classifier_begins_with_them(
    data: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder, output = load_settings(write_recipe(tmp_path / "encoder.yaml", steps=1)).train_encoder, tmp_path / "run"
    begun = {"initial_weights": str(output / BEST), "judged_maps": 0}
    recipe = write_tiny_recipe(tmp_path / "tiny.yaml", steps=1, evaluate_every=1)
    classifier = load_settings(recipe, {"train": begun}).train

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as before_the_end, pytest.raises(KeyboardInterrupt):
        before_the_end.setattr("hgisam.train.encoder_recipe.write_hidden_pictures", stopped)
        train_encoder(encoder, data, output, cache=cache)
    train_classifier(classifier, data, tmp_path / "begun_early", cache=cache)
    assert "has not come to its end" in caplog.text
    train_encoder(encoder, data, output, cache=cache, resume=True)
    caplog.clear()
    train_classifier(classifier, data, tmp_path / "begun_late", cache=cache)
    assert "has not come to its end" not in caplog.text


def test_it_is_no_classifier_and_no_segmenter(finished: Path, data: Path, tmp_path: Path) -> None:
    for load in (load_weights, load_segmenter):
        with pytest.raises(WeightsError, match="an encoder, which no label has taught; train a classifier"):
            load(finished / BEST)
    asked = ["segment", str(data / "p0.nii.gz"), "--weights", str(finished / BEST), "-o", str(tmp_path / "out")]
    done = RUN.invoke(app, asked)
    assert done.exit_code == 4, done.output
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_a_training_that_goes_on_from_a_checkpoint_ends_to_the_bit_like_one_that_never_stopped(
    finished: Path, data: Path, cache: Path, tmp_path: Path
) -> None:
    stopped = stopped_before_its_end(finished, tmp_path / "b")
    done = RUN.invoke(app, [*arguments(write_recipe(tmp_path / "tiny.yaml"), stopped, data, cache), "--resume"])
    assert done.exit_code == 0, done.output
    assert "goes on from step 10" in done.stderr
    assert_equal_to_the_bit(finished, stopped)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"preprocess": {"mirror_channel": False}}, "network for the 1 channels"),
        ({"preprocess": {"fov_px": 160}}, "preprocess.fov_px 160; got img_size 192"),
        ({"hiding": {"hidden_px": 30}}, "patches of 4 px"),
        ({"hiding": {"hidden_px": 36}}, "divide 192 px"),
        ({"loop": {"freeze_steps": 9}}, "freeze_steps 0, since no head waits; got 9"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EncoderTrainOptions.model_validate(changed)


def test_patients_without_enough_brain_are_refused_in_one_line(data: Path, cache: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny.yaml")
    everything = yaml.safe_load(recipe.read_text())
    everything["train_encoder"]["hiding"]["min_region_mm2"] = 1e6
    recipe.write_text(yaml.safe_dump(everything), encoding="utf-8")
    done = RUN.invoke(app, arguments(recipe, tmp_path / "out", data, cache))
    assert done.exit_code == 2
    assert "expected slices that show brain" in done.stderr
