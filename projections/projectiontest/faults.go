package projectiontest

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/projections"
)

// beginTogether returns copies of two projections that wait for each other in their first
// call of Apply. By then both have begun their transactions and have read the same
// checkpoint.
func beginTogether(first, second projections.Projection) (projections.Projection, projections.Projection) {
	var arrived atomic.Int64
	both := make(chan struct{}) // closed when both have arrived
	waiting := func(p projections.Projection) projections.Projection {
		apply := p.Apply
		var once sync.Once
		p.Apply = func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
			once.Do(func() {
				if arrived.Add(1) == 2 {
					close(both)
				}
			})
			select {
			case <-both:
			case <-time.After(processTimeout):
			}
			return apply(ctx, tx, batch)
		}
		return p
	}
	return waiting(first), waiting(second)
}

// watchPayloads makes the projection's Apply compare the payloads before and after each
// call, because other projections share them. The returned text describes a change, once
// the projection has run.
func watchPayloads(p *projections.Projection) *string {
	apply := p.Apply
	finding := new(string)
	p.Apply = func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
		before := payloads(batch)
		err := apply(ctx, tx, batch)
		for i, after := range payloads(batch) {
			if after != before[i] {
				*finding = fmt.Sprintf("it changed the payload of event %d, which it shares with other projections", batch[i].Seq)
			}
		}
		return err
	}
	return finding
}

func payloads(batch []projections.Event) []string {
	list := make([]string, len(batch))
	for i, e := range batch {
		raw, err := json.Marshal(e.Payload)
		if err != nil {
			raw = []byte(err.Error())
		}
		list[i] = string(raw)
	}
	return list
}
