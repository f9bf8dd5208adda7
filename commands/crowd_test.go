package commands

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stockstream/stockstream/events"
)

// TestCrowdBuysExactlyTheStock sends 200 buyers at once through three processes for 60
// units. Each buyer reserves twice with the same key. It checks that 60 buyers get a unit
// each, and that each hold is confirmed once.
func TestCrowdBuysExactlyTheStock(t *testing.T) {
	t.Parallel()
	const (
		buyers = 200
		units  = 60
	)
	f := openFixture(t)
	f.stock("shirt", units)
	processes := []*Service{f.Service, f.openService(), f.openService()}
	var sold atomic.Int64
	var refused atomic.Int64
	var group sync.WaitGroup
	for buyer := range buyers {
		group.Go(func() {
			holdID := reserveTwice(t, f, processes, buyer)
			if holdID == "" {
				refused.Add(1)
				return
			}
			sold.Add(1)
			confirmTwice(t, f, processes[buyer%len(processes)], holdID)
		})
	}
	group.Wait()
	if got := sold.Load(); got != units {
		t.Errorf("got %d buyers with a unit, want %d", got, units)
	}
	if got := refused.Load(); got != buyers-units {
		t.Errorf("got %d buyers refused, want %d", got, buyers-units)
	}
	f.WantStock(t, "shirt", 0)
	checkLog(t, f)
	confirmations := 0
	for _, logged := range f.Log() {
		if logged.Event.Type() == events.TypeHoldConfirmed {
			confirmations++
		}
	}
	if confirmations != units {
		t.Errorf("the log has %d confirmations, want %d", confirmations, units)
	}
}

// reserveTwice sends one reservation through two processes and returns the id of its
// hold, or "" if it was sold out. It checks that both answers name the same hold.
func reserveTwice(t *testing.T, f *fixture, processes []*Service, buyer int) string {
	t.Helper()
	request := Reserve{
		SKU:            "shirt",
		Qty:            1,
		UserID:         fmt.Sprint("u", buyer),
		IdempotencyKey: fmt.Sprint("crowd-", buyer),
	}
	var ids [2]string
	for i := range ids {
		reservation, err := processes[(buyer+i)%len(processes)].Reserve(f.Ctx, request)
		switch {
		case err == nil:
			ids[i] = reservation.HoldID
		case !errors.Is(err, ErrSoldOut):
			t.Errorf("buyer %d: got %v, want a hold or ErrSoldOut", buyer, err)
		}
	}
	if ids[0] != ids[1] {
		t.Errorf("buyer %d: got holds %q for one key, want one hold", buyer, ids)
	}
	return ids[0]
}

// confirmTwice sends two confirmations with different payments at once and checks that
// one succeeds.
func confirmTwice(t *testing.T, f *fixture, service *Service, holdID string) {
	t.Helper()
	var succeeded atomic.Int64
	var group sync.WaitGroup
	for _, paymentRef := range []string{"p1", "p2"} {
		group.Go(func() {
			_, err := service.Confirm(f.Ctx, Confirm{HoldID: holdID, PaymentRef: paymentRef})
			switch {
			case err == nil:
				succeeded.Add(1)
			case !errors.Is(err, ErrHoldConfirmed):
				t.Errorf("confirm with %s: got %v, want success or ErrHoldConfirmed", paymentRef, err)
			}
		})
	}
	group.Wait()
	if got := succeeded.Load(); got != 1 {
		t.Errorf("hold %s: got %d confirmations, want 1", holdID, got)
	}
}
