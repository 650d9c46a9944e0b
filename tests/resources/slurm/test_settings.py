"""Settings of the SLURM backend: what stands in the file is what comes out, and what is wrong is said by file, key and choices."""

import re
import tomllib
from pathlib import Path

import pytest

from perturbridge_dagster.errors import InputError
from resources.slurm.settings import (
    TEMPLATE,
    ComputeTable,
    NeedsOverride,
    SlurmSettings,
    backend,
    slurm_settings,
)
from resources.store import SETTINGS

SLURM = """
[slurm]
host = "login.example.org"
user = "jane"
folder = "/shared/runs"
environment = "/shared/node"
"""


@pytest.fixture(autouse=True)
def no_backend_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERTURBRIDGE_COMPUTE", raising=False)


def write(home: Path, text: str) -> Path:
    (home / SETTINGS).write_text(text)
    return home


def template() -> str:
    """The template as a person has it who takes the marks of the comments away."""
    lines = [line.removeprefix("# ").removeprefix("#") for line in TEMPLATE.splitlines()]
    return "\n".join(line for line in lines if re.match(r"\[|\w+ = ", line))


def test_the_backend_is_local_until_something_else_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert backend(tmp_path) == "local"
    assert backend(write(tmp_path, '[sources]\nsciplex = "download"\n')) == "local"
    assert backend(write(tmp_path, '[compute]\nbackend = "slurm"\n')) == "slurm"
    monkeypatch.setenv("PERTURBRIDGE_COMPUTE", "local")
    assert backend(tmp_path) == "local"
    monkeypatch.setenv("PERTURBRIDGE_COMPUTE", "")
    assert backend(tmp_path) == "slurm"
    monkeypatch.setenv("PERTURBRIDGE_COMPUTE", "Slurm")
    with pytest.raises(InputError, match=r"PERTURBRIDGE_COMPUTE is 'Slurm'\. Expected: one of \"local\", \"slurm\""):
        backend(tmp_path)


def test_four_lines_are_enough(tmp_path: Path):
    settings = slurm_settings(write(tmp_path, SLURM))
    assert (settings.host, settings.user, settings.folder) == ("login.example.org", "jane", Path("/shared/runs"))
    assert (settings.port, settings.key, settings.partition, settings.account, settings.qos) == (22, None, None, None, None)
    assert settings.known_hosts == Path.home() / ".ssh" / "known_hosts"
    assert settings.override("condition_effects", "sciplex") == NeedsOverride()


def test_the_template_is_valid_and_names_every_key_with_its_default(tmp_path: Path):
    write(tmp_path, template())
    assert backend(tmp_path) == "slurm"
    tables = tomllib.loads(template())
    assert set(tables["compute"]) == set(ComputeTable.model_fields)
    assert set(tables["slurm"]) == set(SlurmSettings.model_fields) - {"needs"}
    assert {key for table in tables["needs"].values() for key in table} == set(NeedsOverride.model_fields)
    settings = slurm_settings(tmp_path)
    for key, field in SlurmSettings.model_fields.items():
        if field.default is not None and not field.is_required() and key != "needs":
            assert getattr(settings, key) == field.default, key


def test_the_template_says_nothing_until_its_marks_are_taken_away(tmp_path: Path):
    assert tomllib.loads(TEMPLATE) == {}


def test_the_tables_that_the_docs_show_are_valid(tmp_path: Path):
    page = (Path(__file__).resolve().parents[3] / "docs" / "slurm.md").read_text()
    whole, needs = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    write(tmp_path, whole + needs)
    assert backend(tmp_path) == "slurm"
    settings = slurm_settings(tmp_path)
    assert settings.override("harmonized_samples", "tahoe").partition == "long"
    assert set(tomllib.loads(whole)["slurm"]) <= set(SlurmSettings.model_fields)


def test_what_is_set_for_stage_and_dataset_stands_above_what_is_set_for_the_stage(tmp_path: Path):
    write(
        tmp_path,
        SLURM
        + "[needs.condition_effects]\ncpus = 4\nminutes = 30\n"
        + '[needs."condition_effects/tahoe"]\nminutes = 600\nmemory_gib = 64\ngpus = 0\n',
    )
    settings = slurm_settings(tmp_path)
    assert settings.override("condition_effects") == NeedsOverride(cpus=4, minutes=30)
    assert settings.override("condition_effects", "sciplex") == NeedsOverride(cpus=4, minutes=30)
    assert settings.override("condition_effects", "tahoe") == NeedsOverride(cpus=4, minutes=600, memory_gib=64, gpus=0)
    assert settings.override("harmonized_samples", "tahoe") == NeedsOverride()


