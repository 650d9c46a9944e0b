"""How effects are planned: one request a stratum of a cell context.

Belongs here: the requests of condition and replicate effects. Does not belong here: fitting (``perturbridge_dagster/effects``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.planning.stage_plans import EFFECTS_STAGES, Draft, Part, StagePlan, inherited
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.payloads.requests import Input
from perturbridge_dagster.registry import dataset as registered
from resources.store import Key

if TYPE_CHECKING:
    import pandas as pd


class OfStrata(StagePlan):
    """Partitions are a dataset and a cell context, and have one output a stratum."""

    def strata(self, key: Key) -> pd.DataFrame:
        """The strata of a partition."""
        dataset, context = key
        strata = self.planner.strata(dataset)
        return strata[strata["cell_type"] == context]

    def output_keys(self, key: Key) -> list[Key]:
        return [(key[0], stratum) for stratum in self.strata(key)["stratum"]]


class Effects(OfStrata):
    """Every dataset and cell context that is harmonized."""

    def keys(self) -> list[Key]:
        return [
            (dataset, context)
            for dataset in self.store.source_folders()
            if self.store.current("harmonized_samples", (dataset,))
            for context in self.planner.cell_contexts(dataset)
        ]

    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        return [("harmonized_samples", key[:1])]

    def parts(self, key: Key) -> list[Part]:
        from perturbridge_dagster.effects.r import r_code_version

        dataset, context = key
        [mode] = [mode for mode, stage in EFFECTS_STAGES.items() if stage == self.stage]
        draft = Draft(self)
        samples = draft.accepted("harmonized_samples", (dataset,))
        strata = self.strata(key)
        if strata.empty:
            raise InputError(
                f"no samples of cell context {context}",
                dataset=dataset,
                expected=f"one of {', '.join(self.planner.cell_contexts(dataset))}",
            )
        return [
            draft.part(
                (dataset, row["stratum"]),
                {
                    "dataset": dataset,
                    "stratum": row["stratum"],
                    "replicates": mode,
                    "engine": "structured",
                    **registered(dataset).effects.model_dump(mode="json"),
                    **inherited(samples),
                },
                inputs={"samples": Input(str(samples.folder / row["file"]), row["checksum"])},
                code=r_code_version(),
            )
            for row in strata.to_dict("records")
        ]
