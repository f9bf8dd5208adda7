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

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/audit"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// auditFixture is a shop that has sold a little and is closed for the night: what the audit reads stands still.
type auditFixture struct {
	*fixture
	live, paid, cancelled, expired string // hold ids
	hour, mugHour                  string // what an audit calls the last rows of sku_hours
}

func newAuditFixture(t *testing.T) *auditFixture {
	t.Helper()
	s := &auditFixture{fixture: newFixture(t)}
	v := s.serve("--audit-interval", "0").awaitReady()
	s.mustBeOK(s.send(http.MethodPost, v.url+"/stock/shirt/adjustments", `{"delta":20,"reason":"delivery","idempotency_key":"a1"}`))
	s.mustBeOK(s.send(http.MethodPost, v.url+"/stock/shirt/adjustments", `{"delta":-3,"reason":"broken","idempotency_key":"a2"}`))
	s.redis.Set(s.ctx, "stock:mug", 8, 0)
	hold := func(sku, key string, qty, ttlSeconds int) string {
		_, id, err := v.reserve(sku, key, qty, ttlSeconds)
		if err != nil || id == "" {
			t.Fatalf("reserve %s: %q (%v)", key, id, err)
		}
		return id
	}
	s.live, s.paid, s.cancelled, s.expired = hold("shirt", "k1", 2, 600), hold("shirt", "k2", 3, 600), hold("mug", "k3", 1, 600), hold("mug", "k4", 2, 1)
	s.mustBeOK(s.send(http.MethodPost, v.url+"/holds/"+s.paid+"/confirm", `{"payment_ref":"pay-2"}`))
	s.mustBeOK(s.send(http.MethodPost, v.url+"/holds/"+s.cancelled+"/cancel", ``))
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		state := s.redis.HGet(s.ctx, "hold:"+s.expired, "state").Val()
		return state == "EXPIRED", state
	})
	s.awaitCaughtUp()
	if err := v.stop(); err != nil {
		t.Fatal(err)
	}
	const hour = `SELECT sku || to_char(max(hour) AT TIME ZONE 'UTC', ' YYYY-MM-DD"T"HH24:MI:SS"Z"') FROM sku_hours WHERE sku = $1 GROUP BY sku`
	s.hour, s.mugHour = queryValue[string](s.fixture, hour, "shirt"), queryValue[string](s.fixture, hour, "mug")
	return s
}

func (s *fixture) mustBeOK(status int, answer map[string]any, err error) {
	s.t.Helper()
	if err != nil || status != http.StatusOK {
		s.t.Fatal(status, answer, err)
	}
}

// runAudit runs an audit that does not wait long for what will not come: nothing moves here.
func (s *auditFixture) runAudit(full bool) *audit.Report {
	s.t.Helper()
	return s.auditWaiting(full, 200*time.Millisecond)
}

func (s *fixture) runAudit(full bool) *audit.Report {
	s.t.Helper()
	return s.auditWaiting(full, 30*time.Second)
}

func (s *fixture) auditWaiting(full bool, wait time.Duration) *audit.Report {
	s.t.Helper()
	report, err := audit.Run(s.ctx, audit.Config{
		Postgres: testenv.ParseURL(s.t, s.dbURL), Redis: s.redis, Pool: events.MainPool, Wait: wait, LockWait: 30 * time.Second,
	}, full)
	if err != nil {
		s.t.Fatalf("audit (full: %t): %v", full, err)
	}
	return report
}

func (s *fixture) wantCleanAudit(full bool) *audit.Report {
	s.t.Helper()
	report := s.runAudit(full)
	if !report.OK || report.Differences.Count+report.Parked.Count+len(report.Incomplete) > 0 {
		s.t.Errorf("audit (full: %t): got %+v, want it clean", full, report)
	}
	return report
}

