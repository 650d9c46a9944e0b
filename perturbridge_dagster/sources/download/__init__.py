"""Fetching native files from where their owners publish them.

Belongs here: HTTP(S) and the stores that speak it, resuming, checking, unpacking, and the command
``python -m perturbridge_dagster.sources.download``. Does not belong here: which files a dataset has (``registry/``) or reading them (the
readers beside this package).
"""

from perturbridge_dagster.sources.download.declared import fetch_declared, remote_file
from perturbridge_dagster.sources.download.fetch import fetch
from perturbridge_dagster.sources.download.remote import (
    AccessError,
    Checksum,
    DownloadError,
    Limits,
    RemoteFile,
    Unpack,
    UnsafeArchiveError,
)
from perturbridge_dagster.sources.download.stores import Services

__all__ = [
    "AccessError",
    "Checksum",
    "DownloadError",
    "Limits",
    "RemoteFile",
    "Services",
    "Unpack",
    "UnsafeArchiveError",
    "fetch",
    "fetch_declared",
    "remote_file",
]
