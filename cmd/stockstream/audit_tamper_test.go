package main

import (
	"slices"
	"testing"

	"github.com/stockstream/stockstream/audit"
)

// tamperCase is a change to one store that no command makes, and the differences that an
// audit must report. A full audit finds every change. An incremental audit finds a change
// only if it compares that key.
type tamperCase struct {
	tamper      func(s *auditFixture)
	full        []string // differences of a full audit
	incremental []string // differences of an audit that continues from the last one
}

// tamperCases returns the cases by name.
func tamperCases(s *auditFixture) map[string]tamperCase {
	hold := "redis changed hold:" + s.live
	level := "stock_levels changed shirt"
	due := "redis count holds:due"
	return map[string]tamperCase{
		"a counter and its record": {
			func(s *auditFixture) {
				s.redisCommand("INCRBY stock:shirt 1")
				s.redisCommand("HINCRBY inventory.meta stock:shirt 1")
			},
			[]string{"redis changed stock:shirt"}, []string{"redis changed stock:shirt"}},
		"a record without its counter": {func(s *auditFixture) {
			s.redisCommand("HINCRBY inventory.meta stock:mug -1")
		},
			[]string{"redis changed stock:mug"}, []string{"redis changed stock:mug"}},
		"a counter that is not a number": {func(s *auditFixture) { s.redisCommand("SET stock:mug many") },
			[]string{"redis changed stock:mug"}, []string{"redis changed stock:mug"}},
		"a record that no event explains": {
			func(s *auditFixture) { s.redisCommand("HSET inventory.meta stock:ghost 4") },
			[]string{"redis changed stock:ghost"}, nil},
		"a hold's units": {func(s *auditFixture) { s.redisCommand("HSET hold:" + s.live + " qty 9") },
			[]string{hold}, []string{hold}},
		"a hold's deadline": {func(s *auditFixture) {
			s.redisCommand("HINCRBY hold:" + s.live + " expires_at 1000")
		},
			[]string{hold}, []string{hold}},
		"a deleted live hold": {
			func(s *auditFixture) { s.redisCommand("DEL hold:" + s.live) },
			[]string{"redis missing hold:" + s.live}, []string{"redis missing hold:" + s.live}},
		"a live hold of another Redis type": {
			func(s *auditFixture) { s.redisCommand("SET hold:" + s.live + " x") }, []string{hold},
			[]string{hold}},
		"a deleted deadline": {func(s *auditFixture) { s.redisCommand("ZREM holds:due " + s.live) },
			[]string{hold, due}, []string{hold, due}},
		"a changed deadline": {func(s *auditFixture) { s.redisCommand("ZINCRBY holds:due 5000 " + s.live) },
			[]string{hold}, []string{hold}},
		"a deadline without a hold": {
			func(s *auditFixture) { s.redisCommand("ZADD holds:due 5 ghost") },
			[]string{"redis unexpected hold:ghost", due}, []string{due}},
		"a hold that no event explains": {
			func(s *auditFixture) {
				s.redisCommand("HSET hold:ghost sku mug qty 1 user_id u state ACTIVE expires_at 9999999999999")
			},
			[]string{"redis unexpected hold:ghost"}, nil},
		"a confirmed hold made live again": {
			func(s *auditFixture) { s.redisCommand("HSET hold:" + s.paid + " state ACTIVE") },
			[]string{"redis changed hold:" + s.paid, "redis unexpected hold:" + s.paid}, nil},
		"a hold's row": {func(s *auditFixture) {
			s.exec(`UPDATE holds SET qty = 9 WHERE hold_id = $1`, s.live)
		},
			[]string{"holds changed " + s.live}, []string{"holds changed " + s.live}},
		"a live hold's deleted row": {func(s *auditFixture) {
			s.exec(`DELETE FROM holds WHERE hold_id = $1`, s.live)
		},
			[]string{"holds missing " + s.live}, []string{"holds missing " + s.live}},
		"an ended hold's row": {func(s *auditFixture) {
			s.exec(`UPDATE holds SET status = 'CANCELLED' WHERE hold_id = $1`, s.expired)
		},
			[]string{"holds changed " + s.expired}, nil},
		"a row without a hold": {
			func(s *auditFixture) {
				s.exec(`INSERT INTO holds SELECT 'ghost', sku, qty, user_id, status, expires_at, created_at, '' FROM holds LIMIT 1`)
			}, []string{"holds unexpected ghost"}, nil},
		"an order": {func(s *auditFixture) { s.exec(`UPDATE orders SET payment_ref = 'x'`) },
			[]string{"orders changed " + s.paid}, nil},
		"a deleted order": {func(s *auditFixture) { s.exec(`DELETE FROM orders`) },
			[]string{"orders missing " + s.paid}, nil},
		"an order of a live hold": {
			func(s *auditFixture) {
				s.exec(`INSERT INTO orders SELECT 'o', $1, user_id, sku, qty, status, '', created_at FROM orders`, s.live)
			}, []string{"orders unexpected " + s.live}, []string{"orders unexpected " + s.live}},
		"a stock level": {func(s *auditFixture) {
			s.exec(`UPDATE stock_levels SET sold = sold + 1 WHERE sku = 'shirt'`)
		},
			[]string{level}, []string{level}},
		"a deleted stock level": {func(s *auditFixture) {
			s.exec(`DELETE FROM stock_levels WHERE sku = 'mug'`)
		},
			[]string{"stock_levels missing mug"}, []string{"stock_levels missing mug"}},
		"a stock level without a SKU": {
			func(s *auditFixture) { s.exec(`INSERT INTO stock_levels VALUES ('ghost', 1, 0, 0)`) },
			[]string{"stock_levels unexpected ghost"}, nil},
		"an hour": {func(s *auditFixture) {
			s.exec(`UPDATE sku_hours SET sold = sold + 1 WHERE sku = 'shirt'`)
		},
			[]string{"sku_hours changed " + s.hour}, []string{"sku_hours changed " + s.hour}},
		"a deleted hour": {func(s *auditFixture) { s.exec(`DELETE FROM sku_hours WHERE sku = 'shirt'`) },
			[]string{"sku_hours missing " + s.hour}, []string{"sku_hours missing " + s.hour}},
		"an hour without a SKU": {
			func(s *auditFixture) {
				s.exec(`INSERT INTO sku_hours VALUES ('ghost', '2026-01-02T03:00Z', 1, 0, 0, 0)`)
			}, []string{"sku_hours unexpected ghost 2026-01-02T03:00:00Z"}, nil},
		"a deleted event": {
			func(s *auditFixture) { s.exec(`DELETE FROM events WHERE seq = 2`) },
			[]string{"journal hole seq 2", "journal missing seq 2", "redis changed stock:shirt", level}, nil},
		"a deleted last event": {
			func(s *auditFixture) {
				s.exec(`DELETE FROM events WHERE hold_id = $1 AND type = 'HOLD_CANCELLED'`, s.expired)
			},
			[]string{"holds changed " + s.expired, "journal hole seq 10", "journal missing seq 10",
				"redis changed hold:" + s.expired, due,
				"redis changed stock:mug", "stock_levels changed mug", "sku_hours changed " + s.mugHour},
			[]string{"journal missing seq 10"}},
		"an event's payload": {
			func(s *auditFixture) {
				s.exec(`UPDATE events SET payload = payload || '{"delta": -4}' WHERE seq = 2`)
			},
			[]string{"redis changed stock:shirt", level, "stream changed seq 2"}, nil},
		"an event that makes later ones impossible": {
			func(s *auditFixture) {
				s.exec(`UPDATE events SET payload = payload || '{"delta": 1}' WHERE seq = 1`)
			},
			[]string{"journal impossible seq 2", "journal impossible seq 3", "journal impossible seq 4",
				"redis changed stock:shirt", level, "stream changed seq 1"}, nil},
		"a deleted entry": {
			func(s *auditFixture) {
				id := s.redis.XRangeN(s.ctx, "inventory.events", "-", "+", 3).Val()[2].ID
				s.redisCommand("XDEL inventory.events " + id)
			}, []string{"stream hole seq 4"}, nil},
		"an entry's payload": {
			func(s *auditFixture) {
				s.rewriteStream("2", func(v map[string]any) {
					v["payload"] = `{"sku":"shirt","delta":-2,"reason":"broken"}`
				})
			}, []string{"stream changed seq 2"}, nil},
		"another event with the same seq": {
			func(s *auditFixture) {
				s.rewriteStream("10", func(v map[string]any) {
					v["event_id"] = "01a20dda-745f-71a7-8a23-8bfbe6dc4afd"
				})
			}, []string{"stream forked seq 10"}, []string{"stream forked seq 10"}},
		"a Redis log that is behind the journal": {
			func(s *auditFixture) { s.redisCommand("HSET inventory.meta seq 7") },
			[]string{"redis behind inventory.meta"}, []string{"redis behind inventory.meta"}},
		"a journal that is behind its projections": {
			func(s *auditFixture) {
				s.exec(`UPDATE checkpoints SET seq = 9`)
				s.exec(`DELETE FROM events WHERE seq = 10`)
			},
			[]string{"holds changed " + s.expired, "journal behind main", "stock_levels changed mug",
				"sku_hours changed " + s.mugHour}, []string{"journal behind main", "journal missing seq 10"}},
	}
}

// TestAuditNamesEveryTamperedKey changes every store in every way, one after the other,
// and checks the differences that both kinds of audit report. After each case, it
// restores the stores.
func TestAuditNamesEveryTamperedKey(t *testing.T) {
	t.Parallel()
	s := newAuditFixture(t)
	first := s.wantCleanAudit(false)
	if !first.Full || first.Seq != 10 || first.Compared != (audit.Compared{
		Events:  10,
		SKUs:    2,
		Holds:   4,
		Entries: 10,
	}) {
		t.Errorf("the first audit: got %+v, want a full audit of all events", first)
	}
	for name, test := range tamperCases(s) {
		var restore []func()
		for _, key := range []string{"stock:shirt", "stock:mug", "inventory.meta", "holds:due",
			"inventory.events", "hold:ghost", "hold:" + s.live, "hold:" + s.paid} {
			restore = append(restore, s.saveKey(key))
		}
		for _, table := range []string{"events", "holds", "orders", "stock_levels", "sku_hours",
			"checkpoints"} {
			restore = append(restore, s.saveTable(table))
		}
		test.tamper(s)
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
