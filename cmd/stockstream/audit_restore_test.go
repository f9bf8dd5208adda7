package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
)

// TestAuditOfARestoredRedis empties Redis between two crowds. Once it is restored from the journal, an audit goes on from
// where it stood and finds everything as it was, and so does one from zero after more was sold.
func TestAuditOfARestoredRedis(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.stockSKUs()
	v := s.serve("--audit-interval", "0").awaitReady()
	sellSome := func() {
		t.Helper()
		from, _ := s.logEnd() // 0 where there is none
		stop := v.startShoppers(4)
		defer stop()
		testenv.Eventually(t, 60*time.Second, func() (bool, string) {
			end, err := s.logEnd()
			return err == nil && end >= from+300, fmt.Sprintf("the log ends at %d (%v), and began at %d", end, err, from)
		})
	}
	sellSome()
	verified := s.wantCleanAudit(false).Seq
	if err := s.redis.FlushAll(s.ctx).Err(); err != nil {
		t.Fatal(err)
	}
	v.awaitReady()
	if report := s.wantCleanAudit(false); report.From != verified || report.Full {
		t.Errorf("restored: got %+v, want it to go on from %d", report, verified)
	}
	s.wantCleanAudit(true)
	sellSome()
	s.wantCleanAudit(false)
	s.wantCleanAudit(true)
}
