package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
)

// TestRolesWorkInSeparateServices runs two services for each role, and sells through
// those with the role api.
func TestRolesWorkInSeparateServices(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	var apis []*service
	for range 2 {
		for _, role := range allRoles {
			v := s.serve("--roles", role).awaitReady()
			if role == roleAPI {
				apis = append(apis, v)
				continue
			}
			status, _, _ := s.send(http.MethodGet, v.url+"/stock/shirt", "")
			if status != http.StatusNotFound {
				t.Errorf("a service with the role %s serves the API: got status %d, want 404", role, status)
			}
		}
	}
	s.redis.Set(s.ctx, "stock:shirt", 10, 0)
	_, kept, err := apis[0].reserve("shirt", "k1", 1, 60)
	if err != nil {
		t.Fatal(err)
	}
	_, lapsed, err := apis[1].reserve("shirt", "k2", 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.mustBeOK(s.send(http.MethodPost, apis[1].url+"/holds/"+kept+"/confirm", `{"payment_ref":"p"}`))
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		_, order, _ := s.send(http.MethodGet, apis[0].url+"/orders?hold_id="+kept, "")
		_, hold, _ := s.send(http.MethodGet, apis[0].url+"/holds/"+lapsed, "")
		return order["payment_ref"] == "p" && hold["status"] == "EXPIRED", fmt.Sprintf("order %v, hold %v",
			order, hold)
	})
	s.awaitCaughtUp()
	if got := s.redis.Get(s.ctx, "stock:shirt").Val(); got != "9" {
		t.Errorf("stock: got %s, want 9", got)
	}
}

// TestErrorForATakenPortNamesTheSetting checks that serve, on a taken port, names the
// setting for another address.
func TestErrorForATakenPortNamesTheSetting(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	v := s.serve().awaitReady()
	s.wantError("serve --http-addr "+strings.TrimPrefix(v.url, "http://"),
		"--http-addr or STOCKSTREAM_HTTP_ADDR")
}

// TestServiceCanBeStoppedWhileItStarts stops a service at different moments of its start,
// and checks that it ends within 5 s and without an error.
func TestServiceCanBeStoppedWhileItStarts(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	for i := range 12 {
		v := s.serve()
		<-time.After(time.Duration(i*i) * 2 * time.Millisecond)
		began := time.Now()
		if err := v.stop(); err != nil {
			t.Errorf("stopped after %d ms: %v", i*i*2, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("stopped after %d ms: the stop took %s, want at most 5 s", i*i*2, took)
		}
	}
}

// TestServiceWaitsForItsServers starts a service before Redis, Postgres and the schema
// are there, and checks that it becomes ready when they are. Then it kills Postgres,
// during which reservations must succeed, and Redis.
func TestServiceWaitsForItsServers(t *testing.T) {
	t.Parallel()
	postgres := testenv.PostgresServer(t)
	s := newFixtureOn(t, postgres.URL())
	if _, err := s.cli("migrate", "down", "--yes"); err != nil {
		t.Fatal(err)
	}
	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	v := s.serve()
	awaitStatus := func(status int, says string) {
		t.Helper()
		testenv.Eventually(t, 30*time.Second, func() (bool, string) {
			got, body, err := s.send(http.MethodGet, v.url+"/readyz?verbose", "")
			found := strings.Contains(fmt.Sprint(body)+v.log.String(), says)
			state := fmt.Sprintf("%d %v (%v), want %d with %q; log:\n%s", got, body, err, status, says, v.log)
			return err == nil && got == status && found, state
		})
	}
	awaitStatus(503, "connection refused")
	if err := postgres.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	awaitStatus(503, "stockstream migrate up")
	s.db = s.connect()
	if _, err := s.cli("migrate", "up"); err != nil {
		t.Fatal(err)
	}
	awaitStatus(503, "pool not open")
	if err := s.server.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	awaitStatus(200, "ready")
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	v.mustReserve("shirt", "k1", 1, 60)

	if err := postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	v.mustReserve("shirt", "k2", 1, 60) // works while Postgres is down
	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	awaitStatus(503, "unready")
	if err := s.server.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	awaitStatus(503, "OTHER_SERVER") // a restarted Redis waits for the comparison
	if err := postgres.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	awaitStatus(200, "ready")
	v.mustReserve("shirt", "k3", 1, 60)
	s.db = s.connect()
	s.awaitCaughtUp()
	if got := queryValue[int](s, `SELECT count(*) FROM holds`); got != 3 {
		t.Errorf("holds has %d rows, want 3", got)
	}
}

// TestDrainFinishesAcceptedRequests stops a service under load. Every reservation
// answered 201 must be in the log and in the read table, and no message may be parked.
func TestDrainFinishesAcceptedRequests(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	v := s.serve("--drain-delay", "200ms").awaitReady()
	s.redis.Set(s.ctx, "stock:shirt", 1_000_000, 0)
	var accepted atomic.Int64
	var buyers sync.WaitGroup
	begun := make(chan struct{}, 1)
	for buyer := range 20 {
		buyers.Go(func() {
			for i := 0; ; i++ {
				status, _, err := v.reserve("shirt", fmt.Sprintf("b%d-%d", buyer, i), 1, 60)
				if err != nil {
					if accepted.Load() < 200 {
						t.Errorf("buyer %d, request %d, before the stop: %v", buyer, i, err)
					}
					// the connection was closed before the service read the request; the
					// count below proves it
					return
				}
				if status != http.StatusCreated {
					t.Errorf("buyer %d, request %d: %d", buyer, i, status)
				}
				if accepted.Add(1) == 200 {
					begun <- struct{}{}
				}
			}
		})
	}
	<-begun
	if err := v.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	buyers.Wait()
	if log := v.log.String(); strings.Contains(log, "parked") || strings.Contains(log, "level=ERROR") {
		t.Errorf("the log has errors:\n%s", log)
	}
	if created := s.redis.XLen(s.ctx, "inventory.events").Val() - 1; created != accepted.Load() {
		t.Errorf("%d reservations were answered 201, but the log has %d holds", accepted.Load(), created)
	}
	s.serve().awaitReady()
	s.awaitCaughtUp()
	if got := queryValue[int64](s, `SELECT count(*) FROM holds`); got != accepted.Load() {
		t.Errorf("holds has %d rows, want %d", got, accepted.Load())
	}
	if got := queryValue[int](s, `SELECT count(*) FROM dead_letters`); got != 0 {
		t.Errorf("%d letters were parked", got)
	}
}
