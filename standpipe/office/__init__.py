"""The utility's office on the command line: refunds, suspense, agents, vouchers, statements, the audit trail.

What moves money wants an operator's key in STANDPIPE_OPERATOR_KEY and leaves its trace. Amounts are typed in major
units, such as 150.00.
"""

from standpipe.office.books import reconcile
from standpipe.office.keys import meter_key
from standpipe.office.money import mpesa, refund, suspense
from standpipe.office.people import agent, operator, voucher

GROUPS = {
    "operator": operator,
    "refund": refund,
    "suspense": suspense,
    "agent": agent,
    "voucher": voucher,
    "reconcile": reconcile,
    "mpesa": mpesa,
    "meter-key": meter_key,
}
