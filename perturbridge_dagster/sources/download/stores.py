"""What other stores call their objects, as addresses of HTTP: public S3 and GCS buckets, Hugging Face, Quilt packages, LaminDB.

Belongs here: where an object lies. Does not belong here: fetching it (``transfer.py``), so that one code resumes, checks and retries
whatever the store.

Public buckets answer plain HTTPS, so neither boto nor gcsfs is needed. LaminDB hands out where its artifacts lie, signed where they
are not public, through its own library, an optional extra.
"""

from __future__ import annotations

import json
import os
import re
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.download.connection import Connection
from perturbridge_dagster.sources.download.remote import Checksum, DownloadError, RemoteFile
from perturbridge_dagster.sources.download.transfer import Located

SCHEMES = ("http", "https", "s3", "gs", "hf", "quilt+s3", "lamin")
_SECONDS_SIGNED = 24 * 3600
_LAMIN = threading.Lock()
"""The library of LaminDB keeps the instance it speaks to for the whole process."""


@dataclass(frozen=True)
class Services:
    """Addresses of the stores.

    Attributes
    ----------
    s3
        ``{bucket}`` stands for the bucket; without it the bucket begins the path.
    gcs, huggingface
        Of Google Cloud Storage and Hugging Face.
    """

    s3: str = "https://{bucket}.s3.amazonaws.com"
    gcs: str = "https://storage.googleapis.com"
    huggingface: str = "https://huggingface.co"

    @classmethod
    def from_environment(cls) -> Services:
        """Addresses from the variables that the stores' own tools read: AWS_ENDPOINT_URL_S3, STORAGE_EMULATOR_HOST, HF_ENDPOINT."""
        named = {"s3": "AWS_ENDPOINT_URL_S3", "gcs": "STORAGE_EMULATOR_HOST", "huggingface": "HF_ENDPOINT"}
        return cls(**{field: os.environ[variable].rstrip("/") for field, variable in named.items() if os.environ.get(variable)})

    def bucket(self, name: str) -> str:
        """Address of an S3 bucket."""
        if "{bucket}" not in self.s3:
            return f"{self.s3}/{name}"
        if "." in name:  # the certificate of the service covers one label before its name
            return f"{self.s3.replace('{bucket}.', '')}/{name}"
        return self.s3.format(bucket=name)


def locate(file: RemoteFile, services: Services, connection: Connection) -> Located:
    """Where a declared file is asked for.

    Parameters
    ----------
    file
        With a url.
    services
        Addresses of the stores.
    connection
        For stores that must be asked where an object lies.

    Raises
    ------
    DownloadError
        If the store does not know the object.
    InputError
        If the url is none that can be read.
    """
    url = file.url or ""
    match urlsplit(url).scheme:
        case "http" | "https":
            return Located(url, file.token_variable)
        case "s3":
            return Located(_s3_address(url, services), file.token_variable)
        case "gs":
            bucket, key = _bucket_and_key(url)
            return Located(f"{services.gcs}/{bucket}/{_quoted(key)}", file.token_variable)
        case "hf":
            repository, revision, path = _hugging_face_parts(url)
            return Located(
                f"{services.huggingface}/{repository}/resolve/{quote(revision, safe='')}/{_quoted(path)}", file.token_variable or "HF_TOKEN"
            )
        case "quilt+s3":
            return _in_quilt_package(url, services, connection)
        case "lamin":
            return _lamin_artifact(url)
        case scheme:
            raise InputError(f"{scheme!r} is no store that files are fetched from.", file=file.name, expected=", ".join(SCHEMES))


def _quoted(key: str) -> str:
    return quote(key, safe="/~")


def _bucket_and_key(url: str) -> tuple[str, str]:
    """Bucket and key as they are written; a key may hold every letter, ``?`` and ``#`` too."""
    bucket, _, key = url.partition("://")[2].partition("/")
    if not bucket:
        raise InputError(f"{url!r} names no bucket.", expected="s3://bucket/key or gs://bucket/key")
    return bucket, key


# ---- S3 and packages of Quilt ------------------------------------------------------------------------------------------------


def _s3_address(url: str, services: Services) -> str:
    bucket, key = _bucket_and_key(url)
    key, versioned, version = key.partition("?versionId=")
    return f"{services.bucket(bucket)}/{_quoted(key)}" + (f"?versionId={quote(version, safe='')}" if versioned else "")


