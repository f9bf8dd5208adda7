package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
)

// reopenMax is how long a failover may take from the death of the primary until every
// process sells again. It is checked by `make faults` only: beside other tests, the
// machine is too busy for the Sentinels.
const reopenMax = 10 * time.Second

// failoverServers are Redis servers of which one is the primary.
type failoverServers struct {
	primary func() (*local.Redis, error)
	pair    []*local.Redis // the primary and its replica, in any order
}

// replicaOf returns the other server of the pair.
func (f failoverServers) replicaOf(primary *local.Redis) *local.Redis {
	if f.pair[0] == primary {
		return f.pair[1]
	}
	return f.pair[0]
}

// TestSentinelFailoverSellsNoUnitTwice has the Sentinels promote a replica that lags,
// again and again, while two processes sell.
func TestSentinelFailoverSellsNoUnitTwice(t *testing.T) {
	t.Parallel()
	sentinel := testenv.RedisSentinel(t, 1)
	s := newFixtureWith(t, sentinel.URL(), testenv.Postgres(t), 15*time.Minute)
	s.sellThroughFailovers(failoverServers{
		primary: func() (*local.Redis, error) { return sentinel.Master(s.ctx) },
		pair:    sentinel.Nodes,
	})
}

// TestClusterFailoverSellsNoUnitTwice does the same on a Redis Cluster.
func TestClusterFailoverSellsNoUnitTwice(t *testing.T) {
	t.Parallel()
	cluster := testenv.RedisCluster(t)
	s := newFixtureWith(t, cluster.URL(), testenv.Postgres(t), 15*time.Minute)
	slot, err := s.redis.ClusterKeySlot(s.ctx, s.pool.MetaKey()).Result()
	if err != nil {
		t.Fatal(err)
	}
	primary := func() (*local.Redis, error) { return cluster.MasterOf(s.ctx, int(slot)) }
	first, err := primary()
	if err != nil {
		t.Fatal(err)
	}
	var pair []*local.Redis
	for i, master := range cluster.Masters {
		if master == first {
			pair = []*local.Redis{master, cluster.Replicas[i]}
		}
	}
	s.sellThroughFailovers(failoverServers{primary: primary, pair: pair})
}

// sellThroughFailovers has two processes sell through kills(t) failovers with a replica
// that lags. Each must sell again within reopenMax without help, and no unit may be sold
// twice.
func (s *fixture) sellThroughFailovers(servers failoverServers) {
	s.t.Helper()
	const units = 1_000_000
	processes := []*service{s.serve().awaitReady(), s.serve("--roles", "api").awaitReady()}
	s.openTickets(processes[0].url, units)
	acknowledgements := &acknowledged{
		holds:  map[string]bool{},
		orders: map[string]bool{},
		lossy:  true, // what neither the replica nor the journal has is lost
	}
	buying, stop := context.WithCancel(s.ctx)
	defer stop()
	var buyers sync.WaitGroup
	for i := range 8 {
		p := processes[i%len(processes)]
		buyers.Go(func() { s.buy(buying, p.url, fmt.Sprint("buyer", i), acknowledgements) })
	}
	for round := range kills(s.t) {
		primary, err := servers.primary()
		if err != nil {
			s.t.Fatal(err)
		}
		replica := servers.replicaOf(primary)
		s.awaitReplica(primary, replica)
		killed := s.killWithLag(primary, replica)
		for i, p := range processes {
			s.awaitSale(p, fmt.Sprintf("after-%d-%d", round, i))
			took := time.Since(killed)
			s.t.Logf("failover %d: process %d sells again after %s",
				round+1, i+1, took.Round(10*time.Millisecond))
			if took > reopenMax && os.Getenv(killsVariable) != "" {
				s.t.Errorf("failover %d: process %d sold nothing for %s, want at most %s",
					round+1, i+1, took, reopenMax)
			}
		}
		if err := primary.Start(s.ctx); err != nil {
			s.t.Fatal(err)
		}
	}
	stop()
	buyers.Wait()
	if len(acknowledgements.holds) < 50 {
		s.t.Fatalf("only %d holds were made, want at least 50", len(acknowledgements.holds))
	}
	s.wantStoresAgreeExceptStream("ticket", units)
	s.wantCleanAudit(true)
}

// killWithLag kills a primary whose replica lacks what was sold in the last moments. It
// returns the time of the kill.
func (s *fixture) killWithLag(primary, replica *local.Redis) time.Time {
	s.t.Helper()
	if err := replica.Pause(); err != nil {
		s.t.Fatal(err)
	}
	// Otherwise the buffers of the connection would still bring the replica everything.
	kill := []any{"CLIENT", "KILL", "TYPE", "replica"}
	if err := testenv.RedisClient(s.t, primary).Do(s.ctx, kill...).Err(); err != nil {
		s.t.Fatal(err)
	}
	<-time.After(350 * time.Millisecond) // sales that the replica lacks
	if err := primary.Kill(); err != nil {
		s.t.Fatal(err)
	}
	killed := time.Now()
	if err := replica.Resume(); err != nil {
		s.t.Fatal(err)
	}
	return killed
}

// awaitSale reserves a unit at one process, and repeats that until it succeeds.
func (s *fixture) awaitSale(p *service, key string) {
	s.t.Helper()
	testenv.Eventually(s.t, 45*time.Second, func() (bool, string) {
		status, _, err := p.reserve("ticket", key, 1, buyerTTL)
		return status == http.StatusCreated, fmt.Sprintf("reserve: %d %v\n%s", status, err, p.log)
	})
}

// awaitReplica waits until a replica has everything that its primary has.
func (s *fixture) awaitReplica(primary, replica *local.Redis) {
	s.t.Helper()
	client := testenv.RedisClient(s.t, replica)
	_, port, _ := strings.Cut(primary.Addr(), ":")
	testenv.Eventually(s.t, time.Minute, func() (bool, string) {
		info, err := client.Info(s.ctx, "replication").Result()
		follows := strings.Contains(info, "master_port:"+port+"\r\n") &&
			strings.Contains(info, "master_link_status:up")
		return follows, fmt.Sprintf("%v %s", err, info)
	})
}
