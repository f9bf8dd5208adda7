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
	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/redisclient"
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
	documented := func(user string) string {
		_, rule, _ := strings.Cut(string(text), "ACL SETUSER "+user+" on >PASSWORD")
		rule, _, _ = strings.Cut(rule, "```")
		return strings.Join(strings.Fields(strings.ReplaceAll(rule, "\\\n", " ")), " ")
	}
	rule := recovery.UserRule(events.MainPool)
	if got := documented("stockstream"); got != rule {
		t.Errorf("docs/security.md: got the rule\n%s\nwant\n%s", got, rule)
	}
	if got := documented("finder"); got != recovery.SentinelUserRule {
		t.Errorf("docs/security.md: got the rule for Sentinels\n%s\nwant\n%s", got, recovery.SentinelUserRule)
	}
	onCluster := strings.ReplaceAll(recovery.UserRule(events.MainPool.OnCluster()), "~{main}:", "~")
	additional, found := strings.CutPrefix(onCluster, rule+" ")
	if !found {
		t.Errorf("the rule on a cluster: got %q, want it to begin with %q", onCluster, rule)
	}
	words := strings.Join(strings.Fields(string(text)), " ")
	if want := "the user needs `" + additional + "`"; !strings.Contains(words, want) {
		t.Errorf("docs/security.md: want %q in it", want)
	}
}

// TestTheWholeProductRunsWithTheRule runs a service and the commands of the program as a
// Redis user with exactly the rights of the rule: sales, expiry, audits, a restore of an
// emptied Redis, a rebuild, and a consumer in the journal's group. It checks that Redis
// refused nothing.
func TestTheWholeProductRunsWithTheRule(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.createUser("stockstream", recovery.UserRule(events.MainPool), s.server)
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

	s.wantNothingRefused(s.server)
	s.wantDoctorToPrint(url, "every command and key")
	if err := s.redis.Do(s.ctx, "ACL", "SETUSER", "stockstream", "-zadd").Err(); err != nil {
		t.Fatal(err)
	}
	s.wantDoctorToPrint(url, "+zadd")
}

