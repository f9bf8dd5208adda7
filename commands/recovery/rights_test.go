package recovery

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// setUser gives the Redis user "seller" new rights, and no others.
func (f *fixture) setUser(rules ...string) {
	f.T.Helper()
	command := []any{"ACL", "SETUSER", "seller", "reset", "on", "nopass"}
	for _, rule := range rules {
		for word := range strings.FieldsSeq(rule) {
			command = append(command, word)
		}
	}
	f.RedisCommand(command...)
}

// sellerClient returns a client that connects as the Redis user "seller".
func (f *fixture) sellerClient() *redis.Client {
	f.T.Helper()
	client := redis.NewClient(&redis.Options{
		Addr:                  f.Server.Addr(),
		Username:              "seller",
		Password:              "any",
		ContextTimeoutEnabled: true,
	})
	f.T.Cleanup(func() { _ = client.Close() })
	return client
}

// TestEachMissingRightIsNamed takes one right after the other from a Redis user that has
// exactly the rights of UserRule, and checks that CheckRights names what is missing.
func TestEachMissingRightIsNamed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.wantEachMissingRightNamed(f.Pool)
	f.wantEachMissingRightNamed(f.Pool.OnCluster())
}

func (f *fixture) wantEachMissingRightNamed(pool events.Pool) {
	t := f.T
	t.Helper()
	client := f.sellerClient()
	rule := UserRule(pool)
	f.setUser(rule)
	must(t, CheckRights(f.Ctx, client, pool))
	for _, right := range neededRights(pool) {
		f.setUser(rule, "-"+right[0])
		err := CheckRights(f.Ctx, client, pool)
		wantError(t, "without "+right[0], err, ErrRightsMissing)
		if want := "needs +" + right[0] + ";"; !strings.Contains(errorText(err), want) {
			t.Errorf("without %s: got error %v, want %q in it", right[0], err, want)
		}
	}
	for _, pattern := range strings.Fields(rule) {
		if !strings.HasPrefix(pattern, "~") {
			continue
		}
		f.setUser(strings.Replace(rule, pattern+" ", "", 1))
		err := CheckRights(f.Ctx, client, pool)
		wantError(t, "without "+pattern, err, ErrRightsMissing)
		if want := " " + strings.TrimSuffix(pattern, "*"); !strings.Contains(errorText(err), want) {
			t.Errorf("without %s: got error %v, want %q in it", pattern, err, want)
		}
	}
}

// TestRightsThatCannotBeCheckedAreReported checks that a user who may not ask for its
// rights is told so, and that the pool opens all the same.
func TestRightsThatCannotBeCheckedAreReported(t *testing.T) {
	t.Parallel()
	f := newClosedFixture(t)
	f.setUser(UserRule(f.Pool), "-acl|dryrun")
	client := f.sellerClient()
	wantError(t, "check", CheckRights(f.Ctx, client, f.Pool), ErrRightsUnknown)
	warnings := 0
	p := f.newProcessOn(client, slog.New(onMessage(func(text string) {
		if strings.HasPrefix(text, "the rights in Redis cannot be checked") {
			warnings++
		}
	})))
	for range 3 {
		must(t, f.reconcile(p))
	}
	if warnings != 1 {
		t.Errorf("warnings: got %d, want 1", warnings)
	}
}

// TestProcessWithoutARightRefusesUntilItHasIt takes a right away from a process that
// sells, and checks that its commands are refused with the missing right as the reason,
// and that it sells again once it has the right.
func TestProcessWithoutARightRefusesUntilItHasIt(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addStock("shirt", 5)
	f.setUser(UserRule(f.Pool))
	p := f.newProcessOn(f.sellerClient(), slog.New(slog.DiscardHandler))
	f.watch(p)
	f.awaitReady(p)
	f.setUser(UserRule(f.Pool), "-zadd")
	testenv.Eventually(t, compareTimeout, func() (bool, string) {
		err := p.Ready(f.Ctx)
		return errors.Is(err, commands.ErrNotReady) && strings.Contains(err.Error(), "+zadd"),
			"without zadd: got " + errorText(err)
	})
	before := f.Dump()
	wantError(t, "reserve", errorOf(p.Reserve(f.Ctx, f.newRequest("shirt", 1))), commands.ErrNotReady)
	f.WantUnchanged(t, before)
	f.setUser(UserRule(f.Pool))
	f.awaitReady(p)
	must(t, errorOf(p.Reserve(f.Ctx, f.newRequest("shirt", 1))))
}
