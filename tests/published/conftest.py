"""A simulated stratum, our effects of it, and releases written from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from perturbridge_dagster.effects import StoredEffects, estimate_effects
from tests.published import release
from tests.published.stratum import MEMBERS, simulate, stored


@pytest.fixture(scope="session")
def samples() -> ad.AnnData:
    """The stratum. Not to be changed."""
    return simulate()


@pytest.fixture(scope="session")
def ours(samples: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> StoredEffects:
    """Our effects of the whole stratum, by the structured engine."""
    return stored(estimate_effects(samples), tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="session")
def whole(samples: ad.AnnData) -> ad.AnnData:
    """The release's effects of the whole stratum, by limma."""
    return release.published_effects(release.fit_as_published(samples), samples, samples.var, cells=False)


@pytest.fixture(scope="session")
def in_batches(samples: ad.AnnData) -> dict[str, ad.AnnData]:
    """The release's effects in two batches, by limma."""
    return release.batch_tables(samples, MEMBERS)


@pytest.fixture
def write_whole(whole: ad.AnnData, tmp_path: Path) -> Callable[..., Path]:
    """Writes the release's whole stratum, changed by a function, and gives its file."""

    def write(change: Callable[[ad.AnnData], None] = lambda _: None, dtype: type = np.float64) -> Path:
        changed = whole.copy()
        change(changed)
        return release.write_effects_file(tmp_path / "sciplex" / "group_rep" / "CVCL_0023_de.h5ad", changed, dtype=dtype)

    return write
