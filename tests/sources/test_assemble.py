"""The standardiser, on native samples made in memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from perturbridge_dagster import registry
from perturbridge_dagster.contract import DROPPED_GENES, HARMONIZED_OBS, HARMONIZED_VAR, RECONCILIATION
from perturbridge_dagster.effects import split_strata
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.identity.snapshot import shipped
from perturbridge_dagster.sources.assemble import assemble
from perturbridge_dagster.sources.native import NATIVE_OBS, Expression, NativeSamples, Reconciliation, first_known, positive_integers, text
from perturbridge_dagster.sources.spilled import spilling_to
from perturbridge_dagster.written import Stamp, content_checksum, read_parquet, to_arrow, write_parquet

pytestmark = pytest.mark.slow

GENES = ["ENSG00000000457", "ENSG00000000003.14", "ENSG00000000003"]


def blocks_of(dataset: str, values: np.ndarray) -> Iterator[np.ndarray]:
    """Values as a reader gives them, in blocks of three rows and of the rest: dense intensities, or CSR counts."""
    form = (lambda block: block.astype(np.float32)) if registry.dataset(dataset).modality == "normalized" else sparse.csr_matrix
    return iter([form(values[:3]), form(values[3:])])


def native(dataset: str = "vcpi_0001", genes: list[str] = GENES, *, reverse: bool = False, **changes: list[object]) -> NativeSamples:
    """Four samples of two contexts, each a control and a treated one; columns changed, rows reversed."""
    columns: dict[str, list[object]] = {
        "plate": ["p"] * 4,
        "well": ["A1", "A2", "B1", "B2"],
        "source_cell_context": ["THP-1", "THP-1", "A549", "A549"],
        "perturbagen": ["DMSO", "vorinostat", "DMSO", "an unheard of thing"],
        "source_perturbagen_id": [None, "x1", None, "x2"],
        "is_control": [True, False, True, False],
        "pert_dose_uM": [np.nan, 1.0, 5.0, 10.0],
        "pert_time_h": [24.0] * 4,
        "inchikey": [None] * 4,
        "smiles": [None, None, None, "CCO"],
        "pubchem_cid": [None, "not a number", None, "-666"],
    }
    obs = pd.DataFrame(columns | changes, index=pd.Index([f"row{n}" for n in range(4)]))
    values = np.arange(4 * len(genes)).reshape(4, -1) + 1
    if reverse:
        obs, values = obs[::-1], values[::-1]
    steps = Reconciliation()
    steps.start("samples", 4)
    steps.start("genes", len(genes))
    return NativeSamples(obs, [Expression(Path("x"), blocks_of(dataset, values), pd.Index(genes), "ensembl")], steps)


def assembled(dataset: str = "vcpi_0001", **changes: list[object]) -> ad.AnnData:
    return assemble(registry.dataset(dataset), native(dataset, **changes), shipped())


def test_readers_give_what_the_standardiser_takes() -> None:
    assert set(native().obs.columns) == set(NATIVE_OBS)


@pytest.mark.parametrize("dataset", ["vcpi_0001", "sciplex", "l1000_phase1"])
def test_tables_fit_the_contract(dataset: str, tmp_path: Path) -> None:
    samples = assembled(dataset)
    assert samples.obs_names.name == "sample_id"
    assert [samples.obs_names.name, *samples.obs.columns] == HARMONIZED_OBS.names
    assert [samples.var_names.name, *samples.var.columns] == HARMONIZED_VAR.names
    for frame, table in ((samples.obs.reset_index(), HARMONIZED_OBS), (samples.var.reset_index(), HARMONIZED_VAR)):
        to_arrow(frame, table)
    to_arrow(samples.uns["reconciliation"], RECONCILIATION)
    to_arrow(samples.uns["dropped_genes"], DROPPED_GENES)
    samples.write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    pd.testing.assert_frame_equal(back.obs, samples.obs)
    assert back.X.dtype == (np.float32 if dataset == "l1000_phase1" else np.int64)


def test_rows_are_sorted_by_context_and_id_with_their_values() -> None:
    samples = assembled()
    assert samples.obs_names.tolist() == [
        "p_A1_DMSO_CVCL_0006",
        "p_A2_vorinostat_CVCL_0006",
        "p_B1_DMSO_CVCL_0023",
        "p_B2_an_unheard_of_thing_CVCL_0023",
    ]
    assert samples.X.toarray().tolist() == [[5, 1], [11, 4], [17, 7], [23, 10]]
    assert samples.obs["psbulk_counts"].tolist() == [6, 15, 24, 33]


@pytest.mark.parametrize("dataset", ["vcpi_0001", "l1000_phase1"])
def test_the_order_of_the_source_does_not_matter(dataset: str) -> None:
    samples, again = (assemble(registry.dataset(dataset), native(dataset, reverse=reverse), shipped()) for reverse in (False, True))
    pd.testing.assert_frame_equal(again.obs, samples.obs)
    assert content_checksum(again) == content_checksum(samples)


def test_what_is_too_large_for_memory_is_the_same_on_disk_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = assembled()
    monkeypatch.setattr("perturbridge_dagster.sources.assemble.IN_MEMORY", 0)
    with spilling_to(tmp_path):
        stored = assembled()
    assert stored.isbacked
    assert [path.name for path in tmp_path.rglob("*.h5ad")] == ["harmonized.h5ad"]
    pd.testing.assert_frame_equal(stored.obs, samples.obs)
    pd.testing.assert_frame_equal(stored.var, samples.var)
    for name in ("reconciliation", "dropped_genes", "compound_identity"):
        pd.testing.assert_frame_equal(stored.uns[name], samples.uns[name])
    strata, others = (list(split_strata(one, "vcpi_0001")) for one in (stored, samples))
    assert [stratum for stratum, _ in strata] == [stratum for stratum, _ in others]
    for (_, part), (_, other) in zip(strata, others, strict=True):
        assert not part.isbacked
        assert (part.X.dtype, part.X.indices.dtype, part.X.indptr.dtype) == (other.X.dtype, other.X.indices.dtype, other.X.indptr.dtype)
        assert content_checksum(part) == content_checksum(other)
    del stored
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_intensities_are_dense_and_in_the_order_of_samples_and_genes() -> None:
    genes = ["ENSG00000000457", "ENSG00000000003", "nothing", "ENSG00000000419"]
    samples = assembled("l1000_phase1", genes=genes)
    assert samples.var_names.tolist() == ["ENSG00000000003", "ENSG00000000419", "ENSG00000000457"]
    assert type(samples.X) is np.ndarray
    assert samples.X.dtype == np.float32
    assert samples.X.tolist() == [[2, 4, 1], [6, 8, 5], [10, 12, 9], [14, 16, 13]]


def test_versions_of_a_gene_are_summed_in_counts_and_dropped_in_intensities() -> None:
    counts, intensities = assembled(), assembled("l1000_phase1")
    assert counts.var["is_merged"].tolist() == [True, False]
    assert counts.var["source_gene_id"].tolist() == ["ENSG00000000003.14;ENSG00000000003", "ENSG00000000457"]
    assert intensities.var_names.tolist() == ["ENSG00000000457"]
    assert intensities.obs["psbulk_counts"].isna().all()
    assert intensities.uns["reconciliation"]["n_dropped"].tolist() == [0, 2]


def test_controls_have_dose_0_whatever_the_source_says() -> None:
    assert assembled().obs["pert_dose_uM"].tolist() == [0.0, 1.0, 0.0, 10.0]


def test_identity_is_that_of_each_compound() -> None:
    obs = assembled().obs
    assert obs["pubchem_cid"].tolist()[::2] == [679, 679]
    assert obs["pubchem_cid"].isna().tolist()[3]
    assert obs["inchikey"].tolist()[3] == "LFQSCWFLJHTTHZ-UHFFFAOYSA-N"
    assert obs["smiles"].isna().tolist() == [True, True, True, False]


def test_the_sources_own_pubchem_id_is_kept() -> None:
    obs = assembled(pubchem_cid=[None, "5311", None, 702.0]).obs
    assert obs["pubchem_cid"].tolist() == [679, 5311, 679, 702]
    assert obs["pubchem_cid_source"].tolist() == ["curated", "source", "curated", "source"]


def test_the_source_knows_its_donors_better_where_not_declared_otherwise() -> None:
    words = ["male", "unknown", "male", "male"]
    source = assembled(sex=words, tissue=["skin", None, "skin", "skin"]).obs
    assert source["tissue"].tolist()[0] == "skin"
    assert source["tissue"].tolist()[1] == "peripheral blood"  # the registry's constant
    known = shipped().cell_contexts.resolve(pd.Series(["MCF7"]), "l1000_phase1")["sex"].iloc[0]
    assert known == "female"
    mcf7 = {"source_cell_context": ["MCF7"] * 4, "sex": words}
    assert assembled("l1000_phase1", **mcf7).obs["sex"].unique().tolist() == ["female"]
    assert assembled("sciplex", **mcf7).obs["sex"].tolist() == ["male", "female", "male", "male"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_control": [False] * 4}, r"no vehicle control found among DMSO"),
        ({"is_control": [True, False, False, False]}, r"column source_cell_context; rows A549: cell contexts without vehicle controls"),
        ({"pert_dose_uM": [0.0, np.nan, 0.0, 1.0]}, r"column pert_dose_uM; rows row1"),
        ({"pert_time_h": [24.0, 24.0, np.nan, 24.0]}, r"column pert_time_h; rows row2"),
        ({"perturbagen": ["DMSO", None, "DMSO", "x"]}, r"column perturbagen; rows row1"),
        ({"plate": ["p", "p", None, "p"]}, r"column plate; rows row2"),
        ({"source_cell_context": ["THP-1", "THP-1", None, "A549"]}, r"column source_cell_context; rows row2"),
        (
            {"perturbagen": ["DMSO", "a b", "DMSO", "a\tb"], "well": ["A1", "A2", "A3", "A2"], "source_cell_context": ["THP-1"] * 4},
            r"rows p_A2_a_b_CVCL_0006: sample ids are not unique: the source rows row1, row3",
        ),
        ({"genes": ["nothing", "known", "here"]}, r"no gene is left"),
    ],
)
def test_what_no_dataset_may_have_is_refused(changes: dict[str, list[object]], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        assembled(**changes)
    assert raised.value.dataset == "vcpi_0001"


def test_a_sample_without_signal_is_refused() -> None:
    empty = native()
    empty.expressions[0].blocks = blocks_of("vcpi_0001", np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 2]]))
    with pytest.raises(InputError, match=r"rows p_A2_vorinostat_CVCL_0006: 1 samples have a total of 0 or less over the 2 genes"):
        assemble(registry.dataset("vcpi_0001"), empty, shipped())


def test_a_sample_without_a_well_has_an_id() -> None:
    assert "p_DMSO_CVCL_0006" in assembled(well=[None, "A2", "B1", "B2"]).obs_names


def test_words_for_missing_are_nulls_and_short_decimals_stay_short() -> None:
    words = text(pd.Series(["a", " b ", "", "-666", "NaN", None, np.nan, "-666.000000", "None", "NA"], dtype=object))
    assert words.tolist() == ["a", "b", *[None] * 7, "NA"]
    assert text(pd.Series([0.35, -666, np.nan, 10], dtype="float32")).tolist() == ["0.35", None, None, "10.0"]
    assert text(pd.Series(["x", None], dtype="category")).tolist() == ["x", None]


def test_positive_integers_and_first_known() -> None:
    numbers = positive_integers(pd.Series(["679", "679.0", "MLS003116075", "-666", None, "1.5", "0"], dtype=object))
    assert numbers.tolist() == [679, 679, *[pd.NA] * 5]
    a, b, c = (pd.Series(values, dtype=object) for values in (["a", None, None], ["b", "b", None], ["c", "c", None]))
    assert first_known(a, b, c).tolist() == ["a", "b", None]


# ---- further columns ----------------------------------------------------------------------------------------------------------

GDPX2 = {
    "source_cell_context": ["aortic smooth muscle cell"] * 4,
    "pert_type": ["compound"] * 4,
    "suspension_type": ["cell"] * 4,
    "percent_volume_dmso": np.array([0.0625, 0.0625, 0.625, 0.625], dtype=np.float32),
}


def test_declared_columns_are_kept_typed_and_cut_strata(tmp_path: Path) -> None:
    declared = registry.dataset("gdpx2")
    samples = assembled("gdpx2", **GDPX2, batch=["undeclared"] * 4)
    assert [samples.obs_names.name, *samples.obs.columns] == [*HARMONIZED_OBS.names, "percent_volume_dmso"]
    assert samples.obs["percent_volume_dmso"].tolist() == [0.0625, 0.0625, 0.625, 0.625]
    assert samples.obs["percent_volume_dmso"].dtype == np.float64
    strata = [stratum.stratum for stratum, _ in split_strata(samples, "gdpx2")]
    assert strata == ["CL_0002539_0.0625", "CL_0002539_0.625"]
    stamp = Stamp("harmonized_samples", "1", "d", ("gdpx2",), "restricted")
    write_parquet(tmp_path / "obs.parquet", samples.obs.reset_index(), declared.obs_table, stamp)
    back = read_parquet(tmp_path / "obs.parquet", "harmonized_samples")
    assert back["percent_volume_dmso"].tolist() == [0.0625, 0.0625, 0.625, 0.625]
    assert pq.read_schema(tmp_path / "obs.parquet").field("percent_volume_dmso").metadata[b"unit"] == b"%"


def test_a_text_column_keeps_its_words_and_may_be_missing() -> None:
    others = {name: [None] * 4 for name in registry.dataset("dilimap_train").extra_fields}
    words = {"split": ["training", None, " training ", "training"], "source_cell_context": ["hepatocyte"] * 4}
    obs = assembled("dilimap_train", **(others | words)).obs
    assert obs["split"].tolist() == ["training", np.nan, "training", "training"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, r"declares a further column percent_volume_dmso, which the reader .* does not give"),
        ([0.0625, "a drop", 0.625, 0.625], r"column percent_volume_dmso; rows row1: 1 samples have a value that is no float64: a drop"),
    ],
)
def test_a_declared_column_that_is_absent_or_of_another_type_is_refused(values: list[object] | None, message: str) -> None:
    given = {name: column for name, column in GDPX2.items() if name != "percent_volume_dmso"}
    with pytest.raises(InputError, match=message):
        assembled("gdpx2", **given, **({} if values is None else {"percent_volume_dmso": values}))


# ---- cell contexts and doses --------------------------------------------------------------------------------------------------


def test_what_the_registry_says_of_a_cell_context_holds_for_its_samples_only() -> None:
    names = ["aortic smooth muscle cell", "aortic smooth muscle cell", "fibroblast of dermis", "fibroblast of dermis"]
    obs = assembled("gdpx2", **(GDPX2 | {"source_cell_context": names}), tissue=["artery", None, None, None]).obs
    assert obs["tissue"].tolist() == ["artery", "aorta", "skin", "skin"]
    assert obs["sex"].tolist() == ["male", "male", "female", "female"]
    assert obs["self_reported_ethnicity"].isna().all()
    assert obs["model_system"].unique().tolist() == ["primary"]
    assert obs["cell_type_source"].unique().tolist() == ["Cell Ontology 2026-03-26"]


def test_it_is_said_in_whose_words_a_donor_is() -> None:
    obs = assembled("l1000_phase1", source_cell_context=["NPC", "NPC", "A549", "A549"], sex=["female", None, None, None]).obs
    said = obs.set_index("source_cell_context", append=True)[["donor_source", "model_system", "cell_type_source"]].to_numpy().tolist()
    assert said == [
        ["LINCS 2020", "cell line", "Cellosaurus 55.0"],
        ["LINCS 2020", "cell line", "Cellosaurus 55.0"],
        ["l1000_phase1; LINCS 2020", "iPSC-derived", "LINCS"],
        ["LINCS 2020", "iPSC-derived", "LINCS"],
    ]
    unknown = assembled("sciplex", source_cell_context=["my cells"] * 4).obs
    assert unknown[["donor_source", "model_system"]].isna().all(axis=None)
    assert unknown["cell_type_source"].unique().tolist() == ["source"]


def test_the_nominal_dose_is_beside_the_dose_and_never_in_its_place() -> None:
    obs = assembled(perturbagen=["DMSO", "vorinostat", "vorinostat", "SAHA"], is_control=[True, False, True, False]).obs
    assert obs["nominal_dose_uM"].tolist() == [0.0, 1.0, 0.0, 10.0]
    one = {"source_cell_context": ["THP-1"] * 4, "is_control": [True, False, False, False]}
    near = assembled(perturbagen=["DMSO", "vorinostat", "SAHA", "x"], pert_dose_uM=[5.0, 9.99999, 10.2, 10.2], **one).obs
    assert near["pert_dose_uM"].tolist() == [0.0, 9.99999, 10.2, 10.2]
    # two names of one compound are brought together, another compound is not; 10.2 is the more frequent in the dataset
    assert near["nominal_dose_uM"].tolist() == [0.0, 10.2, 10.2, 10.2]
    own = [7.0, 10.0, np.nan, 10.0]
    said = assembled(
        perturbagen=["DMSO", "vorinostat", "SAHA", "x"], pert_dose_uM=[5.0, 9.99999, 10.2, 10.2], nominal_dose_uM=own, **one
    ).obs
    # a reader that knows its source's own nominal doses is heard
    assert said["nominal_dose_uM"].tolist() == [0.0, 10.0, 10.2, 10.0]


# ---- dropped genes ------------------------------------------------------------------------------------------------------------


def dropped(samples: ad.AnnData) -> list[list[object]]:
    frame = samples.uns["dropped_genes"].astype(object)
    columns = ["file", "source_gene_id", "reason", "ensembl_id", "counts_lost"]
    return frame[columns].where(frame[columns].notna(), None).to_numpy().tolist()


def test_every_dropped_gene_is_listed_with_its_reason_and_its_counts() -> None:
    samples = assembled(genes=["ENSG00000000457", "nothing", "ENSG00000215271", "ENSG00000139656"])
    assert dropped(samples) == [
        ["x", "nothing", "unknown", None, 2 + 6 + 10 + 14],
        ["x", "ENSG00000139656", "retired", None, 4 + 8 + 12 + 16],
    ]
    assert samples.uns["dropped_genes"]["rule"].unique().tolist() == ["no current Ensembl id"]
    assert samples.var_names.tolist() == ["ENSG00000000457", "ENSG00000290292"]


def test_genes_that_share_an_id_in_intensities_are_listed_with_it() -> None:
    assert dropped(assembled("l1000_phase1")) == [
        ["x", "ENSG00000000003.14", "shared", "ENSG00000000003", None],
        ["x", "ENSG00000000003", "shared", "ENSG00000000003", None],
    ]


def test_genes_that_another_file_lacks_are_listed_and_counted_apart_from_those_that_both_have() -> None:
    both = native(genes=["ENSG00000000457", "ENSG00000000003", "ENSG00000000003.1", "nothing"])
    values = np.ones((1, 3), dtype=np.int64)
    second = Expression(Path("y"), iter([sparse.csr_matrix(values)]), pd.Index(["ENSG00000000457", "ENSG00000000419", "also"]), "ensembl")
    first = native(genes=["ENSG00000000457", "ENSG00000000003", "ENSG00000000003.1", "nothing"]).obs.iloc[[0]].assign(well="C1")
    samples = NativeSamples(pd.concat([both.obs, first.set_axis(["other"])]), [*both.expressions, second], both.steps)
    samples.steps.start("genes", 7)
    found = assemble(registry.dataset("vcpi_0001"), samples, shipped())
    assert found.var_names.tolist() == ["ENSG00000000457"]
    assert [row[:4] for row in dropped(found)] == [
        ["x", "ENSG00000000003", "not in every file", "ENSG00000000003"],
        ["x", "ENSG00000000003.1", "not in every file", "ENSG00000000003"],
        ["x", "nothing", "unknown", None],
        ["y", "ENSG00000000419", "not in every file", "ENSG00000000419"],
        ["y", "also", "unknown", None],
    ]
    assert [row[4] for row in dropped(found)] == [32, 36, 40, 1, 1]
    steps = found.uns["reconciliation"].set_index("rule")["n_dropped"]
    assert steps.to_dict() == {
        "no current Ensembl id (x)": 1,
        "several source genes on one Ensembl id (x)": 1,
        "no current Ensembl id (y)": 1,
        "several source genes on one Ensembl id (y)": 0,
        "not in every file of the dataset (2)": 2,
        "the lists of 2 files made one: an id that another has too": 1,
    }
