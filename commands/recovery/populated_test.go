package recovery

import (
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/testenv"
)

// populatedFixture is an open fixture with stock, holds in every state, and the
// idempotency keys of the commands that made them. The journal has all nine events.
type populatedFixture struct {
	*fixture

	adjusted        commands.AdjustStock // the first command
	reserved        commands.Reserve     // created activeHold
	reservedWithTTL commands.Reserve     // created holdWithTTL; it asked for ten minutes

	activeHold    string
	holdWithTTL   string
	confirmedHold string
	cancelledHold string
	expiringHold  string // its deadline passes a second after it was created

	contents map[string]string // of Redis, as restoring must bring them back
}

func newPopulatedFixture(t testing.TB, redisArgs ...string) *populatedFixture {
	t.Helper()
	f := &populatedFixture{fixture: newFixture(t, redisArgs...)}
	f.adjusted = commands.AdjustStock{
		SKU:            "shirt",
		Delta:          20,
		Reason:         "delivery",
		IdempotencyKey: "opening",
	}
	must(t, errorOf(f.AdjustStock(f.Ctx, f.adjusted)))
	f.RedisCommand("SET", "stock:coat", 5)

	f.reserved = f.newRequest("shirt", 2)
	f.activeHold = f.mustReserve(f.reserved)
	f.reservedWithTTL = f.newRequest("coat", 1)
	f.reservedWithTTL.TTL = 10 * time.Minute
	f.holdWithTTL = f.mustReserve(f.reservedWithTTL)
	f.confirmedHold = f.createHold("shirt", 1)
	f.cancelledHold = f.createHold("shirt", 3)
	must(t, errorOf(f.Confirm(f.Ctx, commands.Confirm{HoldID: f.confirmedHold, PaymentRef: "pay-1"})))
	must(t, errorOf(f.Cancel(f.Ctx, commands.Cancel{HoldID: f.cancelledHold})))
	short := f.newRequest("shirt", 1)
	short.TTL = time.Second
	f.expiringHold = f.mustReserve(short)

	f.JournalEverything()
	f.contents = f.Contents()
	return f
}

// mustReserve reserves and returns the hold's id.
func (f *populatedFixture) mustReserve(request commands.Reserve) string {
	f.T.Helper()
	reserved, err := f.Reserve(f.Ctx, request)
	must(f.T, err)
	return reserved.HoldID
}

// rollBack gives Redis the state that it had after the fifth event, as an older copy of
// its data would.
func (f *populatedFixture) rollBack() {
	f.T.Helper()
	entries := f.Operator.XRange(f.Ctx, f.Pool.StreamKey(), "-", "+").Val()
	for _, entry := range entries[5:] {
		f.RedisCommand("XDEL", f.Pool.StreamKey(), entry.ID)
	}
	f.RedisCommand("HSET", f.Pool.MetaKey(), "seq", 5, "stock:shirt", 17, "stock:coat", 4)
	f.RedisCommand("DEL", "hold:"+f.expiringHold, "idem:opening")
	f.RedisCommand("SET", "stock:shirt", 17)
	f.RedisCommand("SET", "idem:never", "made-up hold 6 1")
}

// wantRestored checks that Redis has its contents, and that repeated commands get their
// answers, as before.
func (f *populatedFixture) wantRestored(t *testing.T, p *process) {
	t.Helper()
	f.WantContents(t, f.contents)
	f.wantReserveReplayed(t, p)
	f.wantAdjustReplayed(t, p)
	f.wantEndedHoldsRemembered(t, p)
	f.wantRemainingTTL(t, "hold:"+f.confirmedHold, 24*time.Hour)
	f.wantRemainingTTL(t, "idem:opening", 24*time.Hour)
	if got := f.Operator.PTTL(f.Ctx, "hold:"+f.activeHold).Val(); got >= 0 {
		t.Errorf("the active hold's key expires in %s, want no expiry", got)
	}
}

func (f *populatedFixture) wantReserveReplayed(t *testing.T, p *process) {
	t.Helper()
	repeats := []commands.Reserve{f.reserved, f.reservedWithTTL}
	value := f.Operator.Get(f.Ctx, "idem:"+f.reservedWithTTL.IdempotencyKey).Val()
	if restored := strings.Contains(value, ","); restored { // the event lacks whether its ttl was requested
		withoutTTL := f.reservedWithTTL
		withoutTTL.TTL = 0
		repeats = append(repeats, withoutTTL)
	}
	holds := map[string]string{"shirt": f.activeHold, "coat": f.holdWithTTL}
	for _, request := range repeats {
		got, err := p.Reserve(f.Ctx, request)
		if err != nil {
			t.Errorf("reserve %s again: got error %v, want a replay", request.SKU, err)
		}
		if !got.Replayed {
			t.Errorf("reserve %s again: got %+v, want a replay", request.SKU, got)
		}
		if want := holds[request.SKU]; got.HoldID != want {
			t.Errorf("reserve %s again: got the hold %s, want %s", request.SKU, got.HoldID, want)
		}
		if got.Status != events.StatusActive {
			t.Errorf("reserve %s again: got status %s, want %s", request.SKU, got.Status, events.StatusActive)
		}
	}
	otherQty := f.reserved
	otherQty.Qty++
	wantError(t, "reserve", errorOf(p.Reserve(f.Ctx, otherQty)), commands.ErrIdempotencyMismatch)
	otherTTL := f.reservedWithTTL
	otherTTL.TTL = 11 * time.Minute
	wantError(t, "reserve", errorOf(p.Reserve(f.Ctx, otherTTL)), commands.ErrIdempotencyMismatch)
}

