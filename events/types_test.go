package events

import (
	"regexp"
	"strings"
	"testing"
)

// TestNamesThatOperatorsRelyOnDoNotChange checks the key names and text forms that
// operators and other programs use.
func TestNamesThatOperatorsRelyOnDoNotChange(t *testing.T) {
	t.Parallel()
	eu, err := NewPool("eu")
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		MainPool.StockKey("a"):                   "stock:a",
		MainPool.HoldKey("h"):                    "hold:h",
		MainPool.IdempotencyKey("k"):             "idem:k",
		MainPool.DueKey():                        "holds:due",
		MainPool.MetaKey():                       "inventory.meta",
		MainPool.StreamKey():                     "inventory.events",
		eu.StockKey("a"):                         "{eu}:stock:a",
		eu.StreamKey():                           "{eu}:inventory.events",
		ConsumerGroup:                            "inventory.cg",
		Position{Pool: "main", Seq: 42}.String(): "main:42",
		OrderID("h"):                             "ord_h",
	} {
		if got != want {
			t.Errorf("name: got %q, want %q", got, want)
		}
	}
}

// TestParsePositionReadsOnlyPoolAndSeq checks that ParsePosition reads the text form of a
// position and refuses every other text.
func TestParsePositionReadsOnlyPoolAndSeq(t *testing.T) {
	t.Parallel()
	got, err := ParsePosition("main:42")
	if err != nil {
		t.Fatal(err)
	}
	if want := (Position{Pool: "main", Seq: 42}); got != want {
		t.Errorf("main:42: got %v, want %v", got, want)
	}
	for _, text := range []string{"", "main", "main:", ":1", "main:-1", "main:x", "main:1:2"} {
		if got, err := ParsePosition(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

// TestHoldIDsNameTheirPool checks the form of new hold ids, in the pool main and in the
// pool with the longest name.
func TestHoldIDsNameTheirPool(t *testing.T) {
	t.Parallel()
	longest := "p23456789012345x"
	for name, prefix := range map[string]string{"main": "H-", "eu": "H-eu-", longest: "H-" + longest + "-"} {
		pool, err := NewPool(name)
		if err != nil {
			t.Fatal(err)
		}
		id := pool.NewHoldID()
		cluster := pool.OnCluster().NewHoldID()
		if len(cluster) != len(id) || !strings.HasPrefix(cluster, prefix) {
			t.Errorf("pool %s on a cluster: got the hold id %s, want the form of %s", name, cluster, id)
		}
		uuid, found := strings.CutPrefix(id, prefix)
		if !found || !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$`).MatchString(uuid) {
			t.Errorf("hold of pool %s: got the id %s, want %s and a UUIDv7", name, id, prefix)
		}
	}
}

// TestNewPoolRefusesUnsafeNames checks that a pool cannot have a name that would break a
// hold id, a table name or a hash tag.
func TestNewPoolRefusesUnsafeNames(t *testing.T) {
	t.Parallel()
	if pool, err := NewPool("main"); err != nil || pool != MainPool {
		t.Errorf("main: got %+v (%v), want MainPool", pool, err)
	}
	for _, name := range []string{"", "e", "EU", "1eu", "e-u", "e_u", "e}u", "p234567890123456x"} {
		if _, err := NewPool(name); err == nil {
			t.Errorf("%q: got no error, want one", name)
		}
	}
}
