"""Genes: keys to current ids, and merging of columns."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from perturbridge_dagster.contract import HARMONIZED_VAR
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.build_snapshot import _ensembl_keys, _entrez_keys
from perturbridge_dagster.identity.genes import STATUSES, MergedGenes, merge_genes, sum_genes
from perturbridge_dagster.identity.snapshot import shipped


@pytest.mark.parametrize(
    ("kind", "key", "ensembl_id", "status"),
    [
        ("ensembl", "ENSG00000141510", "ENSG00000141510", "current"),
        ("ensembl", "ENSG00000141510.17", "ENSG00000141510", "current"),
        ("ensembl", "ENSG99999999999", None, "unknown"),
        # out of use; the Entrez gene (SOD2, HOMEZ, PAXX) has no current NCBI link, but GENCODE has its symbol once
        ("ensembl", "ENSG00000112096", "ENSG00000291237", "replaced"),
        ("ensembl", "ENSG00000215271", "ENSG00000290292", "replaced"),
        ("ensembl", "ENSG00000148362", "ENSG00000310560", "replaced"),
        ("ensembl", "TP53", None, "unknown"),
        ("entrez", 7157, "ENSG00000141510", "current"),
        ("entrez", "7157", "ENSG00000141510", "current"),
        ("entrez", 7157.0, "ENSG00000141510", "current"),
        # two current Ensembl ids, one with the gene's symbol
        ("entrez", 6813, "ENSG00000076944", "current"),
        # two with its symbol: the lower
        ("entrez", 9782, "ENSG00000015479", "current"),
        # several, none with its symbol
        ("entrez", 2576, None, "ambiguous"),
        ("symbol", "TP53", "ENSG00000141510", "current"),
        ("symbol", "C18ORF21", "ENSG00000141428", "current"),
        ("symbol", "SEPT7", "ENSG00000122545", "replaced"),
        ("symbol", "AARS", "ENSG00000090861", "replaced"),
        ("symbol", "HIST1H2BK", "ENSG00000197903", "replaced"),
        # alias of two genes
        ("symbol", "MUM1", None, "ambiguous"),
        # symbol of many genes
        ("symbol", "Y_RNA", None, "ambiguous"),
        ("symbol", "2024-09-07 00:00:00", None, "unknown"),
        ("symbol", None, None, "unknown"),
        ("symbol", "", None, "unknown"),
        # words for a missing symbol, of which the first two are aliases of XK and SCN11A, too
        *(("symbol", word, None, "unknown") for word in ("NA", "NaN", "nan", "None", "null", "<NA>")),
        ("mixed", "NA", None, "unknown"),
    ],
)
def test_shipped_answers(kind: str, key: object, ensembl_id: str | None, status: str) -> None:
    row = shipped().genes.resolve([key], kind).iloc[0]  # type: ignore[arg-type]
    assert (row["ensembl_id"], row["status"]) == (ensembl_id, status)


@pytest.mark.parametrize(
    ("old", "links", "ensembl_id", "status"),
    [
        pytest.param("OLD", [("1", "A", "OLD"), ("1", "A", "E1")], "E1", "replaced", id="one current link"),
        pytest.param("OLD", [("1", "A", "OLD")], "E1", "replaced", id="same symbol"),
        pytest.param("OLD", [("1", "A", "OLD"), ("2", "X", "E1")], None, "retired", id="the symbol is another Entrez gene's"),
        pytest.param("OLD", [("1", "D", "OLD")], None, "retired", id="symbol of two genes"),
        pytest.param("OLD", [("1", "X", "OLD")], None, "retired", id="symbol of none"),
        pytest.param(
            "OLD", [("1", "A", "OLD"), ("1", "A", "E2"), ("1", "A", "E1")], "E1", "replaced", id="of two links the one of its symbol"
        ),
        pytest.param("OLD", [("1", "X", "OLD"), ("1", "X", "E2"), ("1", "X", "E1")], None, "ambiguous", id="two links, no symbol"),
        pytest.param("OLD", [("1", "A", "OLD"), ("2", "B", "OLD")], None, "ambiguous", id="two Entrez genes"),
        pytest.param("OLD", [("1", "A", "OLD"), ("2", "X", "OLD")], "E1", "replaced", id="two Entrez genes, one leads nowhere"),
    ],
)
def test_an_id_out_of_use_goes_where_its_entrez_gene_leads(
    old: str, links: list[tuple[str, str, str]], ensembl_id: str | None, status: str
) -> None:
    genes = pd.DataFrame([("E1", "A"), ("E2", "B"), ("E3", "D"), ("E4", "D"), ("E5", None)], columns=["ensembl_id", "symbol"])
    ncbi = pd.DataFrame(links, columns=["entrez", "symbol", "ensembl_id"])
    keys = _ensembl_keys(genes, ncbi, _entrez_keys(genes, ncbi)).set_index("key")
    answer = keys.loc[old, "ensembl_id"]
    assert (None if pd.isna(answer) else answer, keys.loc[old, "status"]) == (ensembl_id, status)


def test_order_and_index_are_kept() -> None:
    found = shipped().genes.resolve(pd.Series(["EGFR", "nothing", "TP53", "EGFR"], index=list("dcba")), "symbol")
    assert found.index.tolist() == list("dcba")
    assert found["symbol"].tolist() == ["EGFR", None, "TP53", "EGFR"]
    assert list(found.columns) == ["ensembl_id", "symbol", "status", "found"]


def test_ids_and_symbols_in_one_list_are_each_asked_as_what_they_are() -> None:
    asked = pd.Series(["TP53", "ENSG00000141510.18", None, "nowhere", "ENSG00000251562"], index=list("abcba"))
    found = shipped().genes.resolve(asked, "mixed")
    assert found.index.tolist() == list("abcba")
    assert found["ensembl_id"].tolist() == ["ENSG00000141510", "ENSG00000141510", None, None, "ENSG00000251562"]
    assert found["status"].tolist() == ["current", "current", "unknown", "unknown", "current"]


def test_the_shipped_tables_fit_each_other() -> None:
    genes, keys = shipped().genes.genes, shipped().genes.keys
    pattern = HARMONIZED_VAR["ensembl_id"].pattern
    assert pattern is not None
    assert genes["ensembl_id"].is_unique
    assert genes["ensembl_id"].str.fullmatch(pattern).all()
    assert not keys.duplicated(["kind", "key"]).any()
    assert set(keys["status"]) <= set(STATUSES)
    assert set(keys["ensembl_id"].dropna()) <= set(genes["ensembl_id"])
    # an id is given if and only if there is a single current gene
    assert (keys["ensembl_id"].notna() == keys["status"].isin(["current", "replaced"])).all()
    # a current id is never said to be replaced
    assert not keys[keys["kind"] == "ensembl"]["key"].isin(genes["ensembl_id"]).any()


@pytest.mark.real_data
@pytest.mark.slow
def test_every_landmark_gene_has_an_ensembl_id_of_its_own(real_data: Path) -> None:
    genes = pd.read_csv(real_data / "lincs_metadata" / "GSE92742_Broad_LINCS_gene_info.txt", sep="\t")
    landmarks = genes[genes["pr_is_lm"] == 1]
    found = shipped().genes.resolve(landmarks["pr_gene_id"], "entrez")
    assert len(found) == 978
    assert (found["status"] == "current").all()
    assert found["ensembl_id"].nunique() == 978
    # symbol and Entrez id of one gene never lead to different genes
    both = found.assign(other=shipped().genes.resolve(landmarks["pr_gene_symbol"], "symbol")["ensembl_id"]).dropna()
    assert len(both) > 950
    assert (both["ensembl_id"] == both["other"]).all()


@pytest.mark.real_data
def test_most_genes_of_an_older_release_are_current(real_data: Path) -> None:
    genes = pd.read_parquet(real_data / "tahoe_explorer_metadata" / "gene_metadata.parquet")
    found = shipped().genes.resolve(genes["ensembl_id"], "ensembl")["status"].value_counts()
    # Ensembl's archive counts 61,455 current ones among the same 62,710
    assert found["current"] == pytest.approx(61_455, abs=50)


# ---- merging ------------------------------------------------------------------------------------------------------------------


def resolved(*ensembl_ids: str | None) -> pd.DataFrame:
    return pd.DataFrame({"ensembl_id": list(ensembl_ids), "symbol": [None if name is None else f"S{name[-1]}" for name in ensembl_ids]})


E1, E2, E3 = "ENSG00000000001", "ENSG00000000002", "ENSG00000000003"
ONE_DROPPED_TWO_SHARED = resolved(E2, None, E1, E2, E3)
COUNTS = np.array([[1, 2, 3, 4, 5], [0, 0, 7, 0, 1]], dtype=np.int64)


def source_genes(n: int) -> pd.Index:
    return pd.Index([f"g{i}" for i in range(n)])


def steps_of(merged: MergedGenes) -> list[list[int]]:
    return merged.reconciliation[["n_in", "n_dropped", "n_out"]].to_numpy().tolist()


def test_genes_of_counts_are_merged() -> None:
    merged = merge_genes(source_genes(5), ONE_DROPPED_TWO_SHARED, normalized=False)
    assert merged.target.tolist() == [1, -1, 0, 1, 2]
    assert merged.var.index.tolist() == [E1, E2, E3]
    assert merged.var["symbol"].tolist() == ["S1", "S2", "S3"]
    assert merged.var["source_gene_id"].tolist() == ["g2", "g0;g3", "g4"]
    assert merged.var["is_merged"].tolist() == [False, True, False]
    assert [merged.var.index.name, *merged.var.columns] == HARMONIZED_VAR.names
    assert steps_of(merged) == [[5, 1, 4], [4, 1, 3]]


def test_genes_of_normalized_values_that_share_an_id_are_dropped() -> None:
    merged = merge_genes(source_genes(5), ONE_DROPPED_TWO_SHARED, normalized=True)
    assert merged.target.tolist() == [-1, -1, 0, -1, 1]
    assert merged.var.index.tolist() == [E1, E3]
    assert not merged.var["is_merged"].any()
    assert steps_of(merged) == [[5, 1, 4], [4, 2, 2]]


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csr_array])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32])
def test_counts_of_one_gene_are_summed(form: type, dtype: type) -> None:
    merged = merge_genes(source_genes(5), ONE_DROPPED_TWO_SHARED, normalized=False)
    counts = form(COUNTS.astype(dtype))
    summed = sum_genes(counts, merged.target, len(merged.var))
    np.testing.assert_array_equal(summed.toarray(), [[3, 5, 5], [7, 0, 1]])
    assert (summed.format, summed.dtype) == ("csr", dtype)
    np.testing.assert_array_equal(counts.toarray(), COUNTS)


def test_no_gene_left() -> None:
    merged = merge_genes(source_genes(5), resolved(None, None, None, None, None), normalized=False)
    assert merged.var.empty
    assert sum_genes(sparse.csr_matrix(COUNTS), merged.target, 0).shape == (2, 0)
    assert merged.reconciliation["n_out"].tolist() == [0, 0]


def test_another_number_of_genes_is_refused() -> None:
    with pytest.raises(InputError, match="2 resolved genes for 5 source genes"):
        merge_genes(source_genes(5), resolved(E1, E2), normalized=False)


def test_a_gene_without_a_symbol_can_be_written(tmp_path: Path) -> None:
    answers = ONE_DROPPED_TWO_SHARED.copy()
    answers.loc[2, "symbol"] = None
    ad.AnnData(var=merge_genes(source_genes(5), answers, normalized=False).var).write_h5ad(tmp_path / "samples.h5ad")
    assert ad.read_h5ad(tmp_path / "samples.h5ad").var["symbol"].isna().tolist() == [True, False, False]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([E1, E2, E3, None]), min_size=1, max_size=12), st.integers(0, 2**31))
def test_merging_keeps_every_count_of_a_resolved_gene(ensembl_ids: list[str | None], seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 50, size=(3, len(ensembl_ids)))
    merged = merge_genes(source_genes(len(ensembl_ids)), resolved(*ensembl_ids), normalized=False)
    summed = sum_genes(sparse.csr_matrix(counts), merged.target, len(merged.var)).toarray()
    for position, ensembl_id in enumerate(merged.var.index):
        np.testing.assert_array_equal(summed[:, position], counts[:, np.array(ensembl_ids) == ensembl_id].sum(axis=1))
    assert set(merged.var.index) == set(ensembl_ids) - {None}
    assert (merged.reconciliation["n_in"] - merged.reconciliation["n_dropped"] == merged.reconciliation["n_out"]).all()
    assert merged.reconciliation["n_out"].iloc[-1] == len(merged.var)
