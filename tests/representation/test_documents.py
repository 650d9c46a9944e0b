"""The user's guide says of corpora, splits, baselines, metrics and variants what the code does, and every test it names is there."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from perturbridge_dagster.representation.baselines import MEANINGS
from perturbridge_dagster.representation.corpora import CORPORA, corpus_definition
from perturbridge_dagster.representation.holdout.variants import VARIANTS
from perturbridge_dagster.representation.profile_metrics import PROFILE_METRICS
from perturbridge_dagster.representation.splits import PROMISES, SPLIT_RULES
from perturbridge_dagster.stages import MODELS, SIZES

CHECKOUT = Path(__file__).parents[2]
GUIDE = (CHECKOUT / "docs" / "representation.md").read_text()
NAMED_TESTS = sorted(set(re.findall(r"`([a-z0-9_/]+\.py)::(test_\w+)`", GUIDE)))


@pytest.mark.parametrize("metric", PROFILE_METRICS.values(), ids=lambda metric: metric.name)
def test_every_metric_is_defined(metric) -> None:
    assert f"| `{metric.name}` | {metric.sentence.replace('|', chr(92) + '|')} |" in GUIDE


@pytest.mark.parametrize("name", MEANINGS)
def test_every_baseline_is_explained(name: str) -> None:
    assert f"| `{name}` | {MEANINGS[name]} |" in GUIDE


@pytest.mark.parametrize("rule", SPLIT_RULES.values(), ids=lambda rule: rule.name)
def test_every_split_is_explained_with_its_promises(rule) -> None:
    assert f"| `{rule.name}` | {rule.meaning} | {', '.join(f'`{name}`' for name in rule.promises)} |" in GUIDE


@pytest.mark.parametrize("promise", PROMISES.values(), ids=lambda promise: promise.name)
def test_every_promise_is_explained(promise) -> None:
    assert f"| `{promise.name}` | {promise.meaning} |" in GUIDE


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_is_explained(name: str) -> None:
    assert f"| `{name}` | {corpus_definition(name, []).meaning} |" in GUIDE


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda variant: variant.name)
def test_every_variant_is_explained(variant) -> None:
    assert f"| `{variant.name}` | {variant.published_name} | {variant.meaning} |" in GUIDE


def test_models_and_settings_are_named() -> None:
    assert all(f"`{model}`" in GUIDE for model in MODELS)
    [block] = re.findall(r"```toml\n(.*?)```", GUIDE, flags=re.DOTALL)
    shown = tomllib.loads(block)["representation"]
    assert set(shown) == {"size", "processes", "faithful"}
    assert shown["size"] in SIZES


def test_the_views_named_are_in_the_catalog() -> None:
    from resources.catalog import _TABLES

    [line] = [line for line in GUIDE.splitlines() if line.startswith("- In the catalog: ")]
    assert set(re.findall(r"`(\w+)`", line)) <= set(_TABLES)
    assert {"evaluation", "profile_scores", "op3_compounds"} <= set(_TABLES)


@cache
def named_in(file: str) -> set[str]:
    """Names of the functions of a file of tests."""
    tree = ast.parse((CHECKOUT / "tests" / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "name"), NAMED_TESTS)
def test_every_defect_has_the_test_that_is_named(file: str, name: str) -> None:
    assert name in named_in(file)


def test_the_defects_of_the_published_work_are_all_there() -> None:
    """Eight of C7; 13 to 26 and 1 to 12b of F, but for those that are properties of the design (20e, 20f, 22) or of wording (26)."""
    table = GUIDE.split("## What was wrong")[1]
    numbers = {
        int(number)
        for line in re.findall(r"^\| ((?:\d+[a-z]?(?:, )?)+(?:[a-z](?:, )?)*):", table, re.MULTILINE)
        for number in re.findall(r"\d+", line)
    }
    assert numbers == set(range(1, 27)) - {22, 26}
    assert table.split("**Models")[0].count("\n| ") == 2 + 8
    assert len(NAMED_TESTS) > 50
