from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perturbridge_dagster.contract import CONTRASTS, EFFECTS_PROFILE
from perturbridge_dagster.effects import EffectTable, StoredEffects, open_effects, storage, write_effects
from perturbridge_dagster.effects.storage import LAYERS
from perturbridge_dagster.errors import IncompatibleFileError, InputError
from perturbridge_dagster.written import Stamp, to_arrow

MakeTable = Callable[[int, int], EffectTable]


@pytest.fixture(scope="module")
def table(make_table: MakeTable) -> EffectTable:
    return make_table(13, 17)


@pytest.fixture(scope="module")
def stored(table: EffectTable, stamp: Stamp, tmp_path_factory: pytest.TempPathFactory) -> StoredEffects:
    """13 contrasts × 17 genes in tiles of 4 × 5, so that the last tiles are smaller."""
    folder = tmp_path_factory.mktemp("effects") / "CVCL_0001"
    write_effects(table, folder, stamp, tile=(4, 5))
    return open_effects(folder)


def _wide(table: EffectTable, layer: str) -> np.ndarray:
    return {**table.layers, **table.log10_layers}[layer].astype(np.float32)


def test_everything_comes_back(table: EffectTable, stored: StoredEffects, stamp: Stamp) -> None:
    blocks = stored.dense(LAYERS)
    assert list(blocks) == list(LAYERS)
    for name, block in blocks.items():
        assert block.dtype == np.float32
        np.testing.assert_array_equal(block, _wide(table, name), err_msg=name)
    assert stored.stamp == stamp
    assert stored.info == table.info
    pd.testing.assert_frame_equal(stored.genes, table.genes, check_dtype=False)
    contrasts = table.to_anndata().obs.reset_index(drop=True)
    assert contrasts["n_significant"].sum() > 0
    as_read = to_arrow(contrasts, CONTRASTS).to_pandas()
    pd.testing.assert_frame_equal(stored.contrasts, as_read, check_dtype=False)
    pd.testing.assert_frame_equal(stored.gene_filter, table.filtered_genes, check_dtype=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contrasts=st.none() | st.lists(st.integers(0, 12), max_size=15),
    genes=st.none() | st.lists(st.integers(0, 16), max_size=20),
    layers=st.lists(st.sampled_from(LAYERS), unique=True),
)
def test_any_block_comes_back_in_the_order_asked(
    table: EffectTable, stored: StoredEffects, contrasts: list[int] | None, genes: list[int] | None, layers: list[str]
) -> None:
    rows = np.arange(13) if contrasts is None else np.array(contrasts, dtype=int)
    columns = np.arange(17) if genes is None else np.array(genes, dtype=int)
    blocks = stored.dense(layers, None if contrasts is None else rows, None if genes is None else columns)
    assert list(blocks) == layers
    for name, block in blocks.items():
        np.testing.assert_array_equal(block, _wide(table, name)[np.ix_(rows, columns)])


def test_only_the_tiles_that_are_touched_are_read(stored: StoredEffects, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, list[str]]] = []
    original = pq.ParquetFile.read_row_group

    def noting(self: pq.ParquetFile, i: int, columns: list[str]) -> object:
        read.append((i, columns))
        return original(self, i, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noting)
    stored.dense(["t"], contrasts=np.array([5]))
    assert read == [(4, ["t"]), (5, ["t"]), (6, ["t"]), (7, ["t"])]
    read.clear()
    stored.dense(["logFC", "t"], contrasts=np.array([12]), genes=np.array([0, 4]))
    assert read == [(12, ["logFC", "t"])]


