"""The datasets as Markdown, from the registry. ``python -m perturbridge_dagster.dataset_sheets`` prints it.

Belongs here: wording of the document. Does not belong here: what is declared of a dataset (``registry/datasets``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from urllib.parse import urlsplit

from perturbridge_dagster.registry import Benchmark, Dataset, Download, Source, benchmarks, datasets
from perturbridge_dagster.registry.expectations import QUANTITIES, Band, Expectation
from perturbridge_dagster.sources.download.declared import COMMAND, command_for

HEADER = """\
# Datasets

Made from `perturbridge_dagster/registry/` by `python -m perturbridge_dagster.dataset_sheets > docs/datasets.md`; do not edit by hand.
Fields are explained in `perturbridge_dagster/registry/__init__.py`.

To have a dataset, write it below `[sources]` in `settings.toml`: `sciplex = "download"` fetches its files when its `source_files` is
materialized; `sciplex = "/data/srivatsan20"` names a folder of yours. `{command} DATASET` fetches ahead, into the same place
or, with `--to FOLDER`, into another; `--list` prints the files, their terms and what is there already; `--local FOLDER` takes files that
were had otherwise; `--required-only` leaves out those without which a dataset can be read. What is there is not fetched again, and what
was begun is continued, also after a kill. Credentials are read from the environment and written nowhere.

**Access**: *open* to everyone; with a *token*; or *on request*, all or some files, from their owner. **Licence class**: what derives from
*restricted* data never enters a release; terms that nobody knows are restricted. A dataset without a *reader* is declared and cannot be
harmonized yet.

A further VCPI release needs no entry: naming it under `[sources]`, as in `vcpi_0003`, is enough. Its terms count as restricted until an
entry says otherwise.
"""

EXPECTATIONS = """\
## Expected counts

*Published* is what the published pipeline counted; *ours* is what we count on the full source: the same where the native files
determine it, a range where a live service decides, and *open* where only a run on the full source can tell. The check `expectations` of
harmonized_samples compares those that are counted there, where the data are not simulated, and says what differs; it blocks nothing.

"""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _words(kind: str) -> str:
    return kind.replace("_", " ")


# ---- files -------------------------------------------------------------------------------------------------------------------


def _size(file: Download) -> str:
    if file.size:
        return f"{file.size:,} bytes"
    return f"about {file.about_mib:,g} MiB" if file.about_mib else ""


def _where(file: Download) -> str:
    if file.url:
        return f"<{file.url}>{' (gzipped; decompress)' if file.unpack else ''}" if file.url.startswith("http") else f"`{file.url}`"
    return file.command or "from the owner, on request"


def _alike(file: Download) -> str:
    """What files have in common that differ in numbers alone."""
    return "".join("#" if letter.isdigit() else letter for letter in file.name)


def _downloads(files: Sequence[Download]) -> list[str]:
    """A line a file; of more than four that differ in numbers alone, the first and the last."""
    lines = []
    for _, group in groupby(files, key=lambda file: _alike(file).replace("##", "#")):
        alike = list(group)
        if len(alike) > 4:
            lines.append(f"{len(alike)} files, from `{alike[0].name}`, {_where(alike[0])}, to `{alike[-1].name}`")
            continue
        for file in alike:
            checks = ", ".join(filter(None, (_size(file), file.checksum)))
            lines.append(f"`{file.name}`{f' ({checks})' if checks else ''}: {_where(file)}")
    return lines


def _files(source: Source) -> str:
    rows = [
        (
            file.role,
            "yes" if file.required else "",
            ", ".join(f"`{pattern}`" for pattern in file.patterns),
            file.meaning,
            "<br>".join(_downloads(file.downloads)),
        )
        for file in source.files
    ]
    return _table(("role", "required", "found as", "holds", "lies at"), rows)


def _got(source: Source) -> str:
    """How a source's files are had by the platform, and what a person must do for it."""
    files = [file for role in source.files for file in role.downloads]
    by_hand = [f"`{file.name}`" for file in files if file.url is None]
    said = []
    if len(by_hand) < len(files):
        said.append(f"`{command_for(source)}`" + (f', or `{source.id} = "download"`' if isinstance(source, Dataset) else ""))
    if any(urlsplit(file.url or "").scheme == "lamin" for file in files):
        said.append('the library of LaminDB is needed, `pip install "perturbridge-dagster[lamindb]"`')
    if by_hand:
        taken = "them" if len(by_hand) > 1 else "it"
        said.append(f"{', '.join(by_hand)} by hand; then `{command_for(source, '--local FOLDER')}` takes {taken} from there")
    return "; ".join(said)


def _head(source: Source) -> list[str]:
    token = f" The token is read from `{source.access.token_variable}`." if source.access.token_variable else ""
    links = ", ".join(f"[{_words(name)}]({url})" for name, url in source.links.items())
    return [
        f"- **Access** ({_words(source.access.kind)}): {source.access.how}{token}",
        f"- **Get it**: {_got(source)}",
        f"- **Licence** ({source.licence.class_}): {source.licence.name}",
        f"- **Citation**: {source.citation}",
        f"- **Links**: {links}",
    ]


