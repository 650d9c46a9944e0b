"""The real 384-well plate, from its native files through the graph to effects, by a description alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perturbridge_dagster.effects import open_effects
from perturbridge_dagster.sources import add_screen

pytestmark = pytest.mark.slow

DESCRIPTION = """\
title: MCF10A, 26 compounds at three doses
assay: MAC-seq
folder: plate
counts:
  file: mini_mac_counts.tsv.gz
  gene_ids: symbol
samples: PMMSq033_metadata.csv
columns:
  sample: Barcode
  plate: Plate_ID
  well: Well_ID
  cell_context: Cell_type
  perturbagen: Treatment_1
  perturbagen_id: Compound_ID
  dose: Concentration_1
  dose_unit: Unit_1
  time: Time
  time_unit: Unit
  smiles: smiles
control: [DMSO]
exclude:
  Treatment_1: [Media]
"""


def test_a_real_plate_runs_from_its_native_files_to_effects(
    real_data: Path, tmp_path: Path, home_in: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(real_data / "de_plate_macpie", tmp_path / "plate")
    (tmp_path / "mcf10a.yaml").write_text(DESCRIPTION)
    home = home_in(tmp_path)
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(home.path))
    add_screen.main([str(tmp_path / "mcf10a.yaml")])
    assert list(home.store.source_folders()) == ["mcf10a"]
    home.materialize("source_files", ("mcf10a",))
    home.materialize("harmonized_samples", ("mcf10a",))
    home.materialize("condition_effects", ("mcf10a", "CVCL_0598"))
    [part] = home.effects_parts("CVCL_0598")
    output = home.store.current("condition_effects", part.key)
    assert output is not None
    effects = open_effects(output.folder)
    # 26 compounds and staurosporine, as a positive control at its highest dose only
    assert effects.contrasts["perturbagen"].nunique() == 27
    assert set(effects.contrasts["pert_dose_uM"]) == {0.1, 1.0, 10.0}
    assert effects.stamp.licence == "restricted"


def test_a_broken_description_leaves_the_other_datasets_alone(
    tmp_path: Path, home_in: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = home_in(tmp_path)
    monkeypatch.setenv("PERTURBRIDGE_HOME", str(home.path))
    home.use("sciplex")
    (home.path / "screens").mkdir()
    (home.path / "screens" / "broken.yaml").write_text("title: nothing else\n")
    for _ in range(3):
        assert list(home.store.source_folders()) == ["sciplex"]
    assert caplog.text.count("broken is left out") == 1
