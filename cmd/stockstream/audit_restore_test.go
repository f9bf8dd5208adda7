package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
)

// TestAuditIsCleanAfterARestore empties Redis under load. After Redis is restored from
// the journal, an audit that continues from the last one is clean, and so is a full audit
// after further sales.
func TestAuditIsCleanAfterARestore(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.stockSKUs()
	v := s.serve("--audit-interval", "0").awaitReady()
	sellSome := func() {
		t.Helper()
		from, _ := s.logEnd() // 0 if Redis has no log
		stop := v.startShoppers(4)
		defer stop()
		testenv.Eventually(t, 60*time.Second, func() (bool, string) {
			end, err := s.logEnd()
			state := fmt.Sprintf("the log ends at seq %d (%v), and started at %d", end, err, from)
			return err == nil && end >= from+300, state
		})
	}
	sellSome()
	verified := s.wantCleanAudit(false).Seq
	if err := s.redis.FlushAll(s.ctx).Err(); err != nil {
		t.Fatal(err)
	}
	v.awaitReady()
	if report := s.wantCleanAudit(false); report.Full || report.From != verified {
		t.Errorf("restored: got %+v, want an audit that continues from seq %d", report, verified)
	}
	s.wantCleanAudit(true)
	sellSome()
	s.wantCleanAudit(false)
	s.wantCleanAudit(true)
}
