"""a household that took over from another within a day: since when

Revision: 0010, after: 0009

Migrations only add, and the code deployed before this one must run on its result. A released migration is never
edited.
"""

import sqlalchemy as sa
from alembic import op

revision = '0010'
down_revision = '0009'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column('supply_terms', sa.Column('came_at', sa.DateTime(timezone=True), nullable=True))
