"""prices and usage

Revision: 0003, after: 0002

Migrations only add, and the code deployed before this one must run on its result. A released migration is never
edited.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


# The table of before becomes the first partition, without a copy: it holds all up to the month after its newest
# counted reading. A reading of a far future (held: a wrong clock) goes to the partition for the rest.
_PARTITIONS = """
DO $$
DECLARE
    first_month timestamptz;
    month timestamptz;
BEGIN
    SET LOCAL timezone TO 'UTC';
    SELECT date_trunc('month', greatest(now(), coalesce(max(read_at), now()))) + interval '1 month'
      INTO first_month FROM readings WHERE quality = 'MEASURED';
    ALTER TABLE readings RENAME TO readings_legacy;
    ALTER TABLE readings_legacy RENAME CONSTRAINT pk_readings TO pk_readings_legacy;
    CREATE TABLE readings (LIKE readings_legacy INCLUDING DEFAULTS) PARTITION BY RANGE (read_at);
    ALTER TABLE readings ADD CONSTRAINT pk_readings PRIMARY KEY (meter_id, read_at);
    ALTER TABLE readings ADD CONSTRAINT fk_readings_meter_id FOREIGN KEY (meter_id) REFERENCES meters (id);
    CREATE TABLE readings_rest PARTITION OF readings DEFAULT;
    INSERT INTO readings SELECT * FROM readings_legacy WHERE read_at >= first_month;
    DELETE FROM readings_legacy WHERE read_at >= first_month;
    EXECUTE format('ALTER TABLE readings ATTACH PARTITION readings_legacy FOR VALUES FROM (MINVALUE) TO (%L)',
                   first_month);
    FOR step IN 0..23 LOOP
        month := first_month + make_interval(months => step);
        CONTINUE WHEN EXISTS (
            SELECT FROM readings_rest WHERE read_at >= month AND read_at < month + interval '1 month');
        EXECUTE format('CREATE TABLE %I PARTITION OF readings FOR VALUES FROM (%L) TO (%L)',
                       to_char(month, '"readings_"YYYY_MM'), month, month + interval '1 month');
    END LOOP;
END $$
"""

_MONTHS = """
INSERT INTO monthly_usage (meter_id, month, volume_ml, days)
SELECT meter_id, date_trunc('month', day)::date, sum(volume_ml), count(*) FROM daily_usage GROUP BY 1, 2
"""

_IMMUTABLE = """
CREATE FUNCTION tariff_versions_stand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a published tariff version is never changed; publish another'
        USING ERRCODE = 'check_violation';
END $$
"""
_TRIGGER = """CREATE TRIGGER tariff_versions_stand BEFORE UPDATE ON tariff_versions
    FOR EACH STATEMENT EXECUTE FUNCTION tariff_versions_stand()"""

# A VOLUME meter's water is paid for when it is bought, a MONEY meter's when it runs: a tariff says which it prices.
_AGREEMENT = """
CREATE FUNCTION wallet_fits_tariff() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kind text;
BEGIN
    IF TG_TABLE_NAME = 'meters' THEN
        kind := NEW.wallet_kind;
        IF EXISTS (SELECT FROM supply_terms s JOIN tariffs t ON t.id = s.tariff_id
                   WHERE s.meter_id = NEW.id AND (t.basis = 'PURCHASE') <> (kind = 'VOLUME')) THEN
            RAISE EXCEPTION 'the supply terms of this meter do not fit a % wallet', kind
                USING ERRCODE = 'check_violation';
        END IF;
    ELSE
        SELECT wallet_kind INTO kind FROM meters WHERE id = NEW.meter_id;
    END IF;
    IF EXISTS (SELECT FROM tariffs WHERE id = NEW.tariff_id AND (basis = 'PURCHASE') <> (kind = 'VOLUME')) THEN
        RAISE EXCEPTION 'this tariff does not price a % wallet', kind USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$
