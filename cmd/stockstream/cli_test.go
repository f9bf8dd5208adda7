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

// TestMigrateUpDownAndStatus migrates up twice, down and up again. It checks that down
// needs --yes, and that without a schema every command advises to run migrate up.
func TestMigrateUpDownAndStatus(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	latest := fmt.Sprintf("schema version %d, this build's is %d", migrations.Latest, migrations.Latest)
	for range 2 {
		s.wantOutput("migrate up", latest)
	}
	s.wantOutput("migrate status")
	s.wantOutput("projections rebuild --all")
	s.wantError("migrate down", "--yes")
	s.wantOutput("migrate down --yes")
	const tables = `
		SELECT coalesce(string_agg(relname, ' '), '') FROM pg_class
		WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'`
	if left := queryValue[string](s, tables); left != "schema_migrations" {
		t.Errorf("after down: the schema has the tables %s, want only schema_migrations", left)
	}
	for _, command := range []string{
		"audit", "redis rebuild", "events list", "journal parts", "journal attach events_1",
		"dead-letters list",
		"projections list", "projections rebuild holds",
	} {
		if _, err := s.runFailing(command, "migrate up"); !errors.Is(err, migrations.ErrSchema) {
			t.Errorf("%s without a schema: got %v, want ErrSchema", command, err)
		}
	}
	out, err := s.cli("migrate", "status")
	if !errors.Is(err, migrations.ErrSchema) {
		t.Errorf("status without a schema: got %v, want ErrSchema", err)
	}
	if !strings.Contains(out, "schema version 0") {
		t.Errorf("status without a schema: printed %q, want version 0", out)
	}
	s.wantOutput("migrate up")
	s.wantOutput("projections rebuild --all") // would fail if migrate down had left old tables behind
}

// TestDoctorFindsUnsafeSettings checks that the servers of the tests, which have the
// settings of `stockstream dev`, are safe, and that the doctor finds each unsafe setting.
func TestDoctorFindsUnsafeSettings(t *testing.T) {
	t.Parallel()
	s := newFixtureOn(t, testenv.PostgresServer(t).URL())
	s.wantOutput("doctor")
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
	if err := s.redis.Set(s.ctx, "session:1", "of another program", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.exec(`UPDATE schema_migrations SET version = 1`)
	out, _ := s.runFailing("doctor -o json", "7 of 25 findings are unsafe")
	var findings []finding
	if err := json.Unmarshal([]byte(out), &findings); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for _, f := range findings {
		_, isUnsafe := unsafe[strings.TrimPrefix(f.Name, "redis ")]
		isUnsafe = isUnsafe || f.Name == "redis user default" || f.Name == "schema version" ||
			f.Name == "redis database"
		if got := f.Verdict == verdictUnsafe; got != isUnsafe {
			t.Errorf("%s: got unsafe %t, want %t: %+v", f.Name, got, isUnsafe, f)
		}
		if isUnsafe && f.Advice == "" {
			t.Errorf("%s: got no advice", f.Name)
		}
	}
	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	if out, _ := s.runFailing("doctor"); !strings.Contains(out, "start it") {
		t.Errorf("without Redis: printed %q, want the advice to start it", out)
	}
	s.wantError("doctor -o xml")
}

// TestDoctorNamesSellersOnAnotherRedis checks that the doctor finds processes that sell
// on another Redis, and ignores old reports.
func TestDoctorNamesSellersOnAnotherRedis(t *testing.T) {
	t.Parallel()
	s := newFixtureOn(t, testenv.PostgresServer(t).URL())
	s.serve().awaitReady()
	report := func(process, age string) {
		s.exec(`INSERT INTO sellers (pool, process, server, reported_at)
			VALUES ('main', '` + process + `', 'f00d', now() - interval '` + age + `')`)
	}
	report("web-8/8/dead", "1 minute")
	if out := s.wantOutput("doctor"); !strings.Contains(out, "sellers on this Redis: 1") {
		t.Errorf("printed %q, want the process that sells here", out)
	}
	report("web-9/9/wrong", "0 seconds")
	out, _ := s.runFailing("doctor", "1 of")
	if !strings.Contains(out, "web-9/9/wrong") {
		t.Errorf("printed %q, want the process on another Redis", out)
	}
	if strings.Contains(out, "web-8/8/dead") {
		t.Errorf("printed %q, want no old report", out)
	}
}

// TestDoctorWithoutServers checks that the doctor prints one unsafe finding for each
// server that it cannot reach.
func TestDoctorWithoutServers(t *testing.T) {
	t.Parallel()
	environ := []string{
		"STOCKSTREAM_REDIS_URL=redis://127.0.0.1:1",
		"STOCKSTREAM_DATABASE_URL=postgres://app@127.0.0.1:1/inventory",
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"doctor"}, environ, &out, &out); err == nil {
		t.Error("got no error")
	}
	if got := strings.Count(out.String(), "\n"); got != 2 {
		t.Errorf("got %d lines, want 2:\n%s", got, out.String())
	}
	if got := strings.Count(out.String(), "UNSAFE"); got != 2 {
		t.Errorf("got %d unsafe findings, want 2:\n%s", got, out.String())
	}
}

// TestDeadLettersListShowsAForeignEntry checks that an entry of the stream that no
// command wrote becomes a dead letter, and that the command lists it in both formats.
func TestDeadLettersListShowsAForeignEntry(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	v := s.serve().awaitReady()
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	if err := s.redis.Do(s.ctx, "XADD", "inventory.events", "*", "hello", "world").Err(); err != nil {
		t.Fatal(err)
	}
	v.mustReserve("shirt", "k", 1, 60)
	s.awaitCaughtUp()
	out := s.wantOutput("dead-letters list", "journal", "not written by a command")
	if got := strings.Count(out, "\n"); got != 2 {
		t.Errorf("list: got %d lines, want the heading and one letter:\n%s", got, out)
	}
	out = s.wantOutput("dead-letters list --source journal -o json")
	var letter letterJSON
	if err := json.Unmarshal([]byte(out), &letter); err != nil {
		t.Fatalf("as JSON: %v in %q", err, out)
	}
	if letter.Status != "parked" {
		t.Errorf("status: got %s, want parked", letter.Status)
	}
	if letter.Attempts != 1 {
		t.Errorf("attempts: got %d, want 1", letter.Attempts)
	}
	out = s.wantOutput("dead-letters list --source holds")
	if got := strings.Count(out, "\n"); got != 1 {
		t.Errorf("list of another source: got %d lines, want only the heading:\n%s", got, out)
	}
	s.wantError("dead-letters list -o xml")
}
