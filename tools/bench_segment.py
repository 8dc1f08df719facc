"""Seconds and peak memory of `hgisam segment`, from start of the process to files written.

    python tools/bench_segment.py

Runs the command in processes of its own on phantoms with a large bleed: 32 and 200 slices of 512 x 512. Each figure is
the median of --repeat runs; memory is the largest resident size of any run. Nothing else should run meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from hgisam.io.nifti import write_ct
from hgisam.labels import Subtype
from hgisam.phantom import PhantomOptions, make_phantom

CASES = {
    "32 x 512 x 512": PhantomOptions(
        n_slices=32, slice_mm=5.0, size_px=512, pixel_mm=0.45, kinds=(Subtype.INTRAPARENCHYMAL,), volumes_ml=(60.0,)
    ),
    "200 x 512 x 512": PhantomOptions(
        n_slices=200, slice_mm=0.8, size_px=512, pixel_mm=0.45, kinds=(Subtype.INTRAPARENCHYMAL,), volumes_ml=(60.0,)
    ),
}


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    seconds, _ = run(["--help"], repeat)
    print(f"hgisam --help: {seconds:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        for name, options in CASES.items():
            scan = Path(folder) / f"{options.n_slices}.nii.gz"
            maker = get_context("spawn").Process(target=make_scan, args=(scan, options))
            maker.start()
            maker.join()
            out = Path(folder) / "out"
            seconds, peak_mib = run(["segment", str(scan), "-o", str(out), "-q"], repeat)
            record = json.loads((out / f"{options.n_slices}.json").read_text())
            mapped = sum(row["mapped"] for row in record["slices"])
            print(f"{name}: {seconds:.1f} s, peak {peak_mib:.0f} MiB, {mapped} slices mapped")
            print("   ", ", ".join(f"{stage} {s:.2f}" for stage, s in record["timings_s"].items()))


def make_scan(path: Path, options: PhantomOptions) -> None:
    """In a process of its own: a child's peak memory begins with its parent's."""
    write_ct(path, make_phantom(0, options).ct)


def run(arguments: list[str], repeat: int) -> tuple[float, float]:
    """Median seconds and the largest peak memory in MiB of a command run several times."""
    seconds, peaks = [], []
    for _ in range(repeat):
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "hgisam", *arguments], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - start)
        if status != 0:
            raise SystemExit(f"hgisam {' '.join(arguments)}: ended with {os.waitstatus_to_exitcode(status)}")
        peaks.append(usage.ru_maxrss / 1024)
    return statistics.median(seconds), max(peaks)


if __name__ == "__main__":
    main()
