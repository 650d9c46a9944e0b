"""Where outputs lie, which of them is current, and which are accepted.

Every output has a stage and a key (a dataset, a dataset and stratum, a dataset pair …). Below the platform's home it lies in
``<stage folder>/<key>/<digest>/``; ``current.json`` beside the digests says which one is current, and ``accepted.json`` in the
output says which checks it has passed. Belongs here: finding, publishing and accepting outputs. Does not belong here: computing
them (``compute.py``) or deciding what is needed (``assets/planning``).
"""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from perturbridge_dagster.errors import InputError, PerturbridgeError, UnacceptedInputError
from perturbridge_dagster.home import CURRENT, current_output, native_folder, outputs_folder
from perturbridge_dagster.payloads.requests import DONE, Outcome, Request
from perturbridge_dagster.stages import SIZES, STAGES, SUITE_VERSION
from perturbridge_dagster.written import Stamp, read_stamp, write_json

if TYPE_CHECKING:
    from perturbridge_dagster.agreement.options import AgreementOptions

ACCEPTED = "accepted.json"
SETTINGS = "settings.toml"
DOWNLOAD = "download"
"""Stands in ``[sources]`` of the settings in place of a folder: the native files are fetched."""

TABLES = ("sources", "published", "op3_benchmark", "agreement", "representation", "compute", "slurm", "needs")
"""Tables of the settings that something reads; the last three in ``slurm/settings.py``."""

Key = tuple[str, ...]

log = logging.getLogger("perturbridge")


def read_settings(root: Path) -> dict[str, Any]:
    """Content of a home's ``settings.toml``; nothing where it is not there.

    Raises
    ------
    InputError
        If it is not valid TOML in UTF-8, or has a table that nothing reads.
    """
    file = root / SETTINGS
    try:
        # editors of Windows put a mark before the text
        settings = tomllib.loads(file.read_text(encoding="utf-8-sig")) if file.is_file() else {}
    except UnicodeDecodeError as error:
        raise InputError(f"not text in UTF-8: {error}", file=file, advice="Save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not valid TOML: {error}", file=file) from error
    # a misspelt table would be as good as none: nothing configured, or every option at its default
    if unknown := [name for name in settings if name not in TABLES]:
        raise InputError(
            "there is no such table", file=file, column=unknown[0], expected=f"one of {', '.join(f'[{name}]' for name in TABLES)}"
        )
    return settings


@dataclass(frozen=True)
class Output:
    """A finished output on disk.

    Attributes
    ----------
    stage, key
        What it is an output of.
    folder
        Where its files lie.
    digest
        Digest of the request that made it.
    """

    stage: str
    key: Key
    folder: Path
    digest: str

    @property
    def name(self) -> str:
        """Stage and key in words, for messages."""
        return f"{self.stage} {' '.join(self.key)}"

    def done(self) -> dict[str, Any]:
        """Content of ``done.json``."""
        return dict(json.loads((self.folder / DONE).read_text()))

    def stamp(self) -> Stamp:
        """What the output's files say of themselves; they all carry one stamp."""
        return read_stamp(next(self.folder.glob("*.parquet")))

    def acceptance(self) -> dict[str, Any]:
        """Check name → its last record on this output."""
        try:
            return dict(json.loads((self.folder / ACCEPTED).read_text()))
        except FileNotFoundError:
            return {}

    def judged_now(self, record: Mapping[str, Any]) -> bool:
        """Whether a check's record is about this output and by the present rules."""
        return bool(record["digest"] == self.digest and record["suite_version"] == SUITE_VERSION)

    def verdicts(self) -> dict[str, str]:
        """Blocking check → ``passed`` or ``failed`` by the present rules, else ``passed by earlier rules`` or ``not run``."""
        records = self.acceptance()
        return {check: self._verdict(records.get(check)) for check in STAGES[self.stage].blocking_checks}

    def _verdict(self, record: Mapping[str, Any] | None) -> str:
        if record is None or record["digest"] != self.digest:
            return "not run"
        if self.judged_now(record):
            return "passed" if record["passed"] else "failed"
        return "passed by earlier rules" if record["passed"] else "not run"

    def unaccepted_checks(self) -> list[str]:
        """Blocking checks that this output has not passed."""
        return [check for check, verdict in self.verdicts().items() if verdict != "passed"]

    def is_judged(self) -> bool:
        """Whether every blocking check has judged this output by the present rules, however it went."""
        return set(self.verdicts().values()) <= {"passed", "failed"}

    def published_at(self) -> float:
        """When it was made current, in seconds since 1970."""
        return (self.folder.parent / CURRENT).stat().st_mtime


def _own_screens() -> tuple[dict[str, Path], list[str]]:
    """Folder of the files of each of the user's own screens, and what is wrong with those whose description is broken."""
    from perturbridge_dagster.registry.own_screens import own_screen, own_screens

    folders, broken = {}, []
    for id_ in own_screens():
        try:
            entry = own_screen(id_)
        except InputError as error:
            broken.append(f"own screen {id_} is left out: {error}")
        else:
            if entry and entry.screen:  # else it was removed meanwhile
                folders[id_] = entry.screen.folder
    return folders, broken


