package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stockstream/stockstream/audit"
	"github.com/stockstream/stockstream/internal/testenv"
)

// shopperRounds counts the calls of startShoppers, so that no two use the same
// idempotency keys.
var shopperRounds atomic.Int64

// startShoppers starts shoppers that reserve, confirm, cancel and let holds expire until
// stop is called. stop returns the number of holds that they made. From time to time, a
// shopper also sets a stock counter by hand, like an operator.
func (v *service) startShoppers(count int) (stop func() int64) {
	s := v.fixture
	round := shopperRounds.Add(1)
	ctx, cancel := context.WithCancel(s.ctx)
	var group sync.WaitGroup
	var made atomic.Int64
	for shopper := range count {
		group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				sku := fmt.Sprintf("sku-%d", (shopper+i)%7)
				status, hold, err := v.reserve(sku, fmt.Sprintf("s%d-%d-%d", round, shopper, i), 1+i%3,
					1+i%2*600)
				if ctx.Err() != nil {
					return
				}
				if err != nil || status != http.StatusCreated {
					s.t.Errorf("reserve: %d (%v)", status, err)
					return
				}
				made.Add(1)
				switch i % 4 {
				case 0:
					_, _, err = s.send(http.MethodPost, v.url+"/holds/"+hold+"/confirm",
						`{"payment_ref":"p-`+hold+`"}`)
				case 1:
					_, _, err = s.send(http.MethodPost, v.url+"/holds/"+hold+"/cancel", ``)
				case 2:
					if i%50 == 2 {
						// like an operator, without a command
						err = s.redis.IncrBy(ctx, "stock:"+sku, 10).Err()
					}
				}
				if err != nil && ctx.Err() == nil {
					s.t.Errorf("shopper %d: %v", shopper, err)
				}
			}
		})
	}
	return func() int64 {
		cancel()
		group.Wait()
		return made.Load()
	}
}

// stockSKUs sets the stock counters of the seven SKUs that the shoppers buy.
func (s *fixture) stockSKUs() {
	for i := range 7 {
		s.redisCommand(fmt.Sprintf("SET stock:sku-%d 1000000", i))
	}
}

// TestAuditUnderLoadRaisesNoFalseAlarm runs 30 audits, full and incremental, while
// shoppers buy and the background audit runs. It checks that no audit finds a difference,
// and that the incremental audits skip no event.
func TestAuditUnderLoadRaisesNoFalseAlarm(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.stockSKUs()
	v := s.serve("--audit-interval", "50ms").awaitReady()
	stop := v.startShoppers(8)
	var verified int64
	for i := range 30 {
		report := s.runAudit(i%5 == 4)
		if !report.OK {
			t.Fatalf("audit %d: got a difference, want none: %+v", i, report)
		}
		if report.Seq < verified {
			t.Fatalf("audit %d: got seq %d, want at least %d of the audit before", i, report.Seq, verified)
		}
		verified = report.Seq
	}
	made := stop()
	if err := v.stop(); err != nil {
		t.Fatal(err)
	}
	if log := v.log.String(); strings.Contains(log, "level=ERROR") {
		t.Errorf("the background audit raised a false alarm:\n%s", log)
	}
	s.serve("--roles", "journal,projections", "--audit-interval", "0").awaitReady()
	last := s.wantCleanAudit(false)
	if made < 200 {
		t.Errorf("the shoppers made %d holds, want at least 200", made)
	}
	if verified == 0 {
		t.Error("no audit under load verified an event")
	}
	if last.From == 0 {
		t.Errorf("the last audit started at seq 0, want it to continue: %+v", last)
	}
	if want := last.Seq - last.From; last.Compared.Events != want {
		t.Errorf("the last audit read %d events, want %d: %+v", last.Compared.Events, want, last)
	}
	s.wantCleanAudit(true)
}

// TestBackgroundAuditReportsADifference checks that every process shows the last audit in
// /readyz, that a difference is logged as an error while the service stays ready, and
// that the audit is clean again after the difference is gone.
func TestBackgroundAuditReportsADifference(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.stockSKUs()
	worker := s.serve("--roles", "journal,projections", "--audit-interval", "50ms")
	api := s.serve("--roles", "api,sagas", "--audit-interval", "50ms").awaitReady()
	hold := api.mustReserve("sku-1", "k1", 2, 600)
	await := func(outcome string, first string) {
		t.Helper()
		testenv.Eventually(t, 30*time.Second, func() (bool, string) {
			status, ready, err := s.send(http.MethodGet, api.url+"/readyz?verbose", "")
			last, _ := ready["audit"].(map[string]any)
			return err == nil && status == http.StatusOK && last["outcome"] == outcome &&
				last["ok"] == (outcome == "clean") &&
				last["seq"] == 2.0 && strings.Contains(fmt.Sprint(last["differences"], last["parked"]),
				first), fmt.Sprintf("%d %v (%v)", status, ready, err)
		})
	}
	await("clean", "")
	if strings.Contains(worker.log.String(), "level=ERROR") {
		t.Errorf("the log has errors:\n%s", worker.log)
	}
	s.redisCommand("HSET hold:" + hold + " qty 5")
	await("differs", "hold:"+hold)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) { // the log line follows the report
		log := worker.log.String()
		return strings.Contains(log, "level=ERROR") && strings.Contains(log, "differs from the journal"), log
	})
	s.redisCommand("HSET hold:" + hold + " qty 2")
	await("clean", "")
}

// TestConcurrentAuditsReadEachEventOnce checks that an incremental audit reads only new
// events, and that two audits at the same time run one after the other.
func TestConcurrentAuditsReadEachEventOnce(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.stockSKUs()
	v := s.serve("--audit-interval", "0").awaitReady()
	var verified int64
	for round := range 3 {
		for i := range 5 {
			v.mustReserve("sku-1", fmt.Sprintf("k%d-%d", round, i), 1, 600)
		}
		s.awaitCaughtUp()
		var both sync.WaitGroup
		reports := make([]*audit.Report, 2)
		for i := range reports {
			both.Go(func() { reports[i] = s.wantCleanAudit(false) })
		}
		both.Wait()
		if t.Failed() {
			return
		}
		read := reports[0].Compared.Events + reports[1].Compared.Events
		if want := reports[0].Seq - verified; read != want {
			t.Errorf("round %d: the two audits read %d events, want %d: %+v and %+v",
				round, read, want, reports[0], reports[1])
		}
		if round > 0 && reports[0].Full != reports[1].Full {
			t.Errorf("round %d: one audit was full: %+v and %+v", round, reports[0], reports[1])
		}
		verified = reports[0].Seq
	}
}

// TestKilledAuditLeavesAConsistentState kills audits at different moments under load. The
// next audit must be clean: a killed audit has stored either all of its state or none.
func TestKilledAuditLeavesAConsistentState(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.stockSKUs()
	v := s.serve("--audit-interval", "0").awaitReady()
	stop := v.startShoppers(4)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		cmd := exec.CommandContext(s.ctx, self, "audit", fmt.Sprintf("--full=%t", i%3 == 0))
		cmd.Env = append(s.environ(), asProgram+"=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(i*i) * 2 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if report := s.runAudit(false); report.Verdict == audit.VerdictDiffers {
			t.Fatalf("after kill %d: %+v", i, report)
		}
	}
	stop()
	s.wantCleanAudit(false)
	s.wantCleanAudit(true)
}
