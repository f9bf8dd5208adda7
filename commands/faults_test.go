package commands

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// namedCommand is a command of a test, with all that it needs.
type namedCommand struct {
	name string
	run  func() error
}

// TestRedisThatCannotWriteRefusesEveryCommand checks that commands to a Redis that cannot
// write fail with ErrUnavailable and change nothing, and that the same commands succeed
// once it can write again.
func TestRedisThatCannotWriteRefusesEveryCommand(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		begin []any
		end   []any
	}{
		"out of memory": {
			begin: []any{"CONFIG", "SET", "maxmemory", "1"},
			end:   []any{"CONFIG", "SET", "maxmemory", "0"},
		},
		"read-only": {
			begin: []any{"REPLICAOF", "127.0.0.1", "1"},
			end:   []any{"REPLICAOF", "NO", "ONE"},
		},
		"too few replicas": {
			begin: []any{"CONFIG", "SET", "min-replicas-to-write", "1"},
			end:   []any{"CONFIG", "SET", "min-replicas-to-write", "0"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openFixture(t)
			commands := f.stockAndCommands()
			f.RedisCommand(test.begin...)
			before := f.Dump()
			for _, command := range commands {
				if err := command.run(); !errors.Is(err, ErrUnavailable) {
					t.Errorf("%s: got %v, want ErrUnavailable", command.name, err)
				}
			}
			f.WantUnchanged(t, before)
			f.RedisCommand(test.end...)
			f.acceptServer() // after read-only, Redis counts as another server
			for _, command := range commands {
				if err := command.run(); err != nil {
					t.Errorf("%s, when Redis can write again: %v", command.name, err)
				}
			}
			f.WantStock(t, "shirt", 1)
		})
	}
}

// TestCommandsSucceedAfterRedisForgotItsScripts checks that a script that Redis no longer
// knows is loaded again.
func TestCommandsSucceedAfterRedisForgotItsScripts(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	commands := f.stockAndCommands()
	f.RedisCommand("SCRIPT", "FLUSH")
	for _, command := range commands {
		if err := command.run(); err != nil {
			t.Errorf("%s: %v", command.name, err)
		}
	}
	f.WantStock(t, "shirt", 1)
}

// stockAndCommands stocks 2 shirts, holds one, and returns commands that leave 1
// available.
func (f *fixture) stockAndCommands() []namedCommand {
	f.T.Helper()
	f.stock("shirt", 2)
	holdID := f.hold("shirt", 1)
	request := f.request("shirt", 1)
	adjustment := f.adjustment("shirt", 1)
	return []namedCommand{
		{"reserve", func() error { return ignore(f.Reserve(f.Ctx, request)) }},
		{"confirm", func() error { return f.confirm(holdID, "p") }},
		{"adjust", func() error { return ignore(f.AdjustStock(f.Ctx, adjustment)) }},
		{"ready", func() error { return f.Ready(f.Ctx) }},
	}
}

// openServiceThroughProxy returns a second service, whose gate is open, that reaches the
// fixture's Redis through a proxy.
func (f *fixture) openServiceThroughProxy() (*Service, *testenv.Proxy) {
	f.T.Helper()
	proxy := testenv.NewProxy(f.T, f.Server.Addr())
	client := redis.NewClient(&redis.Options{Addr: proxy.Addr(), ContextTimeoutEnabled: true})
	f.T.Cleanup(func() { _ = client.Close() })
	service := newService(f.T, client)
	service.Gate().Open()
	return service, proxy
}

