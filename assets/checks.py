"""Asset checks: one a family, partitioned as their asset, and acceptance, which is what they decide.

A blocking check stops only the run it is in. So every check writes what it found into the output's ``accepted.json``, and every
consumer, in any run, refuses an output whose blocking checks have not all passed. Belongs here: running the rules of
``perturbridge_dagster/quality`` on the partition's outputs, showing failing rows, recording acceptance. Does not belong here: rules.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.partitions import PARTITIONS, key_of, key_to_partition
from assets.planning import Planner
from assets.presentation import table_metadata
from perturbridge_dagster.stages import STAGES, Check
from resources.store import Output, Store

if TYPE_CHECKING:
    from perturbridge_dagster.quality.suites import Finding

SHOWN_ROWS = 20


def stage_checks(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """The checks of a stage's asset.

    Parameters
    ----------
    asset
        The asset; its name is the stage.
    """
    stage = STAGES[asset.key.path[-1]]
    specs = [
        dg.AssetCheckSpec(
            check.name,
            asset=asset.key,
            description=check.meaning,
            blocking=check.blocking,
            partitions_def=PARTITIONS[stage.name],
        )
        for check in stage.checks
    ]

    @dg.multi_asset_check(name=f"{stage.name}_checks", specs=specs, can_subset=True)
    def checks(context: dg.AssetCheckExecutionContext, store: Store) -> Iterator[dg.AssetCheckResult]:
        key = key_of(stage.name, context)
        outputs = Planner(store).outputs(stage.name, key)
        if not outputs:
            raise dg.Failure(f"{stage.name} {' '.join(key)} is not there yet; materialize it first.", allow_retries=False)
        selected = {key.name for key in context.selected_asset_check_keys}
        found = judge_and_record(store, outputs, selected)
        for check in stage.checks:
            if check.name in selected:
                yield _result(asset.key, check.name, check.blocking, [(output, findings[check.name]) for output, findings in found])

    return checks


def judge(output: Output) -> "dict[str, list[Finding]]":
    """Run all checks of a stage on an output.

    Returns
    -------
    Check name → findings. Rows against a rule are also written to ``quarantine/<check>.parquet`` in the output, whole.
    """
    from perturbridge_dagster.quality.checks import CHECKS

    found = CHECKS[output.stage](output.folder)
    for name, findings in found.items():
        _write_quarantine(output, name, findings)
    return found


def judge_and_record(store: Store, outputs: Sequence[Output], checks: Collection[str]) -> "list[tuple[Output, dict[str, list[Finding]]]]":
    """Judge outputs, and write beside each what some checks found on it.

    Parameters
    ----------
    store
        Keeps the records.
    outputs
        Outputs of one stage.
    checks
        Names of the checks that are recorded.

    Returns
    -------
    Each output with its findings, as :func:`judge` gives them.
    """
    found = [(output, judge(output)) for output in outputs]
    for output, findings in found:
        store.record_checks(output, {name: _record(findings[name]) for name in checks})
    return found


def _write_quarantine(output: Output, check: str, findings: "list[Finding]") -> None:
    """Keep every failing row of a check, or nothing where all rules hold."""
    import pandas as pd

    from perturbridge_dagster.written import written_whole

    file = output.folder / "quarantine" / f"{check}.parquet"
    file.unlink(missing_ok=True)
    failing = [finding.failing_rows.assign(rule=finding.rule.words) for finding in findings if len(finding.failing_rows)]
    if failing:
        with written_whole(file) as aside:
            pd.concat(failing, ignore_index=True).to_parquet(aside)


def _errors(findings: "list[Finding]") -> "list[Finding]":
    return [finding for finding in findings if not finding.passed and finding.rule.severity == "error"]


def _record(findings: "list[Finding]") -> dict[str, Any]:
    failed = _errors(findings)
    return {
        "passed": not failed,
        "rules": len(findings),
        "failed": [finding.said for finding in failed],
        "warned": [finding.said for finding in findings if not finding.passed and finding.rule.severity == "warning"],
    }


def _result(asset: dg.AssetKey, check: str, blocking: bool, found: "list[tuple[Output, list[Finding]]]") -> dg.AssetCheckResult:
    """What the UI shows of a check: which rules failed, on which rows, and where all of them are."""
    import pandas as pd

    failed = [(output, finding) for output, findings in found for finding in findings if not finding.passed]
    errors = [finding for _, finding in failed if finding.rule.severity == "error"]
    metadata: dict[str, Any] = {"rules": sum(len(findings) for _, findings in found)}
    if failed:
        rows = [{"output": " ".join(output.key), "rule": one.rule.words, "rows": one.n_failing, "note": one.note} for output, one in failed]
        metadata["failed_rules"] = table_metadata(pd.DataFrame(rows))
        shown = [one.failing_rows.head(SHOWN_ROWS).assign(rule=one.rule.words) for _, one in failed if len(one.failing_rows)]
        if shown:
            metadata["failing_rows"] = table_metadata(pd.concat(shown, ignore_index=True))
            quarantine = [output.folder / "quarantine" / f"{check}.parquet" for output, _ in failed]
            metadata["all_failing_rows"] = dg.MetadataValue.path(str(quarantine[0]))
    if observed := [(output, finding) for output, findings in found for finding in findings if finding.passed and finding.note]:
        rows = [{"output": " ".join(output.key), "rule": one.rule.words, "note": one.note} for output, one in observed]
        metadata["observed"] = table_metadata(pd.DataFrame(rows))
    words = "; ".join(dict.fromkeys(finding.said for _, finding in failed))
    stops = blocking and bool(errors)
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=check,
        # a warning shows as one, and blocks nothing
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR if stops else dg.AssetCheckSeverity.WARN,
        description=f"Does not hold{'' if stops else ' (a warning)'}: {words}." if failed else _holding(metadata["rules"]),
        metadata=metadata,
    )


def _holding(rules: int) -> str:
    return "All rules hold." if rules else "No rule applies to this output."


@dataclass(frozen=True)
class Evaluation:
    """The last verdict of one check on one partition.

    Attributes
    ----------
    stage, partition, check, blocking
        What was judged.
    verdict
        ``passed``; ``failed``; ``warned`` (a rule that does not block); ``not run`` on the output that is there now; or the state of
        the partition where there is nothing current to judge: ``missing``, ``stale``, ``failed``, ``waiting``.
    said
        What the check said.
    """

    stage: str
    partition: str
    check: str
    blocking: bool
    verdict: str
    said: str

    @property
    def stops(self) -> bool:
        """Whether consumers refuse the output, or there is none: a blocking check that failed, did not run, or has nothing to judge."""
        return self.blocking and self.verdict not in ("passed", "warned")


def evaluations(store: Store) -> list[Evaluation]:
    """Every check of every real partition.

    Parameters
    ----------
    store
        The platform's home; its acceptance records say which output an evaluation was about.
    """
    planner = Planner(store)
    rows = []
    for stage in STAGES.values():
        for key in planner.keys(stage.name):
            partition = str(key_to_partition(stage.name, key) or " ".join(key))
            state, reason = planner.state(stage.name, key)
            outputs = planner.outputs(stage.name, key)
            for check in stage.checks:
                verdict, said = _verdict(check, outputs) if state in ("current", "unaccepted") else (state, reason)
                rows.append(Evaluation(stage.name, partition, check.name, check.blocking, verdict, said))
    return rows


def _verdict(check: Check, outputs: Sequence[Output]) -> tuple[str, str]:
    """Verdict of a check on the outputs of a partition, and what it said."""
    records = [output.acceptance().get(check.name) for output in outputs]
    if any(record is None or not output.judged_now(record) for record, output in zip(records, outputs, strict=True)):
        return "not run", "run the check on the output that is there now"
    said = "; ".join(dict.fromkeys(words for record in records if record for words in record["failed"] + record["warned"]))
    if check.blocking and not all(record and record["passed"] for record in records):
        return "failed", said
    return ("warned" if said else "passed"), said


def print_evaluations(rows: Sequence[Evaluation]) -> None:
    """Print evaluations as a table."""
    for row in rows:
        blocking = "blocking" if row.blocking and row.verdict not in ("passed", "warned") else ""
        print(f"  {row.verdict:10} {blocking:9} {row.stage:24} {row.partition:32} {row.check:18} {row.said}"[:240].rstrip())
