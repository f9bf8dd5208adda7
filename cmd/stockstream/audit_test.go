package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/audit"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// TestAuditIsIncompleteIfAStoreCannotBeCompared checks that a store that cannot be
// compared makes the audit incomplete, not clean or different.
func TestAuditIsIncompleteIfAStoreCannotBeCompared(t *testing.T) {
	t.Parallel()
	s := newAuditFixture(t)
	for name, test := range map[string]struct{ breakSQL, repairSQL, reason string }{
		"a projection that is behind": {
			breakSQL:  `UPDATE checkpoints SET seq = 3 WHERE projection = 'orders'`,
			repairSQL: `UPDATE checkpoints SET seq = 10`,
			reason:    "the projection orders is at seq 3",
		},
		"a journal that does not move": {
			breakSQL: `
				UPDATE checkpoints SET seq = 9 WHERE projection = 'journal';
				CREATE TABLE kept AS SELECT * FROM events WHERE seq = 10;
				DELETE FROM events WHERE seq = 10`,
			repairSQL: `UPDATE checkpoints SET seq = 10; INSERT INTO events SELECT * FROM kept`,
			reason:    "the journal ends at seq 9",
		},
		"a table that does not exist": {
			breakSQL:  `ALTER TABLE orders RENAME TO away`,
			repairSQL: `ALTER TABLE away RENAME TO orders`,
			reason:    "the read table orders does not exist",
		},
	} {
		s.exec(test.breakSQL)
		report := s.runAudit(true)
		s.exec(test.repairSQL)
		wantIncomplete(t, name, report, test.reason)
	}
	s.redisCommand("RENAME inventory.meta away")
	wantIncomplete(t, "an emptied Redis", s.runAudit(true), "Redis has no log")
	s.redisCommand("RENAME away inventory.meta")
	s.wantCleanAudit(false)
}

func wantIncomplete(t *testing.T, name string, report *audit.Report, reason string) {
	t.Helper()
	if report.Verdict != audit.VerdictIncomplete {
		t.Errorf("%s: got outcome %s, want incomplete", name, report.Verdict)
	}
	if report.OK {
		t.Errorf("%s: got ok, want not ok", name)
	}
	if !strings.Contains(fmt.Sprint(report.Incomplete), reason) {
		t.Errorf("%s: got reasons %q, want %q among them", name, report.Incomplete, reason)
	}
}

// TestAuditListsPendingAndParkedFindings checks that a counter that was set by hand is
// listed as pending, and that rows and keys behind a dead letter are listed as parked for
// as long as the letter is parked.
func TestAuditListsPendingAndParkedFindings(t *testing.T) {
	t.Parallel()
	s := newAuditFixture(t)
	s.redisCommand("SET stock:shirt 40")
	s.redisCommand("SET stock:new 7")
	for _, full := range []bool{true, false} {
		report := s.wantCleanAudit(full)
		want := []string{"redis changed stock:new", "redis changed stock:shirt"}
		if !full {
			want = want[1:] // only a full audit finds a counter that no event names
		}
		if got := keysOfFindings(report.Pending); !slices.Equal(got, want) {
			t.Errorf("pending (full: %t): got %q, want %q", full, got, want)
		}
	}
	letter := `
		INSERT INTO dead_letters (source, message_key, sequence_key, pool, event_type,
			raw, metadata, error, stack, attempts, status)
		VALUES ($1, $2, $2, 'main', '', '', '{}', 'bad', '', 1, 'parked')`
	s.exec(letter, "holds", s.paid)
	s.exec(letter, "stock_levels", "mug")
	s.exec(letter, "saga", s.live)
	s.exec(`UPDATE holds SET status = 'ACTIVE' WHERE hold_id = $1`, s.paid)
	s.exec(`UPDATE stock_levels SET held = 3 WHERE sku = 'mug'`)
	s.redisCommand("ZREM holds:due " + s.live)
	want := []string{"holds changed " + s.paid, "redis changed hold:" + s.live, "stock_levels changed mug"}
	for _, full := range []bool{true, false, false} {
		report := s.runAudit(full)
		if report.Verdict != audit.VerdictParked {
			t.Errorf("parked (full: %t): got outcome %s, want parked", full, report.Verdict)
		}
		if report.OK {
			t.Errorf("parked (full: %t): got ok, want not ok", full)
		}
		if got := keysOfFindings(report.Parked); !slices.Equal(got, want) {
			t.Fatalf("parked (full: %t): got %q, want %q", full, got, want)
		}
		if report.Parked.First[0].Because == "" {
			t.Errorf("parked (full: %t): got %+v, want the dead letter as the reason",
				full, report.Parked.First[0])
		}
	}
	// A resolved letter no longer explains a difference. The audit has stored which keys
	// to check again.
	s.exec(`UPDATE dead_letters SET status = 'resolved'`)
	want = append(want, "redis count holds:due")
	slices.Sort(want)
	if got := keysOfFindings(s.runAudit(false).Differences); !slices.Equal(got, want) {
		t.Errorf("resolved: got %q, want %q", got, want)
	}
	s.exec(`UPDATE holds SET status = 'CONFIRMED' WHERE hold_id = $1`, s.paid)
	s.exec(`UPDATE stock_levels SET held = 0 WHERE sku = 'mug'`)
	deadline := s.redis.HGet(s.ctx, "hold:"+s.live, "expires_at").Val()
	s.redisCommand("ZADD holds:due " + deadline + " " + s.live)
	s.wantCleanAudit(false)
	if got := queryValue[int](s.fixture, `SELECT count(*) FROM audit_holds`); got != 1 {
		t.Errorf("audit_holds has %d rows, want the live hold", got)
	}
}

