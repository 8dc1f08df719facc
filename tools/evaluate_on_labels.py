"""How well a recipe tells slices and scans of the patients apart whom its weights have learned from: out of fold.

    python tools/evaluate_on_labels.py FOLDER --out-of-fold runs/full_length/final/seed_1 runs/full_length/final/seed_2

FOLDER is a data set of NIfTI files that training reads. Each patient is looked at with the network of the fold that
had not seen them (`tools/cross_validate.py`), or, of several seeds, with the mean of their parameters, as the weights
that ship are a mean; weights that have learned from these very patients say nothing here. They are calibrated as the
weights are; where that calibration was chosen on the same out-of-fold probabilities, sensitivity and specificity
flatter a little. Of patients whom no network has seen, `hgisam segment` and then `hgisam evaluate` tell the same.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from train_shipped_weights import averaged

from hgisam import Segmenter
from hgisam.config import load_settings
from hgisam.evaluate.labelled import LabelledReport
from hgisam.evaluate.labelled_report import labelled_tables, write_labelled_report
from hgisam.evaluate.scored import read_scored_slices
from hgisam.labelled_records import answer_of
from hgisam.model.checkpoint import save_weights
from hgisam.pipeline import SegmentOptions
from hgisam.records import segmentation_record
from hgisam.train.calibration import Calibration
from hgisam.train.cohort import NiftiFile
from hgisam.train.layouts import read_cohort
from hgisam.train.training import BEST


def main() -> None:
    """Print what `hgisam evaluate` would."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument(
        "--out-of-fold", type=Path, nargs="+", required=True, metavar="FOLDER", help="trainings fold_0, fold_1, ..."
    )
    parser.add_argument("--config", type=Path, help="a recipe with `segment`")
    parser.add_argument("-o", "--output", type=Path, help="where to write what `hgisam evaluate` writes")
    given = parser.parse_args()
    cohort = read_cohort(given.folder)
    options = load_settings(given.config).segment
    with TemporaryDirectory() as scratch:
        segmenter_of = segmenters(given.weights, given.out_of_fold, Path(scratch), options)
        answers = [
            answer_of(
                {"case": scan.name} | segmentation_record(segmenter_of(scan.name).segment(scan.voxels.path)), scan
            )
            for scan in cohort.scans
            if isinstance(scan.voxels, NiftiFile)
        ]
    left_out = tuple(scan.name for scan in cohort.scans if not isinstance(scan.voxels, NiftiFile))
    report = LabelledReport(tuple(answers), (), (), left_out, cohort.layout, cohort.tells_patients)
    if given.output is not None:
        write_labelled_report(report, given.output)
    Console(width=160).print(labelled_tables(report))


def segmenters(
    weights: Path | None, out_of_fold: Sequence[Path], scratch: Path, options: SegmentOptions
) -> Callable[[str], Segmenter]:
    """Who looks at a scan, by its name: of several networks the one that had not seen it, calibrated like the weights.

    Without any, the weights themselves look at each.
    """
    given = Segmenter(weights, options=options)
    if not out_of_fold:
        return lambda scan: given
    kept = given.weights.metadata
    by_scan: dict[str, Segmenter] = {}
    for folder in sorted(out_of_fold[0].glob("fold_*")):
        model, metadata = averaged([seed / folder.name / BEST for seed in out_of_fold])
        calibrated = {name: getattr(kept, name) for name in (*Calibration.model_fields, "threshold")}
        path = scratch / f"{folder.name}.safetensors"
        save_weights(path, model, metadata.model_copy(update=calibrated), half=True)
        segmenter = Segmenter(path, options=options)
        by_scan |= dict.fromkeys(read_scored_slices(folder / "test.csv").scans, segmenter)
    return by_scan.__getitem__


if __name__ == "__main__":
    main()
