package events

import "testing"

// TestNamesThatOperatorsRelyOnDoNotChange checks the key names and text forms that
// operators and other programs use.
func TestNamesThatOperatorsRelyOnDoNotChange(t *testing.T) {
	t.Parallel()
	eu := Pool{name: "eu", prefix: "{eu}:"}
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
