"""The corpus: what enters it, what does not, and that its files say so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from perturbridge_dagster.contract import CONTRASTS, CORPUS, CORPUS_CONDITIONS, CORPUS_GENES, GENES
from perturbridge_dagster.contract.representation import FURTHER_SPLITS
from perturbridge_dagster.effects.storage import LAYERS, open_effects, write_effects
from perturbridge_dagster.effects.table import EffectTable
from perturbridge_dagster.errors import IncompatibleFileError, InputError
from perturbridge_dagster.representation import contrasts as contrasts_module
from perturbridge_dagster.representation import shards as shards_module
from perturbridge_dagster.representation.compounds import SAMPLE_COLUMNS
from perturbridge_dagster.representation.corpora import CorpusDefinition
from perturbridge_dagster.representation.corpus import StoredCorpus, open_corpus, write_corpus
from perturbridge_dagster.representation.splits import SPLIT_RULES, SPLITS, overlaps, split_conditions, violations
from perturbridge_dagster.written import Stamp, read_parquet, read_stamp, write_parquet

pytestmark = pytest.mark.slow

KEY = ["dataset", "context", "perturbation", "log_dose", "time", "readout"]


def all_values(corpus: StoredCorpus) -> pd.DataFrame:
    frames = [
        shard.astype({name: object for name in shard.columns if shard[name].dtype == "category"})
        for split in SPLITS
        for shard in corpus.iterate_shards(split)
    ]
    return pd.concat(frames).sort_values(KEY, ignore_index=True)


def expected_values(strata: list) -> pd.DataFrame:
    """The long table, built the slow way from every stratum."""
    parts = []
    for stratum in strata:
        frame = stratum.contrasts.loc[np.repeat(np.arange(len(stratum.contrasts)), len(stratum.genes))].reset_index(drop=True)
        frame["readout"] = np.tile(stratum.genes["ensembl_id"], len(stratum.contrasts))
        frame["value"] = stratum.logFC.ravel()
        parts.append(frame)
    long = pd.concat(parts)
    long = long[long["estimable"] & long["pubchem_cid"].notna() & (long["pert_dose_uM"] > 0) & long["value"].notna()]
    long = long.rename(columns={"cell_type": "context"}).assign(
        perturbation=long["pubchem_cid"].astype(str),
        log_dose=np.log10(long["pert_dose_uM"]).astype(np.float32),
        time=long["pert_time_h"].astype(np.float32),
        value=long["value"].astype(np.float32).astype(float),
    )
    return long.groupby(KEY, as_index=False)["value"].mean().sort_values(KEY, ignore_index=True)


def test_every_value_is_in_the_corpus_once(additive_strata: list, additive_corpus: StoredCorpus) -> None:
    found = all_values(additive_corpus)
    assert list(found.columns) == CORPUS.names
    pd.testing.assert_frame_equal(found[[*KEY, "value"]], expected_values(additive_strata), check_dtype=False, rtol=1e-6)
    assert not found.duplicated(KEY).any()
    n_by_split = found["split"].value_counts().to_dict()
    assert n_by_split == additive_corpus.summary["n_values"] == additive_corpus.shards.groupby("split")["n_values"].sum().to_dict()
    assert additive_corpus.conditions["n_values"].sum() == len(found)
    assert additive_corpus.readouts[[f"n_{split}" for split in SPLITS]].to_numpy().sum() == len(found)


def test_split_of_values_is_the_split_of_their_condition(additive_corpus: StoredCorpus) -> None:
    found = all_values(additive_corpus)
    of_condition = additive_corpus.conditions[[*KEY[:-1], "split"]]
    joined = found.merge(of_condition, on=KEY[:-1], how="left", suffixes=("", "_listed"), validate="many_to_one")
    assert (joined["split"] == joined["split_listed"]).all()
    assert violations(additive_corpus.conditions, SPLIT_RULES["scalar"].promises).empty
    assert additive_corpus.summary["splits"]["scalar"]["n_violations"] == 0


def test_what_cannot_enter_is_left_out_and_counted(make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> None:
    rows = [
        ("kept", 1, 1.0, 24.0),
        ("no id", None, 1.0, 24.0),
        ("dose zero", 2, 0.0, 24.0),
        ("not estimable", 3, 1.0, 24.0),
        ("all missing", 4, 1.0, 24.0),
        ("partly missing", 5, 1.0, 24.0),
        ("no id, not estimable", None, 1.0, 24.0),
        ("missing dose", 6, np.nan, 24.0),
    ]
    logFC = np.arange(24, dtype=float).reshape(8, 3)
    logFC[3] = logFC[4] = logFC[6] = np.nan
    logFC[5, 1] = np.nan
    strata = [make_effects("alpha", "CVCL_A", rows, logFC, estimable=[True, True, True, False, True, True, False, True])]
    summary = write_corpus(strata, tmp_path / "corpus", make_stamp(), name="odd")
    assert summary["left_out"] == {
        "contrasts_not_estimable": 2,
        "contrasts_without_pubchem_cid": 1,
        "contrasts_without_positive_dose": 2,
        "conditions_without_any_value": 1,
        "missing_values": 4,
    }
    opened = open_corpus(tmp_path / "corpus")
    assert opened.summary == summary
    assert opened.conditions[["perturbation", "perturbagen", "n_values"]].to_numpy().tolist() == [
        ["1", "kept", 3],
        ["5", "partly missing", 2],
    ]
    assert all_values(opened)["value"].tolist() == [0, 1, 2, 15, 17]


@pytest.mark.parametrize("genes_at_a_time", [2, 500])
def test_splits_keep_their_promise_though_a_contrast_has_no_value(
    make_effects: Callable, make_stamp: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, genes_at_a_time: int
) -> None:
    """Compound 11 was held out in alpha because beta trained it, and beta's only row of it had no value."""
    monkeypatch.setattr(contrasts_module, "GENES_AT_A_TIME", genes_at_a_time)
    monkeypatch.setattr(contrasts_module, "BLOCK_VALUES", 20)
    rows = [(f"drug {cid}", cid, 1.0, 24.0) for cid in range(1, 31)]
    held_out = None
    for name in ("whole", "with a hole"):
        beta = np.ones((30, 5))
        beta[3, :4] = np.nan  # its last gene is in the third tile of two
        if held_out is not None:
            beta[held_out - 1] = np.nan
        strata = [make_effects("alpha", "CVCL_A", rows, np.ones((30, 5))), make_effects("beta", "CVCL_B", rows, beta)]
        summary = write_corpus(strata, tmp_path / name, make_stamp(), name="holed")
        corpus = open_corpus(tmp_path / name)
        assert summary["splits"]["scalar"]["n_violations"] == 0
        assert violations(corpus.conditions, SPLIT_RULES["scalar"].promises).empty
        assert corpus.conditions["n_values"].gt(0).all()
        assert corpus.conditions["condition"].tolist() == list(range(len(corpus.conditions)))
        assert summary["left_out"]["conditions_without_any_value"] == (held_out is not None)
        assert summary["left_out"]["missing_values"] == 4 + 5 * (held_out is not None)
        assert len(all_values(corpus)) == 300 - summary["left_out"]["missing_values"]
        of_alpha = corpus.conditions[(corpus.conditions["dataset"] == "alpha") & (corpus.conditions["split"] != "train")]
        held_out = held_out or int(of_alpha["perturbation"].iloc[0])


