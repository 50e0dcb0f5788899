"""indexes only of the rows in which their column is set"""

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

INDEXES = (('ix_task_run_after', 'task', ['run_after']), ('ix_event_node', 'event', ['node_id', 'id']),
           ('ix_event_pool', 'event', ['pool_id', 'id']))


def upgrade() -> None:
    for name, table, columns in INDEXES:
        op.drop_index(name, table)
        only = sa.text(f'{columns[0]} IS NOT NULL')
        op.create_index(name, table, columns, sqlite_where=only, postgresql_where=only)


def downgrade() -> None:
    for name, table, columns in INDEXES:
        op.drop_index(name, table)
        op.create_index(name, table, columns)
