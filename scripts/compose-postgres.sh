#!/bin/sh
# Runs once in the container of Postgres, when its volume is new. The service gets a role that is no superuser and owns
# its database. The superuser postgres is reached only through the socket in the container:
# docker compose exec postgres psql -U postgres inventory
set -eu

psql -v ON_ERROR_STOP=1 -v password="$POSTGRES_PASSWORD" -U "$POSTGRES_USER" -d postgres <<'SQL'
CREATE ROLE app LOGIN PASSWORD :'password';
CREATE DATABASE inventory OWNER app;
SQL
cat >"$PGDATA/pg_hba.conf" <<'RULES'
local all all trust
host inventory app all scram-sha-256
RULES
