"""meters that speak DLMS

Revision: 0005, after: 0004

Migrations only add, and the code deployed before this one must run on its result. A released migration is never
edited.
"""

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Never queue behind a long transaction and so block every other one behind us: give up and be run again.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table('dlms_meters',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('profile', sa.Text(), nullable=False),
    sa.Column('system_title', sa.Text(), nullable=False),
    sa.Column('device_name', sa.Text(), nullable=False),
    sa.Column('sealed_keys', sa.Text(), nullable=False),
    sa.Column('client_counter', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('meter_counter', sa.BigInteger(), server_default='-1', nullable=False),
    sa.Column('report_number', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('base_units', sa.BigInteger(), nullable=True),
    sa.Column('paid_units', sa.BigInteger(), nullable=True),
    sa.Column('profile_read_to', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint('client_counter BETWEEN 0 AND 4294967296', name=op.f('ck_dlms_meters_client_counter_fits')),
    sa.CheckConstraint('meter_counter BETWEEN -1 AND 4294967295', name=op.f('ck_dlms_meters_meter_counter_fits')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_dlms_meters_meter_id_meters')),
    sa.PrimaryKeyConstraint('meter_id', name=op.f('pk_dlms_meters')),
    sa.UniqueConstraint('device_name', name=op.f('uq_dlms_meters_device_name')),
    sa.UniqueConstraint('system_title', name=op.f('uq_dlms_meters_system_title'))
    )

