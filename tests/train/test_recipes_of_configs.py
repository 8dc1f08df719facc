"""Recipes that are too large for a test, in a size that is not: each trains from its YAML, with its own schedule."""

import json
from pathlib import Path

import pytest
import torch
from analytic_head import draw_head
from drawn_cohort import BLED, BLEED_HU, write_drawn_cohort
from scan_files import write_slice
from tiny_training import write_shrunk_recipe
from typer.testing import CliRunner

from hgisam import Segmenter
from hgisam.cli import app
from hgisam.config import load_settings
from hgisam.evaluate.scored import read_scored_slices
from hgisam.labels import Subtype
from hgisam.model.checkpoint import load_weights
from hgisam.model.swin import swin_base_patch4_window12_384
from hgisam.phantom import make_phantom, slice_labels
from hgisam.train.training import BEST, RUN_RECORD

pytestmark = pytest.mark.usefixtures("undrawn")

RUN = CliRunner()


def train(recipe: Path, data: Path, output: Path) -> list[dict[str, float]]:
    """A training by the command; what it wrote on the way."""
    where = ["--config", str(recipe), "--data", str(data), "-o", str(output)]
    done = RUN.invoke(app, ["train", "classifier", *where, "--device", "cpu", "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert json.loads((output / RUN_RECORD).read_text())["state"] == "finished"
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_the_paper_s_setting_is_the_paper_s(repository: Path) -> None:
    train = load_settings(repository / "configs" / "hgi_sam_paper.yaml").train
    assert train.classifier.swin.model_copy(update={"drop_path": 0.0}) == swin_base_patch4_window12_384()  # type: ignore[union-attr]
    assert (train.classifier.outputs, train.classifier.pooling) == (2, "mean")
    assert (train.sampling.positive, train.sampling.negative, train.sampling.n_images) == (6, 6, 12)
    assert train.preprocess.spacing_mm * 422 == pytest.approx(250.0, abs=0.1)


def test_the_paper_s_setting_trains_in_a_small_form(repository: Path, tmp_path: Path) -> None:
    """All its blocks and its schedule, at a quarter of its pixels and a sixteenth of its channels."""
    small = {
        "initial_weights": "none",
        "preprocess": {"spacing_mm": 2.4, "fov_px": 96},
        "classifier": {"swin": {"img_size": 96, "window": 3, "embed_dim": 8, "heads": [1, 2, 4, 8]}},
        "split": {"tuning_share": 0.34},
        "sampling": {"positive": 2, "negative": 2},
        "loop": {"steps": 20, "freeze_steps": 5, "evaluate_every": 10},
    }
    recipe = write_shrunk_recipe(tmp_path / "small.yaml", repository / "configs" / "hgi_sam_paper.yaml", small)
    data = write_drawn_cohort(tmp_path / "heads", 6)
    rows = train(recipe, data, tmp_path / "run")
    assert [row["step"] for row in rows if "tuning_auc" in row] == [10, 20]
    assert rows[-2]["step"] == 20
    assert 0 < rows[-2]["slice_loss"] < 2
    loaded = load_weights(tmp_path / "run" / BEST)
    assert loaded.metadata.architecture.outputs == 2
    assert loaded.metadata.preprocess["channels"] == "windows_observed"
    found = Segmenter(tmp_path / "run" / BEST, device="cpu").classify(data / "p0.nii.gz")
    assert found.slice_probabilities.shape == (14,)


def write_kaggle(folder: Path, n_patients: int) -> Path:
    """Drawn heads in RSNA-2019's layout, every second of which bleeds; slices under names that tell no order."""
    rows = ["ID,Label"]
    for number in range(n_patients):
        head = draw_head((10.0, 2.0, 2.0), offset_mm=2.0 * (number % 3))
        bled = range(0) if number % 2 else BLED
        bleed = head.inside & ((head.across_mm - 25).abs() < 12) & (head.along_mm.abs() < 12)
        hu = torch.where(bleed, BLEED_HU, head.ct.hu)
        for index in range(len(hu)):
            name = f"ID_{7919 * (100 * number + index) % 65536:09x}"
            shown = {Subtype.INTRAPARENCHYMAL, Subtype.ANY} if index in bled else set()
            write_slice(
                folder / "stage_2_train" / f"{name}.dcm",
                (hu if index in bled else head.ct.hu)[index].double().numpy(),
                (-110.0, -110.0, 10.0 * index),
                patient=f"ID_{number:08x}",
                series=f"ID_5e{number:08x}",
                encoding="unsigned" if number % 3 else "signed",
                PixelSpacing=[2.0, 2.0],
            )
            rows += [f"{name}_{subtype},{int(subtype in shown)}" for subtype in Subtype]
    (folder / "stage_2_train.csv").write_text("\n".join([rows[0], *sorted(rows[1:])]) + "\n")
    return folder


def test_the_rsna_recipe_trains_from_a_miniature_of_its_layout(repository: Path, tmp_path: Path) -> None:
    small = {
        "preprocess": {"spacing_mm": 2.0, "fov_px": 128},
        "classifier": {"swin": {"img_size": 128, "window": 4, "embed_dim": 12}},
        "split": {"tuning_share": 0.34},
        "sampling": {"positive": 2, "painted": 2, "painted_twins": 1, "hard_negative": 1, "negative": 2},
        "loop": {"steps": 2, "evaluate_every": 1},
    }
    recipe = write_shrunk_recipe(tmp_path / "small.yaml", repository / "configs" / "rsna.yaml", small)
    rows = train(recipe, write_kaggle(tmp_path / "rsna-ich", 6), tmp_path / "run")
    assert [row["step"] for row in rows if "tuning_auc" in row] == [1, 2]
    loaded = load_weights(tmp_path / "run" / BEST)
    judged = {line.split(",")[0] for line in (tmp_path / "run" / "tuning.csv").read_text().splitlines()[1:]}
    assert judged < {f"ID_{number:08x}" for number in range(6)}
    assert f"slice labels of {6 - len(judged)} patients (rsna" in loaded.metadata.data


def test_the_phantoms_recipe_trains_on_heads_and_their_twins_and_tunes_on_others(
    repository: Path, tmp_path: Path
) -> None:
    heads = {"bleed_probability": 1.0, "n_slices": 16, "slice_mm": 10.0, "size_px": 128, "pixel_mm": 1.8}
    swin = {"img_size": 96, "window": 6, "embed_dim": 8, "stem": "deep"}
    small = {
        "phantoms": {"n": 1, "n_twins": 1, "n_tuning": 1, "heads": heads},
        "preprocess": {"spacing_mm": 2.0, "fov_px": 96},
        "classifier": {"swin": swin | {"depths": [2, 2, 2], "heads": [1, 2, 4], "in_channels": 2}},
        "sampling": {"phantom_positive": 3, "phantom_twins": 2, "phantom_negative": 2},
        "loop": {"steps": 2, "evaluate_every": 1},
    }
    recipe = write_shrunk_recipe(tmp_path / "small.yaml", repository / "configs" / "phantoms.yaml", small)
    where = ["--config", str(recipe), "-o", str(tmp_path / "run"), "--device", "cpu", "--workers", "2"]
    done = RUN.invoke(app, ["train", "classifier", *where])
    assert done.exit_code == 0, done.output
    told = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in told if "tuning_auc" in row] == [1, 2]
    assert all(row["token_loss"] > 0 for row in told if "token_loss" in row)
    tuning = read_scored_slices(tmp_path / "run" / "tuning.csv")
    assert set(tuning.patients) == {"1"}  # the first seed that teaches nothing
    truth = slice_labels(make_phantom(1, load_settings(recipe).train.phantoms.heads))
    bled = {row.slice_index for row in truth if row.present[Subtype.ANY]}
    assert set(tuning.slices[tuning.positive].tolist()) == bled
    assert tuning.negative.any()
    assert not (tmp_path / "run" / "test.csv").exists()
    stored = load_weights(tmp_path / "run" / BEST).metadata
    assert stored.data == "1 hgisam phantoms, of which 1 also without their blood"
    assert stored.figures["tuning_slice_auc"] == max(round(row["tuning_auc"], 4) for row in told if "tuning_auc" in row)
