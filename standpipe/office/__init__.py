"""The utility's office on the command line: prices, readings, statements, refunds, suspense, agents, vouchers, the
audit trail, supply, storage, keypad tokens, claim codes.

What changes anything wants an operator's key in STANDPIPE_OPERATOR_KEY and leaves its trace. Amounts are typed in major
units, such as 150.00.
"""

from collections.abc import Callable

from standpipe.office.bills import arrears, statement
from standpipe.office.books import reconcile
from standpipe.office.claims import claim
from standpipe.office.dlms import dlms
from standpipe.office.documents import documents
from standpipe.office.keys import meter_key
from standpipe.office.meters import readings
from standpipe.office.money import mpesa, refund, suspense
from standpipe.office.orders import meter_command
from standpipe.office.people import agent, operator, voucher
from standpipe.office.prices import tariff
from standpipe.office.radios import lorawan
from standpipe.office.storage import storage
from standpipe.office.supply import supply
from standpipe.office.tokens import token
from standpipe.office.trigger import trigger

GROUPS = {
    "operator": operator,
    "tariff": tariff,
    "readings": readings,
    "statement": statement,
    "arrears": arrears,
    "refund": refund,
    "suspense": suspense,
    "agent": agent,
    "voucher": voucher,
    "reconcile": reconcile,
    "mpesa": mpesa,
    "storage": storage,
    "supply": supply,
    "lorawan": lorawan,
    "dlms": dlms,
    "meter-key": meter_key,
    "token": token,
    "documents": documents,
    "claim": claim,
}
COMMANDS: dict[str, Callable[..., None]] = {"meter-command": meter_command, "trigger": trigger}
"""Commands that are no group."""
