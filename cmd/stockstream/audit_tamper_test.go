package main

import (
	"maps"
	"slices"
	"testing"

	"github.com/stockstream/stockstream/audit"
)

// tamperCase is a change to one store that no command makes, and the differences that an
// audit must report. A full audit finds every change. An incremental audit finds a change
// only if it compares that key.
type tamperCase struct {
	// The change: commands for Redis, a statement for Postgres, or a function.
	redis  []string
	sql    string
	tamper func()

	full        []string // differences of a full audit
	incremental []string // differences of an audit that continues from the last one
}

// tamper makes the change of the case.
func (s *auditFixture) tamper(c tamperCase) {
	for _, command := range c.redis {
		s.redisCommand(command)
	}
	if c.sql != "" {
		s.exec(c.sql)
	}
	if c.tamper != nil {
		c.tamper()
	}
}

// tamperCases returns the cases by name.
func tamperCases(s *auditFixture) map[string]tamperCase {
	cases := tamperedRedisCases(s)
	maps.Copy(cases, tamperedTableCases(s))
	maps.Copy(cases, tamperedLogCases(s))
	return cases
}

// tamperedRedisCases change counters, holds and deadlines in Redis.
func tamperedRedisCases(s *auditFixture) map[string]tamperCase {
	changedHold := "redis changed hold:" + s.live
	changedDue := "redis count holds:due"
	return map[string]tamperCase{
		"a counter and its record": {
			redis:       []string{"INCRBY stock:shirt 1", "HINCRBY inventory.meta stock:shirt 1"},
			full:        []string{"redis changed stock:shirt"},
			incremental: []string{"redis changed stock:shirt"},
		},
		"a record without its counter": {
			redis:       []string{"HINCRBY inventory.meta stock:mug -1"},
			full:        []string{"redis changed stock:mug"},
			incremental: []string{"redis changed stock:mug"},
		},
		"a counter that is not a number": {
			redis:       []string{"SET stock:mug many"},
			full:        []string{"redis changed stock:mug"},
			incremental: []string{"redis changed stock:mug"},
		},
		"a record that no event explains": {
			redis: []string{"HSET inventory.meta stock:ghost 4"},
			full:  []string{"redis changed stock:ghost"},
		},
		"a hold's units": {
			redis:       []string{"HSET hold:" + s.live + " qty 9"},
			full:        []string{changedHold},
			incremental: []string{changedHold},
		},
		"a hold's deadline": {
			redis:       []string{"HINCRBY hold:" + s.live + " expires_at 1000"},
			full:        []string{changedHold},
			incremental: []string{changedHold},
		},
		"a deleted live hold": {
			redis:       []string{"DEL hold:" + s.live},
			full:        []string{"redis missing hold:" + s.live},
			incremental: []string{"redis missing hold:" + s.live},
		},
		"a live hold of another Redis type": {
			redis:       []string{"SET hold:" + s.live + " x"},
			full:        []string{changedHold},
			incremental: []string{changedHold},
		},
		"a deleted deadline": {
			redis:       []string{"ZREM holds:due " + s.live},
			full:        []string{changedHold, changedDue},
			incremental: []string{changedHold, changedDue},
		},
		"a changed deadline": {
			redis:       []string{"ZINCRBY holds:due 5000 " + s.live},
			full:        []string{changedHold},
			incremental: []string{changedHold},
		},
		"a deadline without a hold": {
			redis:       []string{"ZADD holds:due 5 ghost"},
			full:        []string{"redis unexpected hold:ghost", changedDue},
			incremental: []string{changedDue},
		},
		"a hold that no event explains": {
			redis: []string{"HSET hold:ghost sku mug qty 1 user_id u state ACTIVE expires_at 9999999999999"},
			full:  []string{"redis unexpected hold:ghost"},
		},
		"a confirmed hold made live again": {
			redis: []string{"HSET hold:" + s.paid + " state ACTIVE"},
			full:  []string{"redis changed hold:" + s.paid, "redis unexpected hold:" + s.paid},
		},
	}
}

