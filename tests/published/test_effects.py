from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest

from perturbridge_dagster.contract import CONTRASTS
from perturbridge_dagster.effects import open_effects, write_effects
from perturbridge_dagster.effects.storage import LAYERS as STORED_LAYERS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.published import effects as effects_module
from perturbridge_dagster.published import open_published_effects, open_published_samples
from perturbridge_dagster.published.effects import LAYERS
from tests.published import release
from tests.published.stratum import MEMBERS, STAMP

pytestmark = pytest.mark.slow


def opened(*files: Path):
    return open_published_effects(files, "sciplex", "CVCL_0023")


def test_layers_and_keys_are_those_that_were_written(write_whole: Callable[..., Path], whole: ad.AnnData) -> None:
    with opened(write_whole()) as published:
        read = {name: np.concatenate([block[name] for _, _, block in published.blocks(LAYERS, step=5)]) for name in LAYERS}
        contrasts = published.contrasts
    for name, values in read.items():
        np.testing.assert_array_equal(values, whole.layers[name], err_msg=name)
    beta = contrasts[contrasts["perturbagen"] == "beta-1"].sort_values("pert_dose_uM")
    assert beta["pert_dose_uM"].tolist() == [0.5, 5.0]
    assert beta["pubchem_cid"].tolist() == [102, 102]
    assert beta["control"].unique().tolist() == ["DMSO"]
    assert beta["sanitised"].tolist() == ["beta_1_0_5uM_24h", "beta_1_5uM_24h"]
    assert contrasts.loc[contrasts["perturbagen"] == "zeta", "pubchem_cid"].isna().all(), "no id is null, not a sentinel"
    assert contrasts["sample_id"].isna().all(), "the first replicate's id does not name a condition"
    assert not contrasts["is_padding"].any()
    assert published.batches == []


def test_the_stored_form_holds_the_published_numbers(
    write_whole: Callable[..., Path], whole: ad.AnnData, samples: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects_module, "BYTES_A_BLOCK", 8 * whole.n_vars * 2)
    release.write_samples(tmp_path / "s.h5ad", samples)
    with opened(write_whole()) as published, open_published_samples(tmp_path / "s.h5ad", "sciplex") as given:
        table = published.to_table(given.obs)
        write_effects(table, tmp_path / "stored", STAMP, tile=(5, 40))
        np.testing.assert_array_equal(table.layers["B"], whole.layers["B"])
    stored = open_effects(tmp_path / "stored")
    dense = stored.dense(STORED_LAYERS)
    for ours, theirs in {"logFC": "logFC", "t": "t"}.items():
        np.testing.assert_array_equal(dense[ours], whole.layers[theirs].astype(np.float32))
    np.testing.assert_allclose(dense["log10_p"], np.log10(whole.layers["P.Value"]), atol=1e-5)
    np.testing.assert_allclose(10.0 ** dense["log10_adj_p_across"], whole.layers["adj.P.Value.across_all_contrasts"], rtol=1e-5)
    contrasts, genes = stored.contrasts, stored.genes
    assert set(CONTRASTS.names) <= set(contrasts)
    assert contrasts["n_treated"].eq(4).all()
    assert contrasts["n_controls"].eq(12).all()
    assert contrasts.loc[contrasts["perturbagen"] == "alpha", "plates"].unique().tolist() == ["A; B"]
    assert contrasts["n_significant"].sum() == (whole.layers["adj.P.Value.within_one_contrast"] < 0.05).sum()
    np.testing.assert_allclose(genes["s2_post"], (whole.layers["stdev.scaled"][0] / whole.layers["stdev.unscaled"][0]) ** 2, rtol=1e-9)
    upper = dense["logFC"] + genes["t_975"].to_numpy() * whole.layers["stdev.scaled"]
    np.testing.assert_allclose(upper, whole.layers["CI.R"], atol=1e-5)


def _one_underscore_a_character(label: str) -> str:
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter == "_") else "_" for letter in label)


