"""DILImap from native files to harmonized samples."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from perturbridge_dagster.errors import InputError
from perturbridge_dagster.sources import dilimap, harmonize
from perturbridge_dagster.sources.native import Reconciliation

pytestmark = pytest.mark.slow

TRAINING, VALIDATION, LABELS = "adata_training_counts.h5ad", "validation_data_counts.h5ad", "compound_DILI_labels.csv"


@pytest.fixture(scope="module")
def panel(genes: pd.DataFrame) -> pd.DataFrame:
    """40 genes, MT-CO1 among them."""
    return pd.concat([genes[genes["symbol"] == "MT-CO1"], genes.tail(39)])


def table(split: str, plate: str, compounds: dict[str, tuple[float, int]]) -> pd.DataFrame:
    """Samples of one plate: by compound, dose and how many replicates."""
    samples = [(compound, dose) for compound, (dose, n) in compounds.items() for _ in range(n)]
    obs = pd.DataFrame(samples, columns=["COMPOUND", "CONCENTRATION_UM"])
    obs["CMPD_DOSE"] = obs["COMPOUND"] + "_" + obs["CONCENTRATION_UM"].astype(str)
    obs["WELL_ID"] = [f"A{i + 1:02d}" for i in range(len(obs))]
    constants = {"TIMEPOINT_HOURS": 24, "LIBRARY_ID": "L1", "SPECIES": "Human", "BATCH_ID": "b", "LDH_QC": ""}
    return obs.assign(PLATE_NAME=plate, SPLIT=split, **constants).set_axis(pd.Index(["w"] * len(obs), dtype=object), axis=0)


def profiles(obs: pd.DataFrame, n_genes: int, seed: int = 0) -> np.ndarray:
    """Counts that agree within a compound and dose."""
    draw = np.random.default_rng(seed)
    means = {name: draw.gamma(1.0, 20_000, n_genes) + 50 for name in obs["CMPD_DOSE"].unique()}
    counts = np.stack([draw.poisson(means[name]) for name in obs["CMPD_DOSE"]]).astype(np.float32)
    counts[:, 0] = 1000
    return counts


def write(folder: Path, panel: pd.DataFrame, *, validation: bool = False, **changes: Any) -> Path:
    """`changes`: ``obs``, ``counts`` and ``var``, functions that change the training file's."""
    plates = {TRAINING: ("Training", "T1", {"DMSO": (0.0, 6), "Vorinostat": (9.95, 3), "Caffeine": (10.0, 3), "Novel": (1.0, 3)})}
    if validation:
        plates[VALIDATION] = ("Validation", "V1", {"DMSO": (0.0, 3), "Trametinib": (10.1, 3)})
    for name, of_plate in plates.items():
        obs = table(*of_plate)
        counts = profiles(obs, len(panel), seed=len(name))
        var = pd.DataFrame({"gene_id": panel["ensembl_id"].to_numpy()}, index=pd.Index(panel["symbol"], dtype=object, name=None))
        if name == TRAINING:
            obs, counts, var = (
                changes.get(key, lambda same: same)(value) for key, value in (("obs", obs), ("counts", counts), ("var", var))
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Observation names are not unique", UserWarning)
            ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=var).write_h5ad(folder / name)
    labels = "compound_name,smiles,DILI\nVorinostat,O=C(CCCCCCC(=O)Nc1ccccc1)NO,none\nCaffeine,Cn1c(=O)c2c(ncn2C)n(C)c1=O,none\n"
    (folder / LABELS).write_text(labels)
    return folder


def dropped(samples: ad.AnnData) -> dict[str, int]:
    steps = samples.uns["reconciliation"].query("axis == 'samples'")
    return dict(zip(steps["rule"], steps["n_dropped"], strict=True))


def test_wells_become_samples_of_the_contract(tmp_path: Path, panel: pd.DataFrame) -> None:
    samples = harmonize("dilimap_train", write(tmp_path, panel))
    obs = samples.obs
    assert samples.shape == (15, len(panel))
    assert samples.obs_names[0] == "T1_A01_DMSO_CL_0000182"
    assert set(obs["cell_type"]) == {"CL_0000182"}
    assert set(obs["split"]) == {"training"}
    assert set(obs["organism"]) == {"human"}
    assert set(obs["library"]) == {"L1"}
    assert set(obs["batch"]) == {"b"}
    by_name = obs.groupby("perturbagen", observed=True)[["pubchem_cid", "pert_dose_uM"]].first()
    assert by_name["pubchem_cid"].fillna(-1).to_dict() == {"DMSO": 679, "Vorinostat": 5311, "Caffeine": 2519, "Novel": -1}
    # 9.95 and 10 µM are one dose, and the fewest decimals win
    assert by_name["pert_dose_uM"].to_dict() == {"DMSO": 0.0, "Vorinostat": 10.0, "Caffeine": 10.0, "Novel": 1.0}