_told: set[str] = set()
"""What this process has said of broken descriptions, which are met again at every look at the datasets."""


class Store(dg.ConfigurableResource):  # type: ignore[type-arg]  # the resource yields itself
    """The platform's home folder."""

    home: str

    @property
    def root(self) -> Path:
        """The home folder."""
        return Path(self.home)

    # ---- settings ------------------------------------------------------------------------------------------------------------

    def source_folders(self) -> dict[str, Path]:
        """Dataset id → folder of its native files, in the order of the registry.

        These are the datasets in ``[sources]`` of ``settings.toml``, and the user's own screens in ``screens/``. A screen whose description
        is wrong is left out, with a warning in the log, so that the other datasets go on; :meth:`broken_screens` tells of it.

        Raises
        ------
        InputError
            If the file cannot be read, or names an unknown dataset.
        """
        folders = {
            dataset: native_folder(self.root, dataset) if folder == DOWNLOAD else self.root / Path(folder).expanduser()
            for dataset, folder in self._sources().items()
        }
        screens, broken = _own_screens()
        for words in broken:
            if words not in _told:
                log.warning("%s", words)
                _told.add(words)
        return folders | screens

    def broken_screens(self) -> list[str]:
        """What is wrong with own screens whose description is broken, which whoever asks is to say: the log then does not."""
        _, broken = _own_screens()
        _told.update(broken)
        return broken

    def is_downloaded(self, dataset: str) -> bool:
        """Whether a dataset's native files are fetched, as settings.toml says by the word download in place of a folder."""
        return self._sources().get(dataset) == DOWNLOAD

    def _sources(self) -> dict[str, str]:
        """``[sources]`` of ``settings.toml``, in the order of the registry."""
        from perturbridge_dagster.registry import dataset as registered
        from perturbridge_dagster.registry import in_order

        file = self.root / SETTINGS
        sources = read_settings(self.root).get("sources", {})
        if not isinstance(sources, dict):
            raise InputError("sources is not a table", file=file, expected="[sources], with one line a dataset below it")
        for dataset, folder in sources.items():
            try:
                registered(dataset)
            except InputError as error:
                raise InputError("unknown dataset in [sources]", file=file, column=dataset, expected=error.expected) from error
            if not isinstance(folder, str):
                raise InputError(
                    "is not a folder", file=file, column=dataset, expected='a path in quotes, as in "sample/sciplex", or "download"'
                )
        return {dataset: sources[dataset] for dataset in in_order(sources)}

    def source_folder(self, dataset: str) -> Path:
        """Folder of a dataset's native files.

        Raises
        ------
        InputError
            If none is configured.
        """
        folders = self.source_folders()
        if dataset not in folders:
            raise InputError(
                "no folder of native files is configured",
                dataset=dataset,
                file=self.root / SETTINGS,
                advice=f'Add a line under [sources]: {dataset} = "folder with its files", or {dataset} = "{DOWNLOAD}".',
            )
        return folders[dataset]

    def published_folder(self) -> Path | None:
        """Folder of the published Chem-PerturBridge release, ``folder`` of ``[published]`` of ``settings.toml``; None where it has none.

        Raises
        ------
        InputError
            If the file cannot be read, or says something else there.
        """
        return self._folder_of("published", example="chem-perturbridge")

    def op3_benchmark_folder(self) -> Path | None:
        """Folder of the files of the OP3 benchmark, ``folder`` of ``[op3_benchmark]`` of ``settings.toml``; None where it has none.

        Raises
        ------
        InputError
            If the file cannot be read, or says something else there.
        """
        return self._folder_of("op3_benchmark", example="sources/op3_benchmark/native")

    def _folder_of(self, table: str, *, example: str) -> Path | None:
        """The folder that a table of ``settings.toml`` names, which holds nothing else."""
        settings = read_settings(self.root).get(table, {})
        file = self.root / SETTINGS
        if not isinstance(settings, dict) or set(settings) - {"folder"}:
            raise InputError(f"is not what [{table}] may hold", file=file, column=table, expected='folder = "a path in quotes"')
        folder = settings.get("folder")
        if folder is not None and not isinstance(folder, str):
            raise InputError("is not a folder", file=file, column=f"{table}.folder", expected=f'a path in quotes, as in "{example}"')
        return None if folder is None else self.root / Path(folder).expanduser()

    def agreement_options(self) -> AgreementOptions:
        """What ``[agreement]`` of ``settings.toml`` chooses; all filters off where it does not say.

        Raises
        ------
        InputError
            If the file cannot be read, or says something else there.
        """
        from perturbridge_dagster.agreement.options import agreement_options

        table = read_settings(self.root).get("agreement", {})
        file = self.root / SETTINGS
        if not isinstance(table, dict):
            raise InputError("is not a table", file=file, column="agreement", expected="[agreement], with one line an option below it")
        return agreement_options(table, file)

    def representation_size(self) -> str:
        """Size of the settings that models are trained with: ``size`` of ``[representation]`` of ``settings.toml``, or small.

        Raises
        ------
        InputError
            If the file cannot be read, or says something else there.
        """
        return str(self._representation()["size"])

    def representation_is_faithful(self) -> bool:
        """Whether evaluations repeat the published ones with their known faults: ``faithful`` of ``[representation]``, or not.

        Raises
        ------
        InputError
            If the file cannot be read, or says something else there.
        """
        return bool(self._representation()["faithful"])

    def representation_processes(self) -> int:
        """Processes that train a model together, with a GPU each where there are any: ``processes`` of ``[representation]``, or one.

        Raises
        ------
        InputError
            If the file cannot be read, or says something else there.
        """
        return int(self._representation()["processes"])

    def _representation(self) -> dict[str, Any]:
        """Size of what models are trained with, by how many processes, and whether evaluations repeat the published faults."""
        chosen: dict[str, Any] = {"size": SIZES[0], "faithful": False, "processes": 1}
        table = read_settings(self.root).get("representation", {})
        is_table = isinstance(table, dict) and not set(table) - set(chosen)
        chosen |= table if is_table else {}
        is_count = type(chosen["processes"]) is int and chosen["processes"] >= 1
        if not is_table or chosen["size"] not in SIZES or not isinstance(chosen["faithful"], bool) or not is_count:
            words = f"size = {' or '.join(json.dumps(name) for name in SIZES)}; faithful = true or false; processes = a number from 1"
            raise InputError("is not what [representation] may hold", file=self.root / SETTINGS, column="representation", expected=words)
        return chosen

    # ---- outputs -------------------------------------------------------------------------------------------------------------

    def folder(self, stage: str, key: Key) -> Path:
        """Folder that holds the outputs of a key, one folder a digest."""
        return outputs_folder(self.root, stage, key)

    def current(self, stage: str, key: Key) -> Output | None:
        """The current output of a key, or None."""
        found = current_output(self.root, stage, key)
        return Output(stage, key, *found) if found and (found[0] / DONE).is_file() else None

    def published_keys(self, stage: str) -> list[Key]:
        """Every key of a stage that has a current output, whether or not anything asks for it now."""
        folder = self.folder(stage, ())
        return sorted(file.parent.relative_to(folder).parts for file in folder.rglob(CURRENT))

    def publish(self, stage: str, key: Key, outcome: Outcome) -> Output:
        """Make the output of an outcome the current one of its key.

        Raises
        ------
        PerturbridgeError
            If the outcome is a failure; the message is the one of the task.
        """
        if outcome.status == "failed":
            raise PerturbridgeError(f"{stage} {' '.join(key)}: {outcome.error}")
        request = outcome.request
        write_json(self.folder(stage, key) / CURRENT, {"digest": request.digest, "output": request.output.name})
        return Output(stage, key, request.output, request.digest)

    def is_current(self, stage: str, key: Key, request: Request) -> bool:
        """Whether the current output of a key is the one this request would make."""
        output = self.current(stage, key)
        return output is not None and output.digest == request.digest

    # ---- acceptance ----------------------------------------------------------------------------------------------------------

    def record_checks(self, output: Output, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Write what checks found on an output.

        Parameters
        ----------
        output
            The output that was checked.
        records
            Check name → ``passed`` and whatever the check wants kept.
        """
        at = datetime.now(UTC).isoformat(timespec="seconds")
        merged = output.acceptance() | {
            name: {**record, "digest": output.digest, "suite_version": SUITE_VERSION, "at": at} for name, record in records.items()
        }
        write_json(output.folder / ACCEPTED, merged)

    def require_accepted(self, output: Output, *, allow_unaccepted: bool = False) -> str | None:
        """Refuse an output that has not passed its blocking checks.

        Parameters
        ----------
        output
            The input of a consumer.
        allow_unaccepted
            Take it all the same.

        Returns
        -------
        None for an accepted output; for an unaccepted one that is allowed, the words that taint what is made of it.

        Raises
        ------
        UnacceptedInputError
            If a blocking check has failed or has not run, and that is not allowed.
        """
        lacking = {check: verdict for check, verdict in output.verdicts().items() if verdict != "passed"}
        if not lacking:
            return None
        words = ", ".join(f"{check} ({verdict})" for check, verdict in lacking.items())
        if allow_unaccepted:
            return f"{output.name}: {words}"
        raise UnacceptedInputError(
            f"{output.name} is not accepted: blocking check {words}. Look at the check of {output.stage}, mend the input and "
            "rematerialize it; or run with allow_unaccepted, which is recorded in everything that follows."
        )
