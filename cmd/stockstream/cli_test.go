package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/migrations"
)

// TestMigrateCommands goes up and down, and will not drop a journal by accident.
func TestMigrateCommands(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	level := fmt.Sprintf("schema version %d, this build's is %d", migrations.Latest, migrations.Latest)
	for range 2 {
		if out, err := s.cli("migrate", "up"); err != nil || !strings.Contains(out, level) {
			t.Errorf("up: got %q (%v)", out, err)
		}
	}
	if _, err := s.cli("migrate", "status"); err != nil {
		t.Errorf("status: %v", err)
	}
	if out, err := s.cli("projections", "rebuild", "--all"); err != nil {
		t.Errorf("rebuild: got %q (%v)", out, err)
	}
	if _, err := s.cli("migrate", "down"); err == nil || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("down without --yes: got %v", err)
	}
	if _, err := s.cli("migrate", "down", "--yes"); err != nil {
		t.Errorf("down: %v", err)
	}
	if left := queryValue[string](s, `SELECT coalesce(string_agg(relname, ' '), '') FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'`); left != "schema_migrations" {
		t.Errorf("down left %s", left)
	}
	for _, args := range []string{"audit", "redis rebuild", "events list", "journal parts", "journal attach events_1", "dead-letters list", "projections list", "projections rebuild holds"} {
		if _, err := s.cli(strings.Fields(args)...); !errors.Is(err, migrations.ErrSchema) || !strings.Contains(err.Error(), "migrate up") {
			t.Errorf("%s without a schema: got %v, want it to say what makes one", args, err)
		}
	}
	if out, err := s.cli("migrate", "status"); !errors.Is(err, migrations.ErrSchema) || !strings.Contains(out, "schema version 0") {
		t.Errorf("status of nothing: got %q (%v), want an error", out, err)
	}
	for _, args := range []string{"migrate up", "projections rebuild --all"} { // which old tables that were left would refuse
		if out, err := s.cli(strings.Fields(args)...); err != nil {
			t.Errorf("%s after it: got %q (%v)", args, out, err)
		}
	}
}

// TestDoctor holds that the settings of `stockstream dev` are sound, and that each unsafe one is found.
func TestDoctor(t *testing.T) {
	t.Parallel()
	s := newFixtureOn(t, testenv.PostgresServer(t).URL())
	out, err := s.cli("doctor")
	if err != nil {
		t.Fatalf("doctor on servers of our own: %v\n%s", err, out)
	}
	unsafe := map[string][]any{
		"appendfsync":               {"CONFIG", "SET", "appendfsync", "everysec"},
		"appendonly":                {"CONFIG", "SET", "appendonly", "no"},
		"maxmemory-policy":          {"CONFIG", "SET", "maxmemory-policy", "allkeys-lru"},
		"no-appendfsync-on-rewrite": {"CONFIG", "SET", "no-appendfsync-on-rewrite", "yes"},
	}
	for _, command := range unsafe {
		if err := s.redis.Do(s.ctx, command...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.redis.Do(s.ctx, "ACL", "SETUSER", "default", "-debug").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.Exec(s.ctx, `UPDATE schema_migrations SET version = 1`); err != nil {
		t.Fatal(err)
	}
	out, err = s.cli("doctor", "-o", "json")
	if err == nil || !strings.Contains(err.Error(), "6 of 13 findings are unsafe") {
		t.Errorf("got %v, want 6 unsafe findings", err)
	}
	var findings []finding
	if err := json.Unmarshal([]byte(out), &findings); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for _, f := range findings {
		_, broken := unsafe[strings.TrimPrefix(f.Name, "redis ")]
		broken = broken || f.Name == "redis user default" || f.Name == "schema version"
		if (f.Verdict == verdictUnsafe) != broken || broken && f.Advice == "" {
			t.Errorf("got %+v; it is unsafe: %t", f, broken)
		}
	}
	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	if out, err := s.cli("doctor"); err == nil || !strings.Contains(out, "start it") {
		t.Errorf("without Redis: got %q (%v)", out, err)
	}
	if _, err := s.cli("doctor", "-o", "xml"); err == nil {
		t.Error("an unknown output was taken")
	}
}

// TestDoctorAlone holds that a doctor who finds neither server says so in a line each.
func TestDoctorAlone(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := run(t.Context(), []string{"doctor"}, []string{"STOCKSTREAM_REDIS_URL=redis://127.0.0.1:1", "STOCKSTREAM_DATABASE_URL=postgres://app@127.0.0.1:1/inventory"}, &out, &out)
	if err == nil || strings.Count(out.String(), "\n") != 2 || strings.Count(out.String(), "UNSAFE") != 2 {
		t.Errorf("got %v and\n%s", err, out.String())
	}
}

// TestDeadLettersList shows what a foreign entry of the stream becomes.
func TestDeadLettersList(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	v := s.serve().awaitReady()
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	if err := s.redis.Do(s.ctx, "XADD", "inventory.events", "*", "hello", "world").Err(); err != nil {
		t.Fatal(err)
	}
	if status, _, err := v.reserve("shirt", "k", 1, 60); status != 201 || err != nil {
		t.Fatal(status, err)
	}
	s.awaitCaughtUp()
	out, err := s.cli("dead-letters", "list")
	if err != nil || strings.Count(out, "\n") != 2 || !strings.Contains(out, "journal") || !strings.Contains(out, "not written by a command") {
		t.Errorf("list: got %q (%v)", out, err)
	}
	out, err = s.cli("dead-letters", "list", "--source", "journal", "-o", "json")
	var letter letterJSON
	if err != nil || json.Unmarshal([]byte(out), &letter) != nil || letter.Status != "parked" || letter.Attempts != 1 {
		t.Errorf("as JSON: got %q (%v)", out, err)
	}
	if out, err := s.cli("dead-letters", "list", "--source", "holds"); err != nil || strings.Count(out, "\n") != 1 {
		t.Errorf("of another source: got %q (%v), want the heading only", out, err)
	}
	if _, err := s.cli("dead-letters", "list", "-o", "xml"); err == nil {
		t.Error("an unknown output was taken")
	}
}