// TestCommandWithLostAnswerTakesEffectOnce checks that a command whose answer was lost
// has one effect, and that its caller gets the answer of that effect, not of a repeat.
func TestCommandWithLostAnswerTakesEffectOnce(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 100)
	service, proxy := f.openServiceThroughProxy()
	const rounds = 10
	for i := range rounds {
		if _, err := service.Reserve(f.Ctx, f.request("shirt", 1)); err != nil { // opens a connection
			t.Fatal(err)
		}
		proxy.LoseAnswers(1)
		reservation, err := service.Reserve(f.Ctx, f.request("shirt", 1))
		if err != nil {
			t.Fatalf("reserve with a lost answer: %v", err)
		}
		if reservation.Replayed {
			t.Fatal("reserve with a lost answer: got Replayed true, want false")
		}
		if reservation.Status != events.StatusActive {
			t.Fatalf("reserve with a lost answer: got status %s, want %s",
				reservation.Status, events.StatusActive)
		}
		if got, want := len(f.Log()), 1+2*(i+1); got != want {
			t.Fatalf("the log has %d events, want %d", got, want)
		}
	}
	proxy.LoseAnswers(1)
	adjusted, err := service.AdjustStock(f.Ctx, f.adjustment("shirt", 5))
	if err != nil {
		t.Errorf("adjust with a lost answer: %v", err)
	}
	if adjusted.Replayed {
		t.Error("adjust with a lost answer: got Replayed true, want false")
	}
	const want = 100 - 2*rounds + 5
	if adjusted.Available != want {
		t.Errorf("adjust with a lost answer: got %d available, want %d", adjusted.Available, want)
	}
	f.WantStock(t, "shirt", want)
}

// TestOwnRepeatIsNotReplayed checks that a Confirm or Cancel whose answer was lost does
// not count as a repeat of an earlier request, and that a later request does, even if its
// own answer was lost, too.
func TestOwnRepeatIsNotReplayed(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 2)
	service, proxy := f.openServiceThroughProxy()
	if err := service.reads.close(); err != nil { // the proxy must lose no answer to a read
		t.Fatal(err)
	}
	var err error
	if service.reads, err = newReads(testenv.RedisClient(t, f.Server)); err != nil {
		t.Fatal(err)
	}
	confirm := func(holdID string) (bool, error) {
		done, err := service.Confirm(f.Ctx, Confirm{HoldID: holdID, PaymentRef: "p"})
		return done.Replayed, err
	}
	cancel := func(holdID string) (bool, error) {
		done, err := service.Cancel(f.Ctx, Cancel{HoldID: holdID})
		return done.Replayed, err
	}
	for name, command := range map[string]func(string) (bool, error){"confirm": confirm, "cancel": cancel} {
		holdID := f.hold("shirt", 1)
		events := len(f.Log())
		for _, want := range []bool{false, true} {
			if _, err := service.Reserve(f.Ctx, f.request("sock", 1)); !errors.Is(err, ErrUnknownSKU) {
				t.Fatal(err) // this request opens a connection
			}
			proxy.LoseAnswers(1)
			replayed, err := command(holdID)
			if err != nil {
				t.Errorf("%s with a lost answer: %v", name, err)
			}
			if replayed != want {
				t.Errorf("%s with a lost answer: got Replayed %t, want %t", name, replayed, want)
			}
		}
		f.wantEventCount(t, events+1)
	}
}

// TestOutcomeIsUnknownIfAnAnswerWasLost checks that a command which may have taken effect
// is said to have an unknown outcome, whatever its last try met, and that nothing was
// changed by a command of which no try can have taken effect.
func TestOutcomeIsUnknownIfAnAnswerWasLost(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare []any // a command for the server that the later tries meet
		want    *Error
	}{
		"a Redis that was emptied": {
			prepare: []any{"PING"},
			want:    ErrNotReady,
		},
		"a Redis that is another server": {
			prepare: []any{"HSET", events.MainPool.MetaKey(), "epoch", 1, "seq", 9, "server", "x"},
			want:    ErrOtherServer,
		},
		"a Redis that cannot answer": {
			prepare: []any{"REPLICAOF", "127.0.0.1", "1"},
			want:    ErrUnavailable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openFixture(t)
			f.stock("shirt", 5)
			service, proxy := f.openServiceThroughProxy()
			if _, err := service.Reserve(f.Ctx, f.request("shirt", 1)); err != nil { // opens a connection
				t.Fatal(err)
			}
			other := testenv.Redis(t, "--replica-serve-stale-data", "no")
			if err := testenv.RedisClient(t, other).Do(f.Ctx, test.prepare...).Err(); err != nil {
				t.Fatal(err)
			}
			proxy.RedirectNew(other.Addr())
			proxy.LoseAnswers(1)
			_, err := service.Reserve(f.Ctx, f.request("shirt", 1))
			wantOutcome(t, "after a lost answer", err, test.want, outcomeUnknown)
			f.WantStock(t, "shirt", 3)
			_, err = service.Reserve(f.Ctx, f.request("shirt", 1))
			wantOutcome(t, "without a lost answer", err, test.want, outcomeNone)
			f.WantStock(t, "shirt", 3)
		})
	}
}