def test_training_samples_are_the_same_beside_validation(tmp_path: Path, panel: pd.DataFrame) -> None:
    (tmp_path / "both").mkdir()
    alone = harmonize("dilimap_train", write(tmp_path, panel))
    both = harmonize("dilimap_train_val", write(tmp_path / "both", panel, validation=True))
    assert set(alone.obs_names) < set(both.obs_names)
    np.testing.assert_array_equal(both[alone.obs_names, alone.var_names].X.toarray(), alone.X.toarray())
    held_out = both.obs[~both.obs_names.isin(alone.obs_names)]
    assert set(held_out["split"]) == {"validation"}
    # near a dose of training, a dose of validation is that dose
    assert set(held_out.loc[~held_out["is_control"], "pert_dose_uM"]) == {10.0}


def change(row: int, **values: object) -> Any:
    def changed(obs: pd.DataFrame) -> pd.DataFrame:
        for name, value in values.items():
            obs[name] = obs[name].where(np.arange(len(obs)) != row, value)
        return obs

    return changed


def scaled(row: int, factor: float) -> Any:
    def changed(counts: np.ndarray) -> np.ndarray:
        counts[row] = np.round(counts[row] * factor)
        return counts

    return changed


def mitochondrial(counts: np.ndarray) -> np.ndarray:
    # proportional replicates agree still; only the mitochondrial share is too great
    counts[6:9, 0] = counts[6:9].sum(axis=1) * 0.2
    return counts


def unlike(counts: np.ndarray) -> np.ndarray:
    counts[7, 1:] = counts[7, :0:-1]
    return counts


@pytest.mark.parametrize(
    ("changes", "rule", "n"),
    [
        ({"obs": change(7, LDH_QC="high")}, 1, 1),
        ({"obs": change(1, COMPOUND="DMSO_replaced")}, 0, 1),
        ({"counts": scaled(7, 0.001)}, 2, 1),
        ({"counts": mitochondrial}, 2, 3),
        ({"counts": unlike}, 3, 1),
    ],
)
def test_each_rule_alone(tmp_path: Path, panel: pd.DataFrame, changes: dict[str, Any], rule: int, n: int) -> None:
    counted = list(dropped(harmonize("dilimap_train", write(tmp_path, panel, **changes))).values())
    assert counted == [n if position == rule else 0 for position in range(4)]


def test_rules_are_judged_on_all_samples_before_any_is_dropped(tmp_path: Path, panel: pd.DataFrame) -> None:
    """A sample that fails one rule still takes part in the others': here as the replicate of another."""

    def alone(obs: pd.DataFrame) -> pd.DataFrame:
        return change(8, LDH_QC="high")(change(7, LDH_QC="high")(obs))

    samples = harmonize("dilimap_train", write(tmp_path, panel, obs=alone))
    assert (samples.obs["perturbagen"] == "Vorinostat").sum() == 1


def test_correlations_are_pearson_s() -> None:
    counts = np.random.default_rng(1).poisson(5, (6, 200))
    np.testing.assert_allclose(dilimap.correlations(sparse.csr_matrix(counts)), np.corrcoef(counts), atol=1e-12)


def test_replicates_are_judged_by_the_published_rule() -> None:
    # a pair, a triple and five controls; all correlations written down
    group = np.array(["a", "a", "b", "b", "b", *["DMSO"] * 5])
    correlation = np.full((10, 10), 0.5)
    correlation[0, 1] = correlation[1, 0] = 0.995
    for i, j, value in ((2, 3, 0.999), (2, 4, 0.98), (3, 4, 0.985)):
        correlation[i, j] = correlation[j, i] = value
    within = np.full((5, 5), 0.998)
    within[4, :] = within[:, 4] = 0.99
    within[4, 0] = within[0, 4] = 0.9985
    correlation[5:, 5:] = within
    np.fill_diagonal(correlation, 1.0)
    passes = dilimap.replicates_agree(correlation, group)
    # highest: a .995 .995; b .999 .999 .985; DMSO .9985 .998 .998 .998 .9985. Of each the first two: s = .0014
    highest = np.array([0.995, 0.995, 0.999, 0.999, 0.9985, 0.998])
    # b: 0.985 < 0.99. The last control: mean of its two highest, (0.9985 + 0.99) / 2 = 0.99425, against the median
    limit = max(0.998 - 3 * highest.std(), 0.99)
    assert 0.99 < limit < 0.99425
    assert passes.tolist() == [True, True, True, True, False, True, True, True, True, True]
    tighter = correlation.copy()
    tighter[[0, 1], [1, 0]] = tighter[[2, 3], [3, 2]] = 0.9985
    assert dilimap.replicates_agree(tighter, group).tolist()[-1] is False


def test_a_sample_without_replicate_fails() -> None:
    correlation = np.full((5, 5), 0.995)
    correlation[0, 1] = correlation[1, 0] = 0.999
    assert dilimap.replicates_agree(correlation, np.array(["a", "a", "b", "b", "c"])).tolist() == [True, True, True, True, False]


