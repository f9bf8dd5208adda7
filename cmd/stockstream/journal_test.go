package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

// makeSmallPartitions divides an empty journal into parts of two events, up to seq 20.
func (s *fixture) makeSmallPartitions() {
	s.t.Helper()
	var sql strings.Builder
	sql.WriteString(`DROP TABLE events_1;`)
	for first := 1; first < 20; first += 2 {
		fmt.Fprintf(&sql, `
			CREATE TABLE events_%[1]d (LIKE events INCLUDING ALL, CONSTRAINT part_bounds CHECK (seq >= %[1]d AND seq < %[2]d));
			ALTER TABLE events ATTACH PARTITION events_%[1]d FOR VALUES FROM (%[1]d) TO (%[2]d);`, first, first+2)
	}
	if _, err := s.db.Exec(s.ctx, sql.String()); err != nil {
		s.t.Fatal(err)
	}
}

// shell runs a command as an operator would, in a directory, with the shop's database in the environment.
func (s *fixture) shell(dir, command string) {
	s.t.Helper()
	cmd := exec.CommandContext(s.ctx, "bash", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), s.environ()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// TestArchive takes the oldest part out while the service runs, dumps it, drops it, and brings it back by the commands
// that the program prints.
func TestArchive(t *testing.T) {
	t.Parallel()
	s := newFixtureOn(t, testenv.PostgresServer(t).URL())
	s.makeSmallPartitions()
	v := s.serve().awaitReady()
	s.redis.Set(s.ctx, "stock:shirt", 100, 0)
	for i := range 5 {
		if status, _, err := v.reserve("shirt", fmt.Sprint("k", i), 1, 60); status != 201 || err != nil {
			t.Fatal(status, err)
		}
	}
	s.awaitCaughtUp()
	testenv.Eventually(t, 10*time.Second, func() (bool, string) { // the last batch is acknowledged after it is in the journal
		out, err := s.cli("journal", "detach", "--before", "3", "--dry-run")
		return err == nil && strings.Contains(out, "these partitions would be detached") && strings.Contains(out, "events_1 "), fmt.Sprint(out, err)
	})
	if _, err := s.cli("journal", "detach", "--before", "3"); err == nil || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("detach without --yes: got %v", err)
	}
	if out, err := s.cli("journal", "detach", "--older-than", "1h", "--yes"); err != nil || !strings.Contains(out, "no partition matches") {
		t.Errorf("nothing is that old: got %q (%v)", out, err)
	}
	if _, err := s.cli("journal", "detach", "--yes"); err == nil {
		t.Error("detach took no bounds for all")
	}
	printed, err := s.cli("journal", "detach", "--before", "7", "--yes")
	if err != nil {
		t.Errorf("detach up to the end: %v", err)
	}
	archived := queryValue[string](s, `SELECT string_agg(part, ' ' ORDER BY first_seq) FROM detached_parts`)
	if archived != "events_1 events_3 events_5" {
		t.Fatalf("detached %s", archived)
	}
	for _, part := range []string{"events_5", "events_3"} {
		if out, err := s.cli("journal", "attach", part); err != nil || !strings.Contains(out, "is attached again") {
			t.Errorf("attach: got %q (%v)", out, err)
		}
	}
	if _, err := s.cli("journal", "attach", "events_3"); err == nil {
		t.Error("a part was attached twice")
	}
	s.dumpDropAndRestore("events_1", printed)
	if got := queryValue[int](s, `SELECT count(*) FROM events`); got != 6 {
		t.Errorf("the journal has %d events, want 6", got)
	}
	if status, _, err := v.reserve("shirt", "last", 1, 60); status != 201 || err != nil {
		t.Error(status, err)
	}
	s.awaitCaughtUp()
}

// dumpDropAndRestore does with a detached part what `journal detach` has printed.
func (s *fixture) dumpDropAndRestore(part, printed string) {
	s.t.Helper()
	var commands []string
	for _, line := range strings.Split(printed, "\n") {
		if strings.HasPrefix(line, "  ") && strings.Contains(line, part) {
			commands = append(commands, strings.TrimSpace(line))
		}
	}
	if len(commands) != 4 || commands[3] != "stockstream journal attach "+part {
		s.t.Fatalf("detach printed %q for %s, want four commands", commands, part)
	}
	dir := s.t.TempDir()
	s.shell(dir, commands[0])
	s.shell(dir, commands[1])
	if _, err := s.cli("journal", "attach", part); err == nil || !strings.Contains(err.Error(), commands[2]) {
		s.t.Errorf("attach what was dropped: got %v, want it to say %s", err, commands[2])
	}
	if out, err := s.cli("journal", "parts"); err != nil || !strings.Contains(out, "gone") {
		s.t.Errorf("parts: got %s (%v), want one gone", out, err)
	}
	s.shell(dir, commands[2])
	if _, err := s.cli("journal", "attach", part); err != nil {
		s.t.Errorf("attach what was restored: %v", err)
	}
}

// TestDetachRefusedByReaders holds that the command names who still needs a part, and that it asks Redis.
func TestDetachRefusedByReaders(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.makeSmallPartitions()
	at := map[string]int64{"journal": 4}
	for _, name := range projections.Names(projections.BuiltIn()) {
		at[name] = 4
	}
	at["orders"] = 1
	delete(at, "stock_levels") // it has not begun
	for name, seq := range at {
		if _, err := s.db.Exec(s.ctx, `INSERT INTO checkpoints VALUES ($1, 'main', $2)`, name, seq); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.db.Exec(s.ctx, `INSERT INTO audits (pool, verified_seq, live_holds, stream_id, sku_cursor, hold_cursor, hour_floor, last_at, report) VALUES ('main', 1, 0, '', '', '', 0, now(), '{}')`); err != nil {
		t.Fatal(err)
	}
	if _, err := s.cli("journal", "detach", "--before", "3", "--yes"); err == nil || !strings.Contains(err.Error(), "orders, which is at main:1; stock_levels, which is at main:0; audit, which is at main:1") {
		t.Errorf("got %v, want it refused for orders, stock_levels and the audit", err)
	}
	out, err := s.cli("journal", "parts", "-o", "json")
	var first partitionJSON
	if err != nil || json.Unmarshal([]byte(strings.SplitN(out, "\n", 2)[0]), &first) != nil || first.LastSeq != 2 || strings.Join(first.NeededBy, " ") != "orders stock_levels audit" {
		t.Errorf("parts: got %s (%v)", out, err)
	}
	if out, err := s.cli("journal", "parts"); err != nil || !strings.Contains(out, "NEEDED BY") || strings.Count(out, "attached") != 10 {
		t.Errorf("parts: got %s (%v)", out, err)
	}
	if _, err := s.cli("journal", "parts", "-o", "xml"); err == nil {
		t.Error("an unknown output was taken")
	}
	lease, err := events.AcquireLease(s.ctx, testenv.ParseURL(t, s.dbURL), "rebuild")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	if _, err := s.db.Exec(s.ctx, `INSERT INTO rebuilds (projections, state, step) VALUES ('{holds}', 'running', 'replay')`); err != nil {
		t.Fatal(err)
	}
	if _, err := s.cli("journal", "detach", "--before", "3", "--yes"); err == nil || !strings.Contains(err.Error(), "a rebuild of holds runs") {
		t.Errorf("during a rebuild: got %v, want it refused", err)
	}
	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.cli("journal", "detach", "--before", "3", "--yes"); err == nil || !strings.Contains(err.Error(), "stream") {
		t.Errorf("without Redis: got %v, want it refused", err)
	}
}
