"""`hgisam compare` from YAML to report: data, methods, numbers, page."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from hgisam import NOTICE, __version__
from hgisam.compare.data import prepare_data
from hgisam.compare.report import OUTPUTS, write_comparison
from hgisam.compare.results import Results
from hgisam.compare.runner import Runner
from hgisam.compare.settings import load_comparison
from hgisam.exits import Interrupts
from hgisam.io.tables import write_json
from hgisam.outputs import claimed, refuse_overwriting
from hgisam.progress import case_progress

RECORD = "comparison.json"


def compare(
    config: Path,
    output: Path,
    *,
    data_folder: Path | None = None,
    only: Sequence[str] = (),
    device: str = "auto",
    batch_size: int | None = None,
    workers: int = 1,
    show_progress: bool = False,
) -> Results:
    """Run a comparison, or go on with one that was stopped, and write its report.

    What is done already is taken as it is, as long as method, weights, scan and reference are the same.

    Args:
        config: the YAML.
        output: the comparison's folder, held for this run alone.
        data_folder: where the data lie; None: where the YAML says.
        only: names of the methods to compare, beside the reference; empty for all. The report is of these alone; the
            masks and records of others stay in the folder, for a run over all.
        device: as `Segmenter` takes it.
        batch_size: as `Segmenter` takes it.
        workers: processes that make phantoms and prepare trainings; on a CPU so many trainings,
            then methods, run side by side.
        show_progress: whether to draw a progress bar on the terminal.

    Returns:
        The results; methods and cases that failed are in them.

    Raises:
        SettingsError: where the YAML, or a recipe that it names, is wrong.
        InputError: where there is nothing to compare on, or a file in the way that hgisam has not written.
        OutputError: where something cannot be written, or another run holds the folder.
    """
    known = load_comparison(config, data_folder)
    comparison = known.restricted_to(only) if only else known
    options = comparison.compare
    with claimed(output), Interrupts() as interrupts:
        refuse_overwriting(output, (), (), OUTPUTS, record=RECORD)
        record = {
            "command": "compare",
            "notice": NOTICE,
            "versions": {"hgisam": __version__, "torch": torch.__version__},
            "title": options.title,
            "methods": [method.name for method in options.methods],
        }
        write_json(output / RECORD, record | {"state": "running"})
        data = prepare_data(options, config.parent, output, workers=workers, show_progress=show_progress)
        with case_progress(len(options.methods) * len(data.cases), show=show_progress) as begin:
            runner = Runner(options, config.parent, output, device, batch_size, workers, begin)
            results = Results(options, runner.over_all(data, interrupts))
        n_left_out = len(known.compare.methods) - len(options.methods)
        write_comparison(comparison, results, data, output, _command(config, data_folder, only), n_left_out)
        write_json(output / RECORD, record | {"state": "finished"})
    return results


def _command(config: Path, data_folder: Path | None, only: Sequence[str]) -> str:
    """The command as the report states it: paths as they were given; absolute ones by name, no folder of a machine."""
    data = () if data_folder is None else ("--data", _shareable(data_folder))
    methods = (part for name in only for part in ("--method", name))
    return shlex.join(["hgisam", "compare", "--config", _shareable(config), *data, *methods, "-o", "OUT"])


def _shareable(path: Path) -> str:
    return path.name if path.is_absolute() else path.as_posix()
