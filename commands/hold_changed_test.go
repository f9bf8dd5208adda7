package commands

import (
	"context"
	"net"
	"testing"

	"github.com/redis/go-redis/v9"
)

// afterFirstRead is a hook of a Redis client that calls a function once, directly after
// the first HMGET was answered.
type afterFirstRead struct{ call func() }

func (h *afterFirstRead) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		return next(ctx, network, addr)
	}
}

func (h *afterFirstRead) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		h.notice(cmd)
		return err
	}
}

func (h *afterFirstRead) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			h.notice(cmd)
		}
		return err
	}
}

func (h *afterFirstRead) notice(cmd redis.Cmder) {
	if cmd.Name() == "hmget" && h.call != nil {
		call := h.call
		h.call = nil
		call()
	}
}

// TestHoldThatChangesIsReadAgain changes the SKU of a hold between the moment in which
// Confirm and Cancel read it and the decision. It checks that the command reads the hold
// again, and that its event has the new SKU.
func TestHoldThatChangesIsReadAgain(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"confirm", "cancel"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openFixture(t)
			f.stock("shirt", 1)
			f.stock("coat", 1)
			holdID := f.hold("shirt", 1)
			client := redis.NewClient(&redis.Options{Addr: f.Server.Addr(), ContextTimeoutEnabled: true})
			defer client.Close()
			client.AddHook(&afterFirstRead{call: func() {
				f.RedisCommand("HSET", f.Pool.HoldKey(holdID), "sku", "coat")
			}})
			service := newService(t, client)
			service.Gate().Open()
			var sku string
			var err error
			if name == "confirm" {
				var confirmed Confirmation
				confirmed, err = service.Confirm(f.Ctx, Confirm{HoldID: holdID, PaymentRef: "p"})
				sku = confirmed.SKU
			} else {
				var cancelled Cancellation
				cancelled, err = service.Cancel(f.Ctx, Cancel{HoldID: holdID})
				sku = cancelled.SKU
			}
			if err != nil {
				t.Fatal(err)
			}
			if sku != "coat" {
				t.Errorf("%s: got the sku %s, want coat", name, sku)
			}
		})
	}
}