def test_the_file_is_one_row_group_a_tile_and_readable_by_anyone(table: EffectTable, stored: StoredEffects) -> None:
    file = pq.ParquetFile(stored.folder / "effects.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [*[20, 20, 20, 8] * 3, 5, 5, 5, 2]
    frame = file.read().to_pandas()
    wide = frame.pivot_table(index="contrast", columns="gene", values="logFC", dropna=False)
    np.testing.assert_array_equal(wide.to_numpy(), _wide(table, "logFC"))
    assert frame.loc[frame["contrast"] == 12, "t"].isna().all()
    assert pq.read_table(stored.folder / "effects.parquet")["t"].null_count == 17


def test_profile_summarises_what_is_stored(table: EffectTable, stored: StoredEffects) -> None:
    profile = stored.profile.set_index("layer")
    assert ["layer", *profile.columns] == EFFECTS_PROFILE.names
    for name in LAYERS:
        values = _wide(table, name)
        row = profile.loc[name]
        assert (row["count"], row["nulls"], row["infinite"]) == (values.size, 17, 0)
        np.testing.assert_allclose(row[["minimum", "q50", "maximum"]].astype(float), np.nanquantile(values.astype(float), [0, 0.5, 1]))


def test_profile_of_a_large_table_keeps_counts_and_extremes_exact(
    table: EffectTable, stamp: Stamp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_SAMPLED_VALUES", 5 * 17)
    write_effects(table, tmp_path, stamp, tile=(4, 5))
    row = open_effects(tmp_path).profile.set_index("layer").loc["t"]
    values = _wide(table, "t").astype(float)
    assert (row["count"], row["nulls"]) == (values.size, 17)
    assert (row["minimum"], row["maximum"]) == (np.nanmin(values), np.nanmax(values))
    np.testing.assert_allclose(row["q25"], np.nanquantile(values[[0, 3, 6, 9, 12]], 0.25))


def test_profile_counts_infinite_values_and_needs_none(make_table: MakeTable, stamp: Stamp, tmp_path: Path) -> None:
    table = make_table(3, 4)
    t = table.layers["t"].copy()
    t[0, :2] = [np.inf, -np.inf]
    nothing = {name: np.full((3, 4), np.nan) for name in table.log10_layers}
    made = EffectTable.from_layers(table.contrasts, table.genes, {**table.layers, "t": t}, nothing, {})
    write_effects(made, tmp_path, stamp)
    profile = open_effects(tmp_path).profile.set_index("layer")
    assert profile.loc["t", ["nulls", "infinite"]].tolist() == [4, 2]
    assert profile.loc["t", "maximum"] == np.nanmax(t[:2].astype(np.float32), where=np.isfinite(t[:2]), initial=-9)
    assert profile.loc["log10_p", ["minimum", "q50", "maximum"]].isna().all()


def test_what_is_written_does_not_depend_on_memory_or_the_day(make_table: MakeTable, stamp: Stamp, tmp_path: Path) -> None:
    table = make_table(40, 33)
    for name, memory in (("first", 2**30), ("second", 2**30), ("little", 5_000)):
        write_effects(table, tmp_path / name, stamp, tile=(7, 6), memory=memory)
    for file in sorted(path.name for path in (tmp_path / "first").iterdir()):
        assert (tmp_path / "second" / file).read_bytes() == (tmp_path / "first" / file).read_bytes()
        assert (tmp_path / "little" / file).read_bytes() == (tmp_path / "first" / file).read_bytes()


def test_nothing_is_left_of_a_write_that_fails(table: EffectTable, stamp: Stamp, tmp_path: Path) -> None:
    def failing(genes: slice) -> tuple[np.ndarray, np.ndarray]:
        if genes.start:
            raise ValueError("the fit fails")
        return table.fit.effects(genes)

    broken = dataclasses.replace(table, fit=dataclasses.replace(table.fit, effects=failing))
    with pytest.raises(ValueError, match="the fit fails"):
        write_effects(broken, tmp_path, stamp, tile=(4, 5), memory=1)
    assert list(tmp_path.iterdir()) == []


def test_files_without_the_gene_filter_are_those_of_contract_1_0(table: EffectTable, stamp: Stamp, tmp_path: Path) -> None:
    write_effects(table, tmp_path, stamp)
    (tmp_path / "gene_filter.parquet").unlink()
    with pytest.raises(InputError, match=r"gene_filter\.parquet"):
        open_effects(tmp_path)
    assert open_effects(Path(__file__).parents[1] / "fixtures" / "contract-1.0" / "effects").gene_filter is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (9, 1), (4, 5), (8, 10)])
def test_odd_shapes_come_back(make_table: MakeTable, stamp: Stamp, tmp_path: Path, shape: tuple[int, int]) -> None:
    made = make_table(*shape)
    write_effects(made, tmp_path, stamp, tile=(4, 5))
    np.testing.assert_array_equal(open_effects(tmp_path).dense(["t"])["t"], _wide(made, "t"))


def test_replicate_effects_are_effects_too(table: EffectTable, stamp: Stamp, tmp_path: Path) -> None:
    write_effects(table, tmp_path, dataclasses.replace(stamp, stage="replicate_effects"))
    assert open_effects(tmp_path).stamp.stage == "replicate_effects"


def test_other_stages_and_contracts_are_refused(table: EffectTable, stamp: Stamp, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleFileError, match="expected a file of condition_effects or replicate_effects"):
        write_effects(table, tmp_path / "a", dataclasses.replace(stamp, stage="harmonized_samples"))
    write_effects(table, tmp_path / "b", stamp)
    file = tmp_path / "b" / "effects.parquet"
    content = pq.read_table(file)
    old = dataclasses.replace(stamp, contract_version="0.9").to_json()
    pq.write_table(content.replace_schema_metadata({**content.schema.metadata, b"perturbridge": old.encode()}), file)
    with pytest.raises(IncompatibleFileError, match=r"contract 0\.9"):
        open_effects(tmp_path / "b")


def test_a_folder_that_is_a_mixture_is_refused(table: EffectTable, stamp: Stamp, tmp_path: Path) -> None:
    write_effects(table, tmp_path / "a", stamp)
    write_effects(table, tmp_path / "b", dataclasses.replace(stamp, data_version="1" * 64))
    (tmp_path / "b" / "genes.parquet").replace(tmp_path / "a" / "genes.parquet")
    with pytest.raises(IncompatibleFileError, match="genes was not written together"):
        open_effects(tmp_path / "a")


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no complete effects"):
        open_effects(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["P.Value"]}, "no stored layer P.Value"),
        ({"layers": ["t"], "contrasts": np.array([13])}, "outside"),
        ({"layers": ["t"], "genes": np.array([-1])}, "outside"),
        ({"layers": ["t"], "genes": np.ones(17, dtype=bool)}, "by position, not by mask"),
    ],
)
def test_impossible_blocks_are_refused(stored: StoredEffects, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stored.dense(**arguments)


def test_the_record_is_strict_json(stored: StoredEffects) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads((stored.folder / "info.json").read_text(), parse_constant=refuse)["info"] == stored.info