def _in_quilt_package(url: str, services: Services, connection: Connection) -> Located:
    """A file of a Quilt package, of its latest revision or of the one after ``@``.

    A registry keeps manifests in ``.quilt/packages/HASH``, JSON lines with a line a file, and the latest hash of a package in
    ``.quilt/named_packages/OWNER/NAME/latest``.
    """
    parts = urlsplit(url)
    asked = {name: values[0] for name, values in parse_qs(parts.fragment).items()}
    package, _, revision = asked.get("package", "").partition("@")
    path = asked.get("path", "")
    if not (parts.netloc and package and path):
        raise InputError(f"{url!r} is not a file of a Quilt package.", expected="quilt+s3://bucket#package=owner/name&path=file")
    root = f"s3://{parts.netloc}/.quilt"
    if not revision:
        body = connection.read(_s3_address(f"{root}/named_packages/{package}/latest", services))
        revision = body.decode().strip()
    if not re.fullmatch(r"[0-9a-f]{6,64}", revision):
        raise DownloadError(f"the Quilt package {package} names no revision but {revision[:40]!r}.")
    manifest = connection.read(_s3_address(f"{root}/packages/{revision}", services))
    try:
        entries: list[dict[str, Any]] = [json.loads(line) for line in manifest.splitlines()]
    except ValueError:
        raise DownloadError(f"what {parts.netloc} gives as the list of the Quilt package {package} is none.") from None
    for entry in entries:
        if entry.get("logical_key") == path:
            # other hashes are of parts, and can only be compared by who knows how it was split
            known = entry.get("hash") or {}
            checksum = Checksum("sha256", known["value"]) if known.get("type") == "SHA256" else None
            return Located(_s3_address(entry["physical_keys"][0], services), None, entry.get("size"), checksum)
    raise DownloadError(f"the Quilt package {package} of {parts.netloc}, revision {revision[:12]}, has no file {path!r}.")


# ---- Hugging Face ------------------------------------------------------------------------------------------------------------


def _hugging_face_parts(url: str) -> tuple[str, str, str]:
    """Repository with its kind, revision and path of ``hf://[datasets/|spaces/]owner/name[@revision]/path``."""
    found = re.fullmatch(r"hf://((?:(?:datasets|spaces)/)?[^/@]+/[^/@]+)(?:@([^/]+))?/(.*)", url)
    if not found:
        raise InputError(f"{url!r} is no file of Hugging Face.", expected="hf://datasets/owner/name@revision/path")
    return found[1], unquote(found[2] or "main"), found[3]


# ---- LaminDB -----------------------------------------------------------------------------------------------------------------


def _lamin_artifact(url: str) -> Located:
    """An artifact of a LaminDB instance: ``lamin://owner/instance?key=KEY`` or ``lamin://owner/instance/artifact/UID``.

    The library asks LaminHub where the artifact lies and signs the address with the credentials it is given for the time being.
    """
    parts = urlsplit(url)
    names = parts.path.strip("/").split("/")
    key = parse_qs(parts.query).get("key", [None])[0]
    uid = names[2] if len(names) == 3 and names[1] == "artifact" else None
    if not (parts.netloc and names[0] and (uid or (key and len(names) == 1))):
        raise InputError(f"{url!r} is no artifact.", expected="lamin://owner/instance?key=… or lamin://owner/instance/artifact/uid")
    try:
        import lamindb
    except ImportError:
        raise InputError(
            "it is an artifact of LaminDB, whose library is not installed.",
            advice='Install the extra "lamindb" (pip install "perturbridge-dagster[lamindb]"), or save the artifact by hand.',
        ) from None
    instance = f"{parts.netloc}/{names[0]}"
    try:
        with _LAMIN:
            artifacts = lamindb.DB(instance).Artifact
            artifact = artifacts.get(uid) if uid else artifacts.get(key=key)
            path = artifact.path
            signed = path.fs.sign(path.path, expiration=_SECONDS_SIGNED)
    except Exception as error:  # noqa: BLE001
        # whatever the library, its database and its hub raise; their texts may hold credentials, so only the kind is told
        raise DownloadError(
            f"LaminDB did not say where {key or uid} of {instance} lies ({type(error).__name__}).",
            advice="Look it up on lamin.ai; a private instance needs LAMIN_API_KEY.",
        ) from None
    return Located(signed, None, artifact.size)
