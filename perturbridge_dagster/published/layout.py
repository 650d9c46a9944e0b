"""Where the files of the published release lie below a folder.

Two layouts are known. On Hugging Face a dataset's folder holds ``<name>_processed.h5ad`` and ``group_rep/<stratum>_de.h5ad`` and
``sep_rep/<stratum>_de.h5ad``. The published pipeline, which wrote these files, keeps the same below ``pseudobulk_processed/group_rep/`` and
``deg_data/group_rep/full/qc_…/filter_min_cells_<n>/results/``, and its fits of single batches below ``intermediate/<stratum>/``. Belongs
here: paths. Does not belong here: opening a file (``h5ad.py``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from perturbridge_dagster.errors import InputError

Replicates = Literal["grouped", "separate"]

REPOSITORY = "theislab/chem-perturbridge"
"""Dataset repository of the release on Hugging Face."""

MODES = {"grouped": "group_rep", "separate": "sep_rep"}
"""How replicates were fitted → the release's word for it."""

_FOLDERS = {"novartis": ("novartis_batch_2500", "novartis")}
"""Dataset id → names of its folder, where they are not its id."""

_EFFECTS = re.compile(r"^(?P<stratum>.+?)(?:_processed)?(?:_batch_(?P<batch>\d+))?(?:_de)?\.h5ad$")
"""Name of a file of effects: a stratum, and the batch where each batch has a file of its own."""


def batch_of_file(file: Path) -> str | None:
    """Batch that a file of effects holds, from its name; None for a file of a whole stratum."""
    found = _EFFECTS.match(file.name)
    return f"batch_{int(found['batch'])}" if found and found["batch"] else None


def _batch_number(file: Path) -> int:
    batch = batch_of_file(file)
    return int(batch.removeprefix("batch_")) if batch else 0


@dataclass(frozen=True)
class Release:
    """The release's files below a folder, in either layout.

    Attributes
    ----------
    folder
        The folder with one folder a dataset.
    """

    folder: Path

    def dataset_folder(self, dataset: str) -> Path | None:
        """Folder of a dataset, or None where the release has none."""
        names = _FOLDERS.get(dataset, (dataset,))
        return next((self.folder / name for name in names if (self.folder / name).is_dir()), None)

    def require_folder(self) -> None:
        """Refuse a folder that is not there.

        Raises
        ------
        InputError
            If it is no folder.
        """
        if not self.folder.is_dir():
            raise InputError(
                "the folder of the published release does not exist",
                file=self.folder,
                expected="a folder with one folder a dataset, such as sciplex/group_rep/CVCL_0023_de.h5ad",
                advice=f"Download what you compare with from {REPOSITORY} on Hugging Face, or correct [published] of settings.toml.",
            )

    @cached_property
    def _listed(self) -> dict[tuple[str, str, int], dict[str, list[Path]]]:
        return {}

    def strata(self, dataset: str, *, replicates: Replicates = "grouped", min_cells: int = 0) -> dict[str, list[Path]]:
        """Files of effects of each stratum of a dataset, in the order of batches.

        Parameters
        ----------
        dataset
            Dataset id.
        replicates
            Which of the two runs.
        min_cells
            Which run of the pipeline's layout, where there are several. The layout on Hugging Face has one.

        Returns
        -------
        dict
            Stratum → its one file, or one file a batch. Empty where the release does not have the dataset.
        """
        key = (dataset, replicates, min_cells)
        if key not in self._listed:
            self._listed[key] = self._find(dataset, MODES[replicates], min_cells)
        return self._listed[key]

    def _find(self, dataset: str, mode: str, min_cells: int) -> dict[str, list[Path]]:
        folder = self.dataset_folder(dataset)
        if folder is None:
            return {}
        runs = sorted(folder.glob(f"deg_data/{mode}/full/qc_*/filter_min_cells_{min_cells}"))
        for whole in (folder / mode, *(run / "results" for run in runs)):
            if found := _by_stratum(sorted(whole.glob("*.h5ad"))):
                return found
        return _by_stratum(sorted(file for run in runs for file in run.glob("intermediate/*/*.h5ad")))

    def samples(self, dataset: str) -> Path | None:
        """File of harmonized samples of a dataset, or None."""
        folder = self.dataset_folder(dataset)
        if folder is None:
            return None
        found = [*sorted(folder.glob("*_processed.h5ad")), *sorted(folder.glob("pseudobulk_processed/group_rep/*_processed.h5ad"))]
        return found[0] if found else None


def _by_stratum(files: list[Path]) -> dict[str, list[Path]]:
    """Files by the stratum in their name, those of one stratum in the order of their batches."""
    strata: dict[str, list[Path]] = {}
    for file in files:
        if (found := _EFFECTS.match(file.name)) and not file.name.startswith("."):
            strata.setdefault(found["stratum"], []).append(file)
    return {stratum: sorted(found, key=_batch_number) for stratum, found in sorted(strata.items())}
