"""The subcommands, a few lines each. What is slow to import is imported inside the command."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hgisam import NOTICE, __version__
from hgisam.cases import SeriesChoiceNeeded, find_cases
from hgisam.exits import ExitCode, Interrupts
from hgisam.io.atomic import make_output_folder
from hgisam.io.errors import InputError, OutputError, ScanRefused
from hgisam.limits import one_line

if TYPE_CHECKING:
    from hgisam.pipeline import Segmenter
    from hgisam.run import RunReport

log = logging.getLogger("hgisam")
app = typer.Typer(name="hgisam", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
train_app = typer.Typer(no_args_is_help=True, help="Train networks on slice labels, phantoms, or both.")
app.add_typer(train_app, name="train")

Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT",
        help="Head CT: a NIfTI file or a folder of them; a folder, zip or files of DICOM, each examination one scan.",
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Output folder; made if absent.")]
Weights = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Weights (.safetensors).", show_default="those of the package")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Windows of slices per pass.", show_default="by device")
]
Config = Annotated[
    Path | None, typer.Option(metavar="YAML", help="A recipe such as those in configs/; flags go before it.")
]
HuOffset = Annotated[
    float | None, typer.Option(metavar="HU", help="Added to every voxel, for files known to be off, such as -1024.")
]
SeriesUid = Annotated[
    list[str] | None,
    typer.Option(metavar="UID", help="Of DICOM, the series to take; may be given again.", show_default="the only one"),
]
AllowGaps = Annotated[
    bool, typer.Option("--allow-gaps", help="Take a DICOM series with missing slices: the volume is a lower bound.")
]
MaxVoxels = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Refuse a scan whose header states more voxels.", show_default="268,435,456"),
]
OperatingPoint = Annotated[
    float | None,
    typer.Option(metavar="P", help="Slice probability that counts as blood, 0 to 1.", show_default="the weights' own"),
]
Workers = Annotated[int | None, typer.Option(min=1, metavar="N", help="Processes.", show_default="one per CPU")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more, with a traceback where something fails.")]


def _show_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"hgisam {__version__}. {NOTICE}")
        raise typer.Exit
    return asked


@app.callback()
def hgisam(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Find intracranial hemorrhage in head CT, and its volume. Research use only, not a medical device."""


