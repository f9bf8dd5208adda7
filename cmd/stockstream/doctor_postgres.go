package main

import (
	"context"

	"github.com/stockstream/stockstream/migrations"
)

// examinePostgres checks Postgres's version and settings, and the schema's version.
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
	isNewEnough := func(version string) bool { return major(version) >= 14 }
	isNotOff := func(value string) bool { return value != "off" }
	findings := []finding{
		show("server_version", isNewEnough, "use Postgres 14 or newer"),
		show("fsync", is("on"), "without it a crash can destroy the journal"),
		show("full_page_writes", is("on"), "without it a crash can destroy the journal"),
		show("synchronous_commit", isNotOff,
			"with off, a crash loses events that the journal has acknowledged to the stream"),
		show("server_encoding", is("UTF8"), "create the database with the encoding UTF8"),
	}
	schema := newFinding("schema version", "at this build's version", true, "")
	if err := migrations.Check(ctx, conn); err != nil {
		schema = newFinding("schema version", err.Error(), false,
			"use the build that the schema was made for, or migrate the schema")
	}
	return append(findings, schema)
}