"""
_AGREEMENT_TRIGGERS = (
    """CREATE TRIGGER wallet_fits_tariff BEFORE INSERT OR UPDATE OF tariff_id, wallet_kind ON meters
    FOR EACH ROW EXECUTE FUNCTION wallet_fits_tariff()""",
    """CREATE TRIGGER wallet_fits_tariff BEFORE INSERT OR UPDATE ON supply_terms
    FOR EACH ROW EXECUTE FUNCTION wallet_fits_tariff()""",
)


def upgrade() -> None:
    # Never queue behind a long transaction and so block every other one behind us: give up and be run again.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table('storage_horizons',
    sa.Column('what', sa.Text(), nullable=False),
    sa.Column('before', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('what', name=op.f('pk_storage_horizons'))
    )
    op.create_table('customer_classes',
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('code', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('cut_off', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_customer_classes_utility_id')),
    sa.PrimaryKeyConstraint('utility_id', 'code', name=op.f('pk_customer_classes'))
    )
    op.create_table('statement_counters',
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('last_number', sa.BigInteger(), server_default='0', nullable=False),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_statement_counters_utility_id')),
    sa.PrimaryKeyConstraint('utility_id', name=op.f('pk_statement_counters'))
    )
    op.create_table('monthly_usage',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('month', sa.Date(), nullable=False),
    sa.Column('volume_ml', sa.BigInteger(), nullable=False),
    sa.Column('days', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_monthly_usage_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', 'month', name=op.f('pk_monthly_usage'))
    )
    op.create_index('ix_monthly_usage_month', 'monthly_usage', ['month'], unique=False)
    op.create_table('standing_charged',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('period_start', sa.Date(), nullable=False),
    sa.Column('charged_minor', sa.BigInteger(), nullable=False),
    sa.Column('accounts', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('revision', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_standing_charged_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', 'period_start', name=op.f('pk_standing_charged'))
    )
    op.create_table('statements',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('period_start', sa.Date(), nullable=False),
    sa.Column('number', sa.BigInteger(), nullable=False),
    sa.Column('body', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('issued_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_statements_meter_id')),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_statements_utility_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_statements')),
    sa.UniqueConstraint('meter_id', 'period_start', name=op.f('uq_statements_meter_id_period_start')),
    sa.UniqueConstraint('utility_id', 'number', name=op.f('uq_statements_utility_id_number'))
    )
    op.create_table('supply_terms',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('from_day', sa.Date(), nullable=False),
    sa.Column('tariff_id', sa.Text(), nullable=False),
    sa.Column('household_id', sa.Text(), nullable=True),
    sa.Column('households', sa.BigInteger(), server_default='1', nullable=False),
    sa.Column('groups', postgresql.JSONB(astext_type=sa.Text()), server_default='[]', nullable=False),
    sa.Column('cut_off', sa.Text(), nullable=True),
    sa.CheckConstraint('households BETWEEN 1 AND 10000', name=op.f('ck_supply_terms_households_within')),
    sa.ForeignKeyConstraint(['household_id'], ['households.id'], name=op.f('fk_supply_terms_household_id')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_supply_terms_meter_id')),
    sa.ForeignKeyConstraint(['tariff_id'], ['tariffs.id'], name=op.f('fk_supply_terms_tariff_id')),
    sa.PrimaryKeyConstraint('meter_id', 'from_day', name=op.f('pk_supply_terms'))
    )
    op.create_table('volume_purchases',
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('source_id', sa.Text(), nullable=False),
    sa.Column('day', sa.Date(), nullable=False),
    sa.Column('tariff_version_id', sa.Text(), nullable=False),
    sa.Column('volume_ml', sa.BigInteger(), nullable=False),
    sa.Column('amount_minor', sa.BigInteger(), nullable=False),
    sa.Column('period_volume_ml', sa.BigInteger(), nullable=False),
    sa.Column('period_charged_minor', sa.BigInteger(), nullable=False),
    sa.Column('accounts', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('lines', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('reverses_key', sa.Text(), nullable=True),
    sa.Column('bought_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('(volume_ml < 0) = (reverses_key IS NOT NULL)', name=op.f('ck_volume_purchases_only_reversals_fall')),
    sa.CheckConstraint('volume_ml <> 0', name=op.f('ck_volume_purchases_volume_not_zero')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_volume_purchases_meter_id')),
    sa.ForeignKeyConstraint(['reverses_key'], ['volume_purchases.key'], name=op.f('fk_volume_purchases_reverses_key')),
    sa.ForeignKeyConstraint(['tariff_version_id'], ['tariff_versions.id'], name=op.f('fk_volume_purchases_tariff_version_id')),
    sa.PrimaryKeyConstraint('key', name=op.f('pk_volume_purchases')),
    sa.UniqueConstraint('reverses_key', name=op.f('uq_volume_purchases_reverses_key'))
    )
    op.create_index('ix_volume_purchases_meter_id', 'volume_purchases', ['meter_id', 'day'], unique=False)
    op.create_index('ix_volume_purchases_source_id', 'volume_purchases', ['source_id'], unique=False)
    op.add_column('meters', sa.Column('volume_granted_ml', sa.BigInteger(), server_default='0', nullable=False))
    op.create_check_constraint(op.f('ck_meters_volume_not_negative'), 'meters', 'volume_granted_ml >= 0')
    op.add_column('meter_states', sa.Column('volume_accepted_ml', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('meter_states', sa.Column('volume_remaining_ml', sa.BigInteger(), nullable=True))
    for name in ('volume_ml', 'total_after_ml', 'revoked_ml'):
        op.add_column('credit_grants', sa.Column(name, sa.BigInteger(), server_default='0', nullable=False))
    op.drop_constraint(op.f('ck_credit_grants_amount_positive'), 'credit_grants', type_='check')
    op.create_check_constraint(op.f('ck_credit_grants_amount_positive'), 'credit_grants', '(amount_minor > 0) <> (volume_ml > 0)')
    op.create_check_constraint(op.f('ck_credit_grants_revoked_ml_within'), 'credit_grants', 'revoked_ml BETWEEN 0 AND volume_ml')
    op.add_column('meter_states', sa.Column('clock_error_s', sa.BigInteger(), nullable=True))
    op.add_column('meters', sa.Column('register_max_ml', sa.BigInteger(), nullable=True))
    op.add_column('meters', sa.Column('at_zero', sa.Text(), nullable=True))
    op.add_column('meters', sa.Column('cut_off_due_at', sa.DateTime(timezone=True), server_default=sa.text("'epoch'"), nullable=True))
    op.add_column('meter_commands', sa.Column('void_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('meters', sa.Column('accrued_through', sa.Date(), nullable=True))
    op.add_column('meters', sa.Column('guaranteed_minor', sa.BigInteger(), server_default='0', nullable=False))
    op.create_index('ix_meters_accrued_through', 'meters', ['accrued_through'], unique=False)
    op.create_index('ix_meters_cut_off_due_at', 'meters', ['cut_off_due_at'], unique=False)
    op.add_column('period_charges', sa.Column('accounts', postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column('readings', sa.Column('counted_ml', sa.BigInteger(), nullable=True))
    op.add_column('readings', sa.Column('corrected_ml', sa.BigInteger(), nullable=True))
    op.add_column('readings', sa.Column('claimed_at', sa.DateTime(timezone=True), nullable=True))
    op.execute(_PARTITIONS)
    op.create_index('ix_readings_claimed', 'readings', ['meter_id', 'claimed_at'], unique=False, postgresql_where=sa.text("claimed_at IS NOT NULL"))
    op.create_index('ix_readings_held', 'readings', ['meter_id', 'read_at'], unique=False, postgresql_where=sa.text("quality = 'HELD'"))
    op.add_column('tariff_versions', sa.Column('document', postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column('tariff_versions', sa.Column('published_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False))
    op.add_column('tariffs', sa.Column('customer_class', sa.Text(), server_default='domestic', nullable=False))
    op.add_column('top_ups', sa.Column('emergency_minor', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('top_ups', sa.Column('standing_minor', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('top_ups', sa.Column('agreed', postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column('utilities', sa.Column('debt_weekly_cap_minor', sa.BigInteger(), nullable=True))
    op.add_column('utilities', sa.Column('guaranteed_ml', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('utilities', sa.Column('emergency_credit_minor', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('utilities', sa.Column('emergency_threshold_minor', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('utilities', sa.Column('cut_off', sa.Text(), server_default='DISCONNECT', nullable=False))
    op.add_column('utilities', sa.Column('friendly', postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column('utilities', sa.Column('released_reason', sa.Text(), nullable=True))
    op.add_column('utilities', sa.Column('released_until', sa.DateTime(timezone=True), nullable=True))
    op.add_column('utilities', sa.Column('statement_after_days', sa.BigInteger(), server_default='3', nullable=False))
    op.execute(_MONTHS)
    op.execute(_IMMUTABLE)
    op.execute(_TRIGGER)
    op.execute(_AGREEMENT)
    for trigger in _AGREEMENT_TRIGGERS:
        op.execute(trigger)