WRONG = {
    "no table": ("", r"the table \[slurm\] is not there\. Expected: \[slurm\] with host, user, folder, environment\. docs/slurm\.md"),
    "not TOML": ("[slurm", "not valid TOML"),
    "no table but a word": ('slurm = "yes"', r"column slurm: is not a table\. Expected: \[slurm\]"),
    "a key lacks": (SLURM.replace('user = "jane"', ""), "column slurm.user: is not there. Expected: the name of an account"),
    "an unknown key": (SLURM + "memory = 3", "column slurm.memory: there is no such key. Expected: one of host, port, user, key,"),
    "the overrides are no key of a person": (SLURM + "needs = {}", "column slurm.needs: there is no such key"),
    "a number in quotes": (SLURM + 'port = "22"', "column slurm.port: cannot be '22'. Expected: a whole number from 1 to 65535"),
    "out of bounds": (SLURM + "port = 0", "column slurm.port: cannot be 0. Expected"),
    "a truth for a number": (SLURM + "max_cpus = true", "column slurm.max_cpus: cannot be True. Expected: a whole number of cores"),
    "not a number at all": (SLURM + "max_hours = nan", "column slurm.max_hours: cannot be nan. Expected: hours, above 0"),
    "never polled": (SLURM + "poll_seconds = 0", r"column slurm.poll_seconds: cannot be 0. Expected: seconds, from 0\.2 to 600"),
    "an empty path": (SLURM + 'key = ""', "column slurm.key: cannot be ''. Expected: the path of a private key"),
    "a relative folder": (SLURM.replace("/shared/runs", "runs"), "column slurm.folder: runs is relative. Expected: an absolute path"),
    "a folder with a space": (SLURM.replace("/shared/runs", "/shared/my runs"), "/shared/my runs has ' ' in it, which not every shell"),
    "a partition that a shell would run": (SLURM + 'partition = "main; rm -rf /"', "column slurm.partition: cannot be 'main; rm -rf /'"),
    "an account that is an option": (SLURM + 'account = "-x"', "column slurm.account: cannot be '-x'"),
    "an unknown stage": (
        SLURM + "[needs.efects]\ncpus = 1",
        "column needs.efects: there is no heavy stage 'efects'. Expected: one of .*harm",
    ),
    "a light stage": (SLURM + "[needs.source_files]\ncpus = 1", "there is no heavy stage 'source_files'"),
    "an unknown dataset": (SLURM + '[needs."condition_effects/taho"]\ncpus = 1', "condition_effects/taho: unknown dataset 'taho'.*tahoe"),
    "an unknown need": (
        SLURM + "[needs.condition_effects]\nmemory = 1",
        "needs.condition_effects.memory: there is no such key. .*memory_gib",
    ),
    "a wrong need": (SLURM + "[needs.condition_effects]\ncpus = 1.5", r"needs.condition_effects.cpus: cannot be 1\.5"),
    "a need that is no table": (SLURM + "[needs]\ncondition_effects = 4", "column needs.condition_effects: is not a table"),
    "more hours than any": (SLURM + "[needs.condition_effects]\nminutes = 6000", "6000 minutes are more than max_hours of .slurm., 48"),
    "more memory than any": (SLURM + "[needs.condition_effects]\nmemory_gib = 129", "129 is more than max_memory_gib of .slurm., 128"),
    "more cores than any": (SLURM + "[needs.condition_effects]\ncpus = 17", "17 is more than max_cpus of .slurm., 16"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_by_file_key_and_choices(tmp_path: Path, text: str, said: str):
    with pytest.raises(InputError, match=said) as raised:
        slurm_settings(write(tmp_path, text))
    assert raised.value.file == str(tmp_path / SETTINGS)


def test_a_wrong_backend_is_said_too(tmp_path: Path):
    with pytest.raises(InputError, match=r'column compute.backend: cannot be \'ray\'\. Expected: one of "local", "slurm"'):
        backend(write(tmp_path, '[compute]\nbackend = "ray"\n'))


def test_the_connection_is_strict_about_host_keys_and_needs_the_key_to_be_there(tmp_path: Path):
    key = tmp_path / "id"
    write(tmp_path, SLURM + f'port = 2222\nkey = "{key}"\nknown_hosts = "{tmp_path / "known"}"\n')
    with pytest.raises(InputError, match="there is no such ssh key"):
        slurm_settings(tmp_path).connection()
    key.touch()
    command = slurm_settings(tmp_path).connection().get_ssh_base_command()
    assert "StrictHostKeyChecking=yes" in command
    assert f"UserKnownHostsFile={tmp_path / 'known'}" in command
    assert command[-1] == "jane@login.example.org"