// TestAuditContinuesAfterADetach checks that an audit continues on a journal with
// detached partitions, and that a full audit is refused.
func TestAuditContinuesAfterADetach(t *testing.T) {
	t.Parallel()
	s := newAuditFixture(t)
	s.wantCleanAudit(false)
	s.exec(`DELETE FROM events WHERE seq <= 6`)
	s.exec(`INSERT INTO detached_parts (pool, part, first_seq, last_seq, events, digest) VALUES ('main', 'events_1', 1, 6, 6, '')`)
	s.redisCommand("DEL inventory.events")
	s.wantCleanAudit(false)
	s.wantError("audit --full", "stockstream journal attach")
	s.wantCleanAudit(false)
}

// TestAuditCommandOutputAndErrors checks the command's output in both formats, its
// errors, and the stored last audit.
func TestAuditCommandOutputAndErrors(t *testing.T) {
	t.Parallel()
	s := newAuditFixture(t)
	out := s.wantOutput("audit")
	clean := "clean: seq 0 to 10, 10 events, 2 SKUs, 4 holds, 10 entries of the stream, in "
	if !strings.HasPrefix(out, clean) {
		t.Errorf("clean: printed %q, want it to start with %q", out, clean)
	}

	s.redisCommand("HSET hold:" + s.live + " qty 9")
	out, err := s.runFailing("audit")
	if err == nil || err.Error() != "audit: 1 difference" {
		t.Errorf("a difference: got error %v, want audit: 1 difference", err)
	}
	texts := []string{
		"ACTIVE, 2 of shirt for buyer",
		"ACTIVE, 9 of shirt",
		"stockstream redis rebuild --yes",
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("a difference: printed %q, want it to contain %q", out, text)
		}
	}
	if strings.Contains(out, "projections rebuild") {
		t.Errorf("a difference in Redis: printed %q, which advises to rebuild read tables", out)
	}

	s.exec(`UPDATE stock_levels SET sold = sold + 1`)
	out, _ = s.runFailing("audit --full")
	advice := "`stockstream projections rebuild stock_levels --accept-differences`"
	if !strings.Contains(out, advice) {
		t.Errorf("a difference in a read table: printed %q, want the advice %s", out, advice)
	}
	s.exec(`UPDATE stock_levels SET sold = sold - 1`)

	s.checkAuditJSON()
	lease, err := worker.AcquireLease(s.ctx, testenv.ParseURL(t, s.dbURL), "audit/main")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	_, err = audit.Run(s.ctx, audit.Config{
		Postgres: testenv.ParseURL(t, s.dbURL),
		Redis:    s.redis,
		Pool:     events.MainPool,
		LockWait: 100 * time.Millisecond,
	}, false)
	if !errors.Is(err, audit.ErrAuditRunning) {
		t.Errorf("while another audit runs: got %v, want ErrAuditRunning", err)
	}
	lease.Release()

	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	_, err = s.runFailing("audit", "no audit was possible: read ")
	// Redis's keys and the stream are read at the same time.
	namesRedis := strings.Contains(fmt.Sprint(err), "read Redis")
	namesStream := strings.Contains(fmt.Sprint(err), "read the stream")
	if !namesRedis && !namesStream {
		t.Errorf("without Redis: got %v, want that Redis or the stream could not be read", err)
	}
	last, _, err := audit.Last(s.ctx, s.db, "main")
	if err != nil {
		t.Fatal(err)
	}
	if last.Verdict != audit.VerdictIncomplete {
		t.Errorf("the stored last audit: got %+v, want it incomplete", last)
	}
	if _, err := s.runFailing("audit --timeout 1ns", "--timeout"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("--timeout 1ns: got %v, want context.DeadlineExceeded", err)
	}
	s.wantError("audit -o xml")
}

