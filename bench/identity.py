"""How long 40,000 compounds and 80,000 genes take to get their identity from a snapshot, and how much memory.

It writes a snapshot such as a user's grows to: PubChem's answers for every compound, by InChIKey, CAS number or name, and the structures
read before. Then three processes of their own, which load the snapshot and resolve, print seconds and peak memory:

- ``warm``: structures remembered, as after ``assets.ask_pubchem``;
- ``cold``: no structure remembered, so that rdkit reads every SMILES;
- ``empty``: the interpreter with the libraries and nothing else, for comparison.

Compounds are amides of 200 acids and 200 amines made of real fragments: distinct, readable structures of a drug's size. Genes are the
keys of the shipped table (Ensembl ids, Entrez ids, symbols, previous ones) and some that nobody knows. With ``--lincs`` the 51,385
perturbagens of LINCS (realdata/lincs_metadata) are resolved as well, cold, with the shipped answers alone.

    python -m bench.identity [--lincs DIR]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from bench.process import memory

N_COMPOUNDS, N_GENES = 40_000, 80_000
LIMIT_S, LIMIT_GIB = 10.0, 1.0
DATASET = "bench"

RINGS = (
    "c1ccccc1",
    "c1ccncc1",
    "c1ccc2[nH]ccc2c1",
    "c1ccc2ncccc2c1",
    "C1CCNCC1",
    "C1CCOCC1",
    "c1ccsc1",
    "c1ccoc1",
    "C1CCCC1",
    "c1cnc2ccccc2n1",
)
LINKS = (
    "",
    "C",
    "CC",
    "OC",
    "NC",
    "C(C)C",
    "CCC",
    "C(F)C",
    "SC",
    "OCC",
    "CCO",
    "C(C)(C)C",
    "C=CC",
    "CN(C)C",
    "C(O)C",
    "NCC",
    "CCCC",
    "CSC",
    "CCN",
    "OCCC",
)


def compounds() -> pd.DataFrame:
    """40,000 compounds as a source gives them: all with SMILES, by turns with InChIKey, CAS number or name only beside it."""
    from perturbridge_dagster.identity.structures import read_structure

    acids = [f"O=C(%s){link}{ring}" for ring in RINGS for link in LINKS]
    amines = [f"N{link}{ring}" for ring in RINGS for link in LINKS]
    smiles = [(acid % amine.replace("1", "8").replace("2", "9")) for acid in acids for amine in amines][:N_COMPOUNDS]
    number = np.arange(N_COMPOUNDS)
    frame = pd.DataFrame(
        {
            "source_perturbagen_id": [f"B{n}" for n in number],
            "perturbagen": [f"compound {n} ({'abc'[n % 3]}{n}) HCl" for n in number],
            "smiles": smiles,
            "inchikey": [read_structure(text).inchikey for text in smiles],
            "pubchem_cid": pd.Series(pd.NA, index=number, dtype="Int64"),
            "cas": [_cas(n) for n in range(N_COMPOUNDS)],
        }
    )
    if frame["inchikey"].isna().any():
        raise ValueError(f"not readable: {frame.loc[frame['inchikey'].isna(), 'smiles'].head().tolist()}")
    return frame


def _cas(n: int) -> str:
    # not yet given, so that no real compound has it
    digits = f"{980_000_000 + n}"
    check = sum(weight * int(digit) for weight, digit in enumerate(reversed(digits), start=1)) % 10
    return f"{digits[:-2]}-{digits[-2:]}-{check}"


def genes() -> dict[str, list[str]]:
    """80,000 keys of genes by kind."""
    from perturbridge_dagster.identity.snapshot import shipped

    keys = shipped().genes.keys
    by_kind = {
        "ensembl": shipped().genes.genes["ensembl_id"].tolist()[:40_000],
        "entrez": keys.loc[keys["kind"] == "entrez", "key"].tolist()[:18_000],
        "symbol": keys.loc[keys["kind"] == "symbol", "key"].tolist()[:18_000],
    }
    by_kind["symbol"] += [f"nobody{n}" for n in range(N_GENES - sum(map(len, by_kind.values())))]
    return by_kind


def write_snapshot(folder: Path) -> None:
    """The compounds and genes, and a user's snapshot that knows the compounds."""
    from perturbridge_dagster.identity.answers import ANSWER_COLUMNS, remember
    from perturbridge_dagster.identity.structures import no_structures, read_structures, save_structures

    asked = compounds()
    read = read_structures(asked["smiles"], no_structures())
    turn = np.arange(len(asked)) % 3
    # a third has the source's InChIKey, a third is known by its CAS number, a third by the name in brackets; the last two lack structures
    kind = np.array(["inchikey", "cas", "name"])[turn]
    query = np.select(
        [turn == 0, turn == 1],
        [asked["inchikey"], asked["cas"]],
        [f"{'abc'[n % 3]}{n} hydrochloride" for n in range(len(asked))],
    )
    answers = pd.DataFrame(
        {
            "kind": kind,
            "query": query,
            "outcome": "found",
            "pubchem_cid": pd.array(np.arange(len(asked)) + 10**8, dtype="Int64"),
            "inchikey": asked["inchikey"],
            "parent_key": read["parent_key"],
            "smiles": asked["smiles"],
            "title": asked["perturbagen"],
            "source": "PubChem",
            "date": "2026-01-01T00:00:00+00:00",
            "problem": None,
        }
    )
    remember(folder / "identity", DATASET, answers[list(ANSWER_COLUMNS)])
    save_structures(folder / "identity", read.set_axis(asked["smiles"]).loc[lambda frame: ~frame.index.duplicated()])
    asked["inchikey"] = asked["inchikey"].where(turn == 0, None)
    asked["cas"] = asked["cas"].where(turn == 1, None)
    asked.to_parquet(folder / "compounds.parquet")
    (folder / "genes.json").write_text(json.dumps(genes()))