def test_a_total_of_zero_fails_and_takes_no_part() -> None:
    totals = np.array([0.0, *[1000.0] * 20, 10.0])
    assert dilimap.enough_counts(totals).tolist() == [False, *[True] * 20, False]


def test_doses_of_training_lead() -> None:
    doses = np.array([10.1, 10.1, 10.1, 10.0, 3.333, 3.33, 1.0, 1.04])
    training = np.array([False, False, False, True, True, True, True, False])
    assert dilimap.shared_doses(doses, training).tolist() == [10.0, 10.0, 10.0, 10.0, 3.33, 3.33, 1.0, 1.04]


def test_a_frequent_dose_begins_a_cluster_and_the_shortest_names_it() -> None:
    doses = np.array([9.95, 9.95, 9.95, 10.0, 10.32])
    # 10.32 is near 10, but not near 9.95, which began the cluster
    assert dilimap.shared_doses(doses, np.ones(5, bool)).tolist() == [10.0, 10.0, 10.0, 10.0, 10.32]


@given(st.lists(st.tuples(st.floats(0.001, 1000, allow_nan=False), st.booleans()), min_size=1, max_size=25))
def test_shared_doses_are_doses_of_the_source_nearby(samples: list[tuple[float, bool]]) -> None:
    doses, training = (np.array(values) for values in zip(*samples, strict=True))
    shared = dilimap.shared_doses(doses, training)
    assert set(shared) <= set(doses)
    # a dose and the one that stands for it are both near the one that began the cluster
    assert (np.abs(np.log10(shared / doses)) <= 2 * dilimap.SAME_DOSE + 1e-9).all()
    np.testing.assert_array_equal(dilimap.shared_doses(shared, training), dilimap.shared_doses(shared, training))


def without(name: str) -> Any:
    return lambda frame: frame.drop(columns=name)


def fractions(counts: np.ndarray) -> np.ndarray:
    counts[6, 3] += 0.4
    counts[7, 3] += 0.6
    return counts


def test_expected_counts_are_rounded(tmp_path: Path, panel: pd.DataFrame) -> None:
    for name in ("whole", "shared"):
        (tmp_path / name).mkdir()
    whole = harmonize("dilimap_train", write(tmp_path / "whole", panel))
    shared = harmonize("dilimap_train", write(tmp_path / "shared", panel, counts=fractions))
    difference = (shared.X - whole.X).toarray()
    assert sorted(difference[difference != 0].tolist()) == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"obs": without("LDH_QC")}, r"adata_training_counts\.h5ad: there is no column LDH_QC"),
        ({"var": without("gene_id")}, "there is no column gene_id"),
        ({"counts": lambda counts: np.log1p(counts)}, "values have fractions, and the largest is"),
        ({"counts": lambda counts: -counts}, r"rows training_counts:0:w: -\d+\.0 of gene ENSG\d+ is not a count"),
        ({"obs": change(2, PLATE_NAME=None)}, "column PLATE_NAME; rows training_counts:2:w: samples have no plate"),
        ({"var": lambda var: var.set_axis([f"G{i}" for i in range(len(var))], axis=0)}, "no gene is mitochondrial"),
        ({"obs": lambda obs: obs.assign(COMPOUND=obs["COMPOUND"].replace("DMSO", "Water"))}, "no vehicle control found among"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, panel: pd.DataFrame, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        harmonize("dilimap_train", write(tmp_path, panel, **changes))


def test_a_negative_count_is_named(tmp_path: Path, panel: pd.DataFrame) -> None:
    def negative(counts: np.ndarray) -> np.ndarray:
        counts[6, 3] = -2
        return counts

    with pytest.raises(InputError, match=r"rows training_counts:6:w: -2\.0 of gene ENSG\d+ is not a count"):
        harmonize("dilimap_train", write(tmp_path, panel, counts=negative))


def test_a_name_with_two_structures_has_none(tmp_path: Path) -> None:
    (tmp_path / LABELS).write_text("compound_name,smiles\nA,C\nA,CC\nB,CCC\nB,CCC\n,CO\n")
    assert dilimap.read_structures(tmp_path / LABELS, "dilimap_train").to_dict() == {"B": "CCC"}
    (tmp_path / LABELS).write_text("drug,structure\nA,C\n")
    with pytest.raises(InputError, match="names or SMILES are missing"):
        dilimap.read_structures(tmp_path / LABELS, "dilimap_train")


def test_the_account_is_of_rules_in_order() -> None:
    samples = pd.DataFrame({"LDH_QC": [None, "x", None, None], "COMPOUND": ["DMSO", "a", dilimap.REPLACED, "b"]})
    samples = samples.assign(total=[1000.0, 1010.0, 990.0, 1020.0], mitochondrial=[1.0, 1.0, 1.0, 9.0], agrees=True)
    steps = Reconciliation()
    steps.start("samples", 4)
    # 9 % is too much already
    assert dilimap.filter_samples(samples, steps).index.tolist() == [0]
    assert [step["n_dropped"] for step in steps.steps] == [1, 1, 1, 0]
