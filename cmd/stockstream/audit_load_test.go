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

// shopperRounds counts, so that no two have the same keys.
var shopperRounds atomic.Int64

// startShoppers reserve, pay, give back and let lapse until stop is called, which returns how many holds they made. An
// operator sets a counter by hand now and then.
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
				status, hold, err := v.reserve(sku, fmt.Sprintf("s%d-%d-%d", round, shopper, i), 1+i%3, 1+i%2*600)
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
					_, _, err = s.send(http.MethodPost, v.url+"/holds/"+hold+"/confirm", `{"payment_ref":"p-`+hold+`"}`)
				case 1:
					_, _, err = s.send(http.MethodPost, v.url+"/holds/"+hold+"/cancel", ``)
				case 2:
					if i%50 == 2 {
						err = s.redis.IncrBy(ctx, "stock:"+sku, 10).Err() // by hand, as it were
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

func (s *fixture) stockSKUs() {
	for i := range 7 {
		s.redisCommand(fmt.Sprintf("SET stock:sku-%d 1000000", i))
	}
}

// TestAuditUnderLoad audits a shop in full swing, again and again, from where it stands and from zero, beside the
// background audit. There must be no false alarm, and nothing may be skipped.
func TestAuditUnderLoad(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.stockSKUs()
	v := s.serve("--audit-interval", "50ms").awaitReady()
	stop := v.startShoppers(8)
	var verified int64
	for i := range 30 {
		report := s.runAudit(i%5 == 4)
		if !report.OK || report.Seq < verified {
			t.Fatalf("audit %d, after seq %d: a false alarm, or a step back: %+v", i, verified, report)
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
	if made < 200 || verified == 0 || last.From == 0 || last.Compared.Events != last.Seq-last.From {
		t.Errorf("%d holds were made; the last audit: %+v", made, last)
	}
	s.wantCleanAudit(true)
}

// TestAuditInBackground holds that the last audit is shown by every process, that a difference is an error in the log and
// leaves the service ready, and that it is looked at again until it is gone.
func TestAuditInBackground(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.stockSKUs()
	worker := s.serve("--roles", "journal,projections", "--audit-interval", "50ms")
	api := s.serve("--roles", "api,sagas", "--audit-interval", "50ms").awaitReady()
	_, hold, err := api.reserve("sku-1", "k1", 2, 600)
	if err != nil || hold == "" {
		t.Fatal(hold, err)
	}
	await := func(outcome string, first string) {
		t.Helper()
		testenv.Eventually(t, 30*time.Second, func() (bool, string) {
			status, ready, err := s.send(http.MethodGet, api.url+"/readyz?verbose", "")
			last, _ := ready["audit"].(map[string]any)
			return err == nil && status == http.StatusOK && last["outcome"] == outcome && last["ok"] == (outcome == "clean") &&
				last["seq"] == 2.0 && strings.Contains(fmt.Sprint(last["differences"], last["parked"]), first), fmt.Sprintf("%d %v (%v)", status, ready, err)
		})
	}
	await("clean", "")
	if strings.Contains(worker.log.String(), "level=ERROR") {
		t.Errorf("the log has errors:\n%s", worker.log)
	}
	s.redisCommand("HSET hold:" + hold + " qty 5")
	await("differs", "hold:"+hold)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) { // the log is written behind the report
		log := worker.log.String()
		return strings.Contains(log, "level=ERROR") && strings.Contains(log, "differs from its journal"), log
	})
	s.redisCommand("HSET hold:" + hold + " qty 2")
	await("clean", "")
}

// TestAuditGoesOn holds that an audit folds only what is new, and that two that overlap in time take their turns.
func TestAuditGoesOn(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.stockSKUs()
	v := s.serve("--audit-interval", "0").awaitReady()
	var verified int64
	for round := range 3 {
		for i := range 5 {
			if _, hold, err := v.reserve("sku-1", fmt.Sprintf("k%d-%d", round, i), 1, 600); err != nil || hold == "" {
				t.Fatal(hold, err)
			}
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
		if folded := reports[0].Compared.Events + reports[1].Compared.Events; folded != reports[0].Seq-verified || reports[0].Full != reports[1].Full && round > 0 {
			t.Errorf("round %d: %d events were folded from %d on, in %+v and %+v", round, folded, verified, reports[0], reports[1])
		}
		verified = reports[0].Seq
	}
}

// TestAuditKilled kills audits under load at any moment. What they leave behind is the verified state of before, or of
// after, and never something in between.
func TestAuditKilled(t *testing.T) {
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
		if report := s.runAudit(false); report.Outcome == audit.OutcomeDiffers {
			t.Fatalf("after kill %d: %+v", i, report)
		}
	}
	stop()
	s.wantCleanAudit(false)
	s.wantCleanAudit(true)
}