// TestOutcomeWithoutRedis checks that a command which was never sent changed nothing, and
// that the outcome is unknown if Redis stays away after an answer was lost.
func TestOutcomeWithoutRedis(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 5)
	service, proxy := f.openServiceThroughProxy()
	if _, err := service.Reserve(f.Ctx, f.request("shirt", 1)); err != nil { // opens a connection
		t.Fatal(err)
	}
	proxy.LoseAnswers(triesMax)
	_, err := service.Reserve(f.Ctx, f.request("shirt", 1))
	wantOutcome(t, "every answer is lost", err, ErrUnavailable, outcomeUnknown)
	f.WantStock(t, "shirt", 3)

	request := f.request("shirt", 1)
	holdID := f.hold("shirt", 1)
	if err := f.Server.Kill(); err != nil {
		t.Fatal(err)
	}
	away := newService(t, testenv.RedisClient(t, f.Server))
	away.Gate().Open()
	_, err = away.Reserve(f.Ctx, request)
	wantOutcome(t, "reserve while Redis is down", err, ErrUnavailable, outcomeNone)
	_, err = away.Confirm(f.Ctx, Confirm{HoldID: holdID, PaymentRef: "p"})
	wantOutcome(t, "confirm while Redis is down", err, ErrUnavailable, outcomeNone)
	away.Gate().Close(nil)
	_, err = away.Reserve(f.Ctx, request)
	wantOutcome(t, "reserve while the gate is closed", err, ErrNotReady, outcomeNone)
}

// wantOutcome checks the code of a command's error, and the outcome at the end of its
// detail.
func wantOutcome(t *testing.T, step string, got error, want *Error, outcome string) {
	t.Helper()
	var refused *Error
	if !errors.As(got, &refused) || refused.Code != want.Code {
		t.Errorf("%s: got %v, want %s", step, got, want.Code)
		return
	}
	if !strings.HasSuffix(refused.Detail, outcome) {
		t.Errorf("%s: got the detail %q, want it to end with %q", step, refused.Detail, outcome)
	}
}

// TestCommandToSilentRedisFailsInTime checks that a command to a Redis that does not
// answer fails soon after its context ends, and that the same command succeeds later and
// has one effect.
func TestCommandToSilentRedisFailsInTime(t *testing.T) {
	t.Parallel()
	const giveUpMax = 3 * time.Second
	f := openFixture(t)
	f.stock("shirt", 2)
	service, proxy := f.openServiceThroughProxy()
	if _, err := service.Reserve(f.Ctx, f.request("shirt", 1)); err != nil {
		t.Fatal(err)
	}
	proxy.Silence(true)
	request := f.request("shirt", 1)
	ctx, cancel := context.WithTimeout(f.Ctx, 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := service.Reserve(ctx, request); !errors.Is(err, ErrUnavailable) {
		t.Errorf("reserve on a silent Redis: got %v, want ErrUnavailable", err)
	}
	if took := time.Since(began); took > giveUpMax {
		t.Errorf("the command failed after %s, want at most %s", took, giveUpMax)
	}
	proxy.Silence(false)
	proxy.Cut()
	if _, err := service.Reserve(f.Ctx, request); err != nil {
		t.Fatalf("reserve again with the same key: %v", err)
	}
	f.WantStock(t, "shirt", 0)
	f.wantEventCount(t, 3)
}

// TestCommandsWithoutDeadlineFailOnSilentRedis checks that commands time out although
// their contexts never end, both the ones being decided and the ones that wait for their
// turn.
func TestCommandsWithoutDeadlineFailOnSilentRedis(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 100)
	service, proxy := f.openServiceThroughProxy()
	service.batcher.timeout = 200 * time.Millisecond
	proxy.Silence(true)
	var group sync.WaitGroup
	for range 50 {
		request := f.request("shirt", 1)
		group.Go(func() {
			if _, err := service.Reserve(context.Background(), request); !errors.Is(err, ErrUnavailable) {
				t.Errorf("got %v, want ErrUnavailable", err)
			}
		})
	}
	group.Wait()
}