def _one_underscore_a_byte(label: str) -> str:
    return "".join(chr(byte) if chr(byte).isascii() and (chr(byte).isalnum() or byte == ord("_")) else "_" for byte in label.encode())


@pytest.mark.parametrize("clean", [release.clean, _one_underscore_a_character, _one_underscore_a_byte])
def test_samples_are_found_in_whatever_locale_r_named_the_conditions(
    samples: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: Callable[[str], str]
) -> None:
    greek = samples.copy()
    greek.obs["perturbagen"] = greek.obs["perturbagen"].replace({"gamma": "γ-Oryzanol", "delta": "18β-Glycyrrhetinic acid"})
    monkeypatch.setattr(release, "clean", clean)
    effects = release.published_effects(release.fit_as_published(greek), greek, greek.var, cells=False)
    assert any(name.startswith(f"{clean('γ-Oryzanol')}_5uM_24h") for name in effects.obs_names)
    path = release.write_effects_file(tmp_path / "CVCL_0023_de.h5ad", effects)
    release.write_samples(tmp_path / "s.h5ad", greek)
    with opened(path) as published, open_published_samples(tmp_path / "s.h5ad", "sciplex") as given:
        contrasts = published.to_table(given.obs).contrasts
        other = given.obs[given.obs["perturbagen"] != "γ-Oryzanol"]
        with pytest.raises(InputError, match=r"Oryzanol_5uM.*do not have the condition, or the controls, of 2 contrasts"):
            published.to_table(other)
        with pytest.raises(InputError, match=r"do not have the condition, or the controls, of 12 contrasts"):
            published.to_table(given.obs[:0])
    assert contrasts["n_treated"].eq(4).all()
    assert contrasts["n_controls"].eq(12).all()
    assert contrasts.loc[contrasts["perturbagen"] == "γ-Oryzanol", "plates"].unique().tolist() == ["B; C"]


def test_what_the_files_do_not_say_is_not_made_up(write_whole: Callable[..., Path], samples: ad.AnnData) -> None:
    with opened(write_whole()) as published:
        assert published.contrasts["n_treated"].isna().all()
        assert published.to_table().genes["sigma"].isna().all()
        other = release.published_obs(samples, cells=False).assign(perturbation_label="someone_else", psbulk_cells=np.nan)
        with pytest.raises(InputError, match=r"do not have the condition, or the controls, of 12 contrasts"):
            published.to_table(other)


def test_batches_and_padding_are_recognised_in_one_file_and_in_several(in_batches: dict[str, ad.AnnData], tmp_path: Path) -> None:
    one = release.write_effects_file(tmp_path / "CVCL_0023_de.h5ad", release.aggregated(in_batches))
    several = [release.write_effects_file(tmp_path / f"CVCL_0023_processed_{name}_de.h5ad", batch) for name, batch in in_batches.items()]
    for files in ([one], several):
        with opened(*files) as published:
            assert published.batches == ["batch_1", "batch_2"]
            padding = published.contrasts[published.contrasts["is_padding"]]
            assert padding["perturbagen"].tolist() == ["alpha", "alpha"]
            assert padding["processing_batch"].unique().tolist() == ["batch_2"]
            assert published.contrasts["name"].is_unique
            assert set(published.genes["ensembl_id"]) == {gene for batch in in_batches.values() for gene in batch.var_names}
            table = published.to_table()
            assert table.genes["AveExpr"].isna().all(), "batches do not agree on it"
            wide = table.layers["logFC"]
        rows = np.flatnonzero(published.contrasts["processing_batch"] == "batch_2")
        places = published.genes.set_index("ensembl_id").index.get_indexer(in_batches["batch_2"].var_names)
        np.testing.assert_array_equal(wide[np.ix_(rows, places)], in_batches["batch_2"].layers["logFC"])


