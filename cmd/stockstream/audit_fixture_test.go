package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/audit"
	"github.com/stockstream/stockstream/internal/testenv"
)

// auditFixture is a fixture with ten journaled events, two SKUs and four holds. Its
// service is stopped, so that nothing changes during an audit except by the test.
type auditFixture struct {
	*fixture
	live, paid, cancelled, expired string // ids of holds in these states
	// keys of the last rows of sku_hours of shirt and mug, as an audit names them
	hour, mugHour string
}

func newAuditFixture(t *testing.T) *auditFixture {
	t.Helper()
	s := &auditFixture{fixture: newFixture(t)}
	v := s.serve("--audit-interval", "0").awaitReady()
	s.mustBeOK(s.send(http.MethodPost, v.url+"/stock/shirt/adjustments",
		`{"delta":20,"reason":"delivery","idempotency_key":"a1"}`))
	s.mustBeOK(s.send(http.MethodPost, v.url+"/stock/shirt/adjustments",
		`{"delta":-3,"reason":"broken","idempotency_key":"a2"}`))
	s.redis.Set(s.ctx, "stock:mug", 8, 0)
	s.live = v.mustReserve("shirt", "k1", 2, 600)
	s.paid = v.mustReserve("shirt", "k2", 3, 600)
	s.cancelled = v.mustReserve("mug", "k3", 1, 600)
	s.expired = v.mustReserve("mug", "k4", 2, 1)
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
	s.hour = queryValue[string](s.fixture, hour, "shirt")
	s.mugHour = queryValue[string](s.fixture, hour, "mug")
	return s
}

// mustBeOK takes the results of send, and ends the test unless the status is 200.
func (s *fixture) mustBeOK(status int, answer map[string]any, err error) {
	s.t.Helper()
	if err != nil || status != http.StatusOK {
		s.t.Fatal(status, answer, err)
	}
}

// runAudit runs an audit that waits only 200 ms for the journal and the projections,
// because no event follows.
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
		Postgres: testenv.ParseURL(s.t, s.dbURL),
		Redis:    s.redis,
		Pool:     s.pool,
		Wait:     wait,
		LockWait: 30 * time.Second,
	}, full)
	if err != nil {
		s.t.Fatalf("audit (full: %t): %v", full, err)
	}
	return report
}

// wantCleanAudit runs an audit and checks that it finds no difference, nothing parked,
// and is complete.
func (s *fixture) wantCleanAudit(full bool) *audit.Report {
	s.t.Helper()
	report := s.runAudit(full)
	if !report.OK || report.Differences.Count+report.Parked.Count+len(report.Incomplete) > 0 {
		s.t.Errorf("audit (full: %t): got %+v, want it clean", full, report)
	}
	return report
}

// keysOfFindings returns findings as "store kind key", sorted.
func keysOfFindings(findings audit.Findings) []string {
	var names []string
	for _, d := range findings.First {
		names = append(names, fmt.Sprintf("%s %s %s", d.Store, d.Kind, d.Key))
	}
	slices.Sort(names)
	return names
}

// redisCommand sends a command to Redis; its words are separated by spaces.
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

// saveKey saves the value of a Redis key, and returns a function that restores it.
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

// saveTable saves the rows of a table, and returns a function that restores them.
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

// rewriteStream replaces the stream by a copy in which change has edited the entry with
// the given seq.
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
		if err := s.redis.XAdd(s.ctx, &redis.XAddArgs{
			Stream: "inventory.events",
			ID:     entry.ID,
			Values: entry.Values,
		}).Err(); err != nil {
			s.t.Fatal(err)
		}
	}
}
