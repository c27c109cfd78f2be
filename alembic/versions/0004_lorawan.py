"""lorawan

Revision: 0004, after: 0003

Migrations only add, and the code deployed before this one must run on its result. A released migration is never
edited.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Never queue behind a long transaction and so block every other one behind us: give up and be run again.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table('lora_devices',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('dev_eui', sa.Text(), nullable=False),
    sa.Column('device_class', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('application_id', sa.Text(), nullable=True),
    sa.Column('last_deduplication_id', sa.Text(), nullable=True),
    sa.Column('last_uplink_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('alarms', postgresql.JSONB(astext_type=sa.Text()), server_default='[]', nullable=False),
    sa.CheckConstraint("dev_eui ~ '^[0-9a-f]{16}$'", name=op.f('ck_lora_devices_dev_eui_is_hex')),
    sa.CheckConstraint("device_class IN ('A', 'C')", name=op.f('ck_lora_devices_device_class_known')),
    sa.ForeignKeyConstraint(['meter_id'], ['meter_credentials.meter_id'], name=op.f('fk_lora_devices_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', name=op.f('pk_lora_devices')),
    sa.UniqueConstraint('dev_eui', name=op.f('uq_lora_devices_dev_eui'))
    )
    op.create_table('lora_downlinks',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('command_id', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('queue_item_id', sa.Text(), nullable=True),
    sa.Column('f_cnt_down', sa.BigInteger(), nullable=True),
    sa.Column('uplinks', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('queued_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('tx_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('dead_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['command_id'], ['meter_commands.id'], name=op.f('fk_lora_downlinks_command_id')),
    sa.ForeignKeyConstraint(['meter_id'], ['lora_devices.meter_id'], name=op.f('fk_lora_downlinks_meter_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_lora_downlinks')),
    sa.UniqueConstraint('queue_item_id', name=op.f('uq_lora_downlinks_queue_item_id'))
    )
    op.create_index('ix_lora_downlinks_command_id', 'lora_downlinks', ['command_id'], unique=False)
    op.create_index('ix_lora_downlinks_due', 'lora_downlinks', ['due_at'], unique=False,
                    postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_index('uq_lora_downlinks_open', 'lora_downlinks', ['meter_id'], unique=True,
                    postgresql_where=sa.text("state IN ('SENDING', 'QUEUED', 'TX', 'ACK')"))
