package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands/recovery"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// repository is the root of the source tree, seen from this package.
var repository = os.DirFS("../..")

// TestEveryCommandOfTheScriptsIsInTheRule checks that the ACL rule for the Redis user has
// every command that a Lua script calls.
func TestEveryCommandOfTheScriptsIsInTheRule(t *testing.T) {
	t.Parallel()
	rule := strings.Fields(recovery.UserRule(events.MainPool))
	allowed := map[string]bool{}
	for _, word := range rule {
		allowed[word] = true
	}
	call := regexp.MustCompile(`redis\.p?call\('(\w+)'`)
	scripts := 0
	err := fs.WalkDir(repository, ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".lua") {
			return err
		}
		text, err := fs.ReadFile(repository, path)
		if err != nil {
			return err
		}
		scripts++
		calls := call.FindAllStringSubmatch(string(text), -1)
		any := strings.Count(string(text), "redis.call") + strings.Count(string(text), "redis.pcall")
		if any != len(calls) {
			t.Errorf("%s: %d calls of %d name their command, want all", path, len(calls), any)
		}
		for _, match := range calls {
			if !allowed["+"+strings.ToLower(match[1])] {
				t.Errorf("%s calls %s, which the rule lacks: %v", path, match[1], rule)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if scripts < 14 {
		t.Errorf("scripts: got %d, want at least 14", scripts)
	}
}

// TestDocsHaveTheRuleOfTheRedisUser checks that the documented ACL rule is the one that
// the program needs.
func TestDocsHaveTheRuleOfTheRedisUser(t *testing.T) {
	t.Parallel()
	text, err := fs.ReadFile(repository, "docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, documented, _ := strings.Cut(string(text), "ACL SETUSER stockstream on >PASSWORD")
	documented, _, _ = strings.Cut(documented, "```")
	documented = strings.ReplaceAll(documented, "\\\n", " ")
	got := strings.Join(strings.Fields(documented), " ")
	if want := recovery.UserRule(events.MainPool); got != want {
		t.Errorf("docs/security.md: got the rule\n%s\nwant\n%s", got, want)
	}
}

// TestTheWholeProductRunsWithTheRule runs a service and the commands of the program as a
// Redis user with exactly the rights of the rule: sales, expiry, audits, a restore of an
// emptied Redis, a rebuild, and a consumer in the journal's group. It checks that Redis
// refused nothing.
func TestTheWholeProductRunsWithTheRule(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	command := []any{"ACL", "SETUSER", "stockstream", "on", ">secret"}
	for _, word := range strings.Fields(recovery.UserRule(events.MainPool)) {
		command = append(command, word)
	}
	if err := s.redis.Do(s.ctx, command...).Err(); err != nil {
		t.Fatal(err)
	}
	url := strings.Replace(s.server.URL(), "redis://", "redis://stockstream:secret@", 1)
	v := s.serve("--redis-url", url, "--audit-interval", "1s", "--stream-keep", "0").awaitReady()
	s.openTickets(v.url, 100)
	s.openTickets(v.url, 100)
	paid := v.mustReserve("ticket", "k1", 1, 300)
	v.mustReserve("ticket", "k1", 1, 300)
	s.mustBeOK(s.send(http.MethodPost, v.url+"/holds/"+paid+"/confirm", `{"payment_ref":"p"}`))
	cancelled := v.mustReserve("ticket", "k2", 1, 300)
	s.mustBeOK(s.send(http.MethodPost, v.url+"/holds/"+cancelled+"/cancel", ``))
	due := v.mustReserve("ticket", "k3", 1, 1)
	s.mustBeOK(s.send(http.MethodGet, v.url+"/stock/ticket", ""))
	s.awaitState(due, "EXPIRED")
	s.awaitCaughtUp()
	s.wantOutput("audit --full --redis-url " + url)
	s.wantOutput("redis rebuild --yes --redis-url " + url)
	v.awaitReady()
	if err := s.redis.FlushDB(s.ctx).Err(); err != nil {
		t.Fatal(err)
	}
	v.awaitReady()
	v.mustReserve("ticket", "k4", 1, 300)
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		read := s.redis.Do(s.ctx, "XREADGROUP", "GROUP", events.ConsumerGroup, "stranger",
			"STREAMS", "inventory.events", ">")
		err := read.Err()
		return err == nil || errors.Is(err, redis.Nil), fmt.Sprint("read as a consumer: ", err)
	})
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		consumers, err := s.redis.XInfoConsumers(s.ctx, "inventory.events", events.ConsumerGroup).Result()
		return err == nil && len(consumers) == 0, "the journal has not removed the consumer yet"
	})
	s.awaitCaughtUp()
	v.awaitReady()

	denied, err := s.redis.ACLLog(s.ctx, 100).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range denied {
		if !strings.HasPrefix(entry.Object, "client|") { // go-redis does without them
			t.Errorf("Redis refused %s (%s, %s), want it in the rule",
				entry.Object, entry.Context, entry.Reason)
		}
	}
	// The doctor fails in any case: Postgres runs without fsync in tests.
	if out, _ := s.runFailing("doctor --redis-url " + url); !strings.Contains(out, "every command and key") {
		t.Errorf("doctor: printed\n%s\nwant it to find every right", out)
	}
	if err := s.redis.Do(s.ctx, "ACL", "SETUSER", "stockstream", "-zadd").Err(); err != nil {
		t.Fatal(err)
	}
	out, _ := s.runFailing("doctor --redis-url " + url)
	if !strings.Contains(out, "+zadd") {
		t.Errorf("doctor without the right to ZADD: printed\n%s\nwant +zadd in it", out)
	}
}

// awaitState waits until the hash of a hold has a state.
func (s *fixture) awaitState(holdID, want string) {
	s.t.Helper()
	testenv.Eventually(s.t, 20*time.Second, func() (bool, string) {
		state := s.redis.HGet(s.ctx, "hold:"+holdID, "state").Val()
		return state == want, "the hold is " + state
	})
}
