"""How the comparison with the published release is planned.

Belongs here: the requests of ``published_comparison``. Does not belong here: what the release looks like
(``perturbridge_dagster/published``).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from assets.planning.effects import OfStrata
from assets.planning.stage_plans import Draft, NotConfiguredError, Part, checksum_of, listing_of
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.payloads.requests import Input, failure_of
from perturbridge_dagster.published.layout import Release
from perturbridge_dagster.registry import dataset as registered
from resources.store import SETTINGS, Key


class PublishedComparison(OfStrata):
    """Every dataset and cell context of which the configured release has effects; every one where its folder is not there, to say so."""

    @cached_property
    def release(self) -> Release | None:
        """The published release, where a folder of it is configured."""
        folder = self.store.published_folder()
        return None if folder is None else Release(folder)

    def keys(self) -> list[Key]:
        release = self.release
        if release is None:
            return []
        return [
            key
            for key in self.planner.keys("condition_effects")
            if not release.folder.is_dir() or set(self.strata(key)["stratum"]) & set(_files(release, key[0]))
        ]

    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        return [("condition_effects", key)]

    def parts(self, key: Key) -> list[Part]:
        from perturbridge_dagster.effects.r import r_code_version

        release, (dataset, context) = self.release, key
        if release is None:
            raise NotConfiguredError(
                f"published_comparison is not configured: {self.store.root / SETTINGS} names no folder of the published release. Add "
                '[published] with a line folder = "folder with its files"; docs/published-release.md says how to have them.'
            )
        release.require_folder()
        files, strata = _files(release, dataset), self.strata(key).set_index("stratum")
        parts = []
        for effects in self.planner.plan("condition_effects", key):
            stratum = effects.key[-1]
            if stratum not in files or failure_of(effects.request):
                continue
            draft, row = Draft(self), strata.loc[stratum]
            draft.add("effects", draft.accepted("condition_effects", effects.key))
            # the samples that the effects were made of, with which the release's batches are fitted again
            samples = draft.accepted("harmonized_samples", (dataset,))
            draft.inputs["samples"] = Input(str(samples.folder / str(row["file"])), str(row["checksum"]))
            listing = listing_of(files[stratum], release.folder)
            draft.inputs["published"] = Input(str(release.folder), checksum_of(listing))
            arguments = {"dataset": dataset, "stratum": stratum, "files": [name for name, *_ in listing]}
            parts.append(draft.part(effects.key, arguments, code=r_code_version()))
        if not parts:
            raise InputError(
                f"the published release has no effects of a stratum of cell context {context} that we have",
                dataset=dataset,
                file=release.folder,
                expected=f"files of {', '.join(sorted(strata.index))}; it has {', '.join(files) or 'nothing of this dataset'}",
            )
        return parts


def _files(release: Release, dataset: str) -> dict[str, list[Path]]:
    """Published files of effects of each stratum of a dataset; none where the release does not have them."""
    return release.strata(dataset, min_cells=registered(dataset).effects.min_cells)
