"""Magic amounts: charges that act by themselves, so that an app can be tried with every outcome."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from standpipe_demo.simulator.store import JsonStore

LATER = 10
"""Number of pauses that "later" is."""
PLANS: dict[int, tuple[tuple[str, int], ...]] = {
    11: (("approve", 1),),
    12: (("approve", 1), ("refund", LATER)),
    13: (("decline", 1),),
    14: (("expire", 1),),
    15: (("approve", LATER),),
    16: (("duplicate", 1),),
    17: (("lose", 1),),
    18: (("decline", 1), ("approve", LATER)),
    19: (("approve", 1), ("dispute", LATER)),
}
"""By the last two digits of the amount in minor units: actions of the sandbox provider, and after how many pauses."""


class Magic:
    """Carries plans out. What is still to come lies in the store, for a restart.

    ``act(charge_id, action)`` does one step; ``pause_s`` None: no amount is magic.
    """

    def __init__(self, store: JsonStore, act: Callable[[str, str], None], pause_s: float | None) -> None:
        self._store, self._act, self._pause_s = store, act, pause_s
        self._waiting: list[dict[str, Any]] = store.data.setdefault("magic", [])
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Take up what an earlier process left undone."""
        for step in self._waiting:
            self._begin(step)

    def plan(self, charge_id: str, amount_minor: int) -> None:
        """Plan what this amount stands for, if anything."""
        if self._pause_s is None:
            return
        for action, pauses in PLANS.get(amount_minor % 100, ()):
            step = {"charge": charge_id, "action": action, "due_s": time.time() + pauses * self._pause_s}
            self._waiting.append(step)
            self._begin(step)
        self._store.save()

    async def stop(self) -> None:
        """End, as a process does; what was not done stays in the store."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, step: dict[str, Any]) -> None:
        task = asyncio.create_task(self._carry_out(step))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, step: dict[str, Any]) -> None:
        await asyncio.sleep(max(step["due_s"] - time.time(), 0))
        self._waiting.remove(step)
        self._act(step["charge"], step["action"])
        self._store.save()