@app.command()
def check(
    inputs: Inputs,
    weights: Weights = None,
    config: Config = None,
    hu_offset: HuOffset = None,
    series_uid: SeriesUid = None,
    allow_gaps: AllowGaps = False,
    max_voxels: MaxVoxels = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say whether scans can be worked on, and what is odd about them, as segment and classify would; write nothing."""
    with _session(quiet=quiet, verbose=verbose):
        cases = find_cases(inputs, series_uid or ())
        flags = {"hu_offset": hu_offset, "allow_gaps": allow_gaps or None, "max_voxels": max_voxels}
        model = _load(weights, config, flags, "cpu", None)
        from hgisam.check import CHECK_COLUMNS, check_cases, document, exit_code

        checks = check_cases(model, cases, show_progress=_on_terminal() and not quiet)
        if as_json:
            from hgisam.io.tables import json_text

            typer.echo(json_text(document(checks)))
        elif not quiet:
            below = [[f"    {doubt.aspect}: {doubt.text}" for doubt in found.doubts] for found in checks]
            _show([found.row() for found in checks], CHECK_COLUMNS, below)
        raise typer.Exit(exit_code(checks))


@app.command()
def segment(
    inputs: Inputs,
    output: Output,
    weights: Weights = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    config: Config = None,
    no_gate: Annotated[bool, typer.Option("--no-gate", help="Map every slice that shows brain.")] = False,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="T", help="Cut the maps at this saliency, above 0 to 1, in place of outlining by HU."),
    ] = None,
    operating_point: OperatingPoint = None,
    hu_offset: HuOffset = None,
    series_uid: SeriesUid = None,
    allow_gaps: AllowGaps = False,
    max_voxels: MaxVoxels = None,
    save_map: Annotated[bool, typer.Option("--save-map", help="Write saliency maps, CASE_map.nii.gz.")] = False,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="Write DICOM SEG of DICOM scans, CASE_seg.dcm.")
    ] = False,
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="Leave patient and study out of the DICOM SEG; UIDs stay.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Outline the blood and measure it: a mask, a preview and a record per scan, a summary over all."""
    with _session(quiet=quiet, verbose=verbose):
        if deidentify and not dicom_seg:
            raise InputError("expected --dicom-seg with --deidentify; got none; no other output names a patient")
        cases = find_cases(inputs, series_uid or ())
        make_output_folder(output)
        flags = {
            "gate": False if no_gate else None,
            "threshold": threshold,
            "refine": {"method": None if threshold is None else "threshold"},
            "operating_point": operating_point,
            "hu_offset": hu_offset,
            "allow_gaps": allow_gaps or None,
            "max_voxels": max_voxels,
        }
        model = _load(weights, config, flags, device, batch_size)
        model.ensure_able("segment")
        from hgisam.run import segment_cases

        report = segment_cases(
            model,
            cases,
            output,
            save_map=save_map,
            dicom_seg=dicom_seg,
            deidentify=deidentify,
            show_progress=_on_terminal() and not quiet,
        )
        _finish(report, ("case", "probability", "volume_ml", "status"), output, quiet=quiet)


@app.command()
def classify(
    inputs: Inputs,
    output: Output,
    weights: Weights = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    config: Config = None,
    operating_point: OperatingPoint = None,
    hu_offset: HuOffset = None,
    series_uid: SeriesUid = None,
    allow_gaps: AllowGaps = False,
    max_voxels: MaxVoxels = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Probability of hemorrhage, for each scan and slice; no mask, and faster than segment."""
    with _session(quiet=quiet, verbose=verbose):
        cases = find_cases(inputs, series_uid or ())
        make_output_folder(output)
        flags = {
            "operating_point": operating_point,
            "hu_offset": hu_offset,
            "allow_gaps": allow_gaps or None,
            "max_voxels": max_voxels,
        }
        model = _load(weights, config, flags, device, batch_size)
        model.ensure_able("classify")
        from hgisam.run import classify_cases

        report = classify_cases(model, cases, output, show_progress=_on_terminal() and not quiet)
        _finish(report, ("case", "probability", "n_slices_positive", "status"), output, quiet=quiet)


@app.command()
def phantom(
    output: Output,
    n: Annotated[int, typer.Option("-n", "--number", min=1, help="How many heads.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the first head; the others have those that follow.")] = 0,
    workers: Workers = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make synthetic head CT with known truth: scans, masks by subtype, labels per slice. A seed is a head, always."""
    with _session(quiet=quiet, verbose=verbose):
        make_output_folder(output)
        from hgisam.phantom import PhantomOptions, generate_phantoms
        from hgisam.phantom_folder import write_phantoms

        options = PhantomOptions()
        made = generate_phantoms(n, seed, options, workers=min(n, workers or _n_cpus()))
        names = [f"phantom_{number:05d}" for number in range(seed, seed + n)]
        rows = write_phantoms(made, names, output, options=options, show_progress=_on_terminal() and not quiet)
        if not quiet:
            _show(rows, ("case", "volume_ml"))
            typer.echo(f"Written to {output}. {NOTICE}")


@app.command()
def evaluate(
    predictions: Annotated[
        Path, typer.Argument(exists=True, metavar="PREDICTIONS", help="A folder of CASE_mask.nii.gz, or one mask.")
    ],
    references: Annotated[
        Path,
        typer.Argument(
            exists=True, metavar="REFERENCES", help="A folder of CASE_mask, CASE_labels or CASE.nii.gz, or one mask."
        ),
    ],
    output: Output,
    patients: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Whose scan each case is: columns case, patient.", show_default="another's each"
        ),
    ] = None,
    workers: Workers = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare masks with references by scan, slice, lesion and subtype, with means that do not flatter."""
    with _session(quiet=quiet, verbose=verbose):
        from hgisam.evaluate.folders import evaluate_folders
        from hgisam.evaluate.report import as_tables, refuse_foreign, write_report
        from hgisam.io.tables import read_patients

        make_output_folder(output)
        refuse_foreign(output)
        owners = None if patients is None else read_patients(patients)
        show = _on_terminal() and not quiet
        report = evaluate_folders(predictions, references, owners, workers=workers or _n_cpus(), show_progress=show)
        write_report(report, output)
        if not quiet:
            from rich.console import Console

            Console(width=None if sys.stdout.isatty() else 160).print(as_tables(report))
        raise typer.Exit(ExitCode.OK if report.complete else ExitCode.SOME_FAILED)


@app.command()
def compare(
    config: Annotated[
        Path, typer.Option(metavar="YAML", help="What to compare, such as configs/compare_phantoms.yaml.")
    ],
    output: Output,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Scans or slices with reference masks.", show_default="where the YAML says"
        ),
    ] = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    workers: Workers = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Hold methods against each other on the same cases: tests by patient, and a report. Goes on where it stopped."""
    with _session(quiet=quiet, verbose=verbose):
        from hgisam.compare.comparison import compare as run_comparison
        from hgisam.compare.report import HTML, answer

        results = run_comparison(
            config,
            output,
            data_folder=data,
            device=device,
            batch_size=batch_size,
            workers=workers or _n_cpus(),
            show_progress=_on_terminal() and not quiet,
        )
        if not quiet:
            for sentence in answer(results):
                typer.echo(sentence)
            typer.echo(f"Written to {output / HTML}. {NOTICE}")
        raise typer.Exit(ExitCode.OK if results.nothing_failed else ExitCode.SOME_FAILED)


@train_app.command()
def classifier(
    config: Annotated[Path, typer.Option(metavar="YAML", help="A recipe such as configs/ct_ich.yaml.")],
    output: Output,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Labelled scans: slice_labels.csv with NIfTI, RSNA, PhysioNet, BHSD."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the latest checkpoint in the folder.")] = False,
    fold: Annotated[
        int | None, typer.Option(min=0, metavar="K", help="Which fold of the split.", show_default="the recipe's")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Of everything random.", show_default="the recipe's")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Prepared scans.", show_default="in the output folder")
    ] = None,
    device: Device = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes that prepare.", show_default="one per CPU")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Learn which slices hold blood; under torchrun, several processes share each step."""
    from hgisam.outputs import claimed

    first = os.environ.get("RANK", "0") == "0"
    with _session(quiet=quiet or not first, verbose=verbose), claimed(output) if first else nullcontext():
        from hgisam.config import load_settings
        from hgisam.pipeline import pick_device
        from hgisam.train.recipe import train_classifier

        flags = {"split": {"fold": fold}, "loop": {"seed": seed}}
        if not quiet and first:
            log.setLevel(min(log.level, logging.INFO))
        train_classifier(
            load_settings(config, {"train": flags}).train,
            data,
            output,
            resume=resume,
            cache=cache,
            workers=workers or _n_cpus(),
            device=pick_device(_own_device(device)),
            command=_train_command(config, data, fold, seed),
            show_progress=_on_terminal() and not quiet and first,
        )
        if first and not quiet:
            typer.echo(f"Written to {output}. {NOTICE}")


