package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
)

const (
	historySKUs = 100
	historySpan = 20 * time.Minute // age of the first event
	historyTTL  = time.Hour        // longer than historySpan, so that holds that did not end are live
	historyGap  = 50               // approximate number of holds between a hold and its end
)

// emptyPostgres deletes all rows of the journal and of the read tables.
func emptyPostgres(ctx context.Context, pool *pgxpool.Pool) error {
	tables := []string{"events", "checkpoints", "pools", "dead_letters"}
	for _, p := range projections.BuiltIn() {
		tables = slices.Concat(tables, p.Tables)
	}
	_, err := pool.Exec(ctx, `TRUNCATE `+strings.Join(tables, ", "))
	return err
}

// writeHistory replaces the journal by one of count events: deliveries for 100 SKUs, and
// holds. liveHolds of the holds stay live for another 40 minutes at least; of the others,
// three quarters are confirmed and one quarter is cancelled. The read tables are emptied.
// Redis is not changed.
func writeHistory(ctx context.Context, pool *pgxpool.Pool, count, liveHolds int) error {
	if least := historySKUs + liveHolds; count < least {
		return fmt.Errorf("a history with %d live holds needs at least %d events", liveHolds, least)
	}
	if err := emptyPostgres(ctx, pool); err != nil {
		return err
	}
	next := eventsWithLiveHolds(count, liveHolds)
	began := time.Now().Add(-historySpan).UnixMilli()
	seq := 0
	columns := []string{"pool", "seq", "event_id", "type", "sku", "hold_id", "payload", "metadata", "at"}
	_, err := pool.CopyFrom(ctx, pgx.Identifier{"events"}, columns, pgx.CopyFromFunc(func() ([]any, error) {
		if seq == count {
			return nil, nil
		}
		seq++
		event := next()
		payload, err := json.Marshal(event)
		id := pgtype.UUID{Bytes: uuid.Must(uuid.NewV7()), Valid: true}
		sku, holdID := skuAndHoldOf(event)
		at := time.UnixMilli(began + historySpan.Milliseconds()*int64(seq)/int64(count))
		return []any{
			events.MainPool.Name(),
			int64(seq),
			id,
			string(event.Type()),
			sku,
			holdID,
			payload,
			[]byte("{}"),
			at,
		}, err
	}))
	if err != nil {
		return fmt.Errorf("write a history: %w", err)
	}
	for _, sql := range []string{
		`INSERT INTO pools (pool, epoch) VALUES ($1, 1)`,
		`INSERT INTO checkpoints (projection, pool, seq) SELECT 'journal', $1, max(seq) FROM events`,
	} {
		if _, err := pool.Exec(ctx, sql, events.MainPool.Name()); err != nil {
			return err
		}
	}
	_, err = pool.Exec(ctx, `ANALYSE events`)
	return err
}

// eventsWithLiveHolds returns a function that returns the next of count events. Exactly
// liveHolds of their holds never end.
func eventsWithLiveHolds(count, liveHolds int) func() events.Event {
	var queue, endings []events.Event
	for i := range historySKUs {
		queue = append(queue, &events.StockAdjusted{
			SKU:    "sku-" + strconv.Itoa(i),
			Delta:  int64(count),
			Reason: "delivery",
		})
	}
	ended := (count - historySKUs - liveHolds) / 2
	holds := ended + liveHolds
	live := 0
	n := 0
	return func() events.Event {
		switch {
		case len(queue) > 0:
		case len(endings) > historyGap || n == holds && len(endings) > 0:
			queue = endings[:1]
			endings = endings[1:]
		case n == holds: // all holds have ended; one event is left if the number is odd
			queue = []events.Event{&events.StockAdjusted{
				SKU:    "sku-0",
				Delta:  1,
				Reason: "delivery",
			}}
		default:
			n++
			id := events.NewID()
			sku := "sku-" + strconv.Itoa(n%historySKUs)
			queue = []events.Event{&events.HoldCreated{
				HoldID:         id,
				SKU:            sku,
				Qty:            1,
				UserID:         "buyer",
				TTLMs:          historyTTL.Milliseconds(),
				IdempotencyKey: "k" + id,
			}}
			switch {
			case live*holds < n*liveHolds: // spreads the live holds evenly
				live++
			case n%4 == 0:
				endings = append(endings, &events.HoldCancelled{
					HoldID: id,
					SKU:    sku,
					Qty:    1,
					UserID: "buyer",
					Reason: events.ReasonRequested,
				})
			default:
				endings = append(endings, &events.HoldConfirmed{
					HoldID:     id,
					SKU:        sku,
					Qty:        1,
					UserID:     "buyer",
					PaymentRef: "pay-" + id,
				})
			}
		}
		event := queue[0]
		queue = queue[1:]
		return event
	}
}

// skuAndHoldOf returns the fields of a payload that the journal also has as columns.
func skuAndHoldOf(event events.Event) (sku, holdID string) {
	switch e := event.(type) {
	case *events.StockAdjusted:
		return e.SKU, ""
	case *events.HoldCreated:
		return e.SKU, e.HoldID
	case *events.HoldConfirmed:
		return e.SKU, e.HoldID
	case *events.HoldCancelled:
		return e.SKU, e.HoldID
	}
	return "", ""
}
