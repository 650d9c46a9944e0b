"""Settings of where payloads run: ``[compute]``, ``[slurm]`` and ``[needs]`` of the home's ``settings.toml``.

Belongs here: which keys there are, what they may hold, and errors that name file, key and choices. Does not belong here: whether what
they name is there (``doctor.py``), or using it (``client.py``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.stages import STAGES
from resources.store import SETTINGS, read_settings

if TYPE_CHECKING:
    from dagster_slurm import SSHConnectionResource

Backend = Literal["local", "slurm"]
BACKENDS: tuple[Backend, ...] = ("local", "slurm")
BACKEND_VARIABLE = "PERTURBRIDGE_COMPUTE"
"""Environment variable that stands above ``backend`` of ``[compute]``."""

TEMPLATE = """\
# Where payloads run: "local", as subprocesses on this machine, or "slurm". docs/slurm.md tells of every line below;
# `python -m resources.slurm.doctor` looks whether they are right.
#
# [compute]
# backend = "slurm"
# batch_minutes = 30                        # small partitions share a payload as long as it asks for no more time than this
#
# [slurm]
# host = "login.example.org"                # login node, reached by ssh
# port = 22
# user = "jane"
# key = "~/.ssh/id_ed25519"                 # private key without passphrase; without this line ssh-agent and ~/.ssh/config decide
# known_hosts = "~/.ssh/known_hosts"        # must hold the login node's key: an unknown host is refused
# folder = "/shared/perturbridge/runs"      # for job scripts and logs; this home and this folder are the same on all machines
# environment = "/shared/perturbridge/node" # with activate.sh and env/bin/python
# partition = "general"                     # without these three lines the cluster's defaults hold
# account = "lab"
# qos = "normal"
# gpu_partition = "gpu"                     # for payloads that ask for GPUs
# poll_seconds = 5                          # between two questions about a job
# outage_seconds = 3600                     # how long login node or controller may be away; the job goes on, and the next run finds it
# max_memory_gib = 128                      # no payload is given more, nor asked again with more
# max_cpus = 16
# max_hours = 48
#
# What a payload asks for is estimated from its input (docs/compute-needs.md). It can be set by stage, and by stage and dataset:
#
# [needs."condition_effects"]
# cpus = 4
#
# [needs."harmonized_samples/tahoe"]
# memory_gib = 64
# minutes = 600
# gpus = 0
# partition = "long"
"""
"""What a new home's ``settings.toml`` says of this, all of it commented out."""


# ---- what a key may hold -----------------------------------------------------------------------------------------------------


def _path(value: Any) -> Any:
    """A path from a TOML string; anything else is left for pydantic to refuse."""
    return Path(value).expanduser() if isinstance(value, str) and value else value


def _absolute(path: Path) -> Path:
    """Refuse a path that would mean another place on another machine, or that a shell would take apart."""
    if not path.is_absolute():
        raise ValueError("is relative")
    if odd := sorted({letter for letter in str(path) if not (letter.isalnum() or letter in "/._+-")}):
        raise ValueError(f"has {' '.join(map(repr, odd))} in it, which not every shell on the way leaves alone")
    return path


_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,:@+-]*$")]
"""A name that dagster-slurm may paste into a shell line."""
_SharedFolder = Annotated[Path, BeforeValidator(_path), AfterValidator(_absolute)]
_File = Annotated[Path, BeforeValidator(_path)]


