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

// keysPerChunk is how many keys one call of the script reads. A call occupies Redis for
// about 0.3 ms.
const keysPerChunk = 200

// errNoLog is returned if Redis has no log for the pool.
var errNoLog = errors.New("Redis has no log for this pool")

// redisChunk is the content of some keys at one seq of the log.
type redisChunk struct {
	seq   int64
	due   int64 // the number of members of holds:due
	skus  []string
	stock []redisStock // one per SKU
	ids   []string
	holds []redisHold // one per hold id
}

// readRedisChunk reads some keys, all at the same seq. It returns errNoLog if Redis has
// no log.
func readRedisChunk(
	ctx context.Context, client redis.Scripter, pool events.Pool, skus, holdIDs []string,
) (*redisChunk, error) {
	keys := []string{pool.MetaKey(), pool.DueKey()}
	args := []any{len(skus)}
	for _, sku := range skus {
		keys = append(keys, pool.StockKey(sku))
		args = append(args, sku)
	}
	for _, id := range holdIDs {
		keys = append(keys, pool.HoldKey(id))
		args = append(args, id)
	}
	reply, err := readScript.RunRO(ctx, client, keys, args...).Slice()
	if err != nil {
		return nil, fmt.Errorf("read Redis: %w", err)
	}
	if len(reply) == 0 {
		return nil, errNoLog
	}
	c := &redisChunk{skus: skus, ids: holdIDs}
	ok := len(reply) == 5
	if ok {
		c.seq, ok = reply[1].(int64)
		c.due, _ = reply[2].(int64)
		for _, values := range textRows(reply[3]) {
			c.stock = append(c.stock, redisStock{counter: values[0], recorded: values[1]})
		}
		for _, values := range textRows(reply[4]) {
			c.holds = append(c.holds, redisHold{
				sku:        values[0],
				qty:        values[1],
				userID:     values[2],
				state:      values[3],
				expiresAt:  values[4],
				paymentRef: values[5],
				endedSeq:   values[6],
				due:        values[7],
			})
		}
	}
	if !ok || len(c.stock) != len(skus) || len(c.holds) != len(holdIDs) {
		return nil, fmt.Errorf("read Redis: read.lua returned an unexpected reply: %.100v", reply)
	}
	return c, nil
}

// textRows converts a list of lists of texts. A text is nil if Redis has none. It returns
// the first eight texts of each list.
func textRows(reply any) [][8]*string {
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

// equalsNumber reports whether text is the number want.
func equalsNumber(text *string, want int64) bool {
	if text == nil {
		return false
	}
	number, err := strconv.ParseInt(*text, 10, 64)
	return err == nil && number == want
}

// equalsText reports whether text exists and is want.
func equalsText(text *string, want string) bool { return text != nil && *text == want }

// orDash returns the text, or a dash if there is none.
func orDash(text *string) string {
	if text == nil {
		return "-"
	}
	return *text
}

// clockOrDash formats a time given as a text in milliseconds. It returns other texts
// unchanged.
func clockOrDash(ms *string) string {
	if ms == nil {
		return "-"
	}
	if number, err := strconv.ParseInt(*ms, 10, 64); err == nil {
		return clock(number)
	}
	return *ms
}