// keysOfFindings returns what was found as "store kind key", sorted.
func keysOfFindings(found audit.Findings) []string {
	var names []string
	for _, d := range found.First {
		names = append(names, fmt.Sprintf("%s %s %s", d.Store, d.Kind, d.Key))
	}
	slices.Sort(names)
	return names
}

// redisCommand sends a command to Redis, as words.
func (s *fixture) redisCommand(line string) {
	s.t.Helper()
	var args []any
	for _, word := range strings.Fields(line) {
		args = append(args, word)
	}
	if err := s.redis.Do(s.ctx, args...).Err(); err != nil && !errors.Is(err, redis.Nil) {
		s.t.Fatalf("%s: %v", line, err)
	}
}

func (s *fixture) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.db.Exec(s.ctx, sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// saveKey returns a function that brings a key of Redis back to what it is now.
func (s *fixture) saveKey(key string) (restore func()) {
	s.t.Helper()
	dump, err := s.redis.Dump(s.ctx, key).Result()
	return func() {
		s.t.Helper()
		if errors.Is(err, redis.Nil) {
			s.redis.Del(s.ctx, key)
		} else if err := s.redis.RestoreReplace(s.ctx, key, 0, dump).Err(); err != nil {
			s.t.Fatalf("restore %s: %v", key, err)
		}
	}
}

// saveTable returns a function that brings a table back to what it is now.
func (s *fixture) saveTable(table string) (restore func()) {
	s.t.Helper()
	s.exec(`CREATE TABLE kept_` + table + ` AS SELECT * FROM ` + table)
	return func() {
		s.t.Helper()
		s.exec(`DELETE FROM ` + table)
		s.exec(`INSERT INTO ` + table + ` SELECT * FROM kept_` + table)
		s.exec(`DROP TABLE kept_` + table)
	}
}

// rewriteStream writes the stream anew, with one entry changed.
func (s *fixture) rewriteStream(seq string, change func(values map[string]any)) {
	s.t.Helper()
	entries, err := s.redis.XRange(s.ctx, "inventory.events", "-", "+").Result()
	if err != nil {
		s.t.Fatal(err)
	}
	s.redisCommand("DEL inventory.events")
	for _, entry := range entries {
		if entry.Values["seq"] == seq {
			change(entry.Values)
		}
		if err := s.redis.XAdd(s.ctx, &redis.XAddArgs{Stream: "inventory.events", ID: entry.ID, Values: entry.Values}).Err(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// TestAuditIncomplete holds that what cannot be compared is neither clean nor a difference.
func TestAuditIncomplete(t *testing.T) {
	t.Parallel()
	s := newAuditFixture(t)
	for name, test := range map[string]struct{ breaks, mends, says string }{
		"a projection that is behind": {`UPDATE checkpoints SET seq = 3 WHERE projection = 'orders'`, `UPDATE checkpoints SET seq = 10`, "the projection orders is at seq 3"},
		"a journal that stands still": {`UPDATE checkpoints SET seq = 9 WHERE projection = 'journal'; CREATE TABLE kept AS SELECT * FROM events WHERE seq = 10; DELETE FROM events WHERE seq = 10`,
			`UPDATE checkpoints SET seq = 10; INSERT INTO events SELECT * FROM kept`, "the journal has not come there"},
		"a table that is not there": {`ALTER TABLE orders RENAME TO away`, `ALTER TABLE away RENAME TO orders`, "the read table orders is not there"},
	} {
		s.exec(test.breaks)
		report := s.runAudit(true)
		s.exec(test.mends)
		if report.Outcome != audit.OutcomeIncomplete || report.OK || !strings.Contains(fmt.Sprint(report.Incomplete), test.says) {
			t.Errorf("%s: got %+v, want it incomplete with %q", name, report, test.says)
		}
	}
	s.redisCommand("RENAME inventory.meta away")
	if report := s.runAudit(true); report.Outcome != audit.OutcomeIncomplete || !strings.Contains(fmt.Sprint(report.Incomplete), "Redis has no log") {
		t.Errorf("an emptied Redis: got %+v", report)
	}
	s.redisCommand("RENAME away inventory.meta")
	s.wantCleanAudit(false)
}

// TestAuditExplains holds what is listed and is no silent loss: a counter that an operator has just set, and what waits
// behind dead letters, for as long as it does.
func TestAuditExplains(t *testing.T) {
	t.Parallel()
	s := newAuditFixture(t)
	s.redisCommand("SET stock:shirt 40")
	s.redisCommand("SET stock:new 7")
	for _, full := range []bool{true, false} {
		report := s.wantCleanAudit(full)
		want := []string{"redis changed stock:new", "redis changed stock:shirt"}
		if !full {
			want = want[1:] // no event has named the other one
		}
		if got := keysOfFindings(report.Pending); !slices.Equal(got, want) {
			t.Errorf("pending (full: %t): got %q, want %q", full, got, want)
		}
	}
	letter := `INSERT INTO dead_letters (source, message_key, sequence_key, pool, event_type, raw, metadata, error, stack, attempts, status)
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
		if got := keysOfFindings(report.Parked); report.Outcome != audit.OutcomeParked || report.OK || !slices.Equal(got, want) || report.Parked.First[0].Because == "" {
			t.Errorf("parked (full: %t): got %q and %+v, want %q", full, got, report, want)
		}
	}
	// A letter that is resolved explains nothing any more; the audit has kept in mind what to look at.
	s.exec(`UPDATE dead_letters SET status = 'resolved'`)
	if got := keysOfFindings(s.runAudit(false).Differences); !slices.Equal(got, append(want, "redis count holds:due")) && len(got) != 4 {
		t.Errorf("resolved: got %q, want %q", got, want)
	}
	s.exec(`UPDATE holds SET status = 'CONFIRMED' WHERE hold_id = $1`, s.paid)
	s.exec(`UPDATE stock_levels SET held = 0 WHERE sku = 'mug'`)
	s.redisCommand("ZADD holds:due " + s.redis.HGet(s.ctx, "hold:"+s.live, "expires_at").Val() + " " + s.live)
	s.wantCleanAudit(false)
	if got := queryValue[int](s.fixture, `SELECT count(*) FROM audit_holds`); got != 1 {
		t.Errorf("audit_holds has %d rows, want the live hold", got)
	}
}

// TestAuditDetached holds that a journal whose old parts are gone can be audited on, and not from zero.
func TestAuditDetached(t *testing.T) {
	t.Parallel()
	s := newAuditFixture(t)
	s.wantCleanAudit(false)
	s.exec(`DELETE FROM events WHERE seq <= 6`)
	s.exec(`INSERT INTO detached_parts (part, first_seq, last_seq, events, digest) VALUES ('events_1', 1, 6, 6, '')`)
	s.redisCommand("DEL inventory.events")
	s.wantCleanAudit(false)
	_, err := s.cli("audit", "--full")
	if err == nil || !strings.Contains(err.Error(), "stockstream journal attach") {
		t.Errorf("full: got %v, want it refused", err)
	}
	s.wantCleanAudit(false)
}

// TestAuditCommand holds the exits, the errors and both forms of the output.
func TestAuditCommand(t *testing.T) {
	t.Parallel()
	s := newAuditFixture(t)
	out, err := s.cli("audit")
	if err != nil || !strings.HasPrefix(out, "clean: seq 0 to 10, 10 events, 2 SKUs, 4 holds, 10 entries of the stream, in ") {
		t.Errorf("clean: got %q (%v)", out, err)
	}
	s.redisCommand("HSET hold:" + s.live + " qty 9")
	out, err = s.cli("audit")
	if err == nil || err.Error() != "audit: 1 difference" || !strings.Contains(out, "ACTIVE, 2 of shirt for buyer") || !strings.Contains(out, "ACTIVE, 9 of shirt") ||
		!strings.Contains(out, "stockstream redis rebuild --yes") || strings.Contains(out, "projections rebuild") {
		t.Errorf("a difference: got %q (%v)", out, err)
	}
	s.exec(`UPDATE stock_levels SET sold = sold + 1`)
	if out, err := s.cli("audit", "--full"); err == nil || !strings.Contains(out, "`stockstream projections rebuild stock_levels --accept-differences`") {
		t.Errorf("a read table: got %q (%v), want what makes it anew", out, err)
	}
	s.exec(`UPDATE stock_levels SET sold = sold - 1`)
	out, err = s.cli("audit", "--full", "-o", "json")
	var fields map[string]any
	if err == nil || json.Unmarshal([]byte(out), &fields) != nil {
		t.Fatalf("as JSON: got %q (%v)", out, err)
	}
	differences, _ := fields["differences"].(map[string]any)
	if fields["ok"] != false || fields["outcome"] != "differs" || fields["full"] != true || fields["seq"] != 10.0 || differences["count"] != 1.0 ||
		fields["pending"] == nil || fmt.Sprint(fields["incomplete"]) != "[]" {
		t.Errorf("as JSON: got %s", out)
	}
	lease, err := events.AcquireLease(s.ctx, testenv.ParseURL(t, s.dbURL), "audit/main")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	if _, err := audit.Run(s.ctx, audit.Config{Postgres: testenv.ParseURL(t, s.dbURL), Redis: s.redis, Pool: events.MainPool, LockWait: 100 * time.Millisecond}, false); !errors.Is(err, audit.ErrBusy) {
		t.Errorf("two at once: got %v, want ErrBusy", err)
	}
	lease.Release()
	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.cli("audit"); err == nil || !strings.Contains(err.Error(), "no audit was possible: read Redis") && !strings.Contains(err.Error(), "no audit was possible: read the stream") {
		t.Errorf("without Redis: got %v", err)
	}
	if last, _, err := audit.Last(s.ctx, s.db, "main"); err != nil || last.Outcome != audit.OutcomeIncomplete {
		t.Errorf("the last audit: got %+v (%v), want it incomplete", last, err)
	}
	if _, err := s.cli("audit", "--timeout", "1ns"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "--timeout") {
		t.Errorf("no time: got %v", err)
	}
	if _, err := s.cli("audit", "-o", "xml"); err == nil {
		t.Error("an unknown output was taken")
	}
}

// TestAuditPassesOverStrangers holds that entries of the stream which no command wrote, and which the journal has set aside,
// are no difference, whatever seq they carry.
func TestAuditPassesOverStrangers(t *testing.T) {
	t.Parallel()
	s := newAuditFixture(t)
	v := s.serve("--audit-interval", "0").awaitReady()
	for i, seq := range []int{1, 99} {
		s.redisCommand(fmt.Sprintf(`XADD inventory.events * event_id 0198c0de-0000-7000-8000-00000000000%d type HOLD_CANCELLED payload {} metadata {} seq %d at 1764000000000`, i, seq))
	}
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		letters := queryValue[int64](s.fixture, `SELECT count(*) FROM dead_letters WHERE source = 'journal'`)
		return letters == 2, fmt.Sprintf("%d letters", letters)
	})
	s.wantCleanAudit(false)
	for i := range 100 { // and the log comes to the seq that was invented
		if status, _, err := v.reserve("mug", fmt.Sprintf("more-%d", i), 1, 600); err != nil || status != http.StatusCreated && status != http.StatusConflict {
			t.Fatal(status, err)
		}
		s.mustBeOK(s.send(http.MethodPost, v.url+"/stock/shirt/adjustments", fmt.Sprintf(`{"delta":1,"reason":"found","idempotency_key":"found-%d"}`, i)))
	}
	s.awaitCaughtUp()
	s.wantCleanAudit(false)
	s.wantCleanAudit(true)
}
