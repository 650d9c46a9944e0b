"""The catalog over a few small outputs: which views there are, and whether they say what the files say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg
import duckdb
import numpy as np
import pandas as pd
import pytest

from assets.overview import catalog as catalog_asset
from perturbridge_dagster.contract import (
    CONTRASTS,
    CORPUS_COMPOUNDS,
    CORPUS_CONDITIONS,
    GENE_FILTER,
    MATCHED_CONDITIONS,
    SOURCE_FILES,
)
from perturbridge_dagster.effects.storage import open_effects
from perturbridge_dagster.effects.table import EffectTable
from perturbridge_dagster.written import Stamp, write_parquet
from resources.catalog import _MEANINGS, _TABLES, build_catalog
from resources.store import ACCEPTED, Output

FIXTURES = Path(__file__).parents[1] / "fixtures"

STRATA = {
    ("l1000_phase1", "CVCL_0023"): ["vorinostat", "trametinib", "alvespimycin"],
    ("sciplex", "CVCL_0023"): ["belinostat", "dasatinib", "vorinostat"],
    ("sciplex", "CVCL_0004"): ["nutlin-3", "crizotinib"],
}
"""Dataset and stratum → perturbagens. Contrasts and genes have the same numbers in each."""


@pytest.fixture(scope="module")
def tables() -> dict[tuple[str, str], EffectTable]:
    return {}


@pytest.fixture(scope="module")
def strata(
    tmp_path_factory: pytest.TempPathFactory, write_stratum: Callable[..., EffectTable], tables: dict[tuple[str, str], EffectTable]
) -> list[Output]:
    """Effects of three strata, below a folder whose name must be quoted."""
    root = tmp_path_factory.mktemp("catalog") / 'Ada\'s "data" [1] 100% * {b}'
    outputs = []
    for number, (key, perturbagens) in enumerate(STRATA.items()):
        folder = root / "effects" / Path(*key) / "0123456789abcdef"
        tables[key] = write_stratum(folder, *key, perturbagens, n_genes=5 + number)
        outputs.append(Output("condition_effects", key, folder, "0" * 64))
    return outputs


def states_of(outputs: Sequence[Output], state: str = "current") -> dict[tuple[str, ...], str]:
    return {(output.stage, *output.key): state for output in outputs}


def ask(file: Path, query: str) -> pd.DataFrame:
    with duckdb.connect(str(file), read_only=True) as catalog:
        return catalog.sql(query).df()


def views(file: Path) -> set[str]:
    return set(ask(file, "SELECT view_name FROM duckdb_views() WHERE NOT internal")["view_name"])


@pytest.fixture(scope="module")
def catalog(strata: list[Output], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("file") / "catalog.duckdb"
    build_catalog(file, strata, states_of(strata))
    return file


@pytest.mark.parametrize("key", STRATA, ids="/".join)
def test_the_effects_view_is_the_dense_block_under_the_names_of_its_own_stratum(catalog: Path, strata: list[Output], key: tuple[str, str]):
    [output] = [output for output in strata if output.key == key]
    stored = open_effects(output.folder)
    rows = ask(catalog, f"SELECT * FROM condition_effects WHERE dataset = '{key[0]}' AND stratum = '{key[1]}'")
    assert len(rows) == len(stored.contrasts) * len(stored.genes)
    names = [stored.contrasts["perturbagen"], stored.genes["ensembl_id"]]
    blocks = stored.dense(["logFC", "t", "log10_p", "log10_adj_p_within", "log10_adj_p_across"])
    for column, layer in {"logFC": "logFC", "t": "t"}.items():
        wide = rows.pivot_table(index="perturbagen", columns="ensembl_id", values=column, dropna=False).loc[names[0], names[1]]
        np.testing.assert_array_equal(wide.to_numpy(), blocks[layer])
    for column, layer in {"p": "log10_p", "adj_p_within": "log10_adj_p_within", "adj_p_across": "log10_adj_p_across"}.items():
        wide = rows.pivot_table(index="perturbagen", columns="ensembl_id", values=column, dropna=False).loc[names[0], names[1]]
        np.testing.assert_allclose(wide.to_numpy(), 10.0 ** blocks[layer].astype(float), rtol=1e-6)


@pytest.mark.parametrize("key", STRATA, ids="/".join)
def test_p_values_and_standard_errors_are_those_of_the_fit(catalog: Path, tables: dict[tuple[str, str], EffectTable], key: tuple[str, str]):
    table = tables[key]
    rows = ask(
        catalog,
        f"SELECT * FROM condition_effects WHERE dataset = '{key[0]}' AND stratum = '{key[1]}' ORDER BY perturbagen, symbol",
    )
    shape = (len(table.contrasts), len(table.genes))
    assert table.contrasts["perturbagen"].is_monotonic_increasing
    published = {"p": "P.Value", "adj_p_within": "adj.P.Value.within_one_contrast", "adj_p_across": "adj.P.Value.across_all_contrasts"}
    for column, layer in published.items():
        np.testing.assert_allclose(rows[column].to_numpy().reshape(shape), table.layers[layer], rtol=1e-5)
    error = rows["standard_error"].to_numpy().reshape(shape)
    np.testing.assert_array_equal(np.isnan(error), np.isnan(table.layers["t"]) | (table.layers["t"] == 0))
    known = ~np.isnan(error)
    np.testing.assert_allclose(error[known], table.layers["stdev.scaled"][known], rtol=1e-5)
    for column, layer in {"ci_low": "CI.L", "ci_high": "CI.R"}.items():
        end = rows[column].to_numpy().reshape(shape)
        np.testing.assert_array_equal(np.isnan(end), np.isnan(error))
        np.testing.assert_allclose(end[known], table.layers[layer][known], rtol=1e-4, atol=1e-5)


def test_the_gene_filter_is_told_by_stratum(catalog: Path):
    rows = ask(catalog, "SELECT * FROM condition_gene_filter ORDER BY dataset, stratum, ensembl_id")
    assert list(rows) == ["dataset", "stratum", *GENE_FILTER.names]
    n_genes = rows.groupby(["dataset", "stratum"]).size().to_dict()
    assert n_genes == {
        ("l1000_phase1", "CVCL_0023"): 5,
        ("sciplex", "CVCL_0023"): 6,
        ("sciplex", "CVCL_0004"): 7,
    }
    assert (rows["total_count"] == 70).all()
    assert rows["kept"].all()


@pytest.mark.parametrize("alone", [True, False])
def test_effects_of_contract_1_0_have_the_same_columns(tmp_path: Path, strata: list[Output], alone: bool):
    old = Output("condition_effects", ("sciplex", "old"), FIXTURES / "contract-1.0" / "effects", "0" * 64)
    outputs = [old] if alone else [*strata, old]
    file = tmp_path / "catalog.duckdb"
    build_catalog(file, outputs, states_of(outputs))
    assert ("condition_gene_filter" in views(file)) is not alone
    stored = open_effects(old.folder)
    dataset, stratum = stored.contrasts[["dataset", "stratum"]].iloc[0]
    assert set(CONTRASTS.names) <= set(ask(file, "FROM condition_contrasts LIMIT 1"))
    contrasts = ask(file, f"SELECT * FROM condition_contrasts WHERE stratum = '{stratum}' AND dataset = '{dataset}'")
    assert len(contrasts) == len(stored.contrasts)
    assert contrasts[["plates", "component", "treated_library_size"]].isna().all(axis=None)
    genes = ask(file, "SELECT t_975, sigma FROM condition_genes")
    assert genes["t_975"].isna().sum() == len(stored.genes)


def test_effects_of_contract_1_0_are_without_intervals(tmp_path: Path):
    folder = FIXTURES / "contract-1.0" / "effects"
    stored = open_effects(folder)
    key = tuple(stored.contrasts[["dataset", "stratum"]].iloc[0])
    outputs = [Output("condition_effects", key, folder, "0" * 64)]
    build_catalog(tmp_path / "catalog.duckdb", outputs, states_of(outputs))
    rows = ask(tmp_path / "catalog.duckdb", "SELECT * FROM condition_effects")
    assert len(rows) == len(stored.contrasts) * len(stored.genes)
    assert rows["t"].notna().any()
    assert rows[["ci_low", "ci_high"]].isna().all(axis=None)


def test_contrasts_and_genes_of_equal_number_do_not_mix(catalog: Path):
    rows = ask(catalog, "SELECT DISTINCT dataset, stratum, perturbagen, pubchem_cid, ensembl_id, symbol FROM condition_effects")
    for dataset, stratum, perturbagen, pubchem_cid, ensembl_id, symbol in rows.itertuples(index=False):
        perturbagens = STRATA[dataset, stratum]
        assert pubchem_cid == 100 + sorted(perturbagens).index(perturbagen)
        assert symbol == f"symbol of {ensembl_id}"
        assert ensembl_id.startswith(stratum)
    found = ask(catalog, "SELECT dataset, count(*) AS n FROM condition_effects WHERE perturbagen = 'vorinostat' GROUP BY 1 ORDER BY 1")
    assert found.to_numpy().tolist() == [["l1000_phase1", 5], ["sciplex", 6]]


def test_what_is_not_estimable_is_null_and_says_so(catalog: Path):
    rows = ask(
        catalog, "SELECT perturbagen, count(*) AS n, count(t) AS known, count(p) AS p FROM condition_effects WHERE NOT estimable GROUP BY 1"
    )
    assert set(rows["perturbagen"]) == {max(perturbagens) for perturbagens in STRATA.values()}
    assert (rows["n"] > 0).all()
    assert (rows[["known", "p"]] == 0).all(axis=None)


def test_every_view_is_counted(catalog: Path, strata: list[Output], tmp_path: Path):
    counts = build_catalog(tmp_path / "catalog.duckdb", strata, states_of(strata)).set_index("view")["rows"]
    assert counts.to_dict() == {
        "condition_contrasts": 3 + 3 + 2,
        "condition_genes": 5 + 6 + 7,
        "condition_gene_filter": 5 + 6 + 7,
        "condition_tiles": 3 * 5 + 3 * 6 + 2 * 7,
        "condition_effects": 3 * 5 + 3 * 6 + 2 * 7,
    }
    assert views(catalog) == set(counts.index)


def test_a_stage_without_an_accepted_output_has_no_views(tmp_path: Path, strata: list[Output], write_stratum: Callable[..., EffectTable]):
    file = tmp_path / "catalog.duckdb"
    counts = build_catalog(file, [], {})
    assert counts.empty
    assert views(file) == set()
    assert ask(file, "SELECT * FROM outputs").empty

    key = ("sciplex", "CVCL_0023")
    write_stratum(tmp_path / "replicates", *key, STRATA[key], stage="replicate_effects")
    replicates = Output("replicate_effects", key, tmp_path / "replicates", "1" * 64)
    build_catalog(file, [replicates], states_of([replicates]))
    assert views(file) == {f"replicate_{name}" for name in ("contrasts", "genes", "gene_filter", "tiles", "effects")}

    both = [*strata, replicates]
    build_catalog(file, both, states_of(both))
    numbers = ask(
        file, "SELECT (SELECT count(*) FROM condition_effects) AS condition, (SELECT count(*) FROM replicate_effects) AS replicate"
    )
    assert numbers.to_numpy().tolist() == [[3 * 5 + 3 * 6 + 2 * 7, 3 * 6]], "one stage's stratum is not another's of the same name"


@pytest.mark.slow
def test_the_asset_leaves_out_what_is_not_accepted(small_home):
    home = small_home("vcpi_0001")
    home.materialize("source_files", ("vcpi_0001",))

    def materialized_views() -> set[str]:
        assert dg.materialize([catalog_asset], resources={"store": home.store}).success
        return views(home.path / "catalog.duckdb")

    assert materialized_views() == {"source_files"}
    (home.store.current("source_files", ("vcpi_0001",)).folder / ACCEPTED).unlink()
    assert materialized_views() == set()


def test_tables_of_other_stages_are_what_their_files_say(tmp_path: Path):
    outputs = []
    for dataset in ("sciplex", "vcpi_0001"):
        files = pd.DataFrame([(dataset, "counts", f"{dataset} \u00b5.h5ad", 12, 3, "a" * 64)], columns=SOURCE_FILES.names)
        folder = tmp_path / "sources of 'all'" / dataset
        write_parquet(folder / "source_files.parquet", files, SOURCE_FILES, Stamp("source_files", "1", "0" * 64, (dataset,), "open"))
        outputs.append(Output("source_files", (dataset,), folder, "0" * 64))
    nothing = pd.DataFrame(columns=MATCHED_CONDITIONS.names)
    folder = tmp_path / "matched"
    stamp = Stamp("matched_conditions", "1", "0" * 64, ("sciplex", "vcpi_0001"), "open")
    write_parquet(folder / "matched.parquet", nothing, MATCHED_CONDITIONS, stamp)
    outputs.append(Output("matched_conditions", ("sciplex__vcpi_0001",), folder, "2" * 64))

    file = tmp_path / "catalog.duckdb"
    counts = build_catalog(file, outputs, states_of(outputs)).set_index("view")["rows"]
    assert counts.to_dict() == {"source_files": 2, "matched_conditions": 0}
    assert ask(file, "SELECT dataset, name FROM source_files ORDER BY dataset").to_numpy().tolist() == [
        ["sciplex", "sciplex \u00b5.h5ad"],
        ["vcpi_0001", "vcpi_0001 \u00b5.h5ad"],
    ]
    assert ask(file, "SELECT * FROM matched_conditions").columns.tolist() == MATCHED_CONDITIONS.names


def test_the_state_of_each_output_is_told(tmp_path: Path, strata: list[Output]):
    states = states_of(strata) | {("condition_effects", "sciplex", "CVCL_0004"): "stale"}
    build_catalog(tmp_path / "catalog.duckdb", strata, states)
    told = ask(tmp_path / "catalog.duckdb", "SELECT * FROM outputs ORDER BY key")
    assert told.to_numpy().tolist() == [
        ["condition_effects", "l1000_phase1 CVCL_0023", "current", str(strata[0].folder)],
        ["condition_effects", "sciplex CVCL_0004", "stale", str(strata[2].folder)],
        ["condition_effects", "sciplex CVCL_0023", "current", str(strata[1].folder)],
    ]


def test_a_reader_keeps_the_catalog_it_opened_while_a_new_one_takes_its_place(tmp_path: Path, strata: list[Output]):
    file = tmp_path / "catalog.duckdb"
    build_catalog(file, strata[:1], states_of(strata))
    count = "SELECT count(DISTINCT stratum || dataset) FROM condition_effects"
    with duckdb.connect(str(file), read_only=True) as reader:
        build_catalog(file, strata, states_of(strata))
        assert reader.sql(count).fetchall() == [(1,)]
    assert ask(file, count).iloc[0, 0] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.duckdb"], "nothing is left aside"


def test_a_catalog_that_cannot_be_built_leaves_the_old_one(tmp_path: Path, strata: list[Output]):
    file = tmp_path / "catalog.duckdb"
    build_catalog(file, strata, states_of(strata))
    before = file.read_bytes()
    gone = Output("source_files", ("sciplex",), tmp_path / "gone", "0" * 64)
    with pytest.raises(duckdb.IOException, match="gone"):
        build_catalog(file, [*strata, gone], states_of([*strata, gone]))
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.duckdb"]


def test_views_and_their_columns_say_what_they_are(catalog: Path):
    said = ask(catalog, "SELECT comment FROM duckdb_views() WHERE view_name = 'condition_contrasts'")["comment"].tolist()
    assert said == [CONTRASTS.meaning]
    columns = ask(catalog, "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'condition_contrasts'")
    comments = columns.set_index("column_name")["comment"]
    assert comments["pert_dose_uM"].startswith(CONTRASTS["pert_dose_uM"].meaning)
    assert comments["pert_dose_uM"].endswith("[µM]")
    assert comments.reindex([field.name for field in CONTRASTS]).notna().all()


def test_rows_of_several_corpora_are_told_apart(tmp_path: Path):
    stamp = Stamp("training_corpus", "1", "x", ("sciplex",), "open")
    outputs = []
    for corpus, n_compounds in {"all": 3, "single:sciplex": 2}.items():
        folder = tmp_path / "it's" / corpus
        compounds = pd.DataFrame({"perturbation": [str(number) for number in range(n_compounds)], "perturbagen": "x", "n_conditions": 1})
        write_parquet(folder / "compounds.parquet", compounds.reindex(columns=CORPUS_COMPOUNDS.names), CORPUS_COMPOUNDS, stamp)
        no_conditions = pd.DataFrame(columns=CORPUS_CONDITIONS.names)
        write_parquet(folder / "conditions.parquet", no_conditions, CORPUS_CONDITIONS.as_of("1.2" if corpus == "all" else "1.3"), stamp)
        outputs.append(Output("training_corpus", (corpus,), folder, "0" * 64))
    build_catalog(tmp_path / "catalog.duckdb", outputs, states_of(outputs))
    counted = ask(tmp_path / "catalog.duckdb", "SELECT corpus, count(*) AS n FROM corpus_compounds GROUP BY corpus ORDER BY corpus")
    assert counted.to_numpy().tolist() == [["all", 3], ["single:sciplex", 2]]
    assert "split_molecules" in ask(tmp_path / "catalog.duckdb", "DESCRIBE corpus_conditions")["column_name"].tolist()


def test_the_meanings_are_those_of_the_tables_that_the_views_show():
    assert set(_MEANINGS) <= set(_TABLES)
    assert set(_TABLES) - set(_MEANINGS) == {"condition_tiles", "replicate_tiles"}
