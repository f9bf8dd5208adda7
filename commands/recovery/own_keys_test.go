package recovery

import "testing"

// TestRestoreLeavesOtherProgramsKeysAlone checks that a restore does not touch keys of
// another program that begin like the pool's own, and removes the pool's own keys that
// the journal no longer leads to.
func TestRestoreLeavesOtherProgramsKeysAlone(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.rollBack()
	foreign := map[string][]any{
		"stock:ACME":                        {"SET", "stock:ACME", "5"},
		"stock:list":                        {"RPUSH", "stock:list", "a"},
		"hold:music":                        {"HSET", "hold:music", "song", "on"},
		"hold:text":                         {"SET", "hold:text", "on"},
		"idem:json":                         {"SET", "idem:json", `{"status": 200}`},
		"idem:set":                          {"SADD", "idem:set", "a"},
		"session:1":                         {"SET", "session:1", "a"},
		"idem:" + f.reserved.IdempotencyKey: {"SET", "idem:" + f.reserved.IdempotencyKey, "taken"},
	}
	for _, command := range foreign {
		f.RedisCommand(command...)
	}
	f.RedisCommand("HSET", "inventory.meta", "stock:gone", 3)
	f.RedisCommand("SET", "stock:gone", 3)
	f.RedisCommand("HSET", "hold:gone",
		"sku", "shirt", "qty", 1, "user_id", "ann", "state", "ACTIVE", "expires_at", 1)
	before := f.Dump()
	must(t, f.reconcile(f.process))
	after := f.Dump()
	for key := range foreign {
		if after[key] != before[key] {
			t.Errorf("%s, a key of another program: got changed or removed, want as before", key)
		}
	}
	for _, key := range []string{"stock:gone", "hold:gone", "idem:never"} {
		if _, exists := after[key]; exists {
			t.Errorf("%s, a key of the lost log: got kept, want removed", key)
		}
	}
}
