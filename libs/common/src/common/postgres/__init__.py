"""PostgreSQL as the services use it: named queries, pools, migrations."""
