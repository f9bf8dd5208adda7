package main

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/migrations"
)

// examinePostgres checks Postgres's version and settings, the session's own settings, and
// the schema's version. The connection itself fails if a pooler does not keep sessions
// apart.
func examinePostgres(ctx context.Context, config *Config) []finding {
	conn, err := connect(ctx, config)
	if err != nil {
		const advice = "start it, or set STOCKSTREAM_DATABASE_URL"
		return []finding{newFinding("postgres", err.Error(), false, advice)}
	}
	defer conn.Close(ctx)
	show := func(name string, ok func(string) bool, advice string) finding {
		var value string
		if err := conn.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value); err != nil {
			return unknownFinding("postgres "+name, err)
		}
		return newFinding("postgres "+name, value, ok(value), advice)
	}
	is := func(wanted string) func(string) bool {
		return func(value string) bool { return value == wanted }
	}
	isAny := func(string) bool { return true }
	isNewEnough := func(version string) bool { return major(version) >= 14 }
	isNotOff := func(value string) bool { return value != "off" }
	findings := []finding{
		show("server_version", isNewEnough, "use Postgres 14 or newer"),
		show("fsync", is("on"), "without it a crash can destroy the journal"),
		show("full_page_writes", is("on"), "without it a crash can destroy the journal"),
		show("synchronous_commit", isNotOff,
			"with off, a crash loses events that the journal has acknowledged to the stream"),
		show("server_encoding", is("UTF8"), "create the database with the encoding UTF8"),
		newFinding("postgres sessions", "kept: no pooler exchanges them between transactions", true, ""),
		examineSchemaName(ctx, conn),
		show("transaction_read_only", is("off"), "point STOCKSTREAM_DATABASE_URL at the primary"),
		// The service sets these itself, so a role's default does not matter.
		show("transaction_isolation", is("read committed"), "report this fault"),
		show("standard_conforming_strings", is("on"), "report this fault"),
		show("timezone", is("UTC"), "report this fault"),
		show("statement_timeout", isAny, ""),
		show("lock_timeout", isAny, ""),
		show("idle_session_timeout", isAny, ""),
		show("idle_in_transaction_session_timeout", isAny, ""),
	}
	schema := newFinding("schema version", "at this build's version", true, "")
	if err := migrations.Check(ctx, conn); err != nil {
		schema = newFinding("schema version", err.Error(), false,
			"use the build that the schema was made for, or migrate the schema")
	}
	return append(findings, schema)
}

// examineSchemaName shows the schema in which the tables are looked for.
func examineSchemaName(ctx context.Context, conn *pgx.Conn) finding {
	const name = "postgres schema"
	const query = `SELECT coalesce(current_schema(), ''), current_setting('search_path')`
	var schema, path string
	if err := conn.QueryRow(ctx, query).Scan(&schema, &path); err != nil {
		return unknownFinding(name, err)
	}
	if schema == "" {
		advice := "create it, or name another one in STOCKSTREAM_DATABASE_URL: ?search_path=…"
		return newFinding(name, "search_path "+path+": no such schema", false, advice)
	}
	return newFinding(name, schema, true, "")
}
