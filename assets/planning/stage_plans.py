"""What planning a stage is, and how a request is drafted.

Belongs here: the interface of a stage's plan, gathering accepted inputs into a request, and words that several stages share. Does not
belong here: what a certain stage needs, which is a module for each step of the data, or states (``planner.py``).
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.payloads.requests import Input, Request, failure_of
from perturbridge_dagster.stages import STAGES
from resources.store import Key, Output

if TYPE_CHECKING:
    from assets.planning.planner import Planner

State = Literal["current", "missing", "stale", "failed", "unaccepted", "waiting"]

COMPENDIUM = ("all",)
"""Key of the one output of a stage without partitions."""
EFFECTS_STAGES = {"grouped": "condition_effects", "separate": "replicate_effects"}
"""Mode of replicates → the stage of its effects."""


class NotConfiguredError(PerturbridgeError):
    """A partition of a stage that the settings do not ask for; the message says what to add."""


class WaitingError(PerturbridgeError):
    """A partition whose inputs are not there yet; the message names them."""


@dataclass(frozen=True)
class Part:
    """One output of a partition: effects have one a stratum, every other stage has one."""

    stage: str
    key: Key
    request: Request


class StagePlan(ABC):
    """How the partitions of a stage are planned.

    Parameters
    ----------
    stage
        Its name.
    planner
        Whom it asks about other stages.
    """

    def __init__(self, stage: str, planner: Planner) -> None:
        self.stage, self.planner, self.store = stage, planner, planner.store

    @abstractmethod
    def keys(self) -> list[Key]:
        """The real partitions, as far as they are known now."""

    @abstractmethod
    def upstream(self, key: Key) -> list[tuple[str, Key]]:
        """The partitions that one is made from, apart from those its inputs are made from in turn."""

    @abstractmethod
    def parts(self, key: Key) -> list[Part]:
        """The parts of a partition; raises as :meth:`Planner.plan` does."""

    def output_keys(self, key: Key) -> list[Key]:
        """Keys of the outputs of a partition."""
        return [key]

    def goes_without(self, stage: str, state: State) -> bool:
        """Whether a partition can be made though one of `stage` that it is made from has this state; what is left out is then named."""
        return state == "failed" and stage in EFFECTS_STAGES.values()


class Draft:
    """A request while its inputs are gathered: each is refused unless it is accepted or allowed, and taints are named in the request.

    Parameters
    ----------
    plan
        Of the stage whose request it is.
    """

    def __init__(self, plan: StagePlan) -> None:
        self._stage, self._planner = plan.stage, plan.planner
        self.inputs: dict[str, Input] = {}
        self._taints: set[str] = set()

    def accepted(self, stage: str, key: Key) -> Output:
        """The current output of an input stage, whose taints become those of the request. It is not an input by that alone."""
        output, taints = self._planner.accepted(stage, key)
        self._taints |= set(taints)
        return output

    def add(self, name: str, output: Output) -> None:
        """Make an output an input."""
        self.inputs[name] = Input(str(output.folder), output.digest)

    def add_effects(self, mode: str, contexts: Mapping[str, Iterable[str]]) -> list[str]:
        """Make the effects of every stratum of some cell contexts of datasets inputs; gives the strata left out since their fit failed."""
        left_out = []
        for dataset, names in contexts.items():
            for context in names:
                for part in self._planner.plan(EFFECTS_STAGES[mode], (dataset, context)):
                    if failure_of(part.request):
                        left_out.append(" ".join(part.key))
                    else:
                        self.add("/".join(part.key), self.accepted(part.stage, part.key))
        return left_out

    def part(self, key: Key, arguments: dict[str, Any], *, inputs: Mapping[str, Input] | None = None, code: str = "") -> Part:
        """The request as a part.

        Parameters
        ----------
        key
            Of its output.
        arguments
            Of the task; the taints of inputs are added.
        inputs
            Of this part alone, beside those gathered.
        code
            Versions that its numbers depend on beside the stage's own code, those of R packages, say.
        """
        version = "; ".join(filter(None, (STAGES[self._stage].code_version, code)))
        return Part(
            self._stage,
            key,
            Request(
                self._stage,
                arguments | {"unaccepted_inputs": sorted(self._taints)},
                self.inputs | dict(inputs or {}),
                version,
                str(self._planner.store.folder(self._stage, key)),
            ),
        )


def inherited(output: Output) -> dict[str, Any]:
    """What a file takes over from an input that is identified by its content alone: these must then identify the request too."""
    stamp = output.stamp()
    return {"licence": stamp.licence, "simulated": stamp.simulated}


def listing_of(files: Iterable[Path], folder: Path) -> list[list[Any]]:
    """Path below `folder`, size and time of change of each file: what tells whether files are still the same without reading them."""
    return [[str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def checksum_of(content: object) -> str:
    """SHA-256 of something that JSON can say."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
