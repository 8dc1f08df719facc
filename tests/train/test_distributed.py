"""Two processes that share a step end with the network of one process that was given both their batches."""

import subprocess
import sys
from pathlib import Path

import shared_step
import torch
from safetensors.torch import load_file


def test_two_processes_reach_the_parameters_of_one(tmp_path: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*start, shared_step.__file__, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone = shared_step.trained(slice(0, 8))
    for rank in range(2):
        shared = load_file(tmp_path / f"{rank}.safetensors")
        assert shared.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(shared[name], value, atol=1e-5, rtol=1e-5)
