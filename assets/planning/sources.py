"""How source files and harmonized samples are planned.

Belongs here: the requests of these two stages. Does not belong here: reading or downloading files (``perturbridge_dagster/sources``).
"""

from __future__ import annotations

import json

from assets.planning.stage_plans import Draft, Part, StagePlan, checksum_of, inherited, listing_of
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.payloads.requests import Input
from perturbridge_dagster.registry import dataset as registered
from resources.store import Key


class SourceFiles(StagePlan):
    """Partitions are the configured datasets."""

    def keys(self) -> list[Key]:
        return [(dataset,) for dataset in self.store.source_folders()]

    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        return []

    def parts(self, key: Key) -> list[Part]:
        from perturbridge_dagster.sources import locate_files

        (dataset,) = key
        folder = self.store.source_folder(dataset)
        try:
            files = sorted(file for group in locate_files(dataset, folder).values() for file in group)
        except InputError:
            if not self.store.is_downloaded(dataset):
                raise
            files = []  # to be fetched: the asset does that, and plans again
        draft = Draft(self)
        draft.inputs["folder"] = Input(str(folder), checksum_of(listing_of(files, folder)))
        # the folder is what this stage records, so files that have moved are recorded again
        return [draft.part(key, {"dataset": dataset, "folder": str(folder), "licence": registered(dataset).licence.class_})]


class HarmonizedSamples(StagePlan):
    """Partitions are the configured datasets."""

    def keys(self) -> list[Key]:
        return [(dataset,) for dataset in self.store.source_folders()]

    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        return [("source_files", key)]

    def parts(self, key: Key) -> list[Part]:
        from perturbridge_dagster.identity.snapshot import FOLDER, grown_version
        from perturbridge_dagster.identity.tables import tables_checksum

        (dataset,) = key
        draft = Draft(self)
        output = draft.accepted("source_files", key)
        manifest = json.loads((output.folder / "source_files.json").read_text())
        draft.inputs["source_files"] = Input(str(output.folder), manifest["checksum"])
        answers = self.store.root / FOLDER
        if grown := grown_version(answers, dataset):
            draft.inputs["identity"] = Input(str(answers), grown)
        arguments = {"dataset": dataset, "registry": registered(dataset).checksum, "identity": tables_checksum()}
        return [draft.part(key, arguments | inherited(output))]
