"""rungs, signals and holds"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

import orchestrator.model.tables

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

def columns() -> list[tuple[str, sa.Column]]:
    return [
        ('pool', sa.Column('launch_timeout_s', sa.Integer(), nullable=False, server_default='600')),
        ('pool', sa.Column('enrol_timeout_s', sa.Integer(), nullable=False, server_default='120')),
        ('pool', sa.Column('terminate_timeout_s', sa.Integer(), nullable=False, server_default='900')),
        ('pool', sa.Column('cloud_strikes', sa.Integer(), nullable=False, server_default='3')),
        ('pool', sa.Column('agent_strikes', sa.Integer(), nullable=False, server_default='3')),
        ('pool', sa.Column('engine_strikes', sa.Integer(), nullable=False, server_default='3')),
        ('pool', sa.Column('breaker_failures', sa.Integer(), nullable=False, server_default='3')),
        ('pool', sa.Column('breaker_pause_s', sa.Integer(), nullable=False, server_default='300')),
        ('pool', sa.Column('relaunch_limit', sa.Integer(), nullable=False, server_default='20')),
        ('pool', sa.Column('relaunch_window_s', sa.Integer(), nullable=False, server_default='3600')),
        ('launch', sa.Column('cloud', sqlmodel.sql.sqltypes.AutoString(), nullable=False, server_default='')),
        ('launch', sa.Column('kind', sqlmodel.sql.sqltypes.AutoString(), nullable=False, server_default='')),
        ('launch', sa.Column('template', sa.JSON(), nullable=False, server_default='{}')),
        ('launch', sa.Column('probe', sa.Boolean(), nullable=False, server_default=sa.false())),
        ('node', sa.Column('boot_phase', sqlmodel.sql.sqltypes.AutoString(), nullable=True)),
        ('node', sa.Column('boot_phase_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True)),
        ('node', sa.Column('cloud_state', sqlmodel.sql.sqltypes.AutoString(), nullable=True)),
        ('node', sa.Column('cloud_trouble', sa.Text(), nullable=True)),
        ('node', sa.Column('cloud_strikes', sa.Integer(), nullable=False, server_default='0')),
        ('node', sa.Column('engine_trouble', sa.Text(), nullable=True)),
        ('node', sa.Column('engine_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True)),
        ('node', sa.Column('engine_strikes', sa.Integer(), nullable=False, server_default='0')),
        ('node', sa.Column('reclaim_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True)),
        ('node', sa.Column('console', sa.Text(), nullable=True)),
        ('task', sa.Column('params', sa.JSON(), nullable=True)),
    ]


def upgrade() -> None:
    # Added and dropped in place: making a table anew, as Alembic's batches do on SQLite, would break what refers to its rows.
    for table, column in columns():
        op.add_column(table, column)
    op.execute("UPDATE launch SET cloud = (SELECT cloud FROM pool WHERE pool.id = launch.pool_id)")
    op.create_table('hold',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('pool_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('kind', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('label', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('cause', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.Column('failures', sa.Integer(), nullable=False),
    sa.Column('since', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=False),
    sa.Column('until', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=False),
    sa.Column('probe_launch_id', sa.BigInteger(), nullable=True),
    sa.ForeignKeyConstraint(['pool_id'], ['pool.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('pool_id', 'kind')
    )


def downgrade() -> None:
    op.drop_table('hold')
    for table, column in reversed(columns()):
        op.drop_column(table, column.name)