// tamperedTableCases change rows of the read tables.
func tamperedTableCases(s *auditFixture) map[string]tamperCase {
	return map[string]tamperCase{
		"a hold's row": {
			sql:         `UPDATE holds SET qty = 9 WHERE hold_id = '` + s.live + `'`,
			full:        []string{"holds changed " + s.live},
			incremental: []string{"holds changed " + s.live},
		},
		"a live hold's deleted row": {
			sql:         `DELETE FROM holds WHERE hold_id = '` + s.live + `'`,
			full:        []string{"holds missing " + s.live},
			incremental: []string{"holds missing " + s.live},
		},
		"an ended hold's row": {
			sql:  `UPDATE holds SET status = 'CANCELLED' WHERE hold_id = '` + s.expired + `'`,
			full: []string{"holds changed " + s.expired},
		},
		"a row without a hold": {
			sql: `
				INSERT INTO holds
				SELECT 'ghost', sku, qty, user_id, status, expires_at, created_at, '', pool FROM holds LIMIT 1`,
			full: []string{"holds unexpected ghost"},
		},
		"an order": {
			sql:  `UPDATE orders SET payment_ref = 'x'`,
			full: []string{"orders changed " + s.paid},
		},
		"a deleted order": {
			sql:  `DELETE FROM orders`,
			full: []string{"orders missing " + s.paid},
		},
		"an order of a live hold": {
			sql: `
				INSERT INTO orders
				SELECT 'o', '` + s.live + `', user_id, sku, qty, status, '', created_at, pool FROM orders`,
			full:        []string{"orders unexpected " + s.live},
			incremental: []string{"orders unexpected " + s.live},
		},
		"a stock level": {
			sql:         `UPDATE stock_levels SET sold = sold + 1 WHERE sku = 'shirt'`,
			full:        []string{"stock_levels changed shirt"},
			incremental: []string{"stock_levels changed shirt"},
		},
		"a deleted stock level": {
			sql:         `DELETE FROM stock_levels WHERE sku = 'mug'`,
			full:        []string{"stock_levels missing mug"},
			incremental: []string{"stock_levels missing mug"},
		},
		"a stock level without a SKU": {
			sql:  `INSERT INTO stock_levels VALUES ('ghost', 1, 0, 0, 'main')`,
			full: []string{"stock_levels unexpected ghost"},
		},
		"an hour": {
			sql:         `UPDATE sku_hours SET sold = sold + 1 WHERE sku = 'shirt'`,
			full:        []string{"sku_hours changed " + s.hour},
			incremental: []string{"sku_hours changed " + s.hour},
		},
		"a deleted hour": {
			sql:         `DELETE FROM sku_hours WHERE sku = 'shirt'`,
			full:        []string{"sku_hours missing " + s.hour},
			incremental: []string{"sku_hours missing " + s.hour},
		},
		"an hour without a SKU": {
			sql:  `INSERT INTO sku_hours VALUES ('ghost', '2026-01-02T03:00Z', 1, 0, 0, 0, 'main')`,
			full: []string{"sku_hours unexpected ghost 2026-01-02T03:00:00Z"},
		},
	}
}

