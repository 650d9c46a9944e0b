"""The user's guide says of metrics, baselines, options and variants what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from perturbridge_dagster.agreement.metrics import METRICS
from perturbridge_dagster.agreement.options import AgreementOptions
from perturbridge_dagster.contract import AGREEMENT_VARIANTS, BASELINES

GUIDE = (Path(__file__).parents[2] / "docs" / "agreement.md").read_text()


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_every_metric_is_explained(metric) -> None:
    assert f"| `{metric.name}` | {metric.sentence.replace('|logFC|', chr(92) + '|logFC' + chr(92) + '|')} |" in GUIDE


@pytest.mark.parametrize("name", [*BASELINES, *AGREEMENT_VARIANTS])
def test_baselines_and_variants_are_named(name: str) -> None:
    assert f"`{name}`" in GUIDE
    assert f"| `{name}` | {AGREEMENT_VARIANTS[name]} |" in GUIDE if name in AGREEMENT_VARIANTS else True


def test_the_options_shown_are_the_defaults() -> None:
    [block] = re.findall(r"```toml\n(.*?)```", GUIDE, flags=re.DOTALL)
    shown = tomllib.loads(block)["agreement"]
    assert shown == AgreementOptions().model_dump()


def test_the_views_named_are_in_the_catalog() -> None:
    from resources.catalog import _TABLES

    named = set(re.findall(r"`((?:agreement|compendium|paper|replicate|retrieval)_[a-z_0-9]+)`", GUIDE))
    known = {*_TABLES, "replicate_effects", "replicate_agreement", "compendium_agreement", "replicate_support"}
    assert named <= known
