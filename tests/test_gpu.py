"""What a GPU makes is what the CPU makes: maps, masks, trainings that go on. Skips, saying so, where there is none."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import shared_step
import torch
import torch.distributed as dist
from drawn_cohort import write_drawn_cohort
from networks import golden_images, timm_network
from tiny_segmenter import write_tiny_segmenter
from tiny_training import write_tiny_recipe

from hgisam import Segmenter
from hgisam.config import load_settings
from hgisam.evaluate.scored import read_scored_slices
from hgisam.pipeline import MaskSegmenter
from hgisam.train.journal import read_rows
from hgisam.train.recipe import train_classifier
from hgisam.train.segmenter_recipe import train_segmenter
from hgisam.train.training import RUN_RECORD
from hgisam.weak import HGI_SAM

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that CUDA knows is here")

GPU = torch.device("cuda")


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_rows(folder) if "loss" in row]


def test_stage_maps_are_those_of_the_cpu() -> None:
    model, golden = timm_network()
    _, maps = HGI_SAM.stage_maps(model.to(GPU), golden_images(golden).to(GPU))
    _, expected = HGI_SAM.stage_maps(model.cpu(), golden_images(golden))
    for got, want in zip(maps, expected, strict=True):
        torch.testing.assert_close(got.cpu(), want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


@pytest.mark.parametrize("name", ["intraparenchymal_large", "subdural_thin", "normal_calcified"])
def test_a_scan_is_outlined_alike(sample_volumes: Path, name: str) -> None:
    scan = sample_volumes / f"{name}.nii.gz"
    there, here = (Segmenter(device=device).segment(scan) for device in ("cuda", "cpu"))
    assert here.mask.any() or name == "normal_calcified"
    assert there.probability == pytest.approx(here.probability, abs=0.02)
    assert there.volume_ml == pytest.approx(here.volume_ml, rel=0.02, abs=0.05)
    both = np.logical_and(there.mask, here.mask).sum()
    assert 2 * both >= 0.98 * (there.mask.sum() + here.mask.sum())


def test_a_training_is_that_of_the_cpu_and_goes_on_where_it_was_stopped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_drawn_cohort(tmp_path / "heads", 12)
    options = load_settings(write_tiny_recipe(tmp_path / "tiny.yaml", steps=8)).train
    for name, device in (("here", torch.device("cpu")), ("there", GPU)):
        train_classifier(options, data, tmp_path / name, cache=tmp_path / "cache", device=device, workers=2)
    assert losses(tmp_path / "there") == pytest.approx(losses(tmp_path / "here"), rel=1e-2)
    stopped = tmp_path / "stopped"
    train_classifier(options, data, stopped, cache=tmp_path / "cache", device=GPU)
    for late in (stopped / "checkpoints").glob("*8.safetensors"):
        late.unlink()
    with caplog.at_level(logging.INFO, logger="hgisam"):
        train_classifier(options, data, stopped, cache=tmp_path / "cache", device=GPU, resume=True)
    assert "goes on from step 6" in caplog.text
    record = json.loads((stopped / RUN_RECORD).read_text(encoding="utf-8"))
    assert record["state"] == "finished" and record["device"].startswith("cuda: ")
    whole, resumed = (read_scored_slices(folder / "test.csv") for folder in (tmp_path / "there", stopped))
    torch.testing.assert_close(whole.probabilities, resumed.probabilities, rtol=0, atol=0.05)


STACKS = {
    "network": {"kind": "unet", "spatial_dims": 3, "channels": [8, 16], "slice_halvings": 1, "norm": "batch"},
    "stack": {"slice_mm": 6.0, "window_slices": 8},
    "sampling": {"bleeding": 2, "anywhere": 1},
}


@pytest.mark.parametrize("changed", [{}, STACKS], ids=["2D", "3D"])
def test_a_segmenter_that_learned_there_outlines_alike_on_both(tmp_path: Path, changed: dict[str, object]) -> None:
    data = write_drawn_cohort(tmp_path / "heads", 6, masks=True)
    options = load_settings(write_tiny_segmenter(tmp_path / "tiny.yaml", changed, steps=40)).train_segmenter
    trained = train_segmenter(options, data, tmp_path / "out", device=GPU, workers=1)
    assert trained is not None
    there, here = (
        MaskSegmenter(trained.weights, device=name).segment(data / "p0.nii.gz").mask for name in (GPU.type, "cpu")
    )
    assert here.any()
    assert 2 * np.logical_and(there, here).sum() >= 0.95 * (there.sum() + here.sum())


@pytest.mark.filterwarnings("ignore:Grad strides")  # of one parameter; about speed
def test_a_step_that_nccl_shares_among_one_is_the_step() -> None:
    alone = shared_step.trained(slice(0, 8), "cuda")
    store = dist.HashStore()
    dist.init_process_group("cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1)
    try:
        shared = shared_step.trained(slice(0, 8), "cuda")
    finally:
        dist.destroy_process_group()
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, atol=1e-5, rtol=1e-5)
