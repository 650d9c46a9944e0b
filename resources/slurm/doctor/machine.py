"""What the doctor looks at on Dagster's own machine: the ssh key, the file systems of the home and of DAGSTER_HOME, free disk.

Belongs here: whatever needs no cluster. Does not belong here: the login node (``login.py``) and compute nodes (``node.py``).
"""

from __future__ import annotations

import shutil
import stat
import uuid
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from resources.slurm.doctor.finding import Finding, failed, ok, warning
from resources.slurm.settings import SlurmSettings

GIB = 2**30
LEAST_DISK = GIB
"""Free bytes below which nothing can be trusted to be written."""
LITTLE_DISK = 20 * GIB
"""Free bytes below which the effects of a large dataset may not fit."""

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "panfs", "wekafs", "afs", "9p", "glusterfs", "fuse.sshfs")
"""File systems of several machines, on which SQLite's locks cannot be relied upon."""
WITHOUT_GUARANTEES = ("fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.goofys", "fuse.blobfuse2", "cifs", "smb3")
"""File systems that do not rename a folder in one step, or lock for one machine only."""


def file_system(path: Path, mounts: str) -> str:
    """Type of the file system that a path lies on.

    Parameters
    ----------
    path
        An absolute path; it need not be there.
    mounts
        Content of ``/proc/self/mounts``.
    """
    best, type_ = -1, "unknown"
    for line in mounts.splitlines():
        _, mount_point, of_type, *_ = line.split()
        mounted = Path(mount_point.encode().decode("unicode_escape"))  # spaces stand as \040
        if path.is_relative_to(mounted) and len(mounted.parts) >= best:  # of equal ones the later lies above
            best, type_ = len(mounted.parts), of_type
    return type_


def _mounts() -> str:
    file = Path("/proc/self/mounts")
    return file.read_text() if file.is_file() else ""


def key(settings: SlurmSettings) -> Finding:
    """The private key is there and nobody else's."""
    if settings.key is None:
        return ok("key", "ssh-agent and ~/.ssh/config decide")
    make = f"Make one: ssh-keygen -t ed25519 -N '' -f {settings.key}; then ssh-copy-id -i {settings.key} {settings.user}@{settings.host}."
    if not settings.key.is_file():
        return failed("key", f"{settings.key} is not there", make)
    if stat.S_IMODE(settings.key.stat().st_mode) & 0o077:
        return failed("key", f"others may read {settings.key}, so ssh refuses it", f"chmod 600 {settings.key}")
    if "PRIVATE KEY" not in (settings.key.read_text(errors="replace").splitlines() or [""])[0]:
        return failed("key", f"{settings.key} is not a private key", make)
    return ok("key", str(settings.key))


def home_file_system(root: Path, *, mounts: str | None = None) -> Finding:
    """Outputs appear whole: folders are renamed in one step, a whole one is not overwritten, and locks hold."""
    type_ = file_system(root.resolve(), _mounts() if mounts is None else mounts)
    move = "Put the home on a POSIX file system that all machines share (NFS 4, Lustre, GPFS, BeeGFS)."
    folder = root / f".doctor-{uuid.uuid4().hex[:8]}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for name in ("one", "another"):
            (folder / name).mkdir(parents=True)
            (folder / name / "file").write_text(name)
        (folder / "one").rename(folder / "renamed")
        if not overwrites(folder / "another", folder / "renamed"):
            with FileLock(folder / "lock", timeout=0):
                try:
                    with FileLock(folder / "lock", timeout=0, is_singleton=False):
                        return failed("home file system", f"{root} ({type_}) does not lock", move)
                except Timeout:
                    pass
        else:
            return failed("home file system", f"{root} ({type_}) lets a folder be renamed over another with files in it", move)
    except OSError as error:
        return failed("home file system", f"cannot write, rename and lock in {root} ({type_}): {error}", move)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if type_ in WITHOUT_GUARANTEES:
        return warning("home file system", f"{root} is on {type_}, which renames and locks for one machine only", move)
    return ok("home file system", f"{root} ({type_}) renames and locks")


def overwrites(folder: Path, other: Path) -> bool:
    """Whether a folder can be renamed over another with files in it."""
    try:
        folder.rename(other)
    except OSError:
        return False
    return True


def dagster_home(folder: Path, *, mounts: str | None = None) -> Finding:
    """Dagster's own database is not SQLite on a network file system."""
    type_ = file_system(folder.resolve(), _mounts() if mounts is None else mounts)
    storage = dagster_storage(folder)
    if storage in ("postgres", "mysql"):
        return ok("DAGSTER_HOME", f"{folder} ({type_}); runs and events are kept in {storage}")
    if type_ in NETWORK:
        return failed(
            "DAGSTER_HOME",
            f"{folder} keeps SQLite databases on {type_}, where they are corrupted sooner or later",
            "Make it a link to a folder on this machine's own disk, or use Postgres (docs/slurm.md).",
        )
    return ok("DAGSTER_HOME", f"{folder} ({type_}), SQLite; take Postgres where more than a few runs go at once (docs/slurm.md)")


def dagster_storage(folder: Path) -> str:
    """Where the instance of a DAGSTER_HOME keeps runs and events: ``sqlite``, ``postgres``, ``mysql`` or ``custom``."""
    file = folder / "dagster.yaml"
    text = (yaml.safe_load(file.read_text()) if file.is_file() else None) or {}
    storage = text.get("storage") or {}
    for kind in ("postgres", "mysql", "sqlite", "custom"):
        if kind in storage or any(kind in str(text.get(name)) for name in ("run_storage", "event_log_storage")):
            return kind
    return "sqlite"


def free_disk(check: str, folder: Path) -> Finding:
    """There is room for outputs."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    said = f"{free / GIB:.1f} GiB free in {folder}"
    if free < LEAST_DISK:
        return failed(check, said, "Make room, or ask for a larger quota.")
    if free < LITTLE_DISK:
        return warning(check, said, f"The effects of a large dataset take tens of GiB; make {LITTLE_DISK // GIB} GiB free or more.")
    return ok(check, said)
