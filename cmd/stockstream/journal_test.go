package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/projections"
)

// makeSmallPartitions replaces the partition of an empty journal by partitions of two
// events each, up to seq 20.
func (s *fixture) makeSmallPartitions() {
	s.t.Helper()
	var sql strings.Builder
	sql.WriteString(`DROP TABLE events_1;`)
	for first := 1; first < 20; first += 2 {
		fmt.Fprintf(&sql, `
			CREATE TABLE events_%[1]d (LIKE events INCLUDING ALL, CONSTRAINT part_bounds CHECK (seq >= %[1]d AND seq < %[2]d));
			ALTER TABLE events_main ATTACH PARTITION events_%[1]d FOR VALUES FROM (%[1]d) TO (%[2]d);`, first,
			first+2)
	}
	if _, err := s.db.Exec(s.ctx, sql.String()); err != nil {
		s.t.Fatal(err)
	}
}

// shell runs a command in bash, in a directory and with the fixture's URLs in the
// environment.
func (s *fixture) shell(dir, command string) {
	s.t.Helper()
	cmd := exec.CommandContext(s.ctx, "bash", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), s.environ()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// TestDetachedPartitionCanBeArchivedAndAttachedAgain detaches partitions while the
// service runs. It dumps one, drops it, restores it and attaches it again, with the
// commands that `journal detach` prints.
func TestDetachedPartitionCanBeArchivedAndAttachedAgain(t *testing.T) {
	t.Parallel()
	s := newFixtureOn(t, testenv.PostgresServer(t).URL())
	s.makeSmallPartitions()
	v := s.serve().awaitReady()
	s.redis.Set(s.ctx, "stock:shirt", 100, 0)
	for i := range 5 {
		v.mustReserve("shirt", fmt.Sprint("k", i), 1, 60)
	}
	s.awaitCaughtUp()
	// the stream's group moves a moment after the batch is journaled
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		out, err := s.cli("journal", "detach", "--before", "3", "--dry-run")
		return err == nil && strings.Contains(out, "these partitions would be detached") &&
			strings.Contains(out, "events_1 "), fmt.Sprint(out, err)
	})
	s.wantError("journal detach --before 3", "--yes")
	s.wantOutput("journal detach --older-than 1h --yes", "no partition matches")
	s.wantError("journal detach --yes")
	printed := s.wantOutput("journal detach --before 7 --yes")
	archived := queryValue[string](s, `SELECT string_agg(part, ' ' ORDER BY first_seq) FROM detached_parts`)
	if archived != "events_1 events_3 events_5" {
		t.Fatalf("detached partitions: got %s, want events_1 events_3 events_5", archived)
	}
	for _, part := range []string{"events_5", "events_3"} {
		s.wantOutput("journal attach "+part, "is attached again")
	}
	s.wantError("journal attach events_3")
	s.dumpDropAndRestore("events_1", printed)
	if got := queryValue[int](s, `SELECT count(*) FROM events`); got != 6 {
		t.Errorf("the journal has %d events, want 6", got)
	}
	v.mustReserve("shirt", "last", 1, 60)
	s.awaitCaughtUp()
}

// dumpDropAndRestore runs the commands that `journal detach` has printed for a partition.
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
	s.wantError("journal attach "+part, commands[2]) // its table is dropped
	s.wantOutput("journal parts", "gone")
	s.shell(dir, commands[2])
	s.wantOutput("journal attach " + part)
}

// TestDetachIsRefusedWhileAReaderNeedsThePartition checks that the error names the
// readers that have not reached the partition's end, and that detach is refused during a
// rebuild and without Redis.
func TestDetachIsRefusedWhileAReaderNeedsThePartition(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.makeSmallPartitions()
	at := map[string]int64{"journal": 4}
	for _, name := range projections.Names(projections.BuiltIn()) {
		at[name] = 4
	}
	at["orders"] = 1
	delete(at, "stock_levels") // a projection without a checkpoint
	for name, seq := range at {
		s.exec(`INSERT INTO checkpoints VALUES ($1, 'main', $2)`, name, seq)
	}
	s.exec(`
		INSERT INTO audits (pool, verified_seq, live_holds, stream_id, sku_cursor, hold_cursor, hour_floor, last_at, report)
		VALUES ('main', 1, 0, '', '', '', 0, now(), '{}')`)
	s.wantError("journal detach --before 3 --yes",
		"orders, which is at main:1; stock_levels, which is at main:0; audit, which is at main:1")

	out := s.wantOutput("journal parts -o json")
	var first partitionJSON
	if err := json.Unmarshal([]byte(strings.SplitN(out, "\n", 2)[0]), &first); err != nil {
		t.Fatalf("parts as JSON: %v in %s", err, out)
	}
	if first.LastSeq != 2 {
		t.Errorf("parts as JSON: got last_seq %d, want 2", first.LastSeq)
	}
	if got := strings.Join(first.NeededBy, " "); got != "orders stock_levels audit" {
		t.Errorf("parts as JSON: got needed_by %s, want orders stock_levels audit", got)
	}
	out = s.wantOutput("journal parts", "NEEDED BY")
	if got := strings.Count(out, "attached"); got != 10 {
		t.Errorf("parts: got %d attached partitions, want 10:\n%s", got, out)
	}
	s.wantError("journal parts -o xml")

	lease, err := worker.AcquireLease(s.ctx, testenv.ParseURL(t, s.dbURL), "rebuild")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	s.exec(`INSERT INTO rebuilds (projections, state, step) VALUES ('{holds}', 'running', 'replay')`)
	s.wantError("journal detach --before 3 --yes", "a rebuild of holds runs")
	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	s.wantError("journal detach --before 3 --yes", "stream")
}
