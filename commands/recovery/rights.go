package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/redisclient"
)

// Results of CheckRights.
var (
	// ErrRightsMissing passes when the operator gives the rights.
	ErrRightsMissing = errors.New("the Redis user lacks rights")
	// ErrRightsUnknown is returned if the Redis user may not ask for its rights.
	ErrRightsUnknown = errors.New("the rights of the Redis user cannot be checked")
)

// neededRights lists every command that this program sends to Redis, inside and outside
// of scripts. Each has the name that an ACL rule uses, and arguments with which Redis
// accepts it. Every kind of key occurs with a command that reads and one that writes.
func neededRights(pool events.Pool) [][]string {
	const group = events.ConsumerGroup
	stock, hold, idem := pool.StockKey("sku"), pool.HoldKey("id"), pool.IdempotencyKey("key")
	due, stream, meta := pool.DueKey(), pool.StreamKey(), pool.MetaKey()
	closed, next := pool.ClosedMetaKey(), pool.NextMetaKey()
	rights := [][]string{
		{"del", meta, next},
		{"eval", "", "9", meta, closed, next, stream, due, stock, hold, idem, stock},
		{"eval_ro", "", "3", meta, due, stock},
		{"evalsha", "", "9", meta, closed, next, stream, due, stock, hold, idem, stock},
		{"evalsha_ro", "", "3", meta, due, stock},
		{"exec"},
		{"exists", hold},
		{"get", stock},
		{"get", idem},
		{"hget", next, "epoch"},
		{"hgetall", meta},
		{"hgetall", closed},
		{"hkeys", closed},
		{"hmget", meta, "epoch"},
		{"hmget", closed, "epoch"},
		{"hmget", hold, "sku"},
		{"hscan", meta, "0"},
		{"hset", meta, "seq", "0"},
		{"hset", next, "seq", "0"},
		{"hset", hold, "sku", ""},
		{"info"},
		{"multi"},
		{"pexpire", hold, "1"},
		{"ping"},
		{"rename", meta, closed},
		{"rename", next, meta},
		{"scan", "0"},
		{"set", stock, "0"},
		{"set", idem, ""},
		{"time"},
		{"unlink", stock, hold, idem, due},
		{"unwatch"},
		{"watch", next},
		{"xadd", stream, "*", "seq", "0"},
		{"xdel", stream, "0-0"},
		{"xgroup|create", stream, group, "0"},
		{"xgroup|delconsumer", stream, group, "name"},
		{"xgroup|setid", stream, group, "0"},
		{"xinfo|consumers", stream, group},
		{"xinfo|groups", stream},
		{"xinfo|stream", stream},
		{"xlen", stream},
		{"xpending", stream, group},
		{"xrange", stream, "-", "+"},
		{"xread", "streams", stream, "0"},
		{"xrevrange", stream, "+", "-"},
		{"xtrim", stream, "minid", "0"},
		{"zadd", due, "0", "id"},
		{"zcard", due},
		{"zmscore", due, "id"},
		{"zrangebyscore", due, "0", "1"},
		{"zrem", due, "id"},
		{"zscan", due, "0"},
	}
	if pool.HasTag() { // the client of a cluster asks where a slot is, and follows one that moves
		rights = append(rights, []string{"asking"}, []string{clusterSlots})
	}
	return rights
}

// clusterSlots is the command that the client of a cluster sends before any other.
const clusterSlots = "cluster|slots"

// SentinelUserRule has the rules of ACL SETUSER for the user that asks the Sentinels for
// the primary, without the password.
const SentinelUserRule = "resetchannels &+switch-master &+replica-reconf-done -@all " +
	"+ping +sentinel|get-master-addr-by-name +sentinel|sentinels +subscribe"

// UserRule returns the rules of ACL SETUSER for a user that has exactly the rights that
// this program needs, without the password.
func UserRule(pool events.Pool) string {
	rules := []string{
		"resetkeys",
		"~" + pool.StockKey("*"),
		"~" + pool.HoldKey("*"),
		"~" + pool.IdempotencyKey("*"),
		"~" + pool.DueKey(),
		"~" + pool.StreamKey(),
		"~" + pool.MetaKey() + "*",
		"-@all",
		"+acl|dryrun",
	}
	for _, right := range neededRights(pool) {
		rules = append(rules, "+"+right[0])
	}
	return strings.Join(slices.Compact(rules), " ")
}

// CheckRights asks Redis whether the client's user may run every command that this
// program sends, on every key that it uses. It fails with ErrRightsMissing, whose text
// names what is missing in the form of ACL rules, with ErrRightsUnknown, or with the
// error of a Redis that did not answer.
func CheckRights(ctx context.Context, client redis.UniversalClient, pool events.Pool) error {
	node, err := redisclient.Node(ctx, client, pool.MetaKey())
	if redis.HasErrorPrefix(err, "NOPERM") {
		return fmt.Errorf("%w: the user needs +%s on every node of the cluster; docs/security.md has the whole rule (%w)",
			ErrRightsMissing, clusterSlots, err)
	}
	if err != nil {
		return fmt.Errorf("ask for the rights of the Redis user: %w", err)
	}
	user := node.Options().Username
	if user == "" {
		user = "default"
	}
	rights := neededRights(pool)
	answers := make([]*redis.StringCmd, len(rights))
	_, err = node.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, right := range rights {
			answers[i] = pipe.ACLDryRun(ctx, user, words(right)...)
		}
		return nil
	})
	var refused redis.Error
	switch {
	case errors.As(err, &refused):
		return fmt.Errorf("%w: %w", ErrRightsUnknown, err)
	case err != nil:
		return fmt.Errorf("ask for the rights of the Redis user: %w", err)
	}
	var missing []string
	for i, answer := range answers {
		if answer.Val() == "OK" {
			continue
		}
		rule := "+" + rights[i][0]
		if _, key, found := strings.Cut(answer.Val(), "access the '"); found {
			rule = "~" + strings.TrimSuffix(key, "' key")
		}
		if !slices.Contains(missing, rule) {
			missing = append(missing, rule)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w: the user %s needs %s; docs/security.md has the whole rule",
		ErrRightsMissing, user, strings.Join(missing, " "))
}

// words returns a command of neededRights word by word, as Redis takes it.
func words(right []string) []any {
	var words []any
	for _, word := range append(strings.Split(right[0], "|"), right[1:]...) {
		words = append(words, word)
	}
	return words
}

// checkRights fails if the Redis user lacks a right. If the rights cannot be checked, it
// says so once in the log, and succeeds: a command that then lacks a right breaks off,
// and the scripts decide nothing until Redis was restored.
func (r *Recovery) checkRights(ctx context.Context) error {
	err := CheckRights(ctx, r.redis, r.pool)
	if !errors.Is(err, ErrRightsUnknown) {
		return err
	}
	r.rightsUnknown.Do(func() {
		r.log.Warn("the rights in Redis cannot be checked; give the user +acl|dryrun", "error", err)
	})
	return nil
}
