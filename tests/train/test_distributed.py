"""Two processes that share a step end with the network of one process that was given both their batches."""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import shared_step
import torch
import torch.distributed as dist
from drawn_cohort import write_drawn_cohort
from safetensors.torch import load_file
from tiny_segmenter import write_tiny_segmenter
from tiny_training import write_shrunk_recipe, write_tiny_recipe
from torch.nn.parallel import DistributedDataParallel

from hgisam.config import load_settings
from hgisam.evaluate.scored import read_scored_slices
from hgisam.model.checkpoint import load_segmenter, load_weights
from hgisam.train.processes import share_of
from hgisam.train.recipe import train_classifier
from hgisam.train.training import BEST, CHECKPOINTS, RUN_RECORD

pytestmark = pytest.mark.usefixtures("undrawn")

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """What `shared_step` found in each of two processes."""
    folder = tmp_path_factory.mktemp("shared")
    done = subprocess.run([*TORCHRUN, shared_step.__file__, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("run", shared_step.RUNS)
def test_two_processes_reach_the_parameters_of_one_and_tell_its_loss(
    of_two: list[dict[str, torch.Tensor]], run: str
) -> None:
    shared = shared_step.RUNS[run]
    alone = shared_step.trained(shared.alone, stem=shared.stem, accumulate=shared.accumulate_alone)
    for found in of_two:
        assert {name for name in found if name.startswith(f"{run}.")} == {f"{run}.{name}" for name in alone}
        for name, value in alone.items():
            torch.testing.assert_close(found[f"{run}.{name}"], value, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_in_two_processes_is_torch_s_over_both_their_images(
    of_two: list[dict[str, torch.Tensor]], dtype: torch.dtype
) -> None:
    alone = shared_step.normed(torch.nn.BatchNorm2d(3), dtype, shared_step.EVERYTHING)
    for name in ("found", "gradient"):
        together = torch.cat([found[f"{dtype}.{name}"] for found in of_two])
        assert together.dtype == dtype
        rounding = 1e-5 if dtype == torch.float32 else 2**-7
        torch.testing.assert_close(together, alone[name], atol=rounding, rtol=rounding)
    for found in of_two:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(found[f"{dtype}.{name}"], alone[name], atol=0, rtol=1e-5)


def test_who_leaves_lets_go_of_the_process_group() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        training = shared_step.training()
        assert any(type(found) is DistributedDataParallel for found in gc.get_objects())
        training.leave()
        assert not any(type(found) is DistributedDataParallel for found in gc.get_objects())
    finally:
        dist.destroy_process_group()


def averaged(folder: Path) -> dict[str, torch.Tensor]:
    """The running average of the parameters in a training's last checkpoint, in full precision."""
    tensors = load_file(max((folder / CHECKPOINTS).glob("*.safetensors")))
    return {name: value for name, value in tensors.items() if name.startswith("averaged.")}


def test_processes_of_one_machine_share_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert share_of(64) == 64
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")  # as torchrun sets it
    assert (share_of(64), share_of(4)) == (8, 1)


def test_a_training_under_torchrun_is_the_training_of_one_process(tmp_path: Path) -> None:
    """From the folder of scans to the weights. A key's bias changes no softmax: its gradient is rounding, which AdamW
    makes a step of, so that the network here has none."""
    data = write_drawn_cohort(tmp_path / "heads", 6)
    tiny = write_tiny_recipe(tmp_path / "tiny.yaml", steps=4, evaluate_every=2, checkpoint_every=4)
    changed = {"split": {"folds": 1}, "classifier": {"swin": {"drop_path": 0.0, "qkv_bias": False}}}
    recipe = write_shrunk_recipe(tmp_path / "recipe.yaml", tiny, changed)
    where = ["--config", recipe, "--data", data, "--cache", tmp_path / "cache", "--device", "cpu", "--workers", "1"]
    command = [*TORCHRUN, "-m", "hgisam", "train", "classifier", *where, "-o", tmp_path / "two"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    train_classifier(load_settings(recipe).train, data, tmp_path / "one", cache=tmp_path / "cache")
    one, two = ({path.name for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert two == one
    assert done.stdout.count("Written to") == 1
    assert json.loads((tmp_path / "two" / RUN_RECORD).read_text())["state"] == "finished"
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    steps = [json.loads(line)["step"] for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert "torchrun --nproc-per-node 2" in load_weights(tmp_path / "two" / BEST).metadata.command
    alone, shared = averaged(tmp_path / "one"), averaged(tmp_path / "two")
    assert shared.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, atol=1e-5, rtol=0)
    judged, judged_by_two = (read_scored_slices(tmp_path / name / "tuning.csv") for name in ("one", "two"))
    assert (judged_by_two.scans, judged_by_two.slices.tolist()) == (judged.scans, judged.slices.tolist())
    torch.testing.assert_close(judged_by_two.probabilities, judged.probabilities, atol=1e-3, rtol=0)


def test_a_segmenter_s_training_under_torchrun_ends_and_is_judged_once(tmp_path: Path) -> None:
    data = write_drawn_cohort(tmp_path / "heads", 6, masks=True)
    recipe = write_tiny_segmenter(tmp_path / "tiny.yaml", steps=4, evaluate_every=2, checkpoint_every=4)
    where = ["--config", recipe, "--data", data, "-o", tmp_path / "two", "--device", "cpu", "--workers", "1"]
    done = subprocess.run(
        [*TORCHRUN, "-m", "hgisam", "train", "segmenter", *where],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Written to") == 1
    record = json.loads((tmp_path / "two" / RUN_RECORD).read_text())
    assert (record["state"], record["test"]["n_scans"]) == ("finished", 3)
    rows = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "tuning_dice" in row] == [2, 4]
    assert "torchrun --nproc-per-node 2" in load_segmenter(tmp_path / "two" / BEST).metadata.command
