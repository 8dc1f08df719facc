"""Many scans through one process: does it grow, hold files open, or slow down?

    python tools/soak.py
    python tools/soak.py --scans 500 --table out/soak.csv SCAN_OR_FOLDER...

The scans (`sample_volumes` unless told) are copied again and again under new names until there are --scans of them, and
go through one run of `hgisam segment` in this process: masks, previews, records and all. After each case it notes the
resident memory, the open file handles and the processor's time (not the clock's: others may use the machine). Prints a
row per fifty cases, and ends with status 1 unless, after the first 20, memory stays within 50 MB, no file handle is
added, and the last hundred cases take at most 10 % more than the first hundred. Linux only (/proc).
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from hgisam import Segmenter
from hgisam.cases import find_cases
from hgisam.io.tables import write_csv
from hgisam.run import segment_cases

WARM_UP = 20
"""Cases in which memory and caches may still grow."""
MOST_MB = 50.0
MOST_SLOWER = 0.10
COMPARED = 100
"""Cases at the beginning, and at the end, whose time is compared."""
EVERY = 50


@dataclass(frozen=True)
class Noted:
    """What is seen when a case is begun, that is after the last one was written."""

    rss_mb: float
    handles: int
    cpu_s: float


class Watched:
    """A Segmenter that notes what the process holds whenever it is asked for another case."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self.noted: list[Noted] = []

    def segment(self, scan: Any) -> Any:
        """As `Segmenter.segment`."""
        self.noted.append(noted())
        return self._segmenter.segment(scan)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._segmenter, name)


def noted() -> Noted:
    """Memory, handles and time of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    handles = len(list(Path("/proc/self/fd").iterdir()))
    return Noted(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, handles, time.process_time())


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans_from", type=Path, nargs="*", metavar="SCAN_OR_FOLDER", default=[Path("sample_volumes")])
    parser.add_argument("--scans", type=int, default=500)
    parser.add_argument("--table", type=Path, help="CSV with a row for each case")
    given = parser.parse_args()
    if given.scans < WARM_UP + 2 * COMPARED:
        parser.error(f"expected at least {WARM_UP + 2 * COMPARED} --scans; got {given.scans}")
    watched = Watched(Segmenter())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_scans(given.scans_from, given.scans, folder / "scans")
        report = segment_cases(watched, find_cases([folder / "scans"], ()), folder / "out")
        rows = [*watched.noted, noted()]
    statuses = {row["status"] for row in report.rows}
    if statuses != {"ok"}:
        print(f"expected that every case is ok; got {statuses}")
        return 1
    if given.table:
        write_csv(given.table, [{"case": i, **vars(row)} for i, row in enumerate(rows)], ["case", *vars(rows[0])])
    return judged(rows)


def copy_scans(sources: Sequence[Path], n: int, folder: Path) -> None:
    """The scans of `sources` in turn, under n names of their own."""
    folder.mkdir()
    scans = [case.path.resolve() for case in find_cases(sources, ())]
    for i, scan in enumerate(islice(cycle(scans), n)):
        shutil.copyfile(scan, folder / f"case_{i:04d}{''.join(scan.suffixes)}")


def judged(rows: Sequence[Noted]) -> int:
    """Print what was noted; 0 where it keeps within the limits. `rows[i]` is what was seen after i cases."""
    print("| cases done | resident MB | file handles | CPU seconds per case |")
    print("|---|---|---|---|")
    for first in range(0, len(rows) - 1, EVERY):
        last = min(first + EVERY, len(rows) - 1)
        print(f"| {last} | {rows[last].rss_mb:.0f} | {rows[last].handles} | {per_case(rows[first : last + 1]):.2f} |")
    warm = rows[WARM_UP:]
    drift = max(abs(row.rss_mb - warm[0].rss_mb) for row in warm)
    handles = max(row.handles for row in warm) - warm[0].handles
    slower = per_case(rows[-COMPARED - 1 :]) / per_case(warm[: COMPARED + 1]) - 1
    print(f"\nafter {WARM_UP} cases: memory within {drift:.1f} MB (limit {MOST_MB:.0f})")
    print(f"after {WARM_UP} cases: {handles:+d} file handles (limit 0)")
    print(f"last {COMPARED} cases: {100 * slower:+.1f} % of CPU time (limit +{100 * MOST_SLOWER:.0f})")
    return 0 if drift <= MOST_MB and handles <= 0 and slower <= MOST_SLOWER else 1


def per_case(rows: Sequence[Noted]) -> float:
    """Mean CPU seconds of the cases between the notes."""
    return mean(after.cpu_s - before.cpu_s for before, after in pairwise(rows))


if __name__ == "__main__":
    sys.exit(main())
