package commands

import (
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands/commandstest"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// fixture is a service on the Redis of one test, with an operator who works on the same
// Redis directly.
type fixture struct {
	*commandstest.Store
	*Service
}

// openFixture returns a fixture whose log is new and whose gate is open.
func openFixture(t testing.TB, redisArgs ...string) *fixture {
	t.Helper()
	f := closedFixture(t, redisArgs...)
	f.BeginLog()
	f.Gate().Open()
	return f
}

// acceptServer records that the log is on the Redis that answers now, as the recovery
// does after it compared Redis with the journal.
func (f *fixture) acceptServer() {
	f.RedisCommand("HSET", f.Pool.MetaKey(), "server", f.ServerID())
}

// closedFixture returns a fixture whose Redis is empty and whose gate is closed.
func closedFixture(t testing.TB, redisArgs ...string) *fixture {
	t.Helper()
	store := commandstest.NewStore(t, redisArgs...)
	return &fixture{
		Store:   store,
		Service: newService(t, testenv.RedisClient(t, store.Server)),
	}
}

// openService returns a second service on the same Redis, as another process would have,
// with its gate open.
func (f *fixture) openService() *Service {
	f.T.Helper()
	service := newService(f.T, testenv.RedisClient(f.T, f.Server))
	service.Gate().Open()
	return service
}

// newService returns a service whose gate is closed. It is closed when the test ends.
func newService(t testing.TB, client *redis.Client) *Service {
	t.Helper()
	service, err := NewService(events.MainPool, client, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := service.Close(); err != nil {
			t.Errorf("close the service: %v", err)
		}
	})
	return service
}

// stock adds units to a SKU.
func (f *fixture) stock(sku string, units int64) {
	f.T.Helper()
	if _, err := f.AdjustStock(f.Ctx, f.adjustment(sku, units)); err != nil {
		f.T.Fatalf("stock %d of %s: %v", units, sku, err)
	}
}

// adjustment returns a new stock adjustment.
func (f *fixture) adjustment(sku string, delta int64) AdjustStock {
	return AdjustStock{
		SKU:            sku,
		Delta:          delta,
		Reason:         "delivery",
		IdempotencyKey: f.Key(),
	}
}

// hold reserves units of a SKU and returns the hold's id.
func (f *fixture) hold(sku string, qty int64) string {
	f.T.Helper()
	reservation, err := f.Reserve(f.Ctx, f.request(sku, qty))
	if err != nil {
		f.T.Fatalf("reserve %d of %s: %v", qty, sku, err)
	}
	return reservation.HoldID
}

// request returns a new reservation request.
func (f *fixture) request(sku string, qty int64) Reserve {
	return Reserve{
		SKU:            sku,
		Qty:            qty,
		UserID:         "ann",
		IdempotencyKey: f.Key(),
	}
}

// confirm confirms a hold and returns the error.
func (f *fixture) confirm(holdID, paymentRef string) error {
	_, err := f.Confirm(f.Ctx, Confirm{HoldID: holdID, PaymentRef: paymentRef})
	return err
}

// cancel cancels a hold at the shopper's request and returns the error.
func (f *fixture) cancel(holdID string) error {
	_, err := f.Cancel(f.Ctx, Cancel{HoldID: holdID})
	return err
}

// expire cancels a hold because of its deadline and returns the error.
func (f *fixture) expire(holdID string) error {
	_, err := f.Cancel(f.Ctx, Cancel{HoldID: holdID, Expired: true})
	return err
}

// wantRefusal checks that an error is the typed one, and returns the number of available
// units it reports.
func wantRefusal(t *testing.T, got error, want *Error) (available int64) {
	t.Helper()
	var refused *Error
	if !errors.Is(got, want) || !errors.As(got, &refused) {
		t.Errorf("got error %v, want %s", got, want.Code)
		return 0
	}
	return refused.Available
}

// wantEventCount checks how many events the log has.
func (f *fixture) wantEventCount(t *testing.T, want int) {
	t.Helper()
	if got := len(f.Log()); got != want {
		t.Errorf("the log has %d events, want %d", got, want)
	}
}

func ignore[T any](_ T, err error) error { return err }