// tamperedLogCases change the journal, the stream, and their positions.
func tamperedLogCases(s *auditFixture) map[string]tamperCase {
	return map[string]tamperCase{
		"a deleted event": {
			sql: `DELETE FROM events WHERE seq = 2`,
			full: []string{
				"journal hole seq 2",
				"journal missing seq 2",
				"redis changed stock:shirt",
				"stock_levels changed shirt",
			},
		},
		"a deleted last event": {
			sql: `DELETE FROM events WHERE hold_id = '` + s.expired + `' AND type = 'HOLD_CANCELLED'`,
			full: []string{
				"holds changed " + s.expired,
				"journal hole seq 10",
				"journal missing seq 10",
				"redis changed hold:" + s.expired,
				"redis changed stock:mug",
				"redis count holds:due",
				"sku_hours changed " + s.mugHour,
				"stock_levels changed mug",
			},
			incremental: []string{"journal missing seq 10"},
		},
		"an event's payload": {
			sql: `UPDATE events SET payload = payload || '{"delta": -4}' WHERE seq = 2`,
			full: []string{
				"redis changed stock:shirt",
				"stock_levels changed shirt",
				"stream changed seq 2",
			},
		},
		"an event that makes later ones impossible": {
			sql: `UPDATE events SET payload = payload || '{"delta": 1}' WHERE seq = 1`,
			full: []string{
				"journal impossible seq 2",
				"journal impossible seq 3",
				"journal impossible seq 4",
				"redis changed stock:shirt",
				"stock_levels changed shirt",
				"stream changed seq 1",
			},
		},
		"a deleted entry": {
			tamper: func() {
				third := s.redis.XRangeN(s.ctx, "inventory.events", "-", "+", 3).Val()[2]
				s.redisCommand("XDEL inventory.events " + third.ID)
			},
			full: []string{"stream hole seq 4"},
		},
		"an entry's payload": {
			tamper: func() {
				s.rewriteStream("2", func(fields map[string]any) {
					fields["payload"] = `{"sku":"shirt","delta":-2,"reason":"broken"}`
				})
			},
			full: []string{"stream changed seq 2"},
		},
		"another event with the same seq": {
			tamper: func() {
				s.rewriteStream("10", func(fields map[string]any) {
					fields["event_id"] = "01a20dda-745f-71a7-8a23-8bfbe6dc4afd"
				})
			},
			full:        []string{"stream forked seq 10"},
			incremental: []string{"stream forked seq 10"},
		},
		"a Redis log that is behind the journal": {
			redis:       []string{"HSET inventory.meta seq 7"},
			full:        []string{"redis behind inventory.meta"},
			incremental: []string{"redis behind inventory.meta"},
		},
		"a journal that is behind its projections": {
			sql: `UPDATE checkpoints SET seq = 9; DELETE FROM events WHERE seq = 10`,
			full: []string{
				"holds changed " + s.expired,
				"journal behind main",
				"sku_hours changed " + s.mugHour,
				"stock_levels changed mug",
			},
			incremental: []string{"journal behind main", "journal missing seq 10"},
		},
	}
}

// TestAuditNamesEveryTamperedKey changes every store in every way, one after the other,
// and checks the differences that both kinds of audit report. After each case, it
// restores the stores.
func TestAuditNamesEveryTamperedKey(t *testing.T) {
	t.Parallel()
	s := newAuditFixture(t)
	first := s.wantCleanAudit(false)
	if !first.Full {
		t.Errorf("the first audit: got %+v, want a full audit", first)
	}
	if first.Seq != 10 {
		t.Errorf("the first audit: got seq %d, want 10", first.Seq)
	}
	everything := audit.Compared{
		Events:  10,
		SKUs:    2,
		Holds:   4,
		Entries: 10,
	}
	if first.Compared != everything {
		t.Errorf("the first audit: compared %+v, want %+v", first.Compared, everything)
	}
	keys := []string{
		"stock:shirt",
		"stock:mug",
		"inventory.meta",
		"holds:due",
		"inventory.events",
		"hold:ghost",
		"hold:" + s.live,
		"hold:" + s.paid,
	}
	tables := []string{"events", "holds", "orders", "stock_levels", "sku_hours", "checkpoints"}
	for name, test := range tamperCases(s) {
		var restore []func()
		for _, key := range keys {
			restore = append(restore, s.saveKey(key))
		}
		for _, table := range tables {
			restore = append(restore, s.saveTable(table))
		}
		s.tamper(test)
		for full, want := range map[bool][]string{true: test.full, false: test.incremental} {
			slices.Sort(want)
			report := s.runAudit(full)
			if got := keysOfFindings(report.Differences); !slices.Equal(got, want) {
				t.Errorf("%s (full: %t): got differences %q, want %q\n%+v", name, full, got, want, report)
			}
			if wantOK := len(want) == 0; report.OK != wantOK {
				t.Errorf("%s (full: %t): got ok %t (%s), want %t",
					name, full, report.OK, report.Verdict, wantOK)
			}
		}
		for _, restoreOne := range restore {
			restoreOne()
		}
		s.wantCleanAudit(false)
	}
	if full := s.wantCleanAudit(true); full.Compared != first.Compared {
		t.Errorf("at the end: got %+v, want %+v", full, first)
	}
}
