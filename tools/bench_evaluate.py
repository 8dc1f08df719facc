"""Seconds and peak memory of `hgisam evaluate`, from start of the process to files written.

    python tools/bench_evaluate.py

Makes -n pairs of masks of 32 x 512 x 512 voxels (two blobs each, shifted between prediction and reference, some pairs
empty), --small of them and all of them, and runs the command on both. Other work on the machine slows the seconds, but
not the processor time. Memory is the largest sum of the resident sizes of all its processes: where it does not grow
with the pairs, it is flat. Needs /proc (Linux).
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from hgisam.io.nifti import new_grid_for, write_mask
from hgisam.volume import MaskVolume

SHAPE = (32, 512, 512)
SPACING_MM = (5.0, 0.45, 0.45)
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Print one line per number of pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--small", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for n in (given.small, given.n):
            place = Path(folder) / str(n)
            n_ml = sum(make_pair(place, seed) for seed in range(n))
            command = ["evaluate", str(place / "p"), str(place / "r"), "-o", str(place / "out"), "-q"]
            seconds, cpu_seconds, peak_mib = run([*command, "--workers", str(given.workers)])
            print(
                f"{n:4d} scans of {' x '.join(map(str, SHAPE))}, mean {n_ml / n:.0f} mL: {seconds:.1f} s on"
                f" {given.workers} processes, {cpu_seconds:.1f} s of processor time, peak {peak_mib:.0f} MiB"
            )


def make_pair(folder: Path, seed: int) -> float:
    """Write one prediction and its reference; every tenth is a normal scan, every fifteenth a miss. Gives its mL."""
    noise = torch.Generator().manual_seed(seed)
    affine = torch.zeros(4, 4, dtype=torch.float64)
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = SPACING_MM[0], -SPACING_MM[1], -SPACING_MM[2], 1.0
    nothing = torch.zeros(SHAPE, dtype=torch.bool)
    reference = nothing if seed % 10 == 0 else blobs(noise)
    shift = [int(torch.randint(-1, 2, (), generator=noise)), *torch.randint(-9, 10, (2,), generator=noise).tolist()]
    prediction = nothing if seed % 15 == 0 else reference.roll(shift, dims=(0, 1, 2))
    if seed % 20 == 10:
        prediction = blobs(noise)
    for name, voxels in (("p", prediction), ("r", reference)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        mask = MaskVolume(voxels, affine, f"pair {seed}")
        write_mask(folder / name / f"c{seed:04d}_mask.nii.gz", voxels, new_grid_for(mask))
    return int(reference.sum()) * float(torch.tensor(SPACING_MM).prod()) / 1000


def blobs(noise: torch.Generator) -> torch.Tensor:
    """Two ragged ellipsoids inside a head's extent, 0.1 to some 50 mL each."""
    d, h, w = (torch.arange(n) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True))
    found = torch.zeros(SHAPE, dtype=torch.bool)
    coarse = torch.rand(1, 1, 8, 64, 64, generator=noise)
    ragged = torch.nn.functional.interpolate(coarse, SHAPE, mode="trilinear")[0, 0]
    for _ in range(2):
        middle = torch.tensor([80.0, 115.0, 115.0]) + (torch.rand(3, generator=noise) - 0.5) * 80
        radii = 4 + torch.rand(3, generator=noise) * 20
        d_far, h_far, w_far = (((x - m) / r) ** 2 for x, m, r in zip((d, h, w), middle, radii, strict=True))
        found |= d_far[:, None, None] + h_far[:, None] + w_far + 0.6 * ragged < 1.0
    return found


def run(arguments: list[str]) -> tuple[float, float, float]:
    """A command's seconds, seconds of processor time, and the most memory in MiB that it and its children held."""
    start, spent = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, "-m", "hgisam", *arguments])
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(resident_mib(number) for number in family(process.pid)))
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        raise SystemExit(f"hgisam {' '.join(arguments)}: ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - spent.ru_utime - spent.ru_stime, peak


def family(number: int) -> list[int]:
    """A process and those that it started, and they."""
    try:
        started = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    except OSError:
        return []
    return [number, *(descendant for child in started for descendant in family(int(child)))]


def resident_mib(number: int) -> float:
    """What a process holds in memory now; pages shared between processes count in each."""
    try:
        return int(Path(f"/proc/{number}/statm").read_text().split()[1]) * PAGE_MIB
    except (OSError, IndexError):
        return 0.0


if __name__ == "__main__":
    main()