@app.command()
def info(
    weights: Weights = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    verbose: Verbose = False,
) -> None:
    """Version, weights and where they come from, devices and threads."""
    with _session(quiet=False, verbose=verbose):
        from hgisam.environment import describe

        found = describe(weights)
        if as_json:
            typer.echo(json.dumps(found, indent=2))
            return
        for key in ("architecture", "brain", "preprocess"):
            found["weights"][key] = "see --json"
        for line in _outline(found):
            typer.echo(line)


def main() -> None:
    """The `hgisam` command."""
    app()


def _own_device(name: str) -> str:
    """Of several processes on one machine with GPUs, each has its own."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if name in {"auto", "cuda"} and _has_own_gpu() else name


def _has_own_gpu() -> bool:
    import torch

    return "LOCAL_RANK" in os.environ and torch.cuda.device_count() > int(os.environ["LOCAL_RANK"])


def _train_command(config: Path, data: Path | None, fold: int | None, seed: int | None) -> str:
    """The command as records state it: files by name, no folder of this machine."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    words = [f"torchrun --nproc-per-node {processes} -m hgisam" if processes > 1 else "hgisam", "train classifier"]
    words.append(f"--config {config.name}")
    if data is not None:
        words.append(f"--data {data.name}")
    words += [f"--{name} {value}" for name, value in (("fold", fold), ("seed", seed)) if value is not None]
    return " ".join(words)


