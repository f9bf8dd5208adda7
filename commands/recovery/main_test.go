package recovery

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// journal runs the journal of the shop until stop is called or the test ends.
func (s *shop) journal() (stop func()) {
	s.t.Helper()
	j := &journal.Writer{Redis: s.operator, Log: slog.New(slog.DiscardHandler), Park: func(context.Context, pgx.Tx, []events.Entry) error { return nil }}
	return testenv.RunRouter(s.t, func(router *message.Router) {
		j.AddTo(router, journal.StreamSubscriberConfig{Redis: s.operator, Postgres: s.postgres, Pool: s.pool, Log: slog.New(slog.DiscardHandler)})
	})
}

// awaitJournaled waits until the journal has come to the end of Redis's log.
func (s *shop) awaitJournaled() {
	s.t.Helper()
	conn := testenv.Connect(s.t, s.postgres)
	testenv.Eventually(s.t, 20*time.Second, func() (bool, string) {
		log, err := stream.ReadHead(s.ctx, s.operator, s.pool)
		if err != nil || !log.Exists {
			return false, fmt.Sprint(log, err)
		}
		seq, err := worker.ReadCheckpoint(s.ctx, conn, journal.CheckpointName, s.pool.Name())
		return seq == log.Seq, fmt.Sprintf("the journal is at %d (%v), Redis at %d", seq, err, log.Seq)
	})
}

// journaled journals everything that happened so far, and stops the journal again.
func (s *shop) journaled() {
	s.t.Helper()
	stop := s.journal()
	s.awaitJournaled()
	stop()
}

// contents is all that Redis keeps of a pool, as text, but for the stream and for what is said of the log's life.
func (s *shop) contents() map[string]string {
	s.t.Helper()
	keys, err := s.operator.Keys(s.ctx, "*").Result()
	if err != nil {
		s.t.Fatal(err)
	}
	state := map[string]string{}
	for _, key := range keys {
		var value any
		var err error
		switch kind := s.operator.Type(s.ctx, key).Val(); kind {
		case "string":
			value, err = s.operator.Get(s.ctx, key).Result()
		case "hash":
			fields, hashErr := s.operator.HGetAll(s.ctx, key).Result()
			delete(fields, "epoch")
			value, err = fields, hashErr
		case "zset":
			value, err = s.operator.ZRangeWithScores(s.ctx, key, 0, -1).Result()
		default:
			continue
		}
		if err != nil {
			s.t.Fatalf("read %s: %v", key, err)
		}
		state[key] = fmt.Sprint(value)
	}
	return state
}

// failer is a test, or a run of a property.
type failer interface {
	Helper()
	Errorf(format string, args ...any)
}

// wantState fails unless Redis holds what it held, where a restored key may have another fingerprint beside its own.
func (s *shop) wantState(t failer, before map[string]string) {
	t.Helper()
	after := s.contents()
	for key, want := range before {
		got := after[key]
		before, _, _ := strings.Cut(want, " ")
		prints, rest, _ := strings.Cut(got, " ")
		if strings.HasPrefix(key, "idem:") && strings.Count(prints, ",") == 1 && slices.Contains(strings.Split(prints, ","), before) {
			got = before + " " + rest
		}
		if got != want {
			t.Errorf("%s: got %q, want %q as before", key, got, want)
		}
	}
	for key := range after {
		if _, was := before[key]; !was {
			t.Errorf("%s: got %q, want it absent as before", key, after[key])
		}
	}
}

// busyShop has stock, holds in every state, and the keys of all that; all of it is journaled.
type busyShop struct {
	*shop
	live, paid, cancelled, due string // holds
	reserved                   Reserve
	timed                      Reserve // with a ttl of its own
	timedHold                  string
	adjusted                   AdjustStock
	before                     map[string]string
}

