package commands

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// decision is one command for the script: the rule that decides it, the rule's input, and
// its answer. It travels through Watermill's publisher in the message's context.
type decision struct {
	rule     string            // file name in lua/, without .lua
	keys     []string          // the rule's KEYS
	args     []string          // the rule's ARGV after the fields of the event
	metadata map[string]string // the event's: correlation_id, causation_id, traceparent
	answer   answer            // set by the batcher
}

// pack encodes the command as one argument of the script: the rule's name, the event's
// fields, and the rule's own arguments, each a string in msgpack. Redis's Lua decodes
// msgpack natively, and one packed argument costs Redis and its client less than some
// sixteen plain ones.
func (d *decision) pack(event [4]string) []byte {
	const str32 = 0xdb // msgpack: a string, after its length in 32 bits
	packed := make([]byte, 0, 512)
	for _, texts := range [][]string{{d.rule}, event[:], d.args} {
		for _, text := range texts {
			length := uint32(len(text)) //nolint:gosec // validated texts are short
			packed = append(packed, str32)
			packed = binary.BigEndian.AppendUint32(packed, length)
			packed = append(packed, text...)
		}
	}
	return packed
}

// answer is the script's answer to one command. The header of the rule's file lists
// status and values.
type answer struct {
	status string
	epoch  int64 // of the log
	seq    int64 // of the command's event; the log's last seq if no event was appended
	nowMs  int64 // Redis's clock
	values []any
	// repeated reports whether an earlier try of the same call may have been decided, and
	// its answer lost.
	repeated bool
}

// int returns the i-th value, or 0 if there is no such number.
func (a answer) int(i int) int64 {
	if i >= len(a.values) {
		return 0
	}
	n, _ := a.values[i].(int64)
	return n
}

// firstText returns the first value, or "" if there is no such string.
func (a answer) firstText() string {
	if len(a.values) == 0 {
		return ""
	}
	s, _ := a.values[0].(string)
	return s
}

// decisionKey is the key under which a message's context has its *decision.
type decisionKey struct{}

// decidingClient is the Redis client of Watermill's publisher. Its XAdd calls the script
// that decides the command and appends the event in one atomic step. The publisher, its
// marshaller and its decorators need no change for that.
type decidingClient struct {
	redis.UniversalClient // the publisher calls none of its other methods
	batcher               *batcher
}

// XAdd has the script decide the command in ctx, whose event has the fields in a. It
// fails only if the script gave no answer. A refusal is an answer, too: Service.decide
// turns it into an error.
func (c decidingClient) XAdd(ctx context.Context, a *redis.XAddArgs) *redis.StringCmd {
	cmd := redis.NewStringCmd(ctx)
	d, ok := ctx.Value(decisionKey{}).(*decision)
	fields, isMap := a.Values.(map[string]any)
	if !ok || !isMap {
		cmd.SetErr(fmt.Errorf("publish to %s: only a command may append an event", a.Stream))
		return cmd
	}
	if err := c.batcher.decide(ctx, d, events.StreamFields(fields)); err != nil {
		cmd.SetErr(err)
		return cmd
	}
	cmd.SetVal(digits(d.answer.seq))
	return cmd
}

// Close does nothing: the publisher closes its client, but the caller of NewService owns
// this one.
func (decidingClient) Close() error { return nil }
