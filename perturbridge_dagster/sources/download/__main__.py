"""The command: ``python -m perturbridge_dagster.sources.download DATASET``.

Belongs here: arguments, and what is shown in a terminal. Does not belong here: how files are fetched.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from perturbridge_dagster import registry
from perturbridge_dagster.errors import PerturbridgeError
from perturbridge_dagster.home import default_home, native_folder
from perturbridge_dagster.registry import Dataset, Download, Source
from perturbridge_dagster.sources.download.declared import COMMAND, fetch_declared, files_declared
from perturbridge_dagster.sources.download.progress import Watch
from perturbridge_dagster.sources.download.receipts import presence
from perturbridge_dagster.sources.download.remote import bytes_in_words

_PRESENCE = {"received": "there", "unchecked": "there, not compared", "begun": "begun", "absent": ""}


# ---- what there is -----------------------------------------------------------------------------------------------------------


def _size(download: Download) -> str:
    if download.size:
        return bytes_in_words(download.size)
    return f"about {bytes_in_words(download.about_mib * 2**20)}" if download.about_mib else "not told"


def _where(download: Download) -> str:
    return download.url or download.command or "its owner, on request"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def describe(source: Source, folder: Path, *, required_only: bool = False) -> str:
    """What a source's files are, on what terms they are had, and which of them are in a folder; nothing is fetched.

    Parameters
    ----------
    source
        Dataset or benchmark.
    folder
        Where its files are, or will be.
    required_only
        Leave out files without which it can be read.
    """
    access = source.access
    head = [
        ("access", f"{access.kind.replace('_', ' ')}. {access.how}"),
        ("licence", f"{source.licence.name} ({source.licence.class_})"),
        ("citation", source.citation),
        ("folder", str(folder)),
    ]
    files = list(files_declared(source, required_only=required_only))
    if access.token_variable:
        head.insert(1, ("token", f"{access.token_variable} is {'set' if os.environ.get(access.token_variable) else 'not set'}"))
    if any((file.url or "").startswith("lamin:") for _, _, file in files):
        head.insert(1, ("library", f"LaminDB's, the extra lamindb, is {'installed' if find_spec('lamindb') else 'not installed'}"))
    rows = [("file", "role", "size", "here", "lies at")]
    for role, download, file in files:
        state, n_bytes = presence(file, folder)
        here = " ".join(filter(None, (_PRESENCE[state], f"({bytes_in_words(n_bytes)})" if n_bytes else "")))
        rows.append((download.name, role.role + ("" if role.required else ", optional"), _size(download), here, _where(download)))
    return "\n".join([f"{source.label} ({source.id}): {source.title}", _table(head), "", _table(rows)])


def _free(folder: Path) -> str:
    """Room on the disk of a folder that need not exist yet."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return bytes_in_words(shutil.disk_usage(existing).free)


# ---- how it goes -------------------------------------------------------------------------------------------------------------


@contextmanager
def _bars(console: Console) -> Iterator[Watch]:
    """A bar a file, below the lines that are printed."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def watch(there: Mapping[str, tuple[int, int | None]]) -> None:
            for name in tasks.keys() - there.keys():
                bars.remove_task(tasks.pop(name))
            for name, (so_far, whole) in there.items():
                if name not in tasks:
                    tasks[name] = bars.add_task(name, completed=so_far, total=whole)
                bars.update(tasks[name], completed=so_far, total=whole)

        yield watch


def _bring(options: argparse.Namespace, folder: Path) -> list[Path]:
    wanted = {"required_only": options.required_only, "local": options.local}
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        return fetch_declared(options.dataset, folder, progress=lambda line: print(line, flush=True), **wanted)
    with _bars(console) as watch:
        return fetch_declared(options.dataset, folder, progress=lambda line: console.print(line, markup=False), watch=watch, **wanted)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 when every file is there."""
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Bring the native files of a dataset or benchmark into a folder. What is there is not fetched again, and what was "
        "begun is continued.",
    )
    parser.add_argument("dataset", help="id of the registry, such as sciplex or op3_benchmark")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where to; by default below the platform's home")
    parser.add_argument("--local", type=Path, metavar="FOLDER", help="folder of files that were had otherwise; they are taken from it")
    parser.add_argument("--required-only", action="store_true", help="leave out files without which the dataset can be read")
    parser.add_argument("--list", action="store_true", help="only print the files, their terms, and what is there already")
    options = parser.parse_args(arguments)
    try:
        source = registry.source(options.dataset)
        folder = (options.to or native_folder(default_home(), source.id)).expanduser().absolute()
        if options.list:
            print(describe(source, folder, required_only=options.required_only))
            print(f"\n{_free(folder)} are free on the disk of the folder.")
            return 0
        files = _bring(options, folder)
    except PerturbridgeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. What came is kept; run it again to continue.", file=sys.stderr)
        return 130
    print(f"{len(files)} native files, {bytes_in_words(sum(path.stat().st_size for path in files))}, in {folder}")
    if isinstance(source, Dataset):
        line = f'{source.id} = "{folder if options.to else "download"}"'
        print(f"To use them, write below [sources] in settings.toml: {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