class _Table(BaseModel):
    """A table of ``settings.toml``. The description of a field is what an error says was expected."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


_AnyTable = TypeVar("_AnyTable", bound=_Table)


class ComputeTable(_Table):
    """``[compute]``."""

    backend: Backend = Field("local", description="where payloads run")
    batch_minutes: float = Field(30, gt=0, description="minutes, above 0")


class NeedsOverride(_Table):
    """``[needs."<stage>"]`` or ``[needs."<stage>/<dataset>"]``: what stands in place of the estimate. None leaves the estimate.

    Attributes
    ----------
    memory_gib
        Memory of the job in GiB.
    cpus
        Processor cores.
    minutes
        Time limit of one request.
    gpus
        GPUs.
    partition
        SLURM partition.
    """

    memory_gib: float | None = Field(None, gt=0, description="GiB, above 0")
    cpus: int | None = Field(None, ge=1, description="a whole number of cores, 1 or more")
    minutes: float | None = Field(None, gt=0, description="minutes, above 0")
    gpus: int | None = Field(None, ge=0, description="a whole number of GPUs, 0 or more")
    partition: _Word | None = Field(None, description='the name of a SLURM partition, as in "general"')


class SlurmSettings(_Table):
    """``[slurm]``, and the overrides of ``[needs]``.

    Attributes
    ----------
    host, port, user
        Login node and account on it.
    key
        Private ssh key; None leaves the choice to ssh-agent and ``~/.ssh/config``.
    known_hosts
        File with the login node's host key.
    folder
        Folder on the shared file system for job scripts and logs.
    environment
        Folder on the shared file system with ``activate.sh`` and ``env/bin/python``.
    partition, account, qos
        As sbatch knows them; None leaves the cluster's default.
    gpu_partition
        Partition of payloads that ask for GPUs.
    poll_seconds
        Seconds between two questions about a job.
    outage_seconds
        Seconds that the login node or the controller may be away before a run gives up on it. The job goes on.
    max_memory_gib, max_cpus, max_hours
        What no payload asks for more of, whatever the estimate, the overrides or a retry say.
    needs
        Overrides by ``<stage>`` or ``<stage>/<dataset>``.
    """

    host: _Word = Field(description='the name or address of a login node, as in "login.example.org"')
    port: int = Field(22, ge=1, le=65535, description="a whole number from 1 to 65535")
    user: _Word = Field(description='the name of an account on the login node, as in "jane"')
    key: _File | None = Field(None, description='the path of a private key, as in "~/.ssh/id_ed25519"')
    known_hosts: _File = Field(
        Path("~/.ssh/known_hosts").expanduser(), description='the path of a file with host keys, as in "~/.ssh/known_hosts"'
    )
    folder: _SharedFolder = Field(description='an absolute path on the shared file system, as in "/shared/perturbridge/runs"')
    environment: _SharedFolder = Field(description='an absolute path on the shared file system, as in "/shared/perturbridge/node"')
    partition: _Word | None = Field(None, description='the name of a SLURM partition, as in "general"')
    account: _Word | None = Field(None, description='the name of a SLURM account, as in "lab"')
    qos: _Word | None = Field(None, description='the name of a quality of service, as in "normal"')
    gpu_partition: _Word | None = Field(None, description='the name of a SLURM partition, as in "gpu"')
    poll_seconds: float = Field(5.0, ge=0.2, le=600, description="seconds, from 0.2 to 600")
    outage_seconds: float = Field(3600.0, ge=0, description="seconds, 0 or more")
    max_memory_gib: float = Field(128.0, gt=0, description="GiB, above 0")
    max_cpus: int = Field(16, ge=1, description="a whole number of cores, 1 or more")
    max_hours: float = Field(48.0, gt=0, description="hours, above 0")
    needs: Mapping[str, NeedsOverride] = Field(default_factory=dict, exclude=True)

    def override(self, stage: str, dataset: str | None = None) -> NeedsOverride:
        """What is set in place of the estimate.

        Parameters
        ----------
        stage
            Name of a stage.
        dataset
            Dataset id, where the work is of one dataset. What is set for stage and dataset stands above what is set for the stage.
        """
        tables = [self.needs.get(stage), self.needs.get(f"{stage}/{dataset}") if dataset else None]
        return NeedsOverride(**{key: value for table in tables if table for key, value in table.model_dump(exclude_none=True).items()})

    def connection(self) -> SSHConnectionResource:
        """The connection to the login node, as dagster-slurm takes it.

        Raises
        ------
        InputError
            If the key is not there.
        """
        from dagster_slurm import SSHConnectionResource

        if self.key and not self.key.is_file():
            raise InputError(
                "there is no such ssh key", file=self.key, advice="Name another under key of [slurm], or make it with ssh-keygen."
            )
        return SSHConnectionResource(
            host=self.host,
            port=self.port,
            user=self.user,
            key_path=str(self.key) if self.key else None,
            host_key_checking="strict",
            known_hosts_file=str(self.known_hosts),
        )


# ---- reading -----------------------------------------------------------------------------------------------------------------


def backend(root: Path) -> Backend:
    """Where payloads run: ``$PERTURBRIDGE_COMPUTE``, else ``backend`` of ``[compute]``, else ``"local"``.

    Parameters
    ----------
    root
        The platform's home.

    Raises
    ------
    InputError
        If either names no backend.
    """
    named = os.environ.get(BACKEND_VARIABLE)
    if named is None or named == "":
        return _table(ComputeTable, root, "compute").backend
    for choice in BACKENDS:
        if named == choice:
            return choice
    raise InputError(f"environment variable {BACKEND_VARIABLE} is {named!r}", expected=_choices(BACKENDS))


def batch_seconds(root: Path) -> float:
    """Time that a payload of several partitions may ask for: ``batch_minutes`` of ``[compute]``. Unit: seconds.

    Parameters
    ----------
    root
        The platform's home.

    Raises
    ------
    InputError
        If the table is wrong.
    """
    return 60 * _table(ComputeTable, root, "compute").batch_minutes


def slurm_settings(root: Path) -> SlurmSettings:
    """``[slurm]`` and ``[needs]`` of a home's ``settings.toml``.

    Parameters
    ----------
    root
        The platform's home.

    Raises
    ------
    InputError
        If ``[slurm]`` is not there, a key is unknown, lacking or wrong, or a table of ``[needs]`` is of no stage or dataset. Names the
        file, the key and what was expected.
    """
    file = root / SETTINGS
    if "slurm" not in read_settings(root):
        raise InputError(
            "the table [slurm] is not there",
            file=file,
            expected=f"[slurm] with {', '.join(name for name, key in SlurmSettings.model_fields.items() if key.is_required())}",
            advice='docs/slurm.md shows the whole of it. Without a cluster, set backend = "local" under [compute].',
        )
    settings = _table(SlurmSettings, root, "slurm", needs=_needs(root))
    for name, override in settings.needs.items():
        if override.minutes and override.minutes > 60 * settings.max_hours:
            raise InputError(
                f"{override.minutes:g} minutes are more than max_hours of [slurm], {settings.max_hours:g}",
                file=file,
                column=f"needs.{name}.minutes",
            )
        for key, asked, most in (
            ("memory_gib", override.memory_gib, settings.max_memory_gib),
            ("cpus", override.cpus, settings.max_cpus),
        ):
            if asked and asked > most:
                raise InputError(f"{asked:g} is more than max_{key} of [slurm], {most:g}", file=file, column=f"needs.{name}.{key}")
    return settings


def _needs(root: Path) -> dict[str, NeedsOverride]:
    """``[needs]``, each table of it for a stage, or a stage and a dataset."""
    from perturbridge_dagster.registry import dataset as registered

    file, tables = root / SETTINGS, read_settings(root).get("needs", {})
    if not isinstance(tables, dict):
        raise InputError("is not a table", file=file, column="needs", expected='tables such as [needs."condition_effects"]')
    needs = {}
    for name in tables:
        stage, _, dataset = name.partition("/")
        if stage not in STAGES or STAGES[stage].light:
            heavy = [stage for stage, described in STAGES.items() if not described.light]
            raise InputError(f"there is no heavy stage {stage!r}", file=file, column=f"needs.{name}", expected=_choices(heavy))
        if dataset:
            try:
                registered(dataset)
            except InputError as error:
                raise InputError(f"unknown dataset {dataset!r}", file=file, column=f"needs.{name}", expected=error.expected) from error
        needs[name] = _table(NeedsOverride, root, "needs", name)
    return needs


def _table(model: type[_AnyTable], root: Path, *path: str, **beside: Any) -> _AnyTable:
    """Read a table of ``settings.toml``; `beside` are fields that come from elsewhere."""
    file, values = root / SETTINGS, read_settings(root)
    for name in path:
        values = values.get(name, {})
    where = ".".join(path)
    if not isinstance(values, dict):
        raise InputError("is not a table", file=file, column=where, expected=f"[{where}], with one line a key below it")
    written_by_people = [name for name in model.model_fields if name not in beside]
    for name in values:
        if name not in written_by_people:
            raise InputError(
                "there is no such key", file=file, column=f"{where}.{name}", expected=_choices(written_by_people, quoted=False)
            )
    try:
        return model.model_validate({**values, **beside})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise InputError(
            "is not there" if first["type"] == "missing" else _said(first),
            file=file,
            column=f"{where}.{key}",
            expected=_choices(BACKENDS) if key == "backend" else model.model_fields[key].description,
        ) from error


def _said(error: Mapping[str, Any]) -> str:
    """What is wrong with a value, in the words of a validator of ours, else by the value itself."""
    cause = error.get("ctx", {}).get("error")
    return f"{error['input']} {cause}" if cause else f"cannot be {error['input']!r}"


def _choices(names: tuple[str, ...] | list[str], *, quoted: bool = True) -> str:
    return "one of " + ", ".join(f'"{name}"' if quoted else name for name in names)
