"""What each partition needs: the requests that would make it from what is accepted now.

Assets run these requests, the sensor asks for the partitions whose requests are not met, coverage shows the difference, and
``materialize`` walks through them in order. So all four agree on what is missing, stale or waiting.

Belongs here: stage and partition → requests, and partition → state. One module for each step of the data says how its stages are planned
(``sources``, ``effects``, ``agreement``, ``published``, ``representation``); ``stage_plans`` is what these share, and ``planner`` what
everybody else asks. Does not belong here: running anything.
"""

from assets.planning.planner import Planner
from assets.planning.stage_plans import COMPENDIUM, EFFECTS_STAGES, NotConfiguredError, Part, State, WaitingError

__all__ = ["COMPENDIUM", "EFFECTS_STAGES", "NotConfiguredError", "Part", "Planner", "State", "WaitingError"]
