package commands

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stockstream/stockstream/events"
)

// TestCrowd sends 200 buyers at once through three processes for 60 units, each buyer twice with the same key.
func TestCrowd(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("shirt", 60)
	processes := []*Service{s.Service, s.anotherService(), s.anotherService()}
	for _, p := range processes[1:] {
		if err := p.Open(s.ctx, s.postgres); err != nil {
			t.Fatal(err)
		}
	}
	var sold, refused atomic.Int64
	var all sync.WaitGroup
	for buyer := range 200 {
		all.Go(func() {
			request := Reserve{SKU: "shirt", Qty: 1, UserID: fmt.Sprint("u", buyer), IdempotencyKey: fmt.Sprint("crowd-", buyer)}
			var ids [2]string
			for i := range ids {
				r, err := processes[(buyer+i)%3].Reserve(s.ctx, request)
				switch {
				case err == nil:
					ids[i] = r.HoldID
				case !errors.Is(err, ErrSoldOut):
					t.Errorf("buyer %d: %v", buyer, err)
				}
			}
			if ids[0] != ids[1] {
				t.Errorf("buyer %d got the holds %q with one key", buyer, ids)
			}
			if ids[0] == "" {
				refused.Add(1)
				return
			}
			sold.Add(1)
			confirmTwice(t, s, processes[buyer%3], ids[0])
		})
	}
	all.Wait()
	if sold.Load() != 60 || refused.Load() != 140 {
		t.Errorf("got %d sold and %d refused, want 60 and 140", sold.Load(), refused.Load())
	}
	s.wantStock(t, "shirt", 0)
	checkLog(t, s)
	confirmations := 0
	for _, e := range s.log() {
		if e.event.Type() == events.TypeHoldConfirmed {
			confirmations++
		}
	}
	if confirmations != 60 {
		t.Errorf("the log has %d confirmations, want 60", confirmations)
	}
}

// confirmTwice races a confirmation with another payment; one of the two wins.
func confirmTwice(t *testing.T, s *shop, service *Service, holdID string) {
	t.Helper()
	var won atomic.Int64
	var both sync.WaitGroup
	for _, payment := range []string{"p1", "p2"} {
		both.Go(func() {
			_, err := service.Confirm(s.ctx, Confirm{HoldID: holdID, PaymentRef: payment})
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, ErrHoldConfirmed):
				t.Errorf("confirm with %s: %v", payment, err)
			}
		})
	}
	both.Wait()
	if won.Load() != 1 {
		t.Errorf("hold %s was confirmed %d times, want once", holdID, won.Load())
	}
}
