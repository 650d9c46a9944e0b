from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbridge_dagster.effects import batches, estimate_effects, open_effects, write_effects
from perturbridge_dagster.effects.batches import Batch, published_batches
from perturbridge_dagster.effects.storage import LAYERS
from perturbridge_dagster.errors import InputError
from perturbridge_dagster.written import Stamp

TARGET, LIMIT = 2_500, 2_700


def _stratum(sizes: list[int], n_controls: int = 5, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Perturbagens p0, p1, … of so many treated samples, and controls; mixed with a seed, then p0 need not appear first."""
    perturbagen = np.array(["DMSO"] * n_controls + [f"p{i}" for i, size in enumerate(sizes) for _ in range(size)], dtype=object)
    if seed is not None:
        perturbagen = np.random.default_rng(seed).permutation(perturbagen)
    return perturbagen, perturbagen == "DMSO"


def _members(batch: Batch, perturbagen: np.ndarray, is_control: np.ndarray) -> set[str]:
    """Perturbagens assigned to a batch, without its padding."""
    rows = batch.rows[~is_control[batch.rows]]
    return set(perturbagen[rows]) - set(batch.padding)


def _n_treated(batches: list[Batch], is_control: np.ndarray) -> list[int]:
    return [int((~is_control[batch.rows]).sum()) for batch in batches]


# many small perturbagens and a few that no batch, or hardly one, can take
_SIZES = st.lists(st.one_of(st.integers(1, 60), st.integers(100, 900), st.integers(1_500, 3_000)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(sizes=_SIZES, seed=st.integers(0, 99), n_controls=st.integers(0, 9))
def test_batches_share_out_the_treated_samples(sizes: list[int], seed: int, n_controls: int) -> None:
    perturbagen, is_control = _stratum(sizes, n_controls, seed)
    batches = published_batches(perturbagen, is_control)
    assigned = [_members(batch, perturbagen, is_control) for batch in batches]
    # without padding, perturbagens are dealt out once each, and so are the treated samples
    assert sorted(name for names in assigned for name in names) == sorted(f"p{i}" for i in range(len(sizes)))
    for batch, names, n_treated in zip(batches, assigned, _n_treated(batches, is_control), strict=True):
        assert names
        assert not names & set(batch.padding)
        assert len(set(batch.padding)) == len(batch.padding)
        whole = is_control | np.isin(perturbagen, [*names, *batch.padding])
        assert batch.rows.dtype == np.intp
        assert batch.rows.tolist() == np.flatnonzero(whole).tolist()
        own = sum(sizes[int(name[1:])] for name in names)
        assert len(batches) == 1 or n_treated <= LIMIT or len(names) == 1
        assert not batch.padding or (own < TARGET and n_treated <= LIMIT)
        # a batch stays below the target only where no perturbagen is left that it could take
        left = [size for i, size in enumerate(sizes) if f"p{i}" not in names | set(batch.padding)]
        assert len(batches) == 1 or n_treated >= TARGET or all(n_treated + size > LIMIT for size in left)


@settings(max_examples=30, deadline=None)
@given(sizes=_SIZES, seed=st.integers(0, 99))
def test_only_the_order_of_first_appearance_matters(sizes: list[int], seed: int) -> None:
    perturbagen, is_control = _stratum(sizes, seed=seed)
    before = published_batches(perturbagen, is_control)
    # the first sample of each perturbagen stays in its order, everything else goes anywhere behind; controls go to the end
    treated = perturbagen[~is_control]
    first = ~pd.Series(treated).duplicated().to_numpy()
    behind = np.random.default_rng(seed + 1).permutation(treated[~first])
    moved = np.array([*treated[first], *behind, *["DMSO"] * int(is_control.sum())], dtype=object)
    after = published_batches(moved, moved == "DMSO")
    assert [batch.padding for batch in after] == [batch.padding for batch in before]
    assert [_members(batch, moved, moved == "DMSO") for batch in after] == [_members(batch, perturbagen, is_control) for batch in before]


def test_assignment_and_padding_follow_the_rules_by_hand() -> None:
    # the legacy generator of seed 0 puts six in the order 5 2 1 3 0 4, and four in the order 2 3 1 0
    perturbagen, is_control = _stratum([600, 300, 900, 150, 100, 2_000])
    batches = published_batches(pd.Series(perturbagen), is_control)
    # p5 opens (2000); p2 would make 2900, opens the second (900); p1, p3 are best in the first (2300, 2450); p0 would make 3050 there,
    # so the second (1500); p4 is best in the first (2550), which closes it
    assert [_members(batch, perturbagen, is_control) for batch in batches] == [{"p5", "p1", "p3", "p4"}, {"p2", "p0"}]
    # the second draws from p1 p3 p4 p5 in the order p4, p5 (too large), p3, p1, and stays below the target
    assert [batch.padding for batch in batches] == [(), ("p4", "p3", "p1")]
    assert _n_treated(batches, is_control) == [2_550, 2_050]


def test_the_nearest_batch_is_taken_not_the_first_or_fullest() -> None:
    # order 2 3 1 0: p2 (2450) and p3 (2350) open; p1 makes 2600 or 2500; p0 makes just 2700 in the first, and nothing is left to pad
    perturbagen, is_control = _stratum([250, 150, 2_450, 2_350])
    batches = published_batches(perturbagen, is_control)
    assert [_members(batch, perturbagen, is_control) for batch in batches] == [{"p2", "p0"}, {"p3", "p1"}]
    assert [batch.padding for batch in batches] == [(), ()]


def test_the_first_of_equally_good_batches_is_taken_and_padding_stops_at_the_target() -> None:
    # order 2 3 1 0: p2 (2400) and p3 (2200) open; p1 (200) makes 2600 or 2400, equally far; p0 then goes to the second (2230)
    perturbagen, is_control = _stratum([30, 200, 2_400, 2_200])
    batches = published_batches(perturbagen, is_control)
    assert [_members(batch, perturbagen, is_control) for batch in batches] == [{"p2", "p1"}, {"p3", "p0"}]
    assert [batch.padding for batch in batches] == [(), ("p1",)]
    # order 2 0 1 3 4: p2, p0 and p1 fill the first (2510), p3 and p4 the second (1260); of p0 p1 p2, in the order 2 1 0, p2 is drawn
    # (2560), and p1, which would do too, is not
    perturbagen, is_control = _stratum([1_150, 60, 1_300, 1_250, 10])
    batches = published_batches(perturbagen, is_control)
    assert [_members(batch, perturbagen, is_control) for batch in batches] == [{"p2", "p0", "p1"}, {"p3", "p4"}]
    assert [batch.padding for batch in batches] == [(), ("p2",)]


@pytest.mark.parametrize(("largest", "padding"), [(1_400, ("p2",)), (1_401, ("p1",))])
def test_a_batch_may_have_2700_treated_samples_and_no_more(largest: int, padding: tuple[str, ...]) -> None:
    # order 2 1 0: p2 and p1 make the first, p0 the second (1300), which draws p2, then p1
    perturbagen, is_control = _stratum([1_300, 1_200, largest])
    batches = published_batches(perturbagen, is_control)
    assert [_members(batch, perturbagen, is_control) for batch in batches] == [{"p2", "p1"}, {"p0"}]
    assert [batch.padding for batch in batches] == [(), padding]


@pytest.mark.parametrize(
    ("sizes", "n_batches"),
    [([1_250, 1_250], 1), ([1_250, 1_251], 1), ([4_000], 1), ([], 1), ([2_600, 2_600], 2), ([2_000, 2_000], 2), ([5_000, 1], 2)],
)
def test_what_is_one_batch(sizes: list[int], n_batches: int) -> None:
    perturbagen, is_control = _stratum(sizes)
    batches = published_batches(perturbagen, is_control)
    assert len(batches) == n_batches
    assert n_batches > 1 or batches[0].rows.tolist() == list(range(len(perturbagen)))


def test_the_global_generator_is_neither_used_nor_moved() -> None:
    perturbagen, is_control = _stratum([7] * 800, seed=1)
    np.random.seed(3)  # noqa: NPY002 - it is the global generator that is under test
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = published_batches(perturbagen, is_control)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    np.random.seed(4)  # noqa: NPY002
    again = published_batches(perturbagen, is_control)
    assert [batch.rows.tolist() for batch in again] == [batch.rows.tolist() for batch in first]


def test_a_treated_sample_without_perturbagen_is_refused() -> None:
    with pytest.raises(InputError, match="rows 2: a treated sample has no perturbagen"):
        published_batches(np.array(["DMSO", "x", None], dtype=object), np.array([True, False, False]))


# what the logs of the release say: treated samples, treated perturbagens, batches, smallest and largest batch, treated samples written
_PUBLISHED = [
    pytest.param(52_700, 4_341, 22, 2_506, 2_508, 55_172, id="novartis"),
    pytest.param(26_969, 2_277, 11, 2_500, 2_510, 27_552, id="vcpi_0001"),
    pytest.param(17_791, 1_493, 8, 2_500, 2_510, 20_040, id="vcpi_0002"),
    pytest.param(10_548, 1_836, 5, 2_502, 2_505, 12_516, id="cigs_tcm CVCL_0062"),
    pytest.param(10_564, 1_846, 5, 2_500, 2_505, 12_510, id="cigs_tcm CVCL_0063"),
    pytest.param(3_082, 251, 2, 2_501, 2_501, 5_002, id="dilimap_train"),
    pytest.param(3_691, 301, 2, 2_500, 2_500, 5_000, id="dilimap_train_val"),
]


@pytest.mark.parametrize(("n_treated", "n_perturbagens", "n_batches", "smallest", "largest", "written"), _PUBLISHED)
def test_strata_as_large_as_the_published_give_as_many_batches_as_large(
    n_treated: int, n_perturbagens: int, n_batches: int, smallest: int, largest: int, written: int
) -> None:
    # replicates of each perturbagen are not published: the mean number, and one more for some
    replicates = np.full(n_perturbagens, n_treated // n_perturbagens)
    replicates[np.random.default_rng(0).choice(n_perturbagens, n_treated % n_perturbagens, replace=False)] += 1
    perturbagen, is_control = _stratum(replicates.tolist(), n_controls=300, seed=1)
    batches = published_batches(perturbagen, is_control)
    sizes = _n_treated(batches, is_control)
    assert len(batches) == n_batches
    assert [bool(batch.padding) for batch in batches] == [False] * (n_batches - 1) + [True]
    excess = int(replicates.max()) - 1  # a batch is closed by its last perturbagen
    assert all(TARGET <= size <= TARGET + excess for size in sizes)
    assert all(smallest - excess <= size <= largest + excess for size in sizes)
    assert sum(sizes) == pytest.approx(written, abs=excess * n_batches)


@pytest.mark.slow
@pytest.mark.parametrize("normalized", [False, True])
def test_a_stratum_in_published_batches_is_the_fits_of_its_batches(
    normalized: bool, simulate: Callable[..., ad.AnnData], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(batches, "_TARGET", 12)
    monkeypatch.setattr(batches, "_LIMIT", 13)
    compounds = [f"c{i}" for i in range(11)]
    wells = [("DMSO", 0.0, 24.0, plate, 4) for plate in "AB"] + [(name, 1.0, 24.0, plate, 2) for name in compounds for plate in "AB"]
    samples = simulate(wells, normalized=normalized)
    if normalized:  # two names of one PubChem id are one perturbagen in the published labels
        samples.obs["pubchem_cid"] = samples.obs["pubchem_cid"].where(
            samples.obs["perturbagen"] != "c1", samples.obs["pubchem_cid"].iloc[8]
        )
    joined = estimate_effects(samples, fit="published_batches", normalized=normalized)
    key = samples.obs["pubchem_cid"].astype(str) if normalized else samples.obs["perturbagen"]
    parts = published_batches(key.to_numpy(), samples.obs["is_control"].to_numpy())
    assert len(parts) > 2
    assert joined.info["padding"]["batch_1"] == ()
    assert joined.info["padding"][f"batch_{len(parts)}"]
    for number, part in enumerate(parts, 1):
        alone = estimate_effects(samples[part.rows].copy(), normalized=normalized)
        rows = (joined.contrasts["processing_batch"] == f"batch_{number}").to_numpy()
        assert joined.contrasts.loc[rows, "perturbagen"].tolist() == alone.contrasts["perturbagen"].tolist()
        columns = pd.Index(joined.genes["ensembl_id"]).get_indexer(alone.genes["ensembl_id"])
        for name, layer in joined.layers.items():
            np.testing.assert_array_equal(layer[rows][:, columns], alone.layers[name], err_msg=name)
            assert np.isnan(np.delete(layer[rows], columns, axis=1)).all()
    assert joined.genes["sigma"].isna().all()
    assert joined.contrasts["name"].is_unique
    # streamed, with tiles across the borders of batches, as in memory
    write_effects(joined, tmp_path, Stamp("condition_effects", "1", "0" * 64, ("simulated",), "open"), tile=(5, 50))
    stored = open_effects(tmp_path)
    for name, values in stored.dense(LAYERS).items():
        wide = {**joined.layers, **joined.log10_layers}[name]
        np.testing.assert_array_equal(values, wide.astype(np.float32), err_msg=name)
    assert stored.contrasts["n_significant"].tolist() == joined.to_anndata().obs["n_significant"].tolist()
    assert stored.contrasts["processing_batch"].tolist() == joined.contrasts["processing_batch"].tolist()
