from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from perturbridge_dagster.contract import PUBLISHED_COMPARISON, PUBLISHED_GENES, PUBLISHED_STRATA, PUBLISHED_UNMATCHED
from perturbridge_dagster.effects import StoredEffects, estimate_effects
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.published import Comparison, compare_stratum, open_published_effects, refit_batches
from perturbridge_dagster.published import compare as compare_module
from perturbridge_dagster.published.compare import _pearson_and_slope, _Sums
from perturbridge_dagster.published.figures import comparison_figure
from perturbridge_dagster.published.layout import Replicates
from perturbridge_dagster.published.matching import match_contrasts, unmatched_contrasts
from perturbridge_dagster.written import to_arrow
from tests.published import release
from tests.published.stratum import simulate, stored

pytestmark = pytest.mark.slow


def compared(ours: StoredEffects, *files: Path, refit: StoredEffects | None = None, replicates: Replicates = "grouped") -> Comparison:
    with open_published_effects(files, "sciplex", "CVCL_0023", replicates=replicates) as published:
        found = compare_stratum(published, ours, refit)
    tables = (
        (found.contrasts, PUBLISHED_COMPARISON),
        (found.strata, PUBLISHED_STRATA),
        (found.genes, PUBLISHED_GENES),
        (found.unmatched, PUBLISHED_UNMATCHED),
    )
    for frame, table in tables:
        assert to_arrow(frame, table).num_rows == len(frame)
        for field in table:
            if field.allowed:
                assert set(frame[field.name].dropna()) <= set(field.allowed), field.name
    return found


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_release_of_the_same_fit_agrees_in_everything(ours: StoredEffects, write_whole: Callable[..., Path], dtype: type) -> None:
    found = compared(ours, write_whole(dtype=dtype))
    stratum = found.strata.iloc[0]
    for name in ("pearson_logFC", "spearman_logFC", "pearson_t", "spearman_t", "slope_logFC", "spearman_logFC_q05"):
        assert stratum[name] == pytest.approx(1, abs=1e-6), name
    assert stratum["sign_agreement"] == 1
    assert (stratum["n_both"], stratum["n_equal"], stratum["n_padding"], stratum["n_batches"]) == (12, 12, 0, 1)
    assert (stratum["n_only_ours"], stratum["n_only_published"]) == (0, 0)
    assert stratum["n_genes_both"] == len(ours.genes)
    assert stratum["n_values"] == 12 * len(ours.genes)
    assert found.contrasts["matched_by"].value_counts().to_dict() == {"name_and_pubchem_cid": 12}
    assert found.contrasts["explanation"].eq("equal").all()
    assert found.contrasts["largest_difference"].max() < 1e-5
    assert found.genes["reason"].eq("both").all()
    assert found.unmatched.empty
    assert comparison_figure(found).startswith(b"\x89PNG")


def test_measures_are_those_of_scipy_on_what_was_changed(ours: StoredEffects, write_whole: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)

    def disturb(effects: ad.AnnData) -> None:
        for name in ("logFC", "t"):
            effects.layers[name] = 0.7 * effects.layers[name] + rng.normal(0, 0.8, effects.shape)
            effects.layers[name][2, :9] = np.nan

    path = write_whole(disturb)
    found = compared(ours, path)
    with open_published_effects([path], "sciplex", "CVCL_0023") as published:
        [(_, _, theirs)] = published.blocks(("logFC", "t"))
        contrast = match_contrasts(published.contrasts, ours.contrasts)["contrast"].to_numpy(dtype=int)
        genes = ours.genes.set_index("ensembl_id").index.get_indexer(published.genes["ensembl_id"])
    mine = {name: values[np.ix_(contrast, genes)].astype(float) for name, values in ours.dense(["logFC", "t"]).items()}
    for row in range(len(contrast)):
        score = found.contrasts.iloc[row]
        known = np.isfinite(theirs["logFC"][row])
        x, y = mine["logFC"][row][known], theirs["logFC"][row][known]
        assert score["n_genes"] == known.sum() == len(genes) - (9 if row == 2 else 0)
        assert score["spearman_logFC"] == pytest.approx(stats.spearmanr(x, y).statistic)
        assert score["pearson_logFC"] == pytest.approx(stats.pearsonr(x, y).statistic)
        assert score["slope_logFC"] == pytest.approx(stats.linregress(x, y).slope)
        strong = (np.abs(mine["t"][row][known]) > 2) | (np.abs(theirs["t"][row][known]) > 2)
        assert score["n_strong"] == strong.sum()
        assert score["sign_agreement"] == pytest.approx((np.sign(x) == np.sign(y))[strong].mean())
        assert score["median_difference"] == pytest.approx(np.median(np.abs(x - y)))
        worst = np.abs(x - y).argmax()
        assert score["largest_gene"] == ours.genes["ensembl_id"].iloc[genes[known][worst]]
        assert score["largest_logFC"] == pytest.approx(x[worst])
        assert score["largest_published_logFC"] == pytest.approx(y[worst])
    both = np.isfinite(theirs["logFC"])
    stratum = found.strata.iloc[0]
    x, y = mine["logFC"][both], theirs["logFC"][both]
    assert stratum["pearson_logFC"] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert stratum["spearman_logFC"] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-6)
    assert stratum["slope_logFC"] == pytest.approx(stats.linregress(x, y).slope)
    assert stratum["spearman_logFC_q50"] == pytest.approx(found.contrasts["spearman_logFC"].median())
    assert found.contrasts["explanation"].eq("unexplained").all(), "one fit on both sides: nothing explains it"