// createUser creates a user with a rule on some servers. Its password is "secret".
func (s *fixture) createUser(user, rule string, servers ...*local.Redis) {
	s.t.Helper()
	command := []any{"ACL", "SETUSER", user, "reset", "on", ">secret"}
	for _, word := range strings.Fields(rule) {
		command = append(command, word)
	}
	for _, server := range servers {
		if err := testenv.RedisClient(s.t, server).Do(s.ctx, command...).Err(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// wantNothingRefused checks that some servers refused no command for want of a right.
func (s *fixture) wantNothingRefused(servers ...*local.Redis) {
	s.t.Helper()
	for _, server := range servers {
		refused, err := testenv.RedisClient(s.t, server).ACLLog(s.ctx, 100).Result()
		if err != nil {
			s.t.Fatal(err)
		}
		for _, entry := range refused {
			if !strings.HasPrefix(entry.Object, "client|") { // go-redis does without them
				s.t.Errorf("Redis refused %s (%s, %s), want it in the rule",
					entry.Object, entry.Context, entry.Reason)
			}
		}
	}
}

// sellWithTheRule runs a service on the Redis at a URL, and makes it reserve, confirm,
// expire, and restore the Redis after its log head was deleted.
func (s *fixture) sellWithTheRule(url string) {
	s.t.Helper()
	v := s.serve("--redis-url", url).awaitReady()
	s.openTickets(v.url, 100)
	paid := v.mustReserve("ticket", "k1", 1, 300)
	s.mustBeOK(s.send(http.MethodPost, v.url+"/holds/"+paid+"/confirm", `{"payment_ref":"p"}`))
	due := v.mustReserve("ticket", "k2", 1, 1)
	s.awaitState(due, "EXPIRED")
	s.awaitCaughtUp()
	if err := s.redis.Del(s.ctx, s.pool.MetaKey()).Err(); err != nil {
		s.t.Fatal(err)
	}
	v.awaitReady()
	v.mustReserve("ticket", "k3", 1, 300)
	s.awaitCaughtUp()
}

// wantDoctorToPrint checks what the doctor prints about the Redis at a URL. The doctor
// fails in any case: Postgres runs without fsync in tests.
func (s *fixture) wantDoctorToPrint(url, want string) {
	s.t.Helper()
	if out, _ := s.runFailing("doctor --redis-url " + url); !strings.Contains(out, want) {
		s.t.Errorf("doctor: printed\n%s\nwant %q in it", out, want)
	}
}

// TestClusterIsSoldFromWithTheRule runs a service on a Redis Cluster as a user with
// exactly the documented rights. It then moves the pool's slot, and takes the additional
// rights away.
func TestClusterIsSoldFromWithTheRule(t *testing.T) {
	t.Parallel()
	cluster := testenv.RedisCluster(t)
	s := newFixtureWith(t, cluster.URL(), testenv.Postgres(t), 3*time.Minute)
	rule := recovery.UserRule(s.pool)
	s.createUser("stockstream", rule, cluster.Nodes()...)
	url := strings.Replace(cluster.URL(), "://", "://stockstream:secret@", 1)
	s.sellWithTheRule(url)

	slot, err := s.redis.ClusterKeySlot(s.ctx, s.pool.MetaKey()).Result()
	if err != nil {
		t.Fatal(err)
	}
	s.beginToMoveSlot(cluster, slot)
	client, err := redisclient.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	moved := s.pool.StockKey("moved") // the old node has no such key, and sends the client on
	if err := client.Get(s.ctx, moved).Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("read a key that may have moved: got error %v, want %v", err, redis.Nil)
	}
	s.wantNothingRefused(cluster.Nodes()...)
	s.wantDoctorToPrint(url, "every command and key")
	for _, right := range []string{"asking", "cluster|slots"} {
		s.createUser("stockstream", rule+" -"+right, cluster.Nodes()...)
		s.wantDoctorToPrint(url, "needs +"+right)
	}
}

// beginToMoveSlot begins to move a slot from its node to another one.
func (s *fixture) beginToMoveSlot(cluster *local.Cluster, slot int64) {
	s.t.Helper()
	from, err := cluster.MasterOf(s.ctx, int(slot))
	if err != nil {
		s.t.Fatal(err)
	}
	to := cluster.Masters[0]
	if to == from {
		to = cluster.Masters[1]
	}
	id := func(server *local.Redis) string {
		return testenv.RedisClient(s.t, server).ClusterMyID(s.ctx).Val()
	}
	steps := map[*local.Redis][]any{
		to:   {"CLUSTER", "SETSLOT", slot, "IMPORTING", id(from)},
		from: {"CLUSTER", "SETSLOT", slot, "MIGRATING", id(to)},
	}
	for server, command := range steps {
		if err := testenv.RedisClient(s.t, server).Do(s.ctx, command...).Err(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// TestSentinelsAreAskedWithTheRule runs a service behind Sentinels, with users that have
// exactly the documented rights.
func TestSentinelsAreAskedWithTheRule(t *testing.T) {
	t.Parallel()
	sentinel := testenv.RedisSentinel(t, 1)
	s := newFixtureWith(t, sentinel.URL(), testenv.Postgres(t), 3*time.Minute)
	s.createUser("stockstream", recovery.UserRule(s.pool), sentinel.Nodes...)
	s.createUser("finder", recovery.SentinelUserRule, sentinel.Sentinels...)
	url := strings.Replace(sentinel.URL(), "://", "://stockstream:secret@", 1)
	s.sellWithTheRule(url + "?sentinel_username=finder&sentinel_password=secret")
	s.wantNothingRefused(sentinel.Nodes...)
	s.wantNothingRefused(sentinel.Sentinels...)
}

// awaitState waits until the hash of a hold has a state.
func (s *fixture) awaitState(holdID, want string) {
	s.t.Helper()
	testenv.Eventually(s.t, 20*time.Second, func() (bool, string) {
		state := s.redis.HGet(s.ctx, s.pool.HoldKey(holdID), "state").Val()
		return state == want, "the hold is " + state
	})
}
