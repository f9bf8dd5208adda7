package commands_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// TestRestoredModel drives a shop with random commands, has Redis emptied and restored, and drives it on: the model that
// predicts every outcome does not know that anything happened, and what Redis keeps is what it kept.
func TestRestoredModel(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{shop: s, prefix: fmt.Sprintf("life%d-", machines.Add(1)), model: model{
			stock: map[string]int64{}, holds: map[string]*modelHold{}, seen: map[string]string{}, made: map[string]string{},
		}}
		actions := map[string]func(*rapid.T){
			"reserve": m.reserve, "confirm": m.confirm, "cancel": m.cancel, "adjust": m.adjust, "typed": m.typedByHand, "": m.check,
		}
		if rapid.IntRange(1, 6).Draw(rt, "one in six, to be done in time") != 6 {
			return
		}
		rt.Repeat(actions)
		m.recordTyped(rt)
		s.journaled()
		before := s.contents()
		s.typed("FLUSHALL")
		if err := s.Open(s.ctx, s.postgres); err != nil {
			rt.Fatalf("restore: %v", err)
		}
		s.wantState(rt, before)
		rt.Repeat(actions)
		m.recordTyped(rt) // what was typed and never recorded would be undone by the next run
	})
}

// recordTyped has a command find what was typed by hand, so that it is an event.
func (m *machine) recordTyped(t *rapid.T) {
	for sku, units := range m.model.stock {
		_, err := m.Reserve(m.ctx, Reserve{SKU: sku, Qty: QtyMax, UserID: "ann", IdempotencyKey: m.prefix + "too-many"})
		if units < QtyMax {
			m.want(t, err, ErrSoldOut)
		}
	}
}