def measure(mode: str, folder: Path) -> dict[str, float]:
    """Seconds and peak memory of this process."""
    started = time.perf_counter()

    from perturbridge_dagster.identity import snapshot

    loaded = time.perf_counter()
    result: dict[str, float] = {"libraries_s": loaded - started}
    if mode != "empty":
        if mode == "cold":
            (folder / "identity" / "structures.parquet").unlink(missing_ok=True)
        identity = snapshot.with_answers(folder / "identity", DATASET)
        asked = pd.read_parquet(folder / "compounds.parquet")
        by_kind = json.loads((folder / "genes.json").read_text())
        started = time.perf_counter()
        report = identity.compounds.report(asked, DATASET)
        done = time.perf_counter()
        found = {kind: identity.genes.resolve(pd.Series(keys), kind) for kind, keys in by_kind.items()}
        result |= {
            "snapshot_s": started - loaded,
            "compounds_s": done - started,
            "genes_s": time.perf_counter() - done,
            "compounds": len(report),
            "found": int(report["pubchem_cid"].notna().sum()),
            "parent_keys": int(report["parent_key"].notna().sum()),
            "genes": sum(map(len, found.values())),
            "genes_found": sum(int(frame["ensembl_id"].notna().sum()) for frame in found.values()),
        }
    used = resource.getrusage(resource.RUSAGE_SELF)
    # on a busy machine the time of the processor says more than that on the wall
    return result | {"cpu_s": used.ru_utime + used.ru_stime, "peak_GiB": memory("VmHWM") / 2**30}


def measure_lincs(folder: Path) -> dict[str, float]:
    """The perturbagens of LINCS, with the shipped answers."""
    from perturbridge_dagster.identity.snapshot import shipped

    table = pd.read_csv(folder / "pertinfo.tsv.gz", sep="\t", dtype=str, keep_default_na=False)
    columns = {"pert_id": "source_perturbagen_id", "pert_iname": "perturbagen", "inchi_key": "inchikey", "canonical_smiles": "smiles"}
    asked = table.rename(columns=columns)[[*columns.values(), "pubchem_cid"]].drop_duplicates("source_perturbagen_id", ignore_index=True)
    asked["pubchem_cid"] = pd.to_numeric(asked["pubchem_cid"], errors="coerce").astype("Int64")
    started = time.perf_counter()
    report = shipped().compounds.report(asked, "l1000_phase1")
    return {
        "seconds": time.perf_counter() - started,
        "perturbagens": len(asked),
        "structures": int(report["smiles"].notna().sum()),
        "smiles_unreadable": int(report["smiles_unreadable"].sum()),
        "parent_keys": int(report["parent_key"].notna().sum()),
        "peak_GiB": memory("VmHWM") / 2**30,
    }


def main() -> int:
    """Command line; 1 where the warm run misses its limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lincs", type=Path, help="folder with LINCS' pertinfo.tsv.gz")
    parser.add_argument("--measure", nargs=2, metavar=("MODE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        mode, folder = options.measure[0], Path(options.measure[1])
        print(json.dumps(measure_lincs(folder) if mode == "lincs" else measure(mode, folder)))
        return 0

    def in_own_process(mode: str, folder: Path) -> dict[str, float]:
        command = [sys.executable, "-m", "bench.identity", "--measure", mode, str(folder)]
        measured: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        print(
            f"{mode:6}",
            ", ".join(f"{name} {value:,.2f}" if isinstance(value, float) else f"{name} {value:,}" for name, value in measured.items()),
        )
        return measured

    with tempfile.TemporaryDirectory() as name:
        write_snapshot(Path(name))
        in_own_process("empty", Path(name))
        warm = in_own_process("warm", Path(name))
        in_own_process("cold", Path(name))
    if options.lincs:
        in_own_process("lincs", options.lincs)
    seconds = warm["snapshot_s"] + warm["compounds_s"] + warm["genes_s"]
    kept = seconds < LIMIT_S and warm["peak_GiB"] < LIMIT_GIB
    print(f"warm: {seconds:.1f} s of {LIMIT_S:.0f}, {warm['peak_GiB']:.2f} GiB of {LIMIT_GIB:.0f}: {'kept' if kept else 'missed'}")
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
