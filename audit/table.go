package audit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/internal/worker"
)

// readTable is the comparison of one read table with the expected state. Its functions
// compare with matchRows.
type readTable struct {
	name string // of the table, and of the projection that writes it

	// compareTracked compares the rows of all tracked keys, at the snapshot's seq.
	compareTracked func(context.Context, *tableSnapshot, *expected) error
	// compareEnded compares the rows of holds that ended before the audit's end, if the
	// table has rows of holds. They never change again, so the snapshot may be of any seq
	// from the audit's end on.
	compareEnded func(context.Context, *tableSnapshot, []*expectedHold) error

	// rowCount returns how many rows the table should have, and whether that number is
	// exact. Only a full audit knows.
	rowCount func(*expected) (count int64, exact bool)
	// foreignRows selects the keys of rows that no event accounts for: of pool $1, up to
	// seq $2, at most $3 of them.
	foreignRows string
}

// readTables are the read tables that an audit compares, in this order.
var readTables = []readTable{holdsTable, ordersTable, stockLevelsTable, skuHoursTable}

// tableSnapshot is one state of a read table: a read-only transaction, and the
// projection's checkpoint in it.
type tableSnapshot struct {
	tx     pgx.Tx
	table  string
	pool   string
	seq    int64 // the checkpoint: the rows are the result of the events up to here
	full   bool
	report func(context.Context, []divergence) error
}

// divergence returns a divergence of a row. The caller adds the sequence key of dead
// letters that may explain it.
func (s *tableSnapshot) divergence(kind Kind, key, want, found string) divergence {
	return divergence{difference: Difference{
		Store:    s.table,
		Kind:     kind,
		Key:      key,
		Expected: want,
		Found:    found,
		Seq:      s.seq,
	}}
}

// rowsPerChunk is how many rows one query reads for comparison.
const rowsPerChunk = 1000

// matchRows calls match with the keys chunk by chunk, and reports the divergences that it
// returns.
func matchRows[K any](
	ctx context.Context, s *tableSnapshot, keys []K, match func([]K) ([]divergence, error),
) error {
	for chunk := range slices.Chunk(keys, rowsPerChunk) {
		divergences, err := match(chunk)
		if err != nil {
			return err
		}
		if err := s.report(ctx, divergences); err != nil {
			return err
		}
	}
	return nil
}

// awaitProjections waits until every projection has reached the audit's end. It reports
// those that have not; their tables are not compared.
func (a *auditor) awaitProjections(ctx context.Context) error {
	deadline := time.Now().Add(a.config.Wait)
	for _, table := range readTables {
		for {
			seq, err := worker.ReadCheckpoint(ctx, a.conns.work, table.name, a.pool)
			if err != nil {
				return err
			}
			if seq >= a.end {
				a.comparable[table.name] = true
				break
			}
			if time.Now().After(deadline) {
				a.found.addIncomplete("the projection %s is at seq %d, the journal at %d",
					table.name, seq, a.end)
				break
			}
			if err := wait.For(ctx, pollInterval); err != nil {
				return err
			}
		}
	}
	return nil
}

// inSnapshot calls compare with a snapshot of a read table whose seq is at least
// notBefore. It waits until the projection has reached that seq, and reports the audit as
// incomplete if that takes longer than config.Wait.
func (a *auditor) inSnapshot(
	ctx context.Context, conn *pgx.Conn, table string, notBefore int64, compare func(*tableSnapshot) error,
) error {
	deadline := time.Now().Add(a.config.Wait)
	for {
		reached, err := a.trySnapshot(ctx, conn, table, notBefore, compare)
		if err != nil || reached {
			return err
		}
		if time.Now().After(deadline) {
			a.found.addIncomplete("the projection %s did not reach seq %d within %s",
				table, notBefore, a.config.Wait)
			return nil
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return err
		}
	}
}

// trySnapshot takes one snapshot, and calls compare if its seq is notBefore or later.
func (a *auditor) trySnapshot(
	ctx context.Context, conn *pgx.Conn, table string, notBefore int64, compare func(*tableSnapshot) error,
) (reached bool, err error) {
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, conn, options, func(tx pgx.Tx) error {
		checkpoint, err := worker.ReadCheckpoint(ctx, tx, table, a.pool)
		if err != nil || checkpoint < notBefore {
			return err
		}
		reached = true
		return compare(&tableSnapshot{
			tx:    tx,
			table: table,
			pool:  a.pool,
			seq:   checkpoint,
			full:  a.full,
			report: func(ctx context.Context, divergences []divergence) error {
				return a.reportDivergences(ctx, tx, table, divergences)
			},
		})
	})
	if postgres.IsCode(err, postgres.UndefinedTable) {
		a.found.addIncomplete("the read table %s does not exist", table)
		return true, nil
	}
	return reached, err
}

// compareTable compares the tracked keys with a read table, at its exact checkpoint. A
// full audit also searches for rows that no event accounts for.
func (a *auditor) compareTable(ctx context.Context, table readTable) error {
	if !a.comparable[table.name] {
		return nil
	}
	return a.inSnapshot(ctx, a.conns.work, table.name, a.expected.seq, func(s *tableSnapshot) error {
		if reached, err := a.advanceTo(ctx, s.seq); err != nil || !reached {
			return err
		}
		if a.full {
			if err := a.compareRowCount(ctx, s, table); err != nil {
				return err
			}
		}
		return table.compareTracked(ctx, s, a.expected)
	})
}

// compareRowCount finds foreign rows: rows that no event accounts for. It searches for
// them, which is slow, only if the table has more rows than it should have. Missing rows
// are not its task: a full audit compares every row that should exist by its key.
func (a *auditor) compareRowCount(ctx context.Context, s *tableSnapshot, table readTable) error {
	want, exact := table.rowCount(a.expected)
	countRows := `SELECT count(*) FROM ` + pgx.Identifier{table.name}.Sanitize() + ` WHERE pool = $1`
	var count int64
	if err := s.tx.QueryRow(ctx, countRows, s.pool).Scan(&count); err != nil {
		return fmt.Errorf("count %s: %w", table.name, err)
	}
	if count <= want {
		return nil
	}
	rows, err := s.tx.Query(ctx, table.foreignRows, a.pool, s.seq, listMax)
	if err != nil {
		return fmt.Errorf("search %s for foreign rows: %w", table.name, err)
	}
	foreign, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("search %s for foreign rows: %w", table.name, err)
	}
	for _, key := range foreign {
		d := s.divergence(KindUnexpected, key, "no row: no event accounts for it", "")
		a.found.addDifference(d.difference)
	}
	if int64(len(foreign)) < count-want && exact {
		d := s.divergence(KindCount, table.name, fmt.Sprintf("%d rows", want), fmt.Sprintf("%d rows", count))
		a.found.addDifference(d.difference)
	}
	return nil
}