def test_nothing_depends_on_how_many_rows_are_read_at_a_time(
    ours: StoredEffects, in_batches: dict[str, ad.AnnData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = release.write_effects_file(tmp_path / "CVCL_0023_de.h5ad", release.aggregated(in_batches))
    at_once = compared(ours, path)
    monkeypatch.setattr(compare_module, "VALUES_AT_A_TIME", 450)
    by_three = compared(ours, path)
    pd.testing.assert_frame_equal(by_three.contrasts, at_once.contrasts)
    pd.testing.assert_frame_equal(by_three.strata, at_once.strata)
    pd.testing.assert_frame_equal(by_three.genes, at_once.genes)


def test_batches_explain_what_batches_did(
    samples: ad.AnnData, ours: StoredEffects, in_batches: dict[str, ad.AnnData], tmp_path: Path
) -> None:
    path = release.write_effects_file(tmp_path / "CVCL_0023_de.h5ad", release.aggregated(in_batches))
    without = compared(ours, path)
    stratum = without.strata.iloc[0]
    assert (stratum["n_published_rows"], stratum["n_padding"], stratum["n_batches"], stratum["n_both"]) == (14, 2, 2, 12)
    assert stratum["spearman_logFC"] < 0.99999
    assert stratum["n_batch_not_refitted"] == 12
    assert 0 < stratum["spearman_logFC_padding"] < 1, "the release does not agree with itself where it fitted a condition twice"
    assert stratum["n_padding_compared"] == 2
    with open_published_effects([path], "sciplex", "CVCL_0023") as published:
        pairs = match_contrasts(published.contrasts, ours.contrasts)
        table = refit_batches(samples, ours.info, pairs["contrast"], published.contrasts["processing_batch"])
    refit = stored(table, tmp_path / "refit")
    found = compared(ours, path, refit=refit)
    own = found.contrasts[~found.contrasts["is_padding"]]
    assert own["explanation"].eq("batch").all()
    assert found.contrasts["median_difference_refit"].max() < 1e-6, "our engine on the release's batches is limma on them"
    assert found.contrasts["spearman_logFC_refit"].min() > 1 - 1e-6
    assert found.contrasts["median_difference"].min() > 1e-3
    assert found.strata["spearman_logFC_refit"].iloc[0] == pytest.approx(1, abs=1e-6)
    assert found.contrasts["n_plates"].eq(3).all()
    tested = [set(batch.var_names) for batch in in_batches.values()]
    some = set(found.genes.loc[found.genes["reason"] == "both_in_some_batches", "ensembl_id"])
    assert some == (tested[0] ^ tested[1]) & set(ours.genes["ensembl_id"])
    assert comparison_figure(found).startswith(b"\x89PNG")


def test_the_refit_refuses_samples_of_other_effects(samples: ad.AnnData, ours: StoredEffects) -> None:
    fewer = samples[samples.obs["perturbagen"] != "alpha"].copy()
    contrast = pd.Series([0], dtype="Int64")
    with pytest.raises(InputError, match="the samples make 10 contrasts, and the effects have 12"):
        refit_batches(fewer, ours.info, contrast, pd.Series(["batch_1"]))
    with pytest.raises(InputError, match="no published contrast that is one of ours has a batch"):
        refit_batches(samples, ours.info, contrast, pd.Series([None], dtype=object))


def test_genes_of_one_side_have_a_reason(samples: ad.AnnData, write_whole: Callable[..., Path], tmp_path: Path) -> None:
    ours = stored(estimate_effects(samples[:, 10:].copy(), gene_filter="supported", supported_share=0.9), tmp_path / "ours")

    def lose(effects: ad.AnnData) -> None:
        effects.layers["logFC"][:, effects.var_names.get_loc(ours.genes["ensembl_id"].iloc[3])] = np.nan

    reasons = compared(ours, write_whole(lose)).genes.set_index("ensembl_id")["reason"]
    tested, filtered = set(ours.genes["ensembl_id"]), ours.gene_filter.set_index("ensembl_id")["kept"]
    assert {"our_filter", "not_among_ours", "both", "not_published"} == set(reasons)
    assert (reasons.index[reasons == "not_among_ours"] < "ENSG00000000010").all()
    assert not filtered[reasons.index[reasons == "our_filter"]].any()
    assert set(reasons.index[reasons.isin(["both", "not_published"])]) == tested


def test_doses_that_the_labels_pool_are_found_and_explained(tmp_path: Path) -> None:
    samples = simulate(doses=(0.00012, 0.00009, 5.0))
    ours = stored(estimate_effects(samples), tmp_path / "ours")
    effects = release.published_effects(release.fit_as_published(samples), samples, samples.var, cells=False)
    assert len(effects) == 12, "0.00012 and 0.00009 are one label"
    found = compared(ours, release.write_effects_file(tmp_path / "CVCL_0023_de.h5ad", effects))
    pooled = found.contrasts[found.contrasts["n_pooled_doses"] > 1]
    assert len(pooled) == 6
    assert pooled["explanation"].eq("dose_rounding").all()
    assert found.strata["n_only_ours"].iloc[0] == 6
    assert found.unmatched["reason"].eq("pooled_with_another").all()


def test_names_of_one_compound_are_pooled_by_us(tmp_path: Path) -> None:
    samples = simulate()
    samples.obs["pubchem_cid"] = samples.obs["pubchem_cid"].replace({106: 101}).where(samples.obs["perturbagen"] != "beta-1", 101)
    ours = stored(estimate_effects(samples), tmp_path / "ours")
    effects = release.published_effects(release.fit_as_published(samples), samples, samples.var, cells=False)
    found = compared(ours, release.write_effects_file(tmp_path / "CVCL_0023_de.h5ad", effects))
    pooled = found.contrasts[found.contrasts["n_pooled_names"] > 1]
    assert sorted(pooled["published_perturbagen"].unique()) == ["alpha", "beta-1"]
    assert pooled["perturbagen"].unique().tolist() == ["alpha; beta-1"]
    assert pooled["explanation"].eq("pooled_names").all()
    assert found.strata["n_both"].iloc[0] == 12


def test_separate_replicates_are_known_by_plate_and_well_whatever_the_sample_ids(samples: ad.AnnData, tmp_path: Path) -> None:
    mine = samples.copy()
    # the same wells on every plate
    mine.obs["well"] = [f"A{number + 1}" for number in mine.obs.groupby("plate").cumcount()]
    ours = stored(estimate_effects(mine, replicates="separate"), tmp_path / "ours")
    theirs = mine.copy()
    theirs.obs_names = pd.Index([f"{plate}_{well}_a synonym" for plate, well in zip(mine.obs["plate"], mine.obs["well"], strict=True)])
    effects = release.published_effects(release.fit_as_published(theirs, separate=True), theirs, theirs.var, cells=False, separate=True)
    path = release.write_effects_file(tmp_path / "sep_rep" / "CVCL_0023_de.h5ad", effects)
    found = compared(ours, path, replicates="separate")
    stratum = found.strata.iloc[0]
    n_treated = int((~mine.obs["is_control"]).sum())
    assert (stratum["n_both"], stratum["n_only_ours"], stratum["n_only_published"]) == (n_treated, 0, 0)
    assert found.contrasts["explanation"].eq("equal").all(), "each replicate is compared with itself"
    assert found.contrasts["sample_id"].is_unique
    assert set(found.contrasts["sample_id"]) == set(mine.obs_names[~mine.obs["is_control"]])


def test_separate_replicates_without_a_well_are_known_by_their_sample_ids() -> None:
    keys = {"perturbagen": "alpha", "pubchem_cid": 101, "pert_dose_uM": 5.0, "pert_time_h": 24.0, "control": "DMSO", "well": None}
    ours = pd.DataFrame([{**keys, "contrast": number, "sample_id": f"s{number}", "plate": "A"} for number in range(3)])
    pairs = match_contrasts(ours.iloc[[2, 0, 1]].drop(columns="contrast"), ours)
    assert pairs["contrast"].tolist() == [2, 0, 1]


def test_a_pooled_dose_is_recognised_in_the_names_of_the_c_locale() -> None:
    keys = {"perturbagen": "γ-Oryzanol", "pubchem_cid": 5282164, "pert_time_h": 24.0, "control": "DMSO"}
    keys |= {"sample_id": None, "plate": None, "well": None}
    ours = pd.DataFrame([{**keys, "contrast": number, "pert_dose_uM": dose} for number, dose in enumerate((0.00009, 0.00012))])
    for name in ("γ_Oryzanol_0_0001uM_24h", "__Oryzanol_0_0001uM_24h", "___Oryzanol_0_0001uM_24h"):
        theirs = ours.iloc[[1]].drop(columns="contrast").assign(sanitised=name, is_padding=False)
        unmatched = unmatched_contrasts(theirs, ours, match_contrasts(theirs, ours)["contrast"])
        assert unmatched["reason"].tolist() == ["pooled_with_another"], name


def test_other_ids_and_names_still_match_and_missing_conditions_are_named(ours: StoredEffects, write_whole: Callable[..., Path]) -> None:
    def change(effects: ad.AnnData) -> None:
        obs = effects.obs
        obs["perturbagen"] = obs["perturbagen"].astype(str).replace({"gamma": "Γ", "delta": "unheard of"})
        cid = obs["pubchem_cid"].astype(object).map(lambda value: 7 if value == 101 else 99 if value == 104 else value)
        obs["pubchem_cid"] = pd.Categorical(cid.where(cid.notna(), None))
        obs["pert_dose_uM"] = obs["pert_dose_uM"].where(obs["perturbagen"] != "epsilon", obs["pert_dose_uM"] * 1.02)
        obs["pert_time_h"] = obs["pert_time_h"].where(obs["perturbagen"] != "zeta", 48.0)

    found = compared(ours, write_whole(change))
    rule = found.contrasts.drop_duplicates("perturbagen").set_index("perturbagen")["matched_by"]
    assert rule.to_dict() == {
        "alpha": "name",
        "beta-1": "name_and_pubchem_cid",
        "gamma": "pubchem_cid",
        "epsilon": "name_and_pubchem_cid",
    }
    why = found.unmatched.groupby(["side", "perturbagen"])["reason"].unique().map(list).to_dict()
    assert why == {
        ("ours", "delta"): ["compound_not_fitted"],
        ("ours", "zeta"): ["time_not_fitted"],
        ("published", "unheard of"): ["compound_not_fitted"],
        ("published", "zeta"): ["time_not_fitted"],
    }


def test_what_shares_nothing_is_refused(ours: StoredEffects, write_whole: Callable[..., Path]) -> None:
    def other_genes(effects: ad.AnnData) -> None:
        effects.var_names = [f"GENE{i}" for i in range(effects.n_vars)]

    def other_compounds(effects: ad.AnnData) -> None:
        effects.obs["perturbagen"] = [f"x{i}" for i in range(effects.n_obs)]
        effects.obs["pubchem_cid"] = -666

    with pytest.raises(InputError, match=r"share no gene.*Ensembl ids such as ENSG"):
        compared(ours, write_whole(other_genes))
    with pytest.raises(InputError, match=r"share no condition"):
        compared(ours, write_whole(other_compounds))
    with (
        open_published_effects([write_whole()], "sciplex", "CVCL_0023", replicates="separate") as published,
        pytest.raises(InputError, match=r"our effects have replicates grouped, the published ones separate"),
    ):
        compare_stratum(published, ours)


_PAIRS = st.lists(st.tuples(*[st.floats(-50, 50, allow_subnormal=False).map(lambda x: round(x, 3))] * 2), min_size=3, max_size=40)


@given(pairs=_PAIRS, cut=st.integers(0, 40))
def test_running_sums_are_the_measures_of_all_values(pairs: list[tuple[float, float]], cut: int) -> None:
    x, y = np.array(pairs).T
    sums = _Sums()
    for part in (slice(0, cut), slice(cut, None)):
        sums.add(x[part], y[part])
    correlation, slope = _pearson_and_slope(x[np.newaxis], y[np.newaxis])
    if np.ptp(x) > 0.1 and np.ptp(y) > 0.1:
        assert sums.pearson == pytest.approx(correlation[0], abs=1e-6)
        assert sums.slope == pytest.approx(slope[0], rel=1e-6, abs=1e-6)
        assert correlation[0] == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
