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

// meeting returns two projections that wait for each other before they apply what they are given first: both have
// then begun their transactions, and have read the same checkpoint.
func meeting(first, second projections.Projection) (projections.Projection, projections.Projection) {
	var arrived atomic.Int64
	met := make(chan struct{})
	attend := func(p projections.Projection) projections.Projection {
		apply := p.Apply
		var once sync.Once
		p.Apply = func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
			once.Do(func() {
				if arrived.Add(1) == 2 {
					close(met)
				}
			})
			select {
			case <-met:
			case <-time.After(patience):
			}
			return apply(ctx, tx, batch)
		}
		return p
	}
	return attend(first), attend(second)
}

// watchPayloads has the projection's Apply notice when it changes what it is given, which is shared with others. What
// was found stands in the returned text once the projection has run.
func watchPayloads(p *projections.Projection) *string {
	apply, found := p.Apply, new(string)
	p.Apply = func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
		before := payloads(batch)
		err := apply(ctx, tx, batch)
		for i, after := range payloads(batch) {
			if after != before[i] {
				*found = fmt.Sprintf("it changed the payload of event %d, which it shares with others", batch[i].Seq)
			}
		}
		return err
	}
	return found
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
