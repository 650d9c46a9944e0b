"""The shapes of the published strata, whole: how many samples, conditions, plates and genes each has.

The published jobs (one row a limma run) cut large strata into random batches. Belongs here: putting the batches together again, and the
cost that was published for them. Does not belong here: values (``simulate.py``) and times of our own (``effects.py``).

Every batch holds all controls of its stratum, and one batch, the last, is padded with conditions of the others. So a stratum has the
treated samples of its batches less that padding, and the controls of one batch. In the separate mode a contrast is a treated sample, so
controls are the samples of a batch less its contrasts. How much padding there was is known for the strata whose sizes were published
(:data:`TREATED`, :data:`CONDITIONS`) and for each dataset as a whole (:data:`DUPLICATED`); what is left of a dataset's is spread evenly
over its other batched strata. A dataset without such numbers is taken to pad half a batch, the expectation of a random cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from perturbridge_dagster.effects.design import Replicates

PUBLISHED_STEPS = ("filter_tmm_s", "voom_s", "lmfit_s", "contrasts_s", "total_s")
"""Seconds in the table of published jobs. The total has reading and writing, too."""

NORMALIZED = ("l1000_phase1", "l1000_phase2")
"""Datasets of normalized values; all others are counts."""

_MODES: dict[str, Replicates] = {"group_all_replicates": "grouped", "separate_replicates": "separate"}

TREATED = {
    ("cigs_mce", "CVCL_0062"): 31_564,
    ("cigs_mce", "CVCL_0063"): 30_527,
    ("cigs_tcm", "CVCL_0062"): 10_548,
    ("cigs_tcm", "CVCL_0063"): 10_564,
    ("dilimap_train", "CL_0000182"): 3_082,
    ("dilimap_train_val", "CL_0000182"): 3_691,
    ("novartis", "CVCL_0042"): 52_700,
    ("vcpi_0001", "CVCL_0006"): 26_969,
    ("vcpi_0002", "CVCL_0006"): 17_791,
}
"""Treated samples of batched strata, where they were published."""

SAMPLES = {
    ("l1000_phase1", "CVCL_2235"): 125_368,
    ("l1000_phase1", "CVCL_0031"): 103_291,
    ("l1000_phase1", "CVCL_0035"): 95_887,
    ("l1000_phase1", "CVCL_0023"): 60_548,
    ("l1000_phase1", "CVCL_0132"): 54_903,
    ("l1000_phase1", "CVCL_0320"): 53_369,
    ("l1000_phase1", "CVCL_VU89"): 32_532,
    ("l1000_phase2", "CVCL_0031"): 39_710,
    ("l1000_phase2", "CVCL_0132"): 36_571,
    ("l1000_phase2", "CVCL_0320"): 36_556,
    ("l1000_phase2", "CVCL_VU89"): 36_443,
    ("l1000_phase2", "CVCL_0035"): 36_111,
    ("l1000_phase2", "CVCL_0030"): 31_250,
    ("l1000_phase2", "CVCL_1794"): 30_955,
}
"""Treated samples and controls together, where only these were published."""

CONDITIONS = {
    ("cigs_mce", "CVCL_0062"): 11_136,
    ("cigs_mce", "CVCL_0063"): 10_877,
    ("cigs_tcm", "CVCL_0062"): 3_614,
    ("cigs_tcm", "CVCL_0063"): 3_647,
    ("dilimap_train", "CL_0000182"): 994,
    ("dilimap_train_val", "CL_0000182"): 1_192,
    ("l1000_phase1", "CVCL_2235"): 32_359,
    ("l1000_phase1", "CVCL_0031"): 24_982,
    ("l1000_phase1", "CVCL_0035"): 20_255,
    ("l1000_phase1", "CVCL_0023"): 19_808,
    ("l1000_phase1", "CVCL_0132"): 14_070,
    ("l1000_phase1", "CVCL_0320"): 13_264,
    ("l1000_phase1", "CVCL_VU89"): 8_537,
    ("l1000_phase2", "CVCL_0031"): 11_643,
    ("l1000_phase2", "CVCL_0132"): 10_996,
    ("l1000_phase2", "CVCL_0035"): 10_980,
    ("l1000_phase2", "CVCL_0030"): 9_387,
    ("novartis", "CVCL_0042"): 17_360,
    ("vcpi_0001", "CVCL_0006"): 13_661,
    ("vcpi_0002", "CVCL_0006"): 8_957,
}
"""Treated conditions of batched strata, where they were published."""

DUPLICATED = {
    ("l1000_phase1", "grouped"): 8_445,
    ("l1000_phase1", "separate"): 28_634,
    ("l1000_phase2", "grouped"): 11_635,
    ("l1000_phase2", "separate"): 37_065,
}
"""Contrasts that were published twice, over all strata of a dataset whose strata are not all known."""

_TWO_TIMES = {("sciplex", "CVCL_0023")}
"""Strata of counts with two treatment times."""


_AS_MERGED = ("dataset", "min_cells", "cell_context", "n_controls", "n_plates", "n_times", "n_genes", "n_jobs")


@dataclass(frozen=True)
class Shape:
    """One fit: a whole stratum in one mode.

    Attributes
    ----------
    dataset, min_cells, cell_context, replicates
        Which.
    n_treated, n_conditions
        Treated samples, and their conditions when replicates are grouped.
    n_controls, n_plates, n_times
        Control samples, plates, and treatment times; plates are nested in times and there is one control a time.
    n_genes
        Genes before the filter.
    n_jobs
        Published jobs that it stands for.
    published
        Their seconds, summed, by :data:`PUBLISHED_STEPS`; a step that was not run has none.
    estimated
        Whether the padding of its batches is an estimate.
    """

    dataset: str
    min_cells: int
    cell_context: str
    replicates: Replicates
    n_treated: int
    n_conditions: int
    n_controls: int
    n_plates: int
    n_times: int
    n_genes: int
    n_jobs: int
    published: dict[str, float]
    estimated: bool

    @property
    def name(self) -> str:
        """Unique, and legal as a file name."""
        return f"{self.dataset}-{self.min_cells}-{self.cell_context}-{self.replicates}"

    @property
    def family(self) -> tuple[str, int, str]:
        """Shapes that differ by cell context alone."""
        return self.dataset, self.min_cells, self.replicates

    @property
    def normalized(self) -> bool:
        """Whether values are normalized, not counts."""
        return self.dataset in NORMALIZED

    @property
    def n_samples(self) -> int:
        """Samples of the fit."""
        return self.n_treated + self.n_controls

    @property
    def n_contrasts(self) -> int:
        """Treated conditions as they are fitted."""
        return self.n_conditions if self.replicates == "grouped" else self.n_treated

    @property
    def n_coefficients(self) -> int:
        """Columns that R's design matrix would have."""
        return self.n_contrasts + self.n_times + self.n_plates - 1

    @property
    def estimable(self) -> bool:
        """Whether residual degrees of freedom are left; without, there is nothing to fit."""
        return self.n_samples > self.n_coefficients