def test_repeated_conditions_are_averaged_gene_by_gene(make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> None:
    # two names of one PubChem id in one stratum, and the same condition in another stratum of the context with other genes
    first = make_effects(
        "alpha",
        "CVCL_A",
        [("zeta", 1, 1.0, 24.0), ("other", 2, 1.0, 24.0), ("eta", 1, 1.0, 24.0)],
        np.array([[1.0, 2.0], [5.0, 6.0], [3.0, np.nan]]),
        genes=["ENSG00000000001", "ENSG00000000002"],
        parent_key=[None, None, "AAAAAAAAAAAAAA"],
    )
    second = make_effects(
        "alpha",
        "CVCL_A",
        [("zeta", 1, 1.0, 24.0)],
        np.array([[8.0, 4.0]]),
        genes=["ENSG00000000002", "ENSG00000000003"],
        stratum="CVCL_A_2",
    )
    summary = write_corpus([second, first], tmp_path / "corpus", make_stamp(), name="repeated")
    assert summary["averaged"] == {"conditions": 1, "contrasts": 3}
    opened = open_corpus(tmp_path / "corpus")
    assert opened.conditions.iloc[0][["perturbation", "perturbagen", "parent_key", "n_contrasts", "n_values"]].tolist() == [
        "1",
        "eta",
        "AAAAAAAAAAAAAA",
        3,
        3,
    ]
    values = all_values(opened)
    assert values.loc[values["perturbation"] == "1", "value"].tolist() == [2.0, 5.0, 4.0]


def test_doses_that_float32_cannot_tell_apart_are_one_condition(make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> None:
    rows = [("a", 1, 5.0, 24.0), ("b", 1, 5.0 * (1 + 1e-12), 24.0), ("c", 1, 5.01, 24.0)]
    write_corpus([make_effects("alpha", "CVCL_A", rows, np.ones((3, 2)))], tmp_path / "corpus", make_stamp(), name="doses")
    assert open_corpus(tmp_path / "corpus").conditions["n_contrasts"].tolist() == [2, 1]


def test_small_blocks_and_shards_hold_the_same_values(
    additive_strata: list,
    additive_samples: pd.DataFrame,
    additive_corpus: StoredCorpus,
    make_stamp: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards_module, "SHARD_VALUES", 500)
    monkeypatch.setattr(contrasts_module, "BLOCK_VALUES", 700)
    write_corpus(additive_strata[::-1], tmp_path / "corpus", make_stamp(), name="additive", samples=additive_samples)
    small = open_corpus(tmp_path / "corpus")
    assert small.shards["n_values"].max() == 500 // 60 * 60
    assert len(small.shards) > len(additive_corpus.shards)
    pd.testing.assert_frame_equal(all_values(small), all_values(additive_corpus))
    pd.testing.assert_frame_equal(small.conditions, additive_corpus.conditions)


def test_corpus_of_written_effects_is_the_corpus_of_the_same_effects_in_memory(
    additive_strata: list, additive_corpus: StoredCorpus, make_stamp: Callable, tmp_path: Path
) -> None:
    for number, stratum in enumerate(additive_strata):
        contrasts = stratum.contrasts.assign(
            control="DMSO", plate=None, well=None, n_treated=2, n_controls=4, n_plates=1, n_significant=0, mean_abs_t=1.0
        )
        genes = stratum.genes.reindex(columns=GENES.names).assign(gene=stratum.genes["gene"], ensembl_id=stratum.genes["ensembl_id"])
        layers = dict.fromkeys(LAYERS, -np.ones_like(stratum.logFC)) | {"logFC": stratum.logFC}
        table = EffectTable.from_layers(contrasts.reindex(columns=CONTRASTS.names), genes, layers, {}, {})
        write_effects(table, tmp_path / str(number), stratum.stamp, tile=(17, 13))
    write_corpus(
        [open_effects(tmp_path / str(number)) for number in range(len(additive_strata))], tmp_path / "corpus", make_stamp(), name="stored"
    )
    pd.testing.assert_frame_equal(all_values(open_corpus(tmp_path / "corpus")), all_values(additive_corpus))


@pytest.mark.parametrize("rule", SPLIT_RULES)
def test_every_split_of_a_corpus_is_that_of_its_rule_and_keeps_its_promises(additive_corpus: StoredCorpus, rule: str) -> None:
    split = additive_corpus.split_of(rule)
    conditions = additive_corpus.conditions.drop(columns="split")
    known = conditions[conditions["model_system"].notna()] if rule == "model_systems" else conditions
    expected = split_conditions(known, rule)["split"].reindex(conditions.index)
    assert split.fillna("none").tolist() == expected.fillna("none").tolist()
    taking_part = conditions.assign(split=split).dropna(subset="split")
    assert set(taking_part["split"]) == set(SPLITS)
    assert violations(taking_part, SPLIT_RULES[rule].promises).empty
    told = additive_corpus.summary["splits"][rule]
    assert told["suits"]
    assert told["n_violations"] == 0
    assert told["n_conditions"] == {name: int((split == name).sum()) for name in SPLITS} | {"none": int(split.isna().sum())}
    assert told["n_conditions"]["none"] == (90 if rule == "model_systems" else 0), "nobody says what CVCL_F is"
    shown = pd.DataFrame(told["overlaps"])[["promise", "meaning", "is_promised", "split", "n_conditions", "n_seen", "share"]]
    pd.testing.assert_frame_equal(shown, overlaps(taking_part, SPLIT_RULES[rule].promises), check_dtype=False)
    assert (shown.loc[shown["is_promised"], "n_seen"] == 0).all()


def test_the_contract_has_a_column_for_every_rule() -> None:
    assert ("scalar", *FURTHER_SPLITS) == tuple(SPLIT_RULES)
    assert {f"split_{rule}" for rule in FURTHER_SPLITS} <= set(CORPUS_CONDITIONS.names)


def test_overlaps_are_of_the_conditions_whose_key_is_known(additive_corpus: StoredCorpus) -> None:
    conditions = additive_corpus.conditions
    told = pd.DataFrame(additive_corpus.summary["splits"]["scalar"]["overlaps"]).set_index(["promise", "split"])
    trained = conditions[conditions["split"] == "train"]
    for split in ("val", "test"):
        held_out = conditions[conditions["split"] == split]
        known = held_out[held_out["model_system"].notna()]
        assert told.loc[("model_system", split), "n_conditions"] == len(known) < len(held_out)
        assert told.loc[("model_system", split), "n_seen"] == known["model_system"].isin(trained["model_system"]).sum()
        assert told.loc[("assay", split), "n_conditions"] == len(held_out)


def test_what_the_molecule_split_moved_is_told(additive_corpus: StoredCorpus) -> None:
    assert additive_corpus.summary["splits"]["molecules"]["moves"][0]["rule"] == "ten_percent_shared_molecules"
    assert {row["dataset"] for row in additive_corpus.summary["splits"]["scalar"]["moves"]} == {"alpha", "beta", "gamma"}
    assert additive_corpus.summary["splits"]["contexts"]["moves"] == []


def test_rules_that_do_not_suit_have_no_split_and_a_reason(
    additive_strata: list, additive_samples: pd.DataFrame, make_stamp: Callable, tmp_path: Path
) -> None:
    beta = [stratum for stratum in additive_strata if stratum.contrasts["dataset"].iloc[0] == "beta"]
    samples = additive_samples.assign(model_system=None)
    write_corpus(beta, tmp_path / "corpus", make_stamp(), name="one", samples=samples[samples["dataset"] == "beta"])
    corpus = open_corpus(tmp_path / "corpus")
    assert corpus.rules == ["scalar", "scaffolds"]
    reasons = {rule: found["reason"] for rule, found in corpus.summary["splits"].items()}
    assert reasons["molecules"] == reasons["parents"] == "no condition is left for val and test"
    assert reasons["contexts"].startswith("column context: only 2 groups: CVCL_A, CVCL_D")
    assert reasons["assays"].startswith("column assay: only 1 groups: assay of beta")
    assert reasons["model_systems"] == "no condition has a model_system"
    for rule in set(SPLIT_RULES) - set(corpus.rules):
        assert corpus.conditions[f"split_{rule}"].isna().all()
        assert corpus.readouts[f"n_train_{rule}"].isna().all()
        for ask in (corpus.split_of, corpus.vocabularies, lambda rule: list(corpus.blocks("train", rule))):
            with pytest.raises(InputError, match=f"the split {rule} does not suit this corpus: {reasons[rule][:20]}"):
                ask(rule)
    with pytest.raises(InputError, match="no split is called 'random'"):
        corpus.split_of("random")
    with pytest.raises(InputError, match="no conditions of alpha"):
        corpus.conditions_of("train", datasets=["alpha"])


@pytest.mark.parametrize("rule", ["scalar", "contexts", "model_systems"])
def test_vocabularies_of_a_rule_are_of_its_train_alone(additive_strata: list, make_stamp: Callable, tmp_path: Path, rule: str) -> None:
    # a gene for each context, so that the genes of train are those of its contexts
    strata = []
    for number, stratum in enumerate(additive_strata):
        own = stratum.genes["ensembl_id"].where(stratum.genes["gene"] > 0, f"ENSG9{number:010d}")
        strata.append(replace(stratum, genes=stratum.genes.assign(ensembl_id=own)))
    samples = pd.DataFrame({"cell_type": [f"CVCL_{letter}" for letter in "ABCDE"], "model_system": ["a", "a", "b", "c", "d"]})
    write_corpus(
        strata, tmp_path / "corpus", make_stamp(), name="genes", samples=samples.reindex(columns=SAMPLE_COLUMNS).assign(n_samples=1)
    )
    corpus = open_corpus(tmp_path / "corpus")
    made = corpus.vocabularies(rule)
    train = corpus.conditions[corpus.split_of(rule) == "train"]
    assert made.context == tuple(sorted(train["context"].unique()))
    assert made.perturbation == ("Control", *sorted(train["perturbation"].unique()))
    genes = pd.concat([shard["readout"].astype(str) for shard in corpus.iterate_shards("train", rule)]).unique()
    assert made.readout == tuple(sorted(genes))
    assert (len(made.readout) < len(corpus.readouts)) == (rule != "scalar")


def test_compounds_have_structures_names_and_mechanisms(additive_corpus: StoredCorpus, additive_samples: pd.DataFrame) -> None:
    compounds = additive_corpus.compounds.set_index("perturbation")
    assert sorted(compounds.index) == sorted(additive_corpus.conditions["perturbation"].unique())
    given = additive_samples.drop_duplicates("pubchem_cid").set_index(
        additive_samples.drop_duplicates("pubchem_cid")["pubchem_cid"].astype(str)
    )
    assert compounds["smiles"].fillna("").to_dict() == given["smiles"].fillna("").to_dict()
    assert compounds["mechanism"].to_dict() == given["mechanism"].to_dict()
    assert compounds["n_conditions"].to_dict() == additive_corpus.conditions["perturbation"].value_counts().to_dict()
    assert compounds.loc[compounds["smiles"].isna(), "scaffold"].isna().all()
    assert compounds["scaffold"].nunique() == 8
    of_condition = additive_corpus.conditions.set_index("perturbation")
    for column in ("parent_key", "scaffold"):
        assert (of_condition[column].fillna("") == compounds[column].fillna("").reindex(of_condition.index)).all()
    assert (additive_corpus.conditions["assay"] == "assay of " + additive_corpus.conditions["dataset"]).all()


def test_significance_is_that_of_every_contrast_averaged(make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    rows = [(f"name {number}", 1 + number // 2, 1.0, 24.0) for number in range(40)]
    logFC = generator.standard_normal((40, 21))
    logFC[generator.random(logFC.shape) < 0.2] = np.nan
    stratum = make_effects("alpha", "CVCL_A", rows, logFC)
    log10_p = np.where(generator.random(logFC.shape) < 0.6, -2.0, -1.0)
    log10_p[generator.random(logFC.shape) < 0.1] = np.nan
    write_corpus([replace(stratum, log10_adj_p_within=log10_p)], tmp_path / "corpus", make_stamp(), name="bits")
    corpus = open_corpus(tmp_path / "corpus")
    seen = 0
    for split in SPLITS:
        for block in corpus.blocks(split):
            significant = block.significant()
            assert significant.shape == block.values().shape
            for row, number in enumerate(block.condition):
                cid = int(corpus.conditions.set_index("condition").loc[number, "perturbation"])
                for gene in range(21):
                    of_gene = [log10_p[at, gene] for at in (2 * cid - 2, 2 * cid - 1) if np.isfinite(logFC[at, gene])]
                    assert significant[row, gene] == (len(of_gene) > 0 and all(value < np.log10(0.05) for value in of_gene))
                    seen += significant[row, gene]
    assert seen > 50


def test_shards_without_significance_are_still_read(additive_corpus: StoredCorpus, tmp_path: Path) -> None:
    shutil.copytree(additive_corpus.folder, tmp_path / "corpus")
    for file in (tmp_path / "corpus").rglob("*.arrow"):
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all().drop_columns("significant")
        with pa.ipc.new_file(str(file.with_suffix(".new")), table.schema) as writer:
            writer.write_table(table)
        file.with_suffix(".new").replace(file)
    old, new = (next(corpus.blocks("train")) for corpus in (open_corpus(tmp_path / "corpus"), additive_corpus))
    assert old.significant() is None
    np.testing.assert_array_equal(old.values(), new.values())


def test_effects_of_a_dataset_that_the_corpus_leaves_out_are_refused(additive_strata: list, make_stamp: Callable, tmp_path: Path) -> None:
    definition = CorpusDefinition("two", "Two of three.", ("alpha", "beta"), {"gamma": "not wanted"})
    with pytest.raises(InputError, match=r"corpus two leaves out gamma.*alpha, beta"):
        write_corpus(additive_strata, tmp_path / "corpus", make_stamp(), name="two", definition=definition)
    kept = [stratum for stratum in additive_strata if stratum.contrasts["dataset"].iloc[0] != "gamma"]
    summary = write_corpus(kept, tmp_path / "corpus", make_stamp(), name="two", definition=definition)
    assert summary["definition"] == {"name": "two", "meaning": "Two of three.", "datasets": ["alpha", "beta"]}


def test_stamp_gathers_datasets_licences_and_taints(
    additive_strata: list, make_effects: Callable, make_stamp: Callable, tmp_path: Path
) -> None:
    closed = make_effects("closed", "CVCL_A", [("a", 101, 1.0, 24.0)], np.ones((1, 2)))
    object.__setattr__(closed, "stamp", Stamp("condition_effects", "1", "x", ("closed",), "restricted", ("harmonized_samples closed",)))
    write_corpus([*additive_strata, closed], tmp_path / "corpus", make_stamp(stage="anything"), name="s")
    opened = open_corpus(tmp_path / "corpus")
    for file in ["conditions.parquet", "readouts.parquet", "shards.parquet", *opened.shards["file"]]:
        stamp = read_stamp(tmp_path / "corpus" / file)
        assert (stamp.stage, stamp.licence, stamp.source_datasets) == (
            "training_corpus",
            "restricted",
            ("alpha", "beta", "closed", "gamma"),
        )
        assert stamp.unaccepted_inputs == ("harmonized_samples closed",)


def test_vocabularies_are_sorted_and_of_train_alone(additive_corpus: StoredCorpus) -> None:
    vocabularies = additive_corpus.vocabularies()
    train = additive_corpus.conditions[additive_corpus.conditions["split"] == "train"]
    assert vocabularies.perturbation[0] == "Control"
    assert list(vocabularies.perturbation[1:]) == sorted(set(train["perturbation"]))
    assert list(vocabularies.dataset) == ["alpha", "beta", "gamma"]
    assert list(vocabularies.context) == sorted(set(train["context"]))
    assert list(vocabularies.readout) == sorted(additive_corpus.readouts["readout"])


def test_unusable_input_is_refused(additive_strata: list, make_effects: Callable, make_stamp: Callable, tmp_path: Path) -> None:
    row = [("a", 1, 1.0, 24.0)]
    cases = {
        "no strata": [],
        "each replicate was fitted alone": [make_effects("alpha", "CVCL_A", row, np.ones((1, 2)), sample_id="well 1")],
        "logFC is infinite": [make_effects("alpha", "CVCL_A", row, np.full((1, 2), np.inf))],
        "times are missing": [make_effects("alpha", "CVCL_A", [("a", 1, 1.0, np.nan)], np.ones((1, 2)))],
        "no value is left": [make_effects("alpha", "CVCL_A", row, np.full((1, 2), np.nan))],
        "cannot be folder names": [make_effects("alpha/..", "CVCL_A", row, np.ones((1, 2)))],
    }
    for number, (message, strata) in enumerate(cases.items()):
        with pytest.raises(InputError, match=message):
            write_corpus(strata, tmp_path / str(number), make_stamp(), name="refused")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        write_corpus(additive_strata, tmp_path / "full", make_stamp(), name="refused")


def test_unfinished_and_foreign_folders_are_refused(additive_strata: list, make_stamp: Callable, tmp_path: Path) -> None:
    write_corpus(additive_strata[:2], tmp_path / "corpus", make_stamp(), name="c")
    file = tmp_path / "corpus" / open_corpus(tmp_path / "corpus").shards["file"].iloc[0]
    whole = file.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"something else"):
        file.write_bytes(broken)
        with pytest.raises(IncompatibleFileError, match="no stamp"):
            list(open_corpus(tmp_path / "corpus").blocks("train"))
    file.write_bytes(whole)
    genes = file.with_name("genes.parquet")
    write_parquet(genes, read_parquet(genes, "training_corpus").iloc[:-1], CORPUS_GENES, read_stamp(genes))
    with pytest.raises(InputError, match="one value for each of the 59 genes"):
        list(open_corpus(tmp_path / "corpus").blocks("train"))
    (tmp_path / "corpus" / "corpus.json").unlink()
    with pytest.raises(InputError, match="no finished training corpus"):
        open_corpus(tmp_path / "corpus")
