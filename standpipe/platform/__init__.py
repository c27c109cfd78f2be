"""The database room: one PostgreSQL, its engine, its queues and its wake-up calls."""