func (f *populatedFixture) wantAdjustReplayed(t *testing.T, p *process) {
	t.Helper()
	got, err := p.AdjustStock(f.Ctx, f.adjusted)
	if err != nil {
		t.Errorf("adjust again: got error %v, want a replay", err)
	}
	if !got.Replayed {
		t.Errorf("adjust again: got %+v, want a replay", got)
	}
	if got.Available != 20 {
		t.Errorf("adjust again: got %d units, want 20", got.Available)
	}
}

// wantEndedHoldsRemembered checks the answers to a confirmed and a cancelled hold.
func (f *populatedFixture) wantEndedHoldsRemembered(t *testing.T, p *process) {
	t.Helper()
	confirmed, err := p.Confirm(f.Ctx, commands.Confirm{HoldID: f.confirmedHold, PaymentRef: "pay-1"})
	if err != nil {
		t.Errorf("confirm again: got error %v, want a replay", err)
	}
	if !confirmed.Replayed {
		t.Errorf("confirm again: got %+v, want a replay", confirmed)
	}
	if confirmed.SKU != "shirt" {
		t.Errorf("confirm again: got sku %q, want shirt", confirmed.SKU)
	}
	if confirmed.UserID != "ann" {
		t.Errorf("confirm again: got user %q, want ann", confirmed.UserID)
	}
	otherPayment := commands.Confirm{HoldID: f.confirmedHold, PaymentRef: "pay-2"}
	wantError(t, "confirm", errorOf(p.Confirm(f.Ctx, otherPayment)), commands.ErrHoldConfirmed)
	ofCancelled := commands.Confirm{HoldID: f.cancelledHold, PaymentRef: "p"}
	wantError(t, "confirm", errorOf(p.Confirm(f.Ctx, ofCancelled)), commands.ErrHoldCancelled)
	cancelled, err := p.Cancel(f.Ctx, commands.Cancel{HoldID: f.cancelledHold})
	if err != nil {
		t.Errorf("cancel again: got error %v, want a replay", err)
	}
	if !cancelled.Replayed {
		t.Errorf("cancel again: got %+v, want a replay", cancelled)
	}
}

// wantRemainingTTL checks that a key expires in want, less a minute at most for the time
// since it was written.
func (f *populatedFixture) wantRemainingTTL(t *testing.T, key string, want time.Duration) {
	t.Helper()
	got := f.Operator.PTTL(f.Ctx, key).Val()
	if got > want || got < want-time.Minute {
		t.Errorf("%s expires in %s, want %s", key, got, want)
	}
}

// wantSalesContinue checks that p sells on, that the expiring hold expires, and that the
// new events follow the old ones in the log and in the journal.
func (f *populatedFixture) wantSalesContinue(t *testing.T, p *process, epoch int64) {
	t.Helper()
	must(t, errorOf(p.Confirm(f.Ctx, commands.Confirm{HoldID: f.activeHold, PaymentRef: "p"})))
	testenv.Eventually(t, 5*time.Second, func() (bool, string) {
		_, err := p.Cancel(f.Ctx, commands.Cancel{HoldID: f.expiringHold, Expired: true})
		return err == nil, "expire the hold: " + errorText(err)
	})
	must(t, errorOf(p.Reserve(f.Ctx, f.newRequest("shirt", 1))))
	available, err := p.Available(f.Ctx, "shirt")
	if err != nil {
		t.Errorf("available: got error %v", err)
	}
	if available != 16 {
		t.Errorf("available: got %d, want 16", available)
	}
	f.wantHead(t, epoch, 12)
	f.JournalEverything()
}

// wantHead checks the epoch of Redis's log and the seq that it ends at.
func (f *populatedFixture) wantHead(t *testing.T, epoch, seq int64) {
	t.Helper()
	head, err := stream.ReadHead(f.Ctx, f.Operator, f.Pool)
	must(t, err)
	if head.Epoch != epoch {
		t.Errorf("log head: got epoch %d, want %d", head.Epoch, epoch)
	}
	if head.Seq != seq {
		t.Errorf("log head: got seq %d, want %d", head.Seq, seq)
	}
}
