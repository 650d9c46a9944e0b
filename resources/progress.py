"""Progress of a payload in the UI, while it works: an observation of the asset for each thing that the payload tells.

Belongs here: from what a payload tells to events of the run. Does not belong here: telling (``perturbridge_dagster/payloads/progress.py``).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from perturbridge_dagster.payloads.progress import ProgressReader

_SECONDS = 1.0
"""Between two looks at what a payload on this machine tells."""


class Progress:
    """Shows what a payload tells.

    Parameters
    ----------
    context
        Of the op or asset that waits for it. Where it makes no asset, there is nothing to observe.
    requests_file
        Of the payload.
    """

    def __init__(self, context: dg.OpExecutionContext, requests_file: Path) -> None:
        self._context, self._reader = context, ProgressReader(requests_file)

    def show(self) -> None:
        """Put what is new into the run's events. The UI plots numbers of an asset's observations."""
        for numbers in self._reader.news():
            for key in self._context.selected_asset_keys:
                partition = self._context.partition_key if self._context.has_partition_key else None
                self._context.log_event(dg.AssetObservation(key, partition=partition, metadata=numbers, description="progress"))


@contextmanager
def shown(context: dg.OpExecutionContext, requests_file: Path) -> Iterator[None]:
    """Show what a payload tells while the block runs."""
    progress, over = Progress(context, requests_file), threading.Event()

    def look() -> None:
        while not over.wait(_SECONDS):
            progress.show()

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()
        progress.show()