def test_l1000_names_come_from_their_own_column(whole: ad.AnnData, tmp_path: Path) -> None:
    effects = whole.copy()
    effects.obs["perturbagen_name"] = effects.obs["perturbagen"]
    effects.obs["perturbagen"] = effects.obs["pubchem_cid"].astype(str).astype("category")
    with opened(release.write_effects_file(tmp_path / "CVCL_0023_de.h5ad", effects)) as published:
        assert "beta-1" in published.contrasts["perturbagen"].tolist()


def _drop_layer(effects: ad.AnnData) -> None:
    del effects.layers["t"]


def _drop_column(effects: ad.AnnData) -> None:
    del effects.obs["pert_dose_uM"]


def _other_context(effects: ad.AnnData) -> None:
    effects.obs["cell_type"] = "CVCL_0004"


def _two_contexts(effects: ad.AnnData) -> None:
    effects.obs["cell_type"] = ["CVCL_0023"] * (effects.n_obs - 1) + ["CVCL_0004"]


def _unnamed(effects: ad.AnnData) -> None:
    effects.obs["perturbagen"] = ["nan", *effects.obs["perturbagen"].astype(str)[1:]]


def _twice(effects: ad.AnnData) -> None:
    effects.var_names = [effects.var_names[1], *effects.var_names[1:]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop_column, r"column pert_dose_uM: obs lacks columns of the published layout"),
        (_other_context, r"holds cell context CVCL_0004, but is taken for stratum CVCL_0023"),
        (_two_contexts, r"2 cell contexts in one stratum"),
        (_unnamed, r"a contrast has no perturbagen"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(write_whole: Callable[..., Path], change: Callable[[ad.AnnData], None], said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        opened(write_whole(change))
    assert "CVCL_0023_de.h5ad" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file["layers"].pop("t"), r"lacks the layer t; it has AveExpr, B"),
        (lambda file: file.pop("layers"), r"lacks the layers logFC, stdev.unscaled"),
        (lambda file: file.pop("var"), r"has no var"),
        (lambda file: file["var"].pop("symbol"), r"obs or var cannot be decoded"),
        (lambda file: _reshape(file), r"layer t has shape \(12, 3\) and type float64. Expected: floating point of shape \(12, \d+\)"),
        (lambda file: _sparse(file), r"layer B is not dense"),
        (lambda file: _repeat_gene(file), r"genes are not unique"),
    ],
)
def test_a_malformed_file_is_refused_by_name(write_whole: Callable[..., Path], change: Callable[[h5py.File], object], said: str) -> None:
    path = write_whole()
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=said):
        opened(path)


def _reshape(file: h5py.File) -> None:
    file["layers"].pop("t")
    file["layers"]["t"] = np.zeros((12, 3))


def _sparse(file: h5py.File) -> None:
    file["layers"].pop("B")
    file["layers"].create_group("B")


def _repeat_gene(file: h5py.File) -> None:
    index = file["var"][file["var"].attrs["_index"]]
    index[0] = index[1]


def test_a_file_that_is_cut_short_or_absent_says_so(write_whole: Callable[..., Path]) -> None:
    path = write_whole()
    path.write_bytes(path.read_bytes()[:2_000])
    with pytest.raises(InputError, match="cannot be read as HDF5, so it is no h5ad file or not whole"):
        opened(path)
    path.unlink()
    with pytest.raises(InputError, match="the published file does not exist"):
        opened(path)
    with pytest.raises(InputError, match="there is no published file of stratum CVCL_0023"):
        opened()


def test_p_values_that_underflowed_stay_finite(write_whole: Callable[..., Path]) -> None:
    def underflow(effects: ad.AnnData) -> None:
        effects.layers["P.Value"][0, 0] = 0.0

    with opened(write_whole(underflow)) as published:
        least = published.to_table().log10_layers["log10_p"][0, 0]
    assert least == pytest.approx(-323.3, abs=0.1)


def test_members_are_what_the_batches_have(in_batches: dict[str, ad.AnnData]) -> None:
    assert [batch.obs["perturbagen"].nunique() for batch in in_batches.values()] == [len(names) for names in MEMBERS]
