package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/projections"
)

// The read tables that are compared, each of the projection of the same name.
const (
	tableHolds  = "holds"
	tableOrders = "orders"
	tableStock  = "stock_levels"
	tableHours  = "sku_hours"
)

var tables = []string{tableHolds, tableOrders, tableStock, tableHours}

// rowsChunk is how many rows are compared in one query.
const rowsChunk = 1000

// awaitProjections waits until every projection has come to the audit's end, and notes those that have not: they cannot
// be compared.
func (a *auditor) awaitProjections(ctx context.Context) error {
	deadline := time.Now().Add(a.config.Wait)
	for _, name := range tables {
		for {
			seq, err := events.ReadCheckpoint(ctx, a.conns.work, name, a.config.Pool.Name())
			if err != nil {
				return err
			}
			if seq >= a.end {
				a.comparable[name] = true
				break
			}
			if time.Now().After(deadline) {
				a.found.incomplete("the projection %s is at seq %d, the journal at %d", name, seq, a.end)
				break
			}
			if err := wait.For(ctx, pollInterval); err != nil {
				return err
			}
		}
	}
	return nil
}

// inSnapshot runs a comparison on one state of a read table, with the checkpoint that it stands at. The fold may be
// behind that checkpoint, and is not ahead of it.
func (a *auditor) inSnapshot(ctx context.Context, conn *pgx.Conn, table string, notBefore int64, compare func(tx pgx.Tx, checkpoint int64) error) error {
	deadline := time.Now().Add(a.config.Wait)
	for {
		reached, err := a.snapshotOnce(ctx, conn, table, notBefore, compare)
		if err != nil || reached {
			return err
		}
		if time.Now().After(deadline) {
			a.found.incomplete("the projection %s does not come to seq %d", table, notBefore)
			return nil
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return err
		}
	}
}

func (a *auditor) snapshotOnce(ctx context.Context, conn *pgx.Conn, table string, notBefore int64, compare func(tx pgx.Tx, checkpoint int64) error) (reached bool, err error) {
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, conn, options, func(tx pgx.Tx) error {
		checkpoint, err := events.ReadCheckpoint(ctx, tx, table, a.config.Pool.Name())
		if err != nil || checkpoint < notBefore {
			return err
		}
		reached = true
		return compare(tx, checkpoint)
	})
	const undefinedTable = "42P01"
	if fault := new(pgconn.PgError); errors.As(err, &fault) && fault.Code == undefinedTable {
		a.found.incomplete("the read table %s is not there", table)
		return true, nil
	}
	return reached, err
}

// compareEndedRows compares holds that have ended with a read table; any state from the audit's end on will do.
func (a *auditor) compareEndedRows(ctx context.Context, conn *pgx.Conn, table string, holds []*expectedHold) error {
	return a.inSnapshot(ctx, conn, table, a.end, func(tx pgx.Tx, checkpoint int64) error {
		return a.compareHoldRows(ctx, tx, table, holds, checkpoint)
	})
}

// compareLiveRows compares what the settled fold follows with a read table, at its exact checkpoint.
func (a *auditor) compareLiveRows(ctx context.Context, table string) error {
	if !a.comparable[table] {
		return nil
	}
	conn := a.conns.work
	return a.inSnapshot(ctx, conn, table, a.expected.seq, func(tx pgx.Tx, checkpoint int64) error {
		if there, err := a.follow(ctx, checkpoint); err != nil || !there {
			return err
		}
		if a.full {
			if err := a.compareCount(ctx, tx, table, checkpoint); err != nil {
				return err
			}
		}
		switch table {
		case tableStock:
			return a.compareStockRows(ctx, tx, checkpoint)
		case tableHours:
			return a.compareHours(ctx, tx, checkpoint)
		}
		return a.compareHoldRows(ctx, tx, table, slices.Collect(maps.Values(a.expected.holds)), checkpoint)
	})
}

// compareHoldRows compares rows of holds or orders with what the journal says of holds.
func (a *auditor) compareHoldRows(ctx context.Context, tx pgx.Tx, table string, holds []*expectedHold, seq int64) error {
	if table == tableOrders && a.full {
		// Orders that should not be are found by their number, see compareCount.
		holds = slices.DeleteFunc(slices.Clone(holds), func(h *expectedHold) bool { return h.Status != statusConfirmed })
	}
	for part := range slices.Chunk(holds, rowsChunk) {
		byID := make(map[string]*expectedHold, len(part))
		ids := make([]string, len(part))
		for i, hold := range part {
			byID[hold.ID], ids[i] = hold, hold.ID
		}
		var suspects []divergence
		suspicious := func(kind Kind, hold *expectedHold, expected, found string) {
			suspects = append(suspects, divergence{sequenceKey: hold.ID, hold: hold, difference: Difference{
				Store: table, Kind: kind, Key: hold.ID, Expected: expected, Found: found, Seq: seq,
			}})
		}
		var err error
		if table == tableHolds {
			err = matchHolds(ctx, tx, ids, byID, suspicious)
		} else {
			err = matchOrders(ctx, tx, ids, byID, suspicious)
		}
		if err != nil {
			return err
		}
		if err := a.judge(ctx, tx, table, suspects); err != nil {
			return err
		}
	}
	return nil
}

