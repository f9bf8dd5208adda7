package commands

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// decision is a command on its way through Watermill's publisher: the rule that decides it, and the answer.
type decision struct {
	rule     string
	keys     []string
	args     []string          // the rule's own arguments, which follow the event's fields
	metadata map[string]string // of the event: correlation_id, causation_id, traceparent
	answer   answer
}

// pack returns the command as the script takes it: the name of the rule, the event's fields and what the rule takes
// beside them. They are texts in msgpack, which Redis's Lua reads by itself, one after the other; one argument costs
// Redis and its client less than sixteen.
func (d *decision) pack(event [4]string) []byte {
	packed := make([]byte, 0, 512)
	for _, texts := range [][]string{{d.rule}, event[:], d.args} {
		for _, text := range texts {
			const str32 = 0xdb
			packed = binary.BigEndian.AppendUint32(append(packed, str32), uint32(len(text))) //nolint:gosec // validated texts are short
			packed = append(packed, text...)
		}
	}
	return packed
}

// answer is what a rule answered; lua/prelude.lua says what is in it.
type answer struct {
	status     string
	epoch, seq int64
	nowMs      int64
	values     []any
}

func (a answer) int(i int) int64 {
	if i >= len(a.values) {
		return 0
	}
	n, _ := a.values[i].(int64)
	return n
}

func (a answer) text(i int) string {
	if i >= len(a.values) {
		return ""
	}
	s, _ := a.values[i].(string)
	return s
}

type decisionKey struct{}

// decidingClient is the client that Watermill's publisher is given. Its XADD is the command's rule, so the decision
// and the append of the event are one atomic step, while the publisher, its marshaller and its decorators stay as they
// are. The decision rides in the message's context.
type decidingClient struct {
	redis.UniversalClient // everything else, of which the publisher uses nothing
	batcher               *batcher
}

// XAdd has the decision taken with the event's fields. It fails where no decision came back; a refusal is one.
func (c decidingClient) XAdd(ctx context.Context, a *redis.XAddArgs) *redis.StringCmd {
	cmd := redis.NewStringCmd(ctx)
	d, ok := ctx.Value(decisionKey{}).(*decision)
	fields, isMap := a.Values.(map[string]any)
	if !ok || !isMap {
		cmd.SetErr(fmt.Errorf("publish to %s: events are appended by commands only", a.Stream))
		return cmd
	}
	if err := c.batcher.decide(ctx, d, events.StreamFields(fields)); err != nil {
		cmd.SetErr(err)
		return cmd
	}
	cmd.SetVal(digits(d.answer.seq))
	return cmd
}

// Close leaves the client open: the publisher did not open it.
func (decidingClient) Close() error { return nil }