def _load(
    weights: Path | None, config: Path | None, flags: dict[str, Any], device: str, batch_size: int | None
) -> "Segmenter":
    """The network with its settings, before any scan is touched."""
    from hgisam.config import load_settings
    from hgisam.pipeline import Segmenter

    options = load_settings(config, {"segment": flags}).segment
    return Segmenter(weights, options=options, device=device, batch_size=batch_size)


def _finish(report: "RunReport", columns: tuple[str, ...], output: Path, *, quiet: bool) -> None:
    """Tell people what came out, and leave with the run's exit status."""
    if not quiet:
        _show(report.rows, columns)
        typer.echo(f"Written to {output}. {NOTICE}")
    raise typer.Exit(report.exit_code)


def _show(rows: Sequence[Mapping[str, object]], columns: tuple[str, ...], below: Sequence[Sequence[str]] = ()) -> None:
    """Rows as aligned columns on stdout, each with the lines that stand below it."""
    lines = [columns, *(tuple(_shown(row[column]) for column in columns) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line, notes in zip_longest(lines, ((), *below), fillvalue=()):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        for note in notes:
            typer.echo(note)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _outline(values: dict[str, Any], depth: int = 0) -> Iterator[str]:
    """Nested values as indented lines."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield f"{'  ' * depth}{key}:"
            yield from _outline(value, depth + 1)
        else:
            yield f"{'  ' * depth}{key}: {value}"


def _n_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _on_terminal() -> bool:
    return sys.stdout.isatty() and sys.stderr.isatty()


@contextmanager
def _session(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """Log to stderr, and end with the exit status that the error stands for, after one line that explains it."""
    _log_to_stderr(logging.ERROR if quiet else logging.DEBUG if verbose else logging.WARNING)
    try:
        with Interrupts():
            yield
    except typer.Exit:
        raise
    except BrokenPipeError:  # whoever read stdout has read enough, as `head` does
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - or Python complains once more while it ends
        raise typer.Exit(ExitCode.OK) from None
    except KeyboardInterrupt:
        log.error("cancelled")
        raise typer.Exit(ExitCode.CANCELLED) from None
    except Exception as error:  # whatever it is, it ends in one line and an exit status
        if isinstance(error, SeriesChoiceNeeded):
            _show(error.rows, tuple(error.rows[0]))
        code = _exit_code_of(error)
        log.error("%s", f"unexpected {type(error).__name__}: {error}" if code is ExitCode.UNEXPECTED else error)
        log.debug("where it failed", exc_info=error)
        raise typer.Exit(code) from None


def _exit_code_of(error: Exception) -> ExitCode:
    if isinstance(error, InputError):
        return ExitCode.USAGE
    if isinstance(error, ScanRefused):
        return ExitCode.REFUSED
    if isinstance(error, OutputError):
        return ExitCode.OUTPUT
    from hgisam.config import SettingsError
    from hgisam.model.checkpoint import WeightsError
    from hgisam.pipeline import DeviceUnavailable

    codes = {SettingsError: ExitCode.USAGE, WeightsError: ExitCode.WEIGHTS, DeviceUnavailable: ExitCode.DEVICE}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), ExitCode.UNEXPECTED)


class _StderrHandler(logging.Handler):
    """One line per message to whatever stderr is now: while a progress bar is drawn, that is a place above it."""

    def emit(self, record: logging.LogRecord) -> None:
        text = f"hgisam: {record.levelname.lower()}: {one_line(' '.join(record.getMessage().split()))}"
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        sys.stderr.write(text + "\n")


def _log_to_stderr(level: int) -> None:
    log.handlers[:] = [_StderrHandler()]
    log.setLevel(level)
