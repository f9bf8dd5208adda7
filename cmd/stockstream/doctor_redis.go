package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands/recovery"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/redisclient"
)

// examineRedis checks Redis's version, role and settings.
func examineRedis(ctx context.Context, config *Config) []finding {
	opened, err := redisClient(config)
	if err != nil {
		return []finding{newFinding("redis", err.Error(), false, "set STOCKSTREAM_REDIS_URL")}
	}
	defer opened.Close()
	_, err = stream.ReadServer(ctx, opened, config.pool())
	if errors.Is(err, stream.ErrClusterNode) {
		return []finding{newFinding("redis", "a node of a Redis Cluster", false, err.Error())}
	}
	const advice = "start it, or set STOCKSTREAM_REDIS_URL"
	client, err := redisclient.Node(ctx, opened, config.pool().MetaKey())
	if redis.HasErrorPrefix(err, "NOPERM") {
		return []finding{examineRights(ctx, opened, config.pool())}
	}
	if err != nil {
		return []finding{newFinding("redis", err.Error(), false, advice)}
	}
	info, err := client.InfoMap(ctx, "server", "replication").Result()
	if err != nil {
		return []finding{newFinding("redis", err.Error(), false, advice)}
	}
	version := info["Server"]["redis_version"]
	role := info["Replication"]["role"]
	return []finding{
		newFinding("redis version", version, major(version) >= 7, "use Redis 7.0 or newer"),
		newFinding("redis role", role, role == "master", "point STOCKSTREAM_REDIS_URL at the primary"),
		examineSetting(ctx, client, "appendonly", "yes",
			"without the append-only file, a restart loses everything"),
		examineSetting(ctx, client, "appendfsync", "always",
			"with any other value, a crash of Redis loses acknowledged sales"),
		examineSetting(ctx, client, "no-appendfsync-on-rewrite", "no",
			"with yes, writes are acknowledged before they are on disk while the append-only file is rewritten"),
		examineSetting(ctx, client, "maxmemory-policy", "noeviction",
			"an evicted stock counter or hold loses units"),
		examineACL(ctx, client),
		examineRights(ctx, client, config.pool()),
		examineDatabase(ctx, client, config.pool()),
	}
}

// examineDatabase looks for keys of other programs, among the first keys that a scan
// returns.
func examineDatabase(ctx context.Context, client *redis.Client, pool events.Pool) finding {
	const (
		name  = "redis database"
		steps = 100
		count = 1000 // keys in one step
	)
	foreign, example := 0, ""
	cursor := uint64(0)
	for range steps {
		keys, next, err := client.Scan(ctx, cursor, "*", count).Result()
		if err != nil {
			return unknownFinding(name, err)
		}
		for _, key := range keys {
			if !pool.HasState(key) && key != pool.StreamKey() && !strings.HasPrefix(key, pool.MetaKey()) {
				foreign++
				example = key
			}
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	if foreign == 0 {
		return newFinding(name, "no keys of other programs", true, "")
	}
	found := fmt.Sprintf("%d keys of other programs, such as %q", foreign, example)
	return newFinding(name, found, false, "give StockStream a database of its own: another program's FLUSHDB empties it")
}

// examineRights checks that the user of the URL may do all that the service does.
func examineRights(ctx context.Context, client redis.UniversalClient, pool events.Pool) finding {
	const name = "redis rights"
	err := recovery.CheckRights(ctx, client, pool)
	switch {
	case err == nil:
		return newFinding(name, "every command and key", true, "")
	case errors.Is(err, recovery.ErrRightsMissing):
		return newFinding(name, err.Error(), false, "without them, commands are refused")
	}
	return unknownFinding(name, err)
}

// examineSetting checks one setting of redis.conf.
func examineSetting(ctx context.Context, client *redis.Client, name, want, why string) finding {
	values, err := client.ConfigGet(ctx, name).Result()
	if err != nil {
		return unknownFinding("redis "+name, err)
	}
	return newFinding("redis "+name, values[name], values[name] == want,
		fmt.Sprintf("CONFIG SET %s %s: %s", name, want, why))
}

// examineACL checks that the user "default" has all permissions. When Redis restarts and
// replays its append-only file, it runs the writes of scripts with the permissions of
// this user, and silently drops those that the user may not run.
func examineACL(ctx context.Context, client *redis.Client) finding {
	const name = "redis user default"
	reply, err := client.Do(ctx, "ACL", "GETUSER", "default").Result()
	if err != nil {
		return unknownFinding(name, err)
	}
	fields := map[string]string{}
	switch reply := reply.(type) {
	case map[any]any: // RESP3
		for field, value := range reply {
			fields[fmt.Sprint(field)] = flatten(value)
		}
	case []any: // RESP2
		for i := 0; i+1 < len(reply); i += 2 {
			fields[fmt.Sprint(reply[i])] = flatten(reply[i+1])
		}
	}
	commands := fields["commands"]
	allCommands := strings.HasPrefix(commands, "+@all") && !strings.Contains(commands, " -")
	allKeys := slices.Contains(strings.Fields(fields["keys"]), "~*")
	return newFinding(name, "commands "+commands+", keys "+fields["keys"], allCommands && allKeys,
		"ACL SETUSER default off resetpass ~* &* +@all: without all permissions, a restart drops writes of scripts")
}

// flatten returns a reply of ACL GETUSER as text; the items of a list are separated by
// spaces.
func flatten(value any) string {
	if list, isList := value.([]any); isList {
		texts := make([]string, len(list))
		for i, item := range list {
			texts[i] = fmt.Sprint(item)
		}
		return strings.Join(texts, " ")
	}
	return fmt.Sprint(value)
}

// major returns the major number of a version, or 0 if the text is not a version.
func major(version string) int {
	first, _, _ := strings.Cut(version, ".")
	n, _ := strconv.Atoi(first)
	return n
}
