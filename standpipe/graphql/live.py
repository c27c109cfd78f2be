"""The wait of every subscription."""

import asyncio
import time

from standpipe.graphql.authentication import still_signed_in
from standpipe.graphql.context import Context
from standpipe.graphql.guard import pay_for_event

LOOK_ANYWAY_S = 30.0
"""A notification may be lost with its connection; the state is read at least this often."""


async def wait(context: Context, flag: asyncio.Event) -> bool:
    """Until something changed, which is then read anew; False when the token or its session has ended."""
    left_s = LOOK_ANYWAY_S if context.expires_at_s is None else context.expires_at_s - time.time()
    if left_s <= 0:
        return False
    try:
        async with asyncio.timeout(min(left_s, LOOK_ANYWAY_S)):
            await flag.wait()
    except TimeoutError:
        if left_s <= LOOK_ANYWAY_S and context.expires_at_s is not None:
            return False
    flag.clear()
    await pay_for_event(context)
    context.forget_loaded()
    return await still_signed_in(context)