func openBusyShop(t testing.TB, redisArgs ...string) *busyShop {
	t.Helper()
	b := &busyShop{shop: openShop(t, redisArgs...)}
	b.adjusted = AdjustStock{SKU: "shirt", Delta: 20, Reason: "delivery", IdempotencyKey: "opening"}
	must(t, ignore(b.AdjustStock(b.ctx, b.adjusted)))
	b.typed("SET", "stock:coat", 5)
	b.reserved = b.request("shirt", 2)
	r, err := b.Reserve(b.ctx, b.reserved)
	must(t, err)
	b.live = r.HoldID
	b.timed = b.request("coat", 1)
	b.timed.TTL = 10 * time.Minute
	r, err = b.Reserve(b.ctx, b.timed)
	must(t, err)
	b.timedHold, b.paid, b.cancelled = r.HoldID, b.hold("shirt", 1), b.hold("shirt", 3)
	must(t, ignore(b.Confirm(b.ctx, Confirm{HoldID: b.paid, PaymentRef: "pay-1"})))
	must(t, ignore(b.Cancel(b.ctx, Cancel{HoldID: b.cancelled})))
	short := b.request("shirt", 1)
	short.TTL = time.Second
	r, err = b.Reserve(b.ctx, short)
	must(t, err)
	b.due = r.HoldID
	b.journaled()
	b.before = b.contents()
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantAsBefore holds that a service answers as if nothing had happened.
func (b *busyShop) wantAsBefore(t *testing.T, service *Service) {
	t.Helper()
	b.wantState(t, b.before)
	repeats := []Reserve{b.reserved, b.timed}
	if restored := strings.Contains(b.operator.Get(b.ctx, "idem:"+b.timed.IdempotencyKey).Val(), ","); restored {
		withoutTTL := b.timed
		withoutTTL.TTL = 0
		repeats = append(repeats, withoutTTL)
	}
	for _, asked := range repeats {
		want := map[string]string{"shirt": b.live, "coat": b.timedHold}[asked.SKU]
		if r, err := service.Reserve(b.ctx, asked); err != nil || !r.Replayed || r.HoldID != want || r.Status != HoldActive {
			t.Errorf("reserve again: got %+v (%v), want the hold %s", r, err, want)
		}
	}
	other := b.reserved
	other.Qty++
	wantRefusal(t, ignore(service.Reserve(b.ctx, other)), ErrIdempotencyMismatch)
	other = b.timed
	other.TTL = 11 * time.Minute
	wantRefusal(t, ignore(service.Reserve(b.ctx, other)), ErrIdempotencyMismatch)
	if a, err := service.AdjustStock(b.ctx, b.adjusted); err != nil || !a.Replayed || a.Available != 20 {
		t.Errorf("adjust again: got %+v (%v), want a replay with 20", a, err)
	}
	if c, err := service.Confirm(b.ctx, Confirm{HoldID: b.paid, PaymentRef: "pay-1"}); err != nil || !c.Replayed || c.SKU != "shirt" || c.UserID != "ann" {
		t.Errorf("confirm again: got %+v (%v), want a replay", c, err)
	}
	wantRefusal(t, ignore(service.Confirm(b.ctx, Confirm{HoldID: b.paid, PaymentRef: "pay-2"})), ErrHoldConfirmed)
	wantRefusal(t, ignore(service.Confirm(b.ctx, Confirm{HoldID: b.cancelled, PaymentRef: "p"})), ErrHoldCancelled)
	if c, err := service.Cancel(b.ctx, Cancel{HoldID: b.cancelled}); err != nil || !c.Replayed {
		t.Errorf("cancel again: got %+v (%v), want a replay", c, err)
	}
	for key, want := range map[string]time.Duration{"hold:" + b.paid: 24 * time.Hour, "idem:opening": 24 * time.Hour, "hold:" + b.live: -1} {
		got := b.operator.PTTL(b.ctx, key).Val()
		if want > 0 && (got > want || got < want-time.Minute) || want < 0 && got >= 0 {
			t.Errorf("%s is remembered for another %s, want %s", key, got, want)
		}
	}
}

// wantGoesOn holds that a service sells on, that what is journaled follows on what was, and that a due hold expires.
func (b *busyShop) wantGoesOn(t *testing.T, service *Service, epoch int64) {
	t.Helper()
	must(t, ignore(service.Confirm(b.ctx, Confirm{HoldID: b.live, PaymentRef: "p"})))
	testenv.Eventually(t, 5*time.Second, func() (bool, string) {
		_, err := service.Cancel(b.ctx, Cancel{HoldID: b.due, Expired: true})
		return err == nil, fmt.Sprint(err)
	})
	must(t, ignore(service.Reserve(b.ctx, b.request("shirt", 1))))
	if got, err := service.Available(b.ctx, "shirt"); got != 16 || err != nil {
		t.Errorf("available: got %d (%v), want 16", got, err)
	}
	log, err := stream.ReadHead(b.ctx, b.operator, b.pool)
	if err != nil || log.Epoch != epoch || log.Seq != 12 {
		t.Errorf("the log: got %+v (%v), want epoch %d and seq 12", log, err, epoch)
	}
	b.journaled()
}
