package recovery

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/wait"
)

// sellerLife is how long a seller counts as alive after its last report. A running seller
// reports every compareInterval.
const sellerLife = 5 * time.Second

// newProcessName returns the name under which this process reports that it sells.
func newProcessName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), rand.Text()[:8])
}

// otherSellers watches the processes that sell on another Redis. Its methods are safe for
// concurrent use.
//
// A seller is silent once its report did not change while this process watched it for
// sellerLife. The age of the report alone does not count: after an outage of Postgres,
// all reports are old, and the sellers are alive.
type otherSellers struct {
	mu   sync.Mutex
	seen map[string]sighting // by process
}

// sighting is the last report of a seller, and since when this process has known it.
type sighting struct {
	seller journal.Seller
	since  time.Time
}

// watch reads the sellers on servers other than the given one. It returns the silent
// ones, and fails with journal.ErrOtherSeller if one is alive.
func (o *otherSellers) watch(
	ctx context.Context, db postgres.Querier, pool, self, server string,
) (silent []journal.Seller, err error) {
	sellers, err := journal.ReadSellers(ctx, db, pool)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	seen := map[string]sighting{}
	var alive []string
	for _, seller := range sellers {
		if seller.Server == server {
			continue
		}
		found, known := o.seen[seller.Process]
		if !known || found.seller != seller {
			found = sighting{seller: seller, since: now}
		}
		seen[seller.Process] = found
		if seller.Process == self || now.Sub(found.since) >= sellerLife {
			silent = append(silent, seller)
		} else {
			alive = append(alive, fmt.Sprintf("%s sells on server %s", seller.Process, seller.Server))
		}
	}
	o.seen = seen
	if len(alive) > 0 {
		return nil, fmt.Errorf("%w, and this process is on server %s (%s). "+
			"The pool opens here %s after the last of them stopped selling. "+
			"If they should not run on two servers, compare STOCKSTREAM_REDIS_URL of the processes",
			journal.ErrOtherSeller, server, strings.Join(alive, "; "), sellerLife)
	}
	return silent, nil
}

// refuseOtherSellers fails with journal.ErrOtherSeller while a process sells on a server
// other than the given one. Otherwise it returns the sellers that ended without
// withdrawing their report, for journal.RaiseEpoch.
func (r *Recovery) refuseOtherSellers(
	ctx context.Context, db postgres.Querier, server stream.Server,
) (silent []journal.Seller, err error) {
	return r.others.watch(ctx, db, r.pool.Name(), r.process, server.ReplicationID)
}

// awaitOtherSellers waits until no seller on another server is alive. It fails with
// journal.ErrOtherSeller if one still is after twice sellerLife.
func (r *Recovery) awaitOtherSellers(ctx context.Context, db postgres.Querier, server stream.Server) error {
	deadline := time.Now().Add(2 * sellerLife)
	for {
		_, err := r.refuseOtherSellers(ctx, db, server)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		if err := wait.For(ctx, closedInterval); err != nil {
			return err
		}
	}
}
