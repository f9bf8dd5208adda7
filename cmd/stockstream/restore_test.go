package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
)

// openTickets adds units of the SKU ticket through a service.
func (s *fixture) openTickets(url string, units int) {
	s.t.Helper()
	body := fmt.Sprintf(`{"delta":%d,"reason":"opening","idempotency_key":"open"}`, units)
	s.wantPost(url+"/stock/ticket/adjustments", body, http.StatusOK)
}

// recordedHold is a hold as it is in the read tables.
type recordedHold struct {
	id, key, status, paymentRef string
}

// wantHoldsAnswerAsBefore repeats the requests for every hold in the read tables, and
// checks that the answers are the same as before. It returns the number of holds.
func (s *fixture) wantHoldsAnswerAsBefore(url string) (asked int) {
	s.t.Helper()
	rows, err := s.db.Query(s.ctx,
		`SELECT h.hold_id, h.idempotency_key, h.status, coalesce(o.payment_ref, '') FROM holds h LEFT JOIN orders o USING (hold_id) ORDER BY h.hold_id`)
	if err != nil {
		s.t.Fatal(err)
	}
	var holds []recordedHold
	for rows.Next() {
		var h recordedHold
		if err := rows.Scan(&h.id, &h.key, &h.status, &h.paymentRef); err != nil {
			s.t.Fatal(err)
		}
		holds = append(holds, h)
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	for _, h := range holds {
		status, id, err := s.reserveAt(url, "ticket", h.key, 1, buyerTTL)
		if status != http.StatusCreated || id != h.id || err != nil {
			s.t.Errorf("reserve with the key %s: %d, hold %q (%v), want the hold %s",
				h.key, status, id, err, h.id)
		}
		if h.status == "CONFIRMED" {
			s.wantPost(url+"/holds/"+h.id+"/confirm", fmt.Sprintf(`{"payment_ref":%q}`, h.paymentRef),
				http.StatusOK)
			s.wantPost(url+"/holds/"+h.id+"/confirm", `{"payment_ref":"another"}`, http.StatusConflict)
		}
	}
	s.openTickets(url, 1_000_000) // the same adjustment again, with the same key
	return len(holds)
}

// journaledHolds returns the ids of the holds in the journal. They must survive every
// loss of Redis's data.
func (s *fixture) journaledHolds() map[string]bool {
	s.t.Helper()
	ids := map[string]bool{}
	for _, id := range queryValue[[]string](s,
		`SELECT coalesce(array_agg(hold_id), '{}') FROM events WHERE type = 'HOLD_CREATED'`) {
		ids[id] = true
	}
	return ids
}

// wantAllRecovered waits until all events are projected, and then checks that the known
// holds exist in Redis, that holds answer as before, and that all stores agree.
func (s *fixture) wantAllRecovered(url string, known map[string]bool) {
	s.t.Helper()
	s.awaitCaughtUp()
	asked := s.wantHoldsAnswerAsBefore(url)
	for id := range known {
		if !s.redis.HExists(s.ctx, "hold:"+id, "state").Val() {
			s.t.Errorf("Redis has no hold %s, which was journaled before Redis lost its data", id)
		}
	}
	s.wantStoresAgreeExceptStream("ticket", 1_000_000)
	if asked < 50 {
		s.t.Errorf("only %d holds were made, want at least 50", asked)
	}
	if n := queryValue[int](s, `SELECT count(*) FROM dead_letters`); n != 0 {
		s.t.Errorf("%d letters were parked", n)
	}
	s.t.Logf("%d holds answer as before", asked)
}

// awaitJournaledHolds waits until at least n holds are in the journal, and returns their
// ids.
func (s *fixture) awaitJournaledHolds(n int) map[string]bool {
	s.t.Helper()
	testenv.Eventually(s.t, 60*time.Second, func() (bool, string) {
		got := len(s.journaledHolds())
		return got >= n, fmt.Sprintf("%d holds are journaled, want %d", got, n)
	})
	return s.journaledHolds()
}

// epoch returns the epoch of Redis's log, or 0 if Redis has no log.
func (s *fixture) epoch() int64 {
	epoch, err := s.redis.HGet(s.ctx, "inventory.meta", "epoch").Int64()
	if err != nil {
		return 0
	}
	return epoch
}

func (s *fixture) awaitEpoch(least int64) {
	s.t.Helper()
	testenv.Eventually(s.t, 60*time.Second, func() (bool, string) {
		got := s.epoch()
		return got >= least, fmt.Sprintf("the log is in epoch %d, want %d", got, least)
	})
}

// TestFlushAllUnderLoadKeepsJournaledHolds empties Redis while buyers buy through two
// services, and once more while no service runs. Until Redis is restored, buyers get only
// the answer 503. Afterwards, every journaled hold is as before.
func TestFlushAllUnderLoadKeepsJournaledHolds(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	services := []*service{s.serve().awaitReady(), s.serve("--roles", "api,sagas").awaitReady()}
	s.openTickets(services[0].url, 1_000_000)
	acknowledgements := &acknowledged{
		holds:  map[string]bool{},
		orders: map[string]bool{},
		lossy:  true,
	}
	buying, stop := context.WithCancel(s.ctx)
	defer stop()
	var buyers sync.WaitGroup
	for i := range 8 {
		buyers.Go(func() { s.buy(buying, services[i%2].url, fmt.Sprint("buyer", i), acknowledgements) })
	}
	known := s.awaitJournaledHolds(100)
	if err := s.redis.FlushAll(s.ctx).Err(); err != nil {
		t.Fatal(err)
	}
	s.awaitEpoch(2)
	later := s.awaitJournaledHolds(len(s.journaledHolds()) + 100) // buyers can buy again
	stop()
	buyers.Wait()
	for _, v := range services {
		v.awaitReady()
	}
	for id := range known {
		later[id] = true
	}
	s.wantAllRecovered(services[1].url, later)

	for _, v := range services {
		if err := v.stop(); err != nil {
			t.Fatal(err)
		}
	}
	known = s.journaledHolds()
	if err := s.redis.FlushAll(s.ctx).Err(); err != nil {
		t.Fatal(err)
	}
	s.wantAllRecovered(s.serve().awaitReady().url, known)
	if got := s.epoch(); got != 3 {
		t.Errorf("the log is in epoch %d, want 3", got)
	}
}

// TestOlderAppendOnlyFileIsRepaired replaces Redis's append-only file by an older copy,
// once while a service runs and once while none runs, and checks that every journaled
// hold is as before.
func TestOlderAppendOnlyFileIsRepaired(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	v := s.serve().awaitReady()
	s.openTickets(v.url, 1_000_000)
	acknowledgements := &acknowledged{
		holds:  map[string]bool{},
		orders: map[string]bool{},
		lossy:  true,
	}
	buying, stop := context.WithCancel(s.ctx)
	defer stop()
	var buyers sync.WaitGroup
	for i := range 4 {
		buyers.Go(func() { s.buy(buying, v.url, fmt.Sprint("buyer", i), acknowledgements) })
	}
	s.awaitJournaledHolds(50)
	dir := s.redis.ConfigGet(s.ctx, "dir").Val()["dir"]
	kill := func() {
		t.Helper()
		if err := s.server.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	start := func() {
		t.Helper()
		if err := s.server.Start(s.ctx); err != nil {
			t.Fatal(err)
		}
	}
	kill()
	older := filepath.Join(t.TempDir(), "older")
	if err := os.CopyFS(older, os.DirFS(filepath.Join(dir, "appendonlydir"))); err != nil {
		t.Fatal(err)
	}
	start()
	for round := range 2 {
		v.awaitReady()
		known := s.awaitJournaledHolds(len(s.journaledHolds()) + 50)
		if round == 1 {
			stop()
			buyers.Wait()
			s.awaitCaughtUp()
			known = s.journaledHolds()
			if err := v.stop(); err != nil {
				t.Fatal(err)
			}
		}
		kill()
		if err := os.RemoveAll(filepath.Join(dir, "appendonlydir")); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(filepath.Join(dir, "appendonlydir"), os.DirFS(older)); err != nil {
			t.Fatal(err)
		}
		start()
		if round == 1 {
			v = s.serve()
		}
		s.awaitEpoch(int64(round + 2))
		v.awaitReady()
		if round == 1 {
			s.wantAllRecovered(v.url, known)
		}
	}
}

// TestHoldThatLapsedDuringAnOutageExpires checks that a hold whose deadline passed while
// Redis was empty expires after Redis is restored.
func TestHoldThatLapsedDuringAnOutageExpires(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	v := s.serve().awaitReady()
	s.openTickets(v.url, 10)
	_, lapsing, err := v.reserve("ticket", "short", 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	s.awaitCaughtUp()
	if err := v.stop(); err != nil {
		t.Fatal(err)
	}
	s.redis.FlushAll(s.ctx)
	expires := queryValue[time.Time](s, `SELECT expires_at FROM holds`)
	<-time.After(time.Until(expires))
	v = s.serve().awaitReady()
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		_, hold, err := s.send(http.MethodGet, v.url+"/holds/"+lapsing, "")
		return hold["status"] == "EXPIRED", fmt.Sprint(hold, err)
	})
	if got := s.redis.Get(s.ctx, "stock:ticket").Val(); got != "10" {
		t.Errorf("stock: got %s, want 10", got)
	}
}

// TestRedisRebuildCommand checks the output, the errors and the effect of the command
// while a service runs.
func TestRedisRebuildCommand(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.wantError("redis rebuild", "never set up")
	v := s.serve().awaitReady()
	s.openTickets(v.url, 10)
	_, hold, err := v.reserve("ticket", "k1", 1, 300)
	if err != nil {
		t.Fatal(err)
	}
	s.wantError("redis rebuild", "--yes")
	s.wantError("redis rebuild -o xml", "table or json")
	s.redis.Set(s.ctx, "stock:ticket", 77, 0)
	s.wantOutput("redis rebuild --yes", "write keys: ", "open again in epoch 2 at seq 2", "1 live holds")
	if got := s.redis.Get(s.ctx, "stock:ticket").Val(); got != "9" {
		t.Errorf("stock: got %s, want 9", got)
	}
	v.awaitReady()
	out := s.wantOutput("redis rebuild --yes -o json")
	var done rebuiltJSON
	if err := json.Unmarshal([]byte(out[strings.LastIndex(out, "{"):]), &done); err != nil {
		t.Fatalf("as JSON: %v in %q", err, out)
	}
	if done.Epoch != 3 {
		t.Errorf("as JSON: got epoch %d, want 3", done.Epoch)
	}
	if done.Seq != 2 {
		t.Errorf("as JSON: got seq %d, want 2", done.Seq)
	}
	if done.LiveHolds != 1 {
		t.Errorf("as JSON: got %d live holds, want 1", done.LiveHolds)
	}
	v.awaitReady()
	s.wantPost(v.url+"/holds/"+hold+"/confirm", `{"payment_ref":"p"}`, http.StatusOK)
	s.awaitCaughtUp()
	s.wantStoresAgree("ticket", 10)
}

// TestKillRedisRebuildAtAnyStep kills `redis rebuild` at random moments while a service
// runs. Each time, the service must serve again by itself. At the end, every acknowledged
// hold exists and all stores agree.
func TestKillRedisRebuildAtAnyStep(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	v := s.serve().awaitReady()
	s.openTickets(v.url, 1_000_000)
	acknowledgements := &acknowledged{holds: map[string]bool{}, orders: map[string]bool{}}
	buying, stop := context.WithCancel(s.ctx)
	defer stop()
	var buyers sync.WaitGroup
	for i := range 4 {
		buyers.Go(func() { s.buy(buying, v.url, fmt.Sprint("buyer", i), acknowledgements) })
	}
	s.awaitJournaledHolds(200)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 * kills(t) {
		cmd := exec.Command(self, "redis", "rebuild", "--yes")
		cmd.Env = append(s.environ(), asProgram+"=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(rand.N(600 * time.Millisecond))
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		s.awaitEpoch(1)
		v.awaitReady()
	}
	stop()
	buyers.Wait()
	s.awaitCaughtUp()
	s.wantStoresAgree("ticket", 1_000_000)
	acknowledgements.wantAll(s) // not even a hold that was not journaled is lost, since Redis kept its stream
	s.wantHoldsAnswerAsBefore(v.url)
}
