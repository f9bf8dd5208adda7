package commands

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// decision is one call of a script on its way through Watermill's publisher: what to run, and the answer.
type decision struct {
	script *redis.Script
	keys   []string
	args   []any // what follows the event's four fields and the fence
	answer answer
}

// answer is what a script answered; prelude.lua says what is in it.
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

// decidingClient is the client that Watermill's publisher is given. Its XADD is the command's script, so the decision
// and the append of the event are one atomic step, while the publisher, its marshaller and its decorators stay as they
// are. The decision rides in the message's context.
type decidingClient struct {
	redis.UniversalClient // everything else, of which the publisher uses nothing
	scripts               redis.Scripter
	fence                 *fence
}

// XAdd runs the decision's script with the event's fields, and fails when the script refuses.
func (c decidingClient) XAdd(ctx context.Context, a *redis.XAddArgs) *redis.StringCmd {
	cmd := redis.NewStringCmd(ctx)
	d, ok := ctx.Value(decisionKey{}).(*decision)
	fields, isMap := a.Values.(map[string]any)
	if !ok || !isMap {
		cmd.SetErr(fmt.Errorf("publish to %s: events are appended by commands only", a.Stream))
		return cmd
	}
	epoch, seq := c.fence.known()
	args := append(append(events.StreamFields(fields), epoch, seq), d.args...)
	reply, err := d.script.Run(ctx, c.scripts, d.keys, args...).Slice()
	if err == nil {
		d.answer, err = parseAnswer(reply)
	}
	if err != nil {
		cmd.SetErr(err)
		return cmd
	}
	if d.answer.status != statusStale {
		c.fence.saw(d.answer.epoch, d.answer.seq)
	}
	cmd.SetVal(strconv.FormatInt(d.answer.seq, 10))
	return cmd
}

// Close leaves the client open: the publisher did not open it.
func (decidingClient) Close() error { return nil }

func parseAnswer(reply []any) (answer, error) {
	if len(reply) < 4 {
		return answer{}, fmt.Errorf("script answered %v, want status, epoch, seq and time", reply)
	}
	a := answer{values: reply[4:]}
	var ok [4]bool
	a.status, ok[0] = reply[0].(string)
	a.epoch, ok[1] = reply[1].(int64)
	a.seq, ok[2] = reply[2].(int64)
	a.nowMs, ok[3] = reply[3].(int64)
	if ok != [4]bool{true, true, true, true} {
		return answer{}, fmt.Errorf("script answered %v, want status, epoch, seq and time", reply)
	}
	return a, nil
}

// fence is the highest place in the log that this process has seen acknowledged. Every script is told it, and refuses
// to decide in a log that is behind: a Redis that came back older than it was must not sell.
type fence struct {
	mu         sync.Mutex
	epoch, seq int64
}

func (f *fence) known() (epoch, seq int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.epoch, f.seq
}

func (f *fence) saw(epoch, seq int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if epoch > f.epoch || epoch == f.epoch && seq > f.seq {
		f.epoch, f.seq = epoch, seq
	}
}
