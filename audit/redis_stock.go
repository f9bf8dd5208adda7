package audit

import (
	"fmt"
	"strconv"
)

// redisStock is the counter of a SKU, and the value that inventory.meta has recorded of
// it. Each is nil if Redis lacks it.
type redisStock struct{ counter, recorded *string }

// compareStock compares the counters of a chunk with the expected state, which must be at
// the chunk's seq.
func (a *auditor) compareStock(c *redisChunk) {
	for i, sku := range c.skus {
		stock := a.expected.stock[sku]
		differs, pending := matchStock(stock, c.stock[i])
		if !differs && !pending {
			continue
		}
		d := Difference{
			Store:    StoreRedis,
			Kind:     KindChanged,
			Key:      a.config.Pool.StockKey(sku),
			Expected: describeStock(stock),
			Found:    c.stock[i].describe(),
			Seq:      c.seq,
		}
		if differs {
			a.found.addDifference(d)
			continue
		}
		d.Because = "an operator set it by hand; the next command for this SKU records the change"
		a.found.addPending(d)
	}
}

// matchStock compares a counter with the expected stock; nil if no event names the SKU.
//
// The recorded value must always match. If it does and the counter does not, an operator
// has set the counter by hand: the difference is pending until the next command for the
// SKU records it as an event.
func matchStock(stock *expectedStock, found redisStock) (differs, pending bool) {
	counter := found.counter
	if counter == nil && found.recorded != nil {
		zero := "0" // the scripts, too, read a missing counter as 0
		counter = &zero
	}
	if stock == nil {
		return found.recorded != nil, found.recorded == nil && counter != nil
	}
	units, err := strconv.ParseInt(orDash(counter), 10, 64)
	if !equalsNumber(found.recorded, stock.Available()) || err != nil || units < 0 {
		return true, false
	}
	return false, units != stock.Available()
}

func describeStock(stock *expectedStock) string {
	if stock == nil {
		return "no counter: no event names this SKU"
	}
	return fmt.Sprintf("%d available, %d recorded", stock.Available(), stock.Available())
}

func (s redisStock) describe() string {
	return fmt.Sprintf("%s available, %s recorded", orDash(s.counter), orDash(s.recorded))
}
