"""A training killed in mid step by SIGKILL, and resumed: what it leaves must be what one never killed leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from hgisam.cli import app
from hgisam.train.training import BEST, CHECKPOINTS, CURVES


def kill_and_resume(arguments: list[str], output: Path) -> None:
    """Run the command until its first checkpoint is there, kill its process, and run it to its end in this one."""
    command = [sys.executable, "-m", "hgisam", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    nowhere = subprocess.DEVNULL
    started = subprocess.Popen(command, env=environment, stderr=nowhere, stdout=nowhere)
    for _ in range(60000):
        if list(output.glob(f"{CHECKPOINTS}/*.safetensors")) or started.poll() is not None:
            break
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert started.returncode == -signal.SIGKILL
    assert not (output / CURVES).exists()
    resumed = CliRunner().invoke(app, [*arguments, "--resume"])
    assert resumed.exit_code == 0, resumed.output


def stopped_before_its_end(finished: Path, folder: Path) -> Path:
    """A copy of a finished run as it was at its last checkpoint but one."""
    shutil.copytree(finished, folder)
    max((folder / CHECKPOINTS).glob("*.safetensors")).unlink()
    return folder


def assert_equal_to_the_bit(whole: Path, mended: Path) -> None:
    """Two trainings ended with the same parameters, averages, optimizer and kept network, and told each step once."""
    for name in (max(path.relative_to(whole) for path in (whole / CHECKPOINTS).glob("*.safetensors")), Path(BEST)):
        tensors, again = load_file(whole / name), load_file(mended / name)
        assert tensors.keys() == again.keys()
        assert all(torch.equal(tensors[key], again[key]) for key in tensors), name
    told = [
        [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (whole, mended)
    ]
    assert told[0] == told[1]