// checkAuditJSON checks the fields of a full audit with one difference as JSON.
func (s *auditFixture) checkAuditJSON() {
	s.t.Helper()
	out, err := s.cli("audit", "--full", "-o", "json")
	if err == nil {
		s.t.Error("as JSON: got no error for a difference")
	}
	var report map[string]any
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		s.t.Fatalf("as JSON: %v in %q", err, out)
	}
	for field, want := range map[string]any{"ok": false, "outcome": "differs", "full": true, "seq": 10.0} {
		if got := report[field]; got != want {
			s.t.Errorf("as JSON: %s: got %v, want %v", field, got, want)
		}
	}
	differences, _ := report["differences"].(map[string]any)
	if got := differences["count"]; got != 1.0 {
		s.t.Errorf("as JSON: differences.count: got %v, want 1", got)
	}
	if report["pending"] == nil {
		s.t.Errorf("as JSON: got no field pending in %s", out)
	}
	if got := fmt.Sprint(report["incomplete"]); got != "[]" {
		s.t.Errorf("as JSON: incomplete: got %s, want []", got)
	}
}

// TestAuditIgnoresForeignEntries checks that entries of the stream that no command wrote
// are not a difference, whatever seq they have. The journal has parked them as dead
// letters.
func TestAuditIgnoresForeignEntries(t *testing.T) {
	t.Parallel()
	s := newAuditFixture(t)
	v := s.serve("--audit-interval", "0").awaitReady()
	for i, seq := range []int{1, 99} {
		const entry = "event_id 0198c0de-0000-7000-8000-00000000000%d type HOLD_CANCELLED " +
			"payload {} metadata {} seq %d at 1764000000000"
		s.redisCommand("XADD inventory.events * " + fmt.Sprintf(entry, i, seq))
	}
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		letters := queryValue[int64](s.fixture, `SELECT count(*) FROM dead_letters WHERE source = 'journal'`)
		return letters == 2, fmt.Sprintf("%d letters", letters)
	})
	s.wantCleanAudit(false)
	for i := range 100 { // moves the log head past the foreign entry's seq
		status, _, err := v.reserve("mug", fmt.Sprintf("more-%d", i), 1, 600)
		if err != nil {
			t.Fatal(err)
		}
		if status != http.StatusCreated && status != http.StatusConflict {
			t.Fatalf("reserve: got status %d, want 201 or 409", status)
		}
		adjustment := fmt.Sprintf(`{"delta":1,"reason":"found","idempotency_key":"found-%d"}`, i)
		s.mustBeOK(s.send(http.MethodPost, v.url+"/stock/shirt/adjustments", adjustment))
	}
	s.awaitCaughtUp()
	s.wantCleanAudit(false)
	s.wantCleanAudit(true)
}
