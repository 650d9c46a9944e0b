from __future__ import annotations

import re
from pathlib import Path

import pytest

from assets.materialize import SETTINGS_TOML
from perturbridge_dagster.errors import InputError, PerturbridgeError, UnacceptedInputError
from perturbridge_dagster.payloads.requests import Outcome, Request, execute
from perturbridge_dagster.stages import STAGES
from resources.store import SETTINGS, TABLES, Output, Store, read_settings

STAGE, KEY = "condition_effects", ("sciplex", "CVCL_0023")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(home=str(tmp_path))


def write_word(request: Request, folder: Path) -> None:
    (folder / "word").write_text(str(request.arguments["word"]))


def published(store: Store, word: str = "one") -> Output:
    request = Request(STAGE, {"word": word}, {}, "1", str(store.folder(STAGE, KEY)))
    return store.publish(STAGE, KEY, execute(request, write_word))


def accept(store: Store, output: Output, **verdicts: bool) -> None:
    store.record_checks(output, {name: {"passed": passed, "failed": []} for name, passed in verdicts.items()})


def test_the_last_published_output_is_current(store: Store):
    assert store.current(STAGE, KEY) is None
    first = published(store)
    second = published(store, "two")
    assert store.current(STAGE, KEY) == second
    assert first.folder != second.folder
    assert (second.folder / "word").read_text() == "two"


def test_an_output_without_done_is_no_output(store: Store):
    output = published(store)
    (output.folder / "done.json").unlink()
    assert store.current(STAGE, KEY) is None


def test_a_failed_outcome_is_not_published(store: Store):
    first = published(store)
    request = Request(STAGE, {"word": "two"}, {}, "1", str(store.folder(STAGE, KEY)))
    with pytest.raises(PerturbridgeError, match="condition_effects sciplex CVCL_0023: no residual"):
        store.publish(STAGE, KEY, Outcome(request, "failed", error="no residual degrees of freedom"))
    assert store.current(STAGE, KEY) == first


def test_an_input_is_refused_until_every_blocking_check_has_passed(store: Store):
    output = published(store)
    with pytest.raises(UnacceptedInputError, match=r"condition_effects sciplex CVCL_0023 is not accepted: .*values \(not run\)"):
        store.require_accepted(output)
    accept(store, output, values=False)
    with pytest.raises(UnacceptedInputError, match=r"values \(failed\)"):
        store.require_accepted(output)
    accept(store, output, values=True, estimable=False)
    assert store.require_accepted(output) is None


def test_an_unaccepted_input_that_is_allowed_says_what_it_lacks(store: Store):
    taint = store.require_accepted(published(store), allow_unaccepted=True)
    assert taint == "condition_effects sciplex CVCL_0023: values (not run)"


def test_acceptance_is_of_one_output_and_not_of_the_next(store: Store):
    first = published(store)
    accept(store, first, values=True)
    second = published(store, "two")
    assert first.unaccepted_checks() == []
    assert second.unaccepted_checks() == ["values"]
    (second.folder / "accepted.json").write_bytes((first.folder / "accepted.json").read_bytes())
    assert second.unaccepted_checks() == ["values"]
    with pytest.raises(UnacceptedInputError, match=r"values \(not run\)"):
        store.require_accepted(second)


def test_acceptance_by_earlier_rules_is_no_acceptance(store: Store, monkeypatch: pytest.MonkeyPatch):
    output = published(store)
    accept(store, output, values=True)
    assert output.is_judged()
    monkeypatch.setattr("resources.store.SUITE_VERSION", "the next")
    assert output.unaccepted_checks() == ["values"]
    assert not output.is_judged()
    with pytest.raises(UnacceptedInputError, match=r"values \(passed by earlier rules\)"):
        store.require_accepted(output)
    accept(store, output, values=False)
    assert output.is_judged(), "it failed, by the present rules"


def test_settings_name_the_folders_of_datasets_in_the_order_of_the_registry(store: Store):
    assert store.source_folders() == {}
    (store.root / SETTINGS).write_text('[sources]\nsciplex = "sample/sciplex"\nl1000_phase1 = "/data/lincs"\n')
    folders = store.source_folders()
    assert folders == {"l1000_phase1": Path("/data/lincs"), "sciplex": store.root / "sample" / "sciplex"}
    assert list(folders) == ["l1000_phase1", "sciplex"]


def test_a_release_that_has_no_entry_may_be_named(store: Store):
    (store.root / SETTINGS).write_text('[sources]\nvcpi_0003 = "new"\nvcpi_0001 = "old"\n')
    assert list(store.source_folders()) == ["vcpi_0001", "vcpi_0003"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[sources]\nscplex = "x"\n', "scplex: unknown dataset.*sciplex"),
        ('[sources]\nop3_benchmark = "x"\n', "op3_benchmark: unknown dataset"),
        ("[sources\n", "not valid TOML"),
        ('[source]\nsciplex = "x"\n', r"column source: there is no such table.*one of \[sources\], \[published\], \[op3_benchmark\]"),
        ('[op3-benchmark]\nfolder = "x"\n[sources]\nsciplex = "x"\n', "column op3-benchmark: there is no such table"),
        ('sciplex = "x"\n', "column sciplex: there is no such table"),
        ('sources = "x"\n', "sources is not a table"),
        ("[sources]\nsciplex = 5\n", "column sciplex: is not a folder"),
        ("", "dataset sciplex.*no folder of native files is configured"),
    ],
)
def test_settings_that_cannot_be_used_are_told(store: Store, text: str, words: str):
    (store.root / SETTINGS).write_text(text)
    with pytest.raises(InputError, match=words):
        store.source_folder("sciplex")


def test_settings_may_begin_with_a_mark_of_their_encoding_which_is_utf_8(store: Store):
    text = '[sources]\nsciplex = "µ"\n'
    (store.root / SETTINGS).write_text(text, encoding="utf-8-sig")
    assert store.source_folder("sciplex") == store.root / "µ"
    (store.root / SETTINGS).write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"settings.toml: not text in UTF-8.*Save it as UTF-8"):
        store.source_folders()


def test_every_table_that_a_new_home_shows_is_one_of_the_settings(store: Store):
    shown = re.findall(r"^(?:# )?\[(\w+)", SETTINGS_TOML, flags=re.MULTILINE)
    assert {"sources", "compute", "slurm", "needs"} <= set(shown) <= set(TABLES)
    (store.root / SETTINGS).write_text("".join(f"[{table}]\n" for table in TABLES))
    assert set(read_settings(store.root)) == set(TABLES)


def test_every_stage_has_a_folder_of_its_own_and_checks():
    folders = [stage.folder for stage in STAGES.values()]
    assert len(set(folders)) == len(folders)
    assert all(stage.checks and stage.blocking_checks for stage in STAGES.values())
