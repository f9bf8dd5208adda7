package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

func examineRedis(ctx context.Context, config *Config) []finding {
	client, err := redisClient(config)
	if err != nil {
		return []finding{newFinding("redis", err.Error(), false, "set STOCKSTREAM_REDIS_URL")}
	}
	defer client.Close()
	info, err := client.InfoMap(ctx, "server", "replication").Result()
	if err != nil {
		return []finding{newFinding("redis", err.Error(), false, "start it, or set STOCKSTREAM_REDIS_URL")}
	}
	version := info["Server"]["redis_version"]
	return []finding{
		newFinding("redis version", version, major(version) >= 7, "use Redis 7.0 or newer"),
		newFinding("redis role", info["Replication"]["role"], info["Replication"]["role"] == "master", "point STOCKSTREAM_REDIS_URL at the primary"),
		examineSetting(ctx, client, "appendonly", "yes", "without the log of writes a restart loses everything"),
		examineSetting(ctx, client, "appendfsync", "always", "anything else loses sales that were acknowledged when Redis dies"),
		examineSetting(ctx, client, "no-appendfsync-on-rewrite", "no", "yes acknowledges before the disk has it while the log is rewritten"),
		examineSetting(ctx, client, "maxmemory-policy", "noeviction", "an evicted stock counter or hold is a lost unit"),
		examineACL(ctx, client),
	}
}

func examineSetting(ctx context.Context, client *redis.Client, name, want, why string) finding {
	values, err := client.ConfigGet(ctx, name).Result()
	if err != nil {
		return unknownFinding("redis "+name, err)
	}
	return newFinding("redis "+name, values[name], values[name] == want, fmt.Sprintf("CONFIG SET %s %s: %s", name, want, why))
}

// examineACL looks for a trap: when Redis replays its log of writes at a restart, it checks what scripts wrote against
// the permissions of the user "default", and drops what that user may not do, without a word.
func examineACL(ctx context.Context, client *redis.Client) finding {
	const name = "redis user default"
	reply, err := client.Do(ctx, "ACL", "GETUSER", "default").Result()
	if err != nil {
		return unknownFinding(name, err)
	}
	fields := map[string]string{}
	switch reply := reply.(type) { // by protocol: RESP3, RESP2
	case map[any]any:
		for field, value := range reply {
			fields[fmt.Sprint(field)] = flatten(value)
		}
	case []any:
		for i := 0; i+1 < len(reply); i += 2 {
			fields[fmt.Sprint(reply[i])] = flatten(reply[i+1])
		}
	}
	all := strings.HasPrefix(fields["commands"], "+@all") && !strings.Contains(fields["commands"], " -") &&
		slices.Contains(strings.Fields(fields["keys"]), "~*")
	return newFinding(name, "commands "+fields["commands"]+", keys "+fields["keys"], all,
		"ACL SETUSER default off resetpass ~* &* +@all: without all permissions a restart drops what scripts wrote")
}

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

// major returns the first number of a version, 0 for what is none.
func major(version string) int {
	first, _, _ := strings.Cut(version, ".")
	n, _ := strconv.Atoi(first)
	return n
}
