"""A worker in a process of its own that kills itself (-9) at a point, for as many points as its caller asks.

It is started once (its imports take seconds) and forks for each run. A line on standard input is the number of the
statement or commit before which the run dies; the answer is "killed" or "done". What runs: see ``RUNS``.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from sqlalchemy import event

from standpipe.billing import rounds
from standpipe.payments.asking import Ask
from standpipe.payments.rails.port import MOBILE_POLLS_S, Capabilities, PaymentStatus, PaymentTruth
from standpipe.payments.settle import settle_many
from standpipe.platform.clock import Clock
from standpipe.platform.database import Sessions, create_engine, create_sessions


class Paid:
    """A rail by which every payment was made; ``ref`` is ``reference:amount_minor``."""

    name = "told"
    capabilities = Capabilities(MOBILE_POLLS_S, reports_refunds=True)

    async def fetch(self, rail_ref: str) -> PaymentTruth:
        reference, _, amount = rail_ref.partition(":")
        minor = int(amount)
        return PaymentTruth(rail_ref, reference, PaymentStatus.SUCCEEDED, "KES", minor, minor, 0)


async def rate(sessions: Sessions, clock: Clock, _: list[str]) -> None:
    await rounds.rate_due(sessions, clock)


async def settle(sessions: Sessions, clock: Clock, payment_ids: list[str]) -> None:
    rails: Any = {"told": Paid()}
    await settle_many(sessions, rails, [Ask(payment_id) for payment_id in payment_ids], clock)


RUNS: dict[str, Callable[[Sessions, Clock, list[str]], Awaitable[None]]] = {"rate": rate, "settle": settle}


async def _run(name: str, url: str, at: datetime, ids: list[str], number: int) -> None:
    engine = create_engine(url)
    left = number

    def count(*_args: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine.sync_engine, "before_cursor_execute", count)
    event.listen(engine.sync_engine, "commit", count)
    await RUNS[name](create_sessions(engine), Clock(0.0, 0.0, at), ids)
    await engine.dispose()


def main() -> None:
    """Serve runs until standard input ends."""
    name, url, at, *ids = sys.argv[1:]
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            asyncio.run(_run(name, url, datetime.fromisoformat(at), ids, int(line)))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        sys.stdout.write("killed\n" if died else f"done {status}\n" if status else "done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
