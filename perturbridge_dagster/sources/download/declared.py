"""From what the registry declares of a source to its files in a folder.

Belongs here: which declared file is fetched how. Does not belong here: declarations (``registry/``, which knows nothing of this
package) or fetching (``fetch.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from perturbridge_dagster import registry
from perturbridge_dagster.registry import Access, Download, Source, SourceFile
from perturbridge_dagster.sources import locate_files
from perturbridge_dagster.sources.download.fetch import fetch
from perturbridge_dagster.sources.download.progress import Progress, Watch
from perturbridge_dagster.sources.download.remote import Checksum, Limits, RemoteFile, Unpack

COMMAND = "python -m perturbridge_dagster.sources.download"


def command_for(source: Source, *options: str) -> str:
    """The call of the command that brings a source's files, as a person types it."""
    return " ".join((COMMAND, source.id, *options))


def files_declared(source: Source, *, required_only: bool = False) -> Iterator[tuple[SourceFile, Download, RemoteFile]]:
    """The published files of a source, each with its role and as it is fetched.

    Parameters
    ----------
    source
        Dataset or benchmark.
    required_only
        Leave out roles without which it can be read.
    """
    for role in source.files:
        if role.required or not required_only:
            for download in role.downloads:
                yield role, download, remote_file(source, download)


def remote_file(source: Source, download: Download) -> RemoteFile:
    """One published file as it is fetched.

    A file without a url is had by hand, from its owner or by the owner's own client; it is taken from a folder then.
    """
    access: Access = source.access
    how = access.how
    if download.url is None:
        how += f" Then name the folder it lies in: {command_for(source, '--local FOLDER')}."
    algorithm, _, value = (download.checksum or "").partition(":")
    return RemoteFile(
        f"{download.name}.gz" if download.unpack else download.name,
        download.url,
        size=download.size,
        checksum=Checksum("md5" if algorithm == "md5" else "sha256", value) if download.checksum else None,
        token_variable=access.token_variable,
        command=download.command,
        how=how,
        unpack=Unpack() if download.unpack else None,
    )


def fetch_declared(
    id_: str,
    folder: Path,
    *,
    required_only: bool = False,
    local: Path | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    limits: Limits | None = None,
) -> list[Path]:
    """Bring the native files of a dataset or benchmark into a folder; what is there already is not fetched again.

    Parameters
    ----------
    id_
        Of the registry.
    folder
        Where to.
    required_only
        Leave out files without which it can be read.
    local, progress, watch, limits
        As of :func:`fetch`.

    Returns
    -------
    The native files, as the reader finds them.

    Raises
    ------
    DownloadError
        If files could not be had; what came is kept, and the next call continues.
    AccessError
        If files want a token that is not set, or are had by hand only. The message says what to do.
    InputError
        If the id is not registered, a file is in the way, or the reader would not find all it needs.
    """
    source = registry.source(id_)
    files = [file for _, _, file in files_declared(source, required_only=required_only)]
    fetch(files, folder, dataset=id_, local=local, progress=progress, watch=watch, limits=limits)
    return sorted(path for paths in locate_files(id_, folder).values() for path in paths)