# ---- datasets ----------------------------------------------------------------------------------------------------------------


def _effects(dataset: Dataset) -> str:
    options = dataset.effects
    said = [f"at least {options.min_cells} cells a sample"] if options.min_cells else []
    said += [f"genes filtered as {options.gene_filter}"] if not options.normalized else ["no gene filter, as values are log2 intensities"]
    said += [f"{options.standard_errors} standard errors"] if options.standard_errors != "limma" else []
    said += [f"times {', '.join(f'{time:g} h' for time in options.times)} only"] if options.times else []
    said += ["treated times without controls are fitted along"] if options.without_controls == "fit" else []
    return "; ".join(said)


def _pairs(values: dict[str, str]) -> str:
    return ", ".join(f"{name} *{value}*" for name, value in values.items())


def _section(dataset: Dataset) -> str:
    control = dataset.control
    lines = [
        *_head(dataset),
        f"- **Assay**: {dataset.assay}; {dataset.modality}{', one row a cell' if dataset.single_cell else ''}; "
        f"{f'read by `sources/{dataset.reader}.py`' if dataset.reader else 'no reader yet'}",
        f"- **Controls**: {control.how}; called {control.perturbagen} in the samples",
        f"- **Strata**: {', '.join(dataset.strata)}. **Effects**: {_effects(dataset)}",
        f"- **The same for all samples**: {_pairs(dataset.constants)}",
    ]
    lines += [
        f"- **The same for all samples of {context}**: {_pairs(fields)}" for context, fields in dataset.cell_context_constants.items()
    ]
    lines += [f"- **Further column** `{name}`: {field.meaning}" for name, field in dataset.extra_fields.items()]
    if dataset.contains:
        inner = ", ".join(f"`{name}`" for name in dataset.contains)
        lines.append(
            f"- **Contains** {inner}: the two are never a pair and count once; agreement is judged with `{dataset.id}`, corpora are made "
            f"of {inner}"
        )
    parts = [f"## {dataset.label} (`{dataset.id}`)", f"{dataset.title}.", "\n".join(lines), _files(dataset)]
    return "\n\n".join([*parts, _expectations(dataset.expectations)] if dataset.expectations else parts)


def _count(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Band):
        return f"{value.low:,} to {value.high:,}"
    if isinstance(value, dict):
        if len(value) > 1 and len(set(value.values())) == 1:
            return f"{next(iter(value.values())):,} in each of {len(value)} strata"
        return ", ".join(f"{name}: {count:,}" for name, count in value.items())
    return ", ".join(value) if isinstance(value, tuple) else f"{value:,}"


def _expectations(expectations: dict[str, Expectation]) -> str:
    rows = []
    for name, expectation in expectations.items():
        compared = QUANTITIES[name].counted_on != "published"
        same = expectation.ours is not None and expectation.ours == expectation.published
        ours = "as published" if same else _count(expectation.ours) or "open"
        rows.append((f"`{name}`", _count(expectation.published), ours if compared else "not compared", expectation.reason or ""))
    return _table(("quantity", "published", "ours", "reason"), rows)


def _benchmark(benchmark: Benchmark) -> str:
    lines = [*_head(benchmark), f"- **Layer**: `{benchmark.layer}`"]
    return "\n\n".join([f"## {benchmark.label} (`{benchmark.id}`)", f"{benchmark.title}.", "\n".join(lines), _files(benchmark)])


def render() -> str:
    """The document as Markdown."""
    entries: list[Source] = [*datasets().values(), *benchmarks().values()]
    overview = _table(
        ("dataset", "id", "access", "licence class", "modality", "reader", "citation"),
        [
            (
                entry.label,
                f"`{entry.id}`",
                _words(entry.access.kind),
                entry.licence.class_,
                f"{entry.modality}{', single cells' if entry.single_cell else ''}"
                if isinstance(entry, Dataset)
                else "tables of a benchmark",
                "yes" if isinstance(entry, Dataset) and entry.reader else "",
                entry.citation,
            )
            for entry in entries
        ],
    )
    quantities = _table(
        ("quantity", "counted on", "what is counted"),
        [
            (f"`{name}`", quantity.counted_on, quantity.meaning + (" One number a stratum." if quantity.kind == "by_stratum" else ""))
            for name, quantity in QUANTITIES.items()
        ],
    )
    sections = [*map(_section, datasets().values()), *map(_benchmark, benchmarks().values())]
    return "\n".join(
        [HEADER.format(command=COMMAND), overview + "\n", EXPECTATIONS + quantities + "\n", *(section + "\n" for section in sections)]
    )


if __name__ == "__main__":
    print(render(), end="")
