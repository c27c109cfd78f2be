"""Every table, known to SQLAlchemy. A foreign key is resolved by name: whoever writes one row needs the tables of all.

Alembic compares these with the migrated database.
"""

from types import ModuleType

from standpipe.billing import models as billing
from standpipe.documents import models as documents
from standpipe.engine import limits
from standpipe.households import models as households
from standpipe.ledger import models as ledger
from standpipe.meter_gateway.dlms import tables as dlms
from standpipe.meter_gateway.lorawan import tables as lorawan
from standpipe.meter_gateway.lwm2m import tables as lwm2m
from standpipe.meters import claim_models, due, field_models, keypad_models
from standpipe.meters import models as meters
from standpipe.notifications import models as notifications
from standpipe.outbox import models as outbox
from standpipe.payments import book_models, vend_models
from standpipe.payments import models as payments
from standpipe.readings import models as readings
from standpipe.tariffs import models as tariffs
from standpipe.utilities import models as utilities
from standpipe.vending import models as vending

MODULES: tuple[ModuleType, ...] = (
    *(households, utilities, limits, documents, ledger, tariffs, readings, billing, notifications, outbox, vending),
    *(meters, claim_models, due, field_models, keypad_models, lwm2m, dlms, lorawan),
    *(payments, book_models, vend_models),
)
