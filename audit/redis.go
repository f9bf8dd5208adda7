package audit

import (
	"context"
	_ "embed" // the script
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

//go:embed read.lua
var readSource string

var readScript = redis.NewScript(readSource)

// chunkKeys is how many keys one call of the script reads. It holds Redis up for some 0.3 ms.
const chunkKeys = 200

// errNoLog is returned where Redis has no log for the pool.
var errNoLog = errors.New("Redis has no log for this pool")

// chunk is what Redis held of some keys when its log ended at seq.
type chunk struct {
	seq, live int64
	skus      []string
	holds     []string
	stock     []redisStock
	hashes    []redisHold
}

// redisStock is a counter and what inventory.meta has recorded of it, as text; nil for what is not there.
type redisStock struct{ counter, recorded *string }

// redisHold is a hold's hash and its score in holds:due, as text; nil for what is not there.
type redisHold struct {
	sku, qty, userID, state, expiresAt, paymentRef, endedSeq, score *string
}

func (h redisHold) exists() bool {
	return h.sku != nil || h.qty != nil || h.state != nil || h.expiresAt != nil
}

func (h redisHold) String() string {
	if !h.exists() {
		return "no hash, " + h.due()
	}
	return fmt.Sprintf("%s, %s of %s for %s, until %s, paid by %s, ended at seq %s, %s", or(h.state), or(h.qty), or(h.sku), or(h.userID),
		clockText(h.expiresAt), or(h.paymentRef), or(h.endedSeq), h.due())
}

func (h redisHold) due() string {
	if h.score == nil {
		return "not in holds:due"
	}
	return "due " + clockText(h.score)
}

func clockText(ms *string) string {
	if ms == nil {
		return "-"
	}
	if n, err := strconv.ParseInt(*ms, 10, 64); err == nil {
		return clock(n)
	}
	return *ms
}

func or(s *string) string {
	if s == nil {
		return "-"
	}
	return *s
}

// readChunk reads some keys at one place of the log.
func readChunk(ctx context.Context, client redis.Scripter, pool events.Pool, skus, holds []string) (*chunk, error) {
	keys := []string{pool.MetaKey(), pool.DueKey()}
	args := []any{len(skus)}
	for _, sku := range skus {
		keys, args = append(keys, pool.StockKey(sku)), append(args, sku)
	}
	for _, id := range holds {
		keys, args = append(keys, pool.HoldKey(id)), append(args, id)
	}
	reply, err := readScript.RunRO(ctx, client, keys, args...).Slice()
	if err != nil {
		return nil, fmt.Errorf("read Redis: %w", err)
	}
	if len(reply) == 0 {
		return nil, errNoLog
	}
	c := &chunk{skus: skus, holds: holds}
	ok := len(reply) == 5
	if ok {
		c.seq, ok = reply[1].(int64)
		c.live, _ = reply[2].(int64)
		for _, values := range nested(reply[3]) {
			c.stock = append(c.stock, redisStock{counter: values[0], recorded: values[1]})
		}
		for _, v := range nested(reply[4]) {
			c.hashes = append(c.hashes, redisHold{v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]})
		}
	}
	if !ok || len(c.stock) != len(skus) || len(c.hashes) != len(holds) {
		return nil, fmt.Errorf("read Redis: the script answered %.100v", reply)
	}
	return c, nil
}

// nested returns a list of lists of texts, of which some are nil. Each has room for eight.
func nested(reply any) [][8]*string {
	rows, _ := reply.([]any)
	lists := make([][8]*string, len(rows))
	for i, row := range rows {
		values, _ := row.([]any)
		for j := range min(len(values), 8) {
			if text, ok := values[j].(string); ok {
				lists[i][j] = &text
			}
		}
	}
	return lists
}

// is reports whether a text is a number.
func is(text *string, want int64) bool {
	if text == nil {
		return false
	}
	got, err := strconv.ParseInt(*text, 10, 64)
	return err == nil && got == want
}

func equal(text *string, want string) bool { return text != nil && *text == want }

// stockFault compares a counter with the fold. A counter that differs from what was recorded, while the record agrees,
// was set by hand: the next command takes it up, and until then it is pending.
func stockFault(stock *expectedStock, found redisStock) (differs, pending bool) {
	counter := found.counter
	if counter == nil && found.recorded != nil {
		none := "0" // as the scripts read it
		counter = &none
	}
	if stock == nil { // no event has named it yet
		return found.recorded != nil, found.recorded == nil && counter != nil
	}
	units, err := strconv.ParseInt(or(counter), 10, 64)
	switch {
	case !is(found.recorded, stock.Available()), err != nil, units < 0:
		return true, false
	}
	return false, units != stock.Available()
}

// holdFault says whether a hash and its place in holds:due are what they must be for a hold, as it stands in the fold;
// nil for one that is not live, and of which nothing else is known. A hold that has ended may be forgotten.
func holdFault(hold *expectedHold, found redisHold) (kind Kind, differs bool) {
	switch {
	case hold == nil:
		return KindUnexpected, equal(found.state, statusActive) || found.score != nil
	case hold.Status == statusActive && !found.exists():
		return KindMissing, true
	case hold.Status == statusActive:
		return KindChanged, !same(hold, found) || !is(found.score, hold.ExpiresAtMs)
	case !found.exists():
		return KindUnexpected, found.score != nil
	}
	ended := found.endedSeq == nil || is(found.endedSeq, hold.EndedSeq)
	paid := hold.Status != statusConfirmed || equal(found.paymentRef, hold.PaymentRef)
	return KindChanged, !same(hold, found) || !ended || !paid || found.score != nil
}

func same(hold *expectedHold, found redisHold) bool {
	return equal(found.sku, hold.SKU) && is(found.qty, hold.Qty) && equal(found.userID, hold.UserID) &&
		equal(found.state, hold.Status) && is(found.expiresAt, hold.ExpiresAtMs)
}