def read_jobs(file: Path) -> pd.DataFrame:
    """The table of published jobs, with our words for the modes."""
    jobs = pd.read_csv(file)
    return jobs.assign(replicates=jobs["replicate_mode"].map(_MODES))


def whole_strata(jobs: pd.DataFrame) -> list[Shape]:
    """Put the batches of each stratum together, in both modes.

    Parameters
    ----------
    jobs
        As :func:`read_jobs` gives them; both modes of every stratum.
    """
    strata = [_merged(key, of_stratum) for key, of_stratum in jobs.groupby(["dataset", "min_cells", "cell_context"])]
    shapes = []
    for dataset, several in groupby(strata, key=lambda stratum: str(stratum["dataset"])):
        of_dataset = list(several)
        padding = {replicates: _padding(of_dataset, dataset, replicates) for replicates in _MODES.values()}
        for position, stratum in enumerate(of_dataset):
            n_treated, n_conditions = (stratum["written"][mode] - padding[mode][position] for mode in ("separate", "grouped"))
            shapes += [
                Shape(
                    replicates=replicates,
                    n_treated=n_treated,
                    n_conditions=min(n_conditions, n_treated),
                    published=stratum["published"][replicates],
                    estimated=None in stratum["exact"].values(),
                    **{name: stratum[name] for name in _AS_MERGED},
                )
                for replicates in _MODES.values()
            ]
    return shapes


def _merged(key: Any, jobs: pd.DataFrame) -> dict[str, Any]:
    """What the jobs of a stratum say of it."""
    dataset, min_cells, cell_context = key
    known = (dataset, cell_context)
    separate, grouped = (jobs[jobs["replicates"] == replicates] for replicates in ("separate", "grouped"))
    # every plate has controls, so every batch has every plate
    beside_contrasts = int((jobs["design_coefficients"] - jobs["contrasts"]).max())
    several_times = known in _TWO_TIMES or (dataset in NORMALIZED and beside_contrasts > 3)
    n_times = 2 if several_times else 1
    n_controls = int((separate["design_samples"] - separate["contrasts"]).min())
    n_treated = SAMPLES[known] - n_controls if known in SAMPLES else TREATED.get(known)
    written = {"grouped": int(grouped["contrasts"].sum()), "separate": int(separate["contrasts"].sum())}
    return {
        "dataset": dataset,
        "min_cells": int(min_cells),
        "cell_context": cell_context,
        "n_controls": n_controls,
        "n_plates": beside_contrasts + 1 - n_times,
        "n_times": n_times,
        "n_genes": int(jobs["genes_in"].max()),
        "n_jobs": len(separate),
        "written": written,
        "exact": written if len(separate) == 1 else {"grouped": CONDITIONS.get(known), "separate": n_treated},
        "published": {"grouped": _published(grouped), "separate": _published(separate)},
    }


def _published(jobs: pd.DataFrame) -> dict[str, float]:
    sums = jobs[list(PUBLISHED_STEPS)].sum(min_count=1).dropna()
    return {str(step): float(seconds) for step, seconds in sums.items()}


def _padding(strata: list[dict[str, Any]], dataset: str, replicates: Replicates) -> list[int]:
    """Contrasts of each stratum that a batch repeats."""
    known = [None if of["exact"][replicates] is None else of["written"][replicates] - of["exact"][replicates] for of in strata]
    n_unknown = known.count(None)
    left = max(DUPLICATED.get((dataset, replicates), 0) - sum(padding or 0 for padding in known), 0)
    paddings = []
    for of, padding in zip(strata, known, strict=True):
        a_batch = of["written"][replicates] / of["n_jobs"]
        expected = left / n_unknown if (dataset, replicates) in DUPLICATED and n_unknown else a_batch / 2
        # no more than the one batch that is padded has
        paddings.append(round(min(expected, a_batch)) if padding is None else padding)
    return paddings
