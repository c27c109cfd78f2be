"""a way to pay is a rail, wherever it was called a provider

Revision: 0013, after: 0012

Nothing is released yet, so tables and columns may change their names.
"""

from alembic import op

revision = '0013'
down_revision = '0012'
branch_labels = None
depends_on = None

RENAME = """
DO $$
DECLARE found record;
BEGIN
    FOR found IN SELECT table_name AS t, column_name AS c FROM information_schema.columns
                 WHERE table_schema = current_schema() AND column_name IN ('provider', 'provider_ref') LOOP
        EXECUTE format('ALTER TABLE %I RENAME COLUMN %I TO %I', found.t, found.c, replace(found.c, 'provider', 'rail'));
    END LOOP;
    ALTER TABLE provider_events RENAME TO rail_events;
    ALTER TABLE provider_answers RENAME TO async_results;
    FOR found IN SELECT conrelid::regclass AS t, conname AS c FROM pg_constraint
                 WHERE connamespace = current_schema()::regnamespace AND conname LIKE '%provider%' LOOP
        EXECUTE format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', found.t, found.c,
                       replace(replace(replace(found.c, 'provider_events', 'rail_events'),
                                       'provider_answers', 'async_results'), 'provider', 'rail'));
    END LOOP;
    FOR found IN SELECT indexname AS c FROM pg_indexes WHERE schemaname = current_schema()
                 AND indexname LIKE '%provider%' LOOP
        EXECUTE format('ALTER INDEX %I RENAME TO %I', found.c,
                       replace(replace(replace(found.c, 'provider_events', 'rail_events'),
                                       'provider_answers', 'async_results'), 'provider', 'rail'));
    END LOOP;
END $$
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(RENAME)
