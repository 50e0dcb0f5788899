"""the first schema"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

import orchestrator.model.tables

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('api_token',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('name', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('hash', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('created_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=False),
    sa.Column('revoked_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('hash'),
    sa.UniqueConstraint('name')
    )
    op.create_table('client',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('name', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('created_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('name')
    )
    op.create_table('event',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=False),
    sa.Column('subject', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('subject_id', sa.BigInteger(), nullable=False),
    sa.Column('from_state', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('to_state', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('reason', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('detail', sa.Text(), nullable=True),
    sa.Column('actor', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('job_id', sa.BigInteger(), nullable=True),
    sa.Column('task_id', sa.BigInteger(), nullable=True),
    sa.Column('attempt_id', sa.BigInteger(), nullable=True),
    sa.Column('node_id', sa.BigInteger(), nullable=True),
    sa.Column('pool_id', sa.BigInteger(), nullable=True),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('event', schema=None) as batch_op:
        batch_op.create_index('ix_event_job', ['job_id', 'id'], unique=False)
        batch_op.create_index('ix_event_node', ['node_id', 'id'], unique=False)
        batch_op.create_index('ix_event_pool', ['pool_id', 'id'], unique=False)

    op.create_table('meta',
    sa.Column('key', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('value', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.PrimaryKeyConstraint('key')
    )
    op.create_table('pool',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('name', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('cloud', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('policy', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('min_nodes', sa.Integer(), nullable=False),
    sa.Column('max_nodes', sa.Integer(), nullable=False),
    sa.Column('slots', sa.Integer(), nullable=False),
    sa.Column('launch', sa.JSON(), nullable=False),
    sa.Column('boot_timeout_s', sa.Integer(), nullable=False),
    sa.Column('heartbeat_timeout_s', sa.Integer(), nullable=False),
    sa.Column('drain_timeout_s', sa.Integer(), nullable=False),
    sa.Column('lease_s', sa.Integer(), nullable=False),
    sa.Column('created_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=False),
    sa.Column('paused_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('paused_reason', sa.Text(), nullable=True),
    sa.Column('frozen_reason', sa.Text(), nullable=True),
    sa.Column('deleted_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('gone_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('name')
    )
    op.create_table('job',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('name', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('client_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('spec', sa.JSON(), nullable=False),
    sa.Column('params', sa.JSON(), nullable=False),
    sa.Column('token', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('operation', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('priority', sa.Integer(), nullable=False),
    sa.Column('state', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('tasks', sa.Integer(), nullable=False),
    sa.Column('open_tasks', sa.Integer(), nullable=False),
    sa.Column('idempotency_key', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('submitted_by', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('submitted_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=False),
    sa.Column('started_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('finished_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('cancel_requested_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['client_id'], ['client.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('idempotency_key')
    )
    with op.batch_alter_table('job', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_job_state'), ['state'], unique=False)

    op.create_table('task',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('job_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('name', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('kind', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('spec', sa.JSON(), nullable=False),
    sa.Column('token', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('pool_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True),
    sa.Column('priority', sa.Integer(), nullable=False),
    sa.Column('state', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('waiting_on', sa.Integer(), nullable=False),
    sa.Column('attempts', sa.Integer(), nullable=False),
    sa.Column('job_failures', sa.Integer(), nullable=False),
    sa.Column('infrastructure_failures', sa.Integer(), nullable=False),
    sa.Column('run_after', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('queued_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('started_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('finished_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('exit_code', sa.Integer(), nullable=True),
    sa.ForeignKeyConstraint(['job_id'], ['job.id'], ),
    sa.ForeignKeyConstraint(['pool_id'], ['pool.id'], ),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('task', schema=None) as batch_op:
        batch_op.create_index('ix_task_job', ['job_id', 'state'], unique=False)
        batch_op.create_index('ix_task_queue', ['state', 'token', sa.text('priority DESC'), 'id'], unique=False)
        batch_op.create_index('ix_task_run_after', ['run_after'], unique=False)

    op.create_table('deployment',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('job_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('task_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True),
    sa.Column('pool_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('token', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('machines', sa.Integer(), nullable=False),
    sa.Column('image', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('instance_type', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('waiting', sa.Text(), nullable=True),
    sa.Column('opened_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=False),
    sa.Column('closed_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['job_id'], ['job.id'], ),
    sa.ForeignKeyConstraint(['pool_id'], ['pool.id'], ),
    sa.ForeignKeyConstraint(['task_id'], ['task.id'], ),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('deployment', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_deployment_job_id'), ['job_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_deployment_pool_id'), ['pool_id'], unique=False)

    op.create_table('task_need',
    sa.Column('task_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('needs_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.ForeignKeyConstraint(['needs_id'], ['task.id'], ),
    sa.ForeignKeyConstraint(['task_id'], ['task.id'], ),
    sa.PrimaryKeyConstraint('task_id', 'needs_id')
    )
    with op.batch_alter_table('task_need', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_task_need_needs_id'), ['needs_id'], unique=False)

    op.create_table('launch',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('pool_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('deployment_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True),
    sa.Column('state', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('machines', sa.Integer(), nullable=False),
    sa.Column('image', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('instance_type', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('tries', sa.Integer(), nullable=False),
    sa.Column('run_after', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('requested_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=False),
    sa.Column('launched_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['deployment_id'], ['deployment.id'], ),
    sa.ForeignKeyConstraint(['pool_id'], ['pool.id'], ),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('launch', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_launch_state'), ['state'], unique=False)

    op.create_table('node',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('pool_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('launch_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('deployment_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=True),
    sa.Column('state', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('token', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('slots', sa.Integer(), nullable=False),
    sa.Column('instance_id', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('address', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('protected', sa.Boolean(), nullable=False),
    sa.Column('credential_hash', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('agent_version', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.Column('requested_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=False),
    sa.Column('launched_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('seen_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('enrolled_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('heartbeat_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('draining_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('terminating_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('terminate_asked_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('terminate_tries', sa.Integer(), nullable=False),
    sa.Column('terminated_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('end_reason', sqlmodel.sql.sqltypes.AutoString(), nullable=True),
    sa.ForeignKeyConstraint(['deployment_id'], ['deployment.id'], ),
    sa.ForeignKeyConstraint(['launch_id'], ['launch.id'], ),
    sa.ForeignKeyConstraint(['pool_id'], ['pool.id'], ),
    sa.PrimaryKeyConstraint('id'),
    sa.UniqueConstraint('credential_hash'),
    sa.UniqueConstraint('instance_id')
    )
    with op.batch_alter_table('node', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_node_deployment_id'), ['deployment_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_node_launch_id'), ['launch_id'], unique=False)
        batch_op.create_index('ix_node_pool', ['pool_id', 'state'], unique=False)

    op.create_table('attempt',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), autoincrement=True, nullable=False),
    sa.Column('task_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('node_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('state', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('exit_code', sa.Integer(), nullable=True),
    sa.Column('log_size', sa.BigInteger(), nullable=False),
    sa.Column('claimed_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=False),
    sa.Column('started_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.Column('finished_at', orchestrator.model.tables.UtcDateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['node_id'], ['node.id'], ),
    sa.ForeignKeyConstraint(['task_id'], ['task.id'], ),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('attempt', schema=None) as batch_op:
        batch_op.create_index('ix_attempt_node', ['node_id', 'state'], unique=False)
        batch_op.create_index(batch_op.f('ix_attempt_task_id'), ['task_id'], unique=False)



def downgrade() -> None:
    with op.batch_alter_table('attempt', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_attempt_task_id'))
        batch_op.drop_index('ix_attempt_node')

    op.drop_table('attempt')
    with op.batch_alter_table('node', schema=None) as batch_op:
        batch_op.drop_index('ix_node_pool')
        batch_op.drop_index(batch_op.f('ix_node_launch_id'))
        batch_op.drop_index(batch_op.f('ix_node_deployment_id'))

    op.drop_table('node')
    with op.batch_alter_table('launch', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_launch_state'))

    op.drop_table('launch')
    with op.batch_alter_table('task_need', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_task_need_needs_id'))

    op.drop_table('task_need')
    with op.batch_alter_table('deployment', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_deployment_pool_id'))
        batch_op.drop_index(batch_op.f('ix_deployment_job_id'))

    op.drop_table('deployment')
    with op.batch_alter_table('task', schema=None) as batch_op:
        batch_op.drop_index('ix_task_run_after')
        batch_op.drop_index('ix_task_queue')
        batch_op.drop_index('ix_task_job')

    op.drop_table('task')
    with op.batch_alter_table('job', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_job_state'))

    op.drop_table('job')
    op.drop_table('pool')
    op.drop_table('meta')
    with op.batch_alter_table('event', schema=None) as batch_op:
        batch_op.drop_index('ix_event_pool')
        batch_op.drop_index('ix_event_node')
        batch_op.drop_index('ix_event_job')

    op.drop_table('event')
    op.drop_table('client')
    op.drop_table('api_token')