// TestAcknowledgedHoldsSurviveKilledRedis checks that commands fail with ErrUnavailable
// while Redis is down, and with ErrOtherServer after a restart, until Redis was compared
// with the journal. Then every acknowledged hold is there and can be confirmed.
func TestAcknowledgedHoldsSurviveKilledRedis(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 50)
	var holdIDs []string
	for range 20 {
		holdIDs = append(holdIDs, f.hold("shirt", 1))
	}
	if err := f.Server.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Reserve(f.Ctx, f.request("shirt", 1)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("reserve without a Redis: got %v, want ErrUnavailable", err)
	}
	if err := f.Ready(f.Ctx); !errors.Is(err, ErrUnavailable) {
		t.Errorf("ready without a Redis: got %v, want ErrUnavailable", err)
	}
	if err := f.Server.Start(f.Ctx); err != nil {
		t.Fatal(err)
	}
	before := f.Dump()
	if _, err := f.Reserve(f.Ctx, f.request("shirt", 1)); !errors.Is(err, ErrOtherServer) {
		t.Errorf("reserve on a restarted Redis: got %v, want ErrOtherServer", err)
	}
	if err := f.Ready(f.Ctx); !errors.Is(err, ErrOtherServer) {
		t.Errorf("ready on a restarted Redis: got %v, want ErrOtherServer", err)
	}
	f.WantUnchanged(t, before)
	f.acceptServer()
	for _, holdID := range holdIDs {
		if err := f.confirm(holdID, "p"); err != nil {
			t.Errorf("confirm the acknowledged hold %s: %v", holdID, err)
		}
	}
	f.WantStock(t, "shirt", 30)
}

// replyError is an error with which Redis itself answered.
type replyError string

func (e replyError) Error() string { return string(e) }
func (replyError) RedisError()     {}

// TestRedisErrorsMapToUnavailableOrStateInvalid checks that an error of one command's own
// key becomes ErrStateInvalid, that any other error of Redis or the network becomes
// ErrUnavailable, and that a typed error stays as it is.
func TestRedisErrorsMapToUnavailableOrStateInvalid(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reply error
		want  *Error
	}{
		{replyError("LOADING Redis is loading the dataset in memory"), ErrUnavailable},
		{replyError("MISCONF Redis is configured to save RDB snapshots"), ErrUnavailable},
		{replyError("BUSY Redis is busy running a script"), ErrUnavailable},
		{replyError("NOPERM this user has no permissions"), ErrUnavailable},
		{replyError("ERR OOM command not allowed when used memory > 'maxmemory'"), ErrUnavailable},
		{replyError("WRONGTYPE Operation against a key"), ErrUnavailable},
		{scriptError("WRONGTYPE Operation against a key"), ErrStateInvalid},
		{fmt.Errorf("dial tcp: %w", context.DeadlineExceeded), ErrUnavailable},
		{errors.New("EOF"), ErrUnavailable},
		{replyError("ERR The stream has exhausted the last possible ID"), ErrUnavailable},
		{ErrSoldOut, ErrSoldOut},
	}
	for _, test := range tests {
		if got := decisionError(test.reply); !errors.Is(got, test.want) {
			t.Errorf("%v: got %v, want %s", test.reply, got, test.want.Code)
		}
	}
}

// TestCloseDoesNotWaitForSilentRedis checks that Close returns in time, with an error,
// while a read still waits for a Redis that does not answer.
func TestCloseDoesNotWaitForSilentRedis(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	service, proxy := f.openServiceThroughProxy()
	proxy.Silence(true)
	ctx, cancel := context.WithTimeout(f.Ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := service.Available(ctx, "shirt"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("read on a silent Redis: got %v, want ErrUnavailable", err)
	}
	began := time.Now()
	if err := service.Close(); err == nil {
		t.Error("close: got no error, want one about the read that has not ended")
	}
	if took := time.Since(began); took > 2*closeMax {
		t.Errorf("closing took %s, want at most %s", took, 2*closeMax)
	}
	proxy.Silence(false)
	proxy.Cut() // ends the read
}