func matchHolds(ctx context.Context, tx pgx.Tx, ids []string, byID map[string]*expectedHold, suspicious func(Kind, *expectedHold, string, string)) error {
	const query = `
		SELECT hold_id, sku, qty, user_id, status, expires_at, created_at, idempotency_key FROM holds WHERE hold_id = ANY ($1)`
	rows, err := tx.Query(ctx, query, ids)
	if err != nil {
		return fmt.Errorf("read holds: %w", err)
	}
	var row projections.Hold
	scan := []any{&row.HoldID, &row.SKU, &row.Qty, &row.UserID, &row.Status, &row.ExpiresAt, &row.CreatedAt, &row.IdempotencyKey}
	_, err = pgx.ForEachRow(rows, scan, func() error {
		hold := byID[row.HoldID]
		delete(byID, row.HoldID)
		if !sameHold(hold, &row) {
			suspicious(KindChanged, hold, holdText(hold), fmt.Sprintf("%s, %d of %s for %s, from %s until %s, key %s", row.Status, row.Qty, row.SKU,
				row.UserID, clock(row.CreatedAt.UnixMilli()), clock(row.ExpiresAt.UnixMilli()), row.IdempotencyKey))
		}
		return nil
	})
	for _, hold := range byID {
		suspicious(KindMissing, hold, holdText(hold), "")
	}
	return err
}

func sameHold(hold *expectedHold, row *projections.Hold) bool {
	return hold.SKU == row.SKU && hold.Qty == row.Qty && hold.UserID == row.UserID && hold.Status == row.Status &&
		row.ExpiresAt.Equal(time.UnixMilli(hold.ExpiresAtMs)) && row.CreatedAt.Equal(time.UnixMilli(hold.CreatedAtMs)) &&
		hold.IdempotencyKey == row.IdempotencyKey
}

func holdText(h *expectedHold) string {
	return fmt.Sprintf("%s, %d of %s for %s, from %s until %s, key %s", h.Status, h.Qty, h.SKU, h.UserID, clock(h.CreatedAtMs), clock(h.ExpiresAtMs), h.IdempotencyKey)
}

func matchOrders(ctx context.Context, tx pgx.Tx, ids []string, byID map[string]*expectedHold, suspicious func(Kind, *expectedHold, string, string)) error {
	const query = `
		SELECT order_id, hold_id, user_id, sku, qty, status, payment_ref, created_at FROM orders WHERE hold_id = ANY ($1)`
	rows, err := tx.Query(ctx, query, ids)
	if err != nil {
		return fmt.Errorf("read orders: %w", err)
	}
	var row projections.Order
	scan := []any{&row.OrderID, &row.HoldID, &row.UserID, &row.SKU, &row.Qty, &row.Status, &row.PaymentRef, &row.CreatedAt}
	_, err = pgx.ForEachRow(rows, scan, func() error {
		hold := byID[row.HoldID]
		delete(byID, row.HoldID)
		if sameOrder(hold, &row) {
			return nil
		}
		found := fmt.Sprintf("%s, %d of %s for %s, paid by %s at %s", row.OrderID, row.Qty, row.SKU, row.UserID, row.PaymentRef, clock(row.CreatedAt.UnixMilli()))
		if hold.Status == statusConfirmed {
			suspicious(KindChanged, hold, orderText(hold), found)
		} else {
			suspicious(KindUnexpected, hold, "no order: the hold is "+hold.Status, found)
		}
		return nil
	})
	for _, hold := range byID {
		if hold.Status == statusConfirmed {
			suspicious(KindMissing, hold, orderText(hold), "")
		}
	}
	return err
}

func sameOrder(hold *expectedHold, row *projections.Order) bool {
	return hold.Status == statusConfirmed && row.OrderID == events.OrderID(hold.ID) && row.UserID == hold.UserID && row.SKU == hold.SKU && row.Qty == hold.Qty &&
		row.Status == statusConfirmed && row.PaymentRef == hold.PaymentRef && row.CreatedAt.Equal(time.UnixMilli(hold.EndedAtMs))
}

func orderText(h *expectedHold) string {
	return fmt.Sprintf("%s, %d of %s for %s, paid by %s at %s", events.OrderID(h.ID), h.Qty, h.SKU, h.UserID, h.PaymentRef, clock(h.EndedAtMs))
}

func (a *auditor) compareStockRows(ctx context.Context, tx pgx.Tx, seq int64) error {
	for part := range slices.Chunk(slices.Sorted(maps.Keys(a.expected.stock)), rowsChunk) {
		rows, err := tx.Query(ctx, `SELECT sku, available, held, sold FROM stock_levels WHERE sku = ANY ($1)`, part)
		if err != nil {
			return fmt.Errorf("read stock_levels: %w", err)
		}
		found := make(map[string][3]int64, len(part))
		var sku string
		var level [3]int64
		_, err = pgx.ForEachRow(rows, []any{&sku, &level[0], &level[1], &level[2]}, func() error {
			found[sku] = level
			return nil
		})
		if err != nil {
			return fmt.Errorf("read stock_levels: %w", err)
		}
		if err := a.judge(ctx, tx, tableStock, a.stockSuspects(part, found, seq)); err != nil {
			return err
		}
	}
	return nil
}

func (a *auditor) stockSuspects(skus []string, found map[string][3]int64, seq int64) (suspects []divergence) {
	text := func(l [3]int64) string { return fmt.Sprintf("%d available, %d held, %d sold", l[0], l[1], l[2]) }
	for _, sku := range skus {
		stock := a.expected.stock[sku]
		want := [3]int64{stock.Available(), stock.Held, stock.Sold}
		level, there := found[sku]
		if there && level == want {
			continue
		}
		d := Difference{Store: tableStock, Kind: KindChanged, Key: sku, Expected: text(want), Found: text(level), Seq: seq}
		if !there {
			d.Kind, d.Found = KindMissing, ""
		}
		suspects = append(suspects, divergence{difference: d, sequenceKey: sku, sku: sku})
	}
	return suspects
}
