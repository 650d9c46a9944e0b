"""What other stores call their objects, as addresses of HTTP: public S3 and GCS buckets, Hugging Face, Quilt packages, LaminDB.

Belongs here: where an object lies and what a store lists below a prefix. Does not belong here: fetching it (``transfer.py``), so that one
code resumes, checks and retries whatever the store.

Public buckets answer plain HTTPS, so neither boto nor gcsfs is needed. LaminDB hands out where its artifacts lie, signed where they
are not public, through its own library, an optional extra.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit
from xml.etree import ElementTree

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources.download.connection import Connection
from perturbridge_dagster.sources.download.remote import Checksum, DownloadError, RemoteFile
from perturbridge_dagster.sources.download.transfer import Located

SCHEMES = ("http", "https", "s3", "gs", "hf", "quilt+s3", "lamin")
_SECONDS_SIGNED = 24 * 3600


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


def list_files(url: str, services: Services, connection: Connection) -> list[RemoteFile]:
    """Files below a prefix of a bucket or a folder of a Hugging Face repository.

    Parameters
    ----------
    url
        ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``hf://datasets/owner/name@revision/folder``.
    services
        Addresses of the stores.
    connection
        Asks them.

    Returns
    -------
    Sorted by name, the path below the prefix up to its last ``/``; with size, and with checksum where the store knows one.
    """
    match urlsplit(url).scheme:
        case "s3":
            listed = _listed_s3(url, services, connection)
        case "gs":
            listed = _listed_gcs(url, services, connection)
        case "hf":
            listed = _listed_hugging_face(url, services, connection)
        case scheme:
            raise InputError(f"files of {scheme!r} cannot be listed.", expected="s3, gs or hf")
    return sorted(listed, key=lambda file: file.name)


def _quoted(key: str) -> str:
    return quote(key, safe="/~")


def _bucket_and_key(url: str) -> tuple[str, str]:
    """Bucket and key as they are written; a key may hold every letter, ``?`` and ``#`` too."""
    bucket, _, key = url.partition("://")[2].partition("/")
    if not bucket:
        raise InputError(f"{url!r} names no bucket.", expected="s3://bucket/key or gs://bucket/key")
    return bucket, key


def _below(prefix: str, key: str) -> str:
    return key[prefix.rfind("/") + 1 :]


# ---- S3 and packages of Quilt ------------------------------------------------------------------------------------------------


def _s3_address(url: str, services: Services) -> str:
    bucket, key = _bucket_and_key(url)
    key, versioned, version = key.partition("?versionId=")
    return f"{services.bucket(bucket)}/{_quoted(key)}" + (f"?versionId={quote(version, safe='')}" if versioned else "")


def _listed_s3(url: str, services: Services, connection: Connection) -> Iterator[RemoteFile]:
    bucket, prefix = _bucket_and_key(url)
    asked = {"list-type": "2", "prefix": prefix, "encoding-type": "url"}
    while True:
        page = ElementTree.fromstring(connection.read(f"{services.bucket(bucket)}/?{urlencode(asked)}")[0])
        space = {"s3": page.tag[1 : page.tag.index("}")] if "}" in page.tag else ""}
        for entry in page.findall("s3:Contents", space):
            key = unquote(entry.findtext("s3:Key", "", space))
            if not key.endswith("/"):
                size = int(entry.findtext("s3:Size", "", space))
                yield RemoteFile(_below(prefix, key), f"s3://{bucket}/{key}", size)
        if page.findtext("s3:IsTruncated", "false", space) != "true":
            return
        asked["continuation-token"] = page.findtext("s3:NextContinuationToken", "", space)


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
        body, _ = connection.read(_s3_address(f"{root}/named_packages/{package}/latest", services))
        revision = body.decode().strip()
    if not re.fullmatch(r"[0-9a-f]{6,64}", revision):
        raise DownloadError(f"the Quilt package {package} names no revision but {revision[:40]!r}.")
    manifest, _ = connection.read(_s3_address(f"{root}/packages/{revision}", services))
    for line in manifest.splitlines():
        entry: dict[str, Any] = json.loads(line)
        if entry.get("logical_key") == path:
            # other hashes are of parts, and can only be compared by who knows how it was split
            known = entry.get("hash") or {}
            checksum = Checksum("sha256", known["value"]) if known.get("type") == "SHA256" else None
            return Located(_s3_address(entry["physical_keys"][0], services), None, entry.get("size"), checksum)
    raise DownloadError(f"the Quilt package {package} of {parts.netloc}, revision {revision[:12]}, has no file {path!r}.")


# ---- Google Cloud Storage ----------------------------------------------------------------------------------------------------


def _listed_gcs(url: str, services: Services, connection: Connection) -> Iterator[RemoteFile]:
    bucket, prefix = _bucket_and_key(url)
    asked = {"prefix": prefix, "fields": "items(name,size,md5Hash),nextPageToken"}
    while True:
        page = json.loads(connection.read(f"{services.gcs}/storage/v1/b/{quote(bucket, safe='')}/o?{urlencode(asked)}")[0])
        for entry in page.get("items", []):
            if not entry["name"].endswith("/"):
                md5 = entry.get("md5Hash")  # objects composed of others have none
                yield RemoteFile(
                    _below(prefix, entry["name"]),
                    f"gs://{bucket}/{entry['name']}",
                    int(entry["size"]),
                    Checksum("md5", base64.b64decode(md5).hex()) if md5 else None,
                )
        if "nextPageToken" not in page:
            return
        asked["pageToken"] = page["nextPageToken"]


# ---- Hugging Face ------------------------------------------------------------------------------------------------------------


def _hugging_face_parts(url: str) -> tuple[str, str, str]:
    """Repository with its kind, revision and path of ``hf://[datasets/|spaces/]owner/name[@revision]/path``."""
    found = re.fullmatch(r"hf://((?:(?:datasets|spaces)/)?[^/@]+/[^/@]+)(?:@([^/]+))?/(.*)", url)
    if not found:
        raise InputError(f"{url!r} is no file of Hugging Face.", expected="hf://datasets/owner/name@revision/path")
    return found[1], unquote(found[2] or "main"), found[3]


def _listed_hugging_face(url: str, services: Services, connection: Connection) -> Iterator[RemoteFile]:
    repository, revision, folder = _hugging_face_parts(url)
    folder = folder.rstrip("/")
    kind = repository if repository.startswith(("datasets/", "spaces/")) else f"models/{repository}"
    page: str | None = f"{services.huggingface}/api/{kind}/tree/{quote(revision, safe='')}/{_quoted(folder)}?recursive=true"
    while page:
        body, headers = connection.read(page, token_variable="HF_TOKEN")
        for entry in json.loads(body):
            if entry["type"] == "file":
                sha256 = (entry.get("lfs") or {}).get("oid")
                yield RemoteFile(
                    _below(f"{folder}/" if folder else "", entry["path"]),
                    f"hf://{repository}@{quote(revision, safe='')}/{entry['path']}",
                    entry["size"],
                    Checksum("sha256", sha256) if sha256 else None,
                )
        following = re.search(r'<([^>]+)>\s*;\s*rel="?next"?', headers.get("link", ""))
        page = following[1] if following else None
        if page and urlsplit(page).netloc != urlsplit(services.huggingface).netloc:
            raise DownloadError(f"the listing of {repository} goes on at another host, which is not asked.")


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
            f"{url} is an artifact of LaminDB, whose library is not installed.",
            advice='Install the extra "lamindb" (pip install "perturbridge-dagster[lamindb]"), or save the artifact by hand.',
        ) from None
    instance = f"{parts.netloc}/{names[0]}"
    try:
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
