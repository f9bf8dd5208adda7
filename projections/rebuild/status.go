package rebuild

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
)

// Status is how a projection stands.
type Status struct {
	Name       string     `json:"name"`
	Tables     []string   `json:"tables"`
	Checkpoint int64      `json:"checkpoint"`
	LagEvents  int64      `json:"lag_events"`
	LagSeconds float64    `json:"lag_seconds"` // age of the oldest event not yet applied
	Parked     int64      `json:"parked"`      // dead letters
	Old        *OldTables `json:"old"`         // null where none are kept
	Run        *RunRecord `json:"rebuild"`     // the newest of this projection; null where there was none
}

// OldTables are tables that a rebuild replaced.
type OldTables struct {
	Seq      int64     `json:"seq"` // at which they stand
	Replaced time.Time `json:"replaced_at"`
}

// runsSearchedMax bounds how far back the newest rebuild of a projection is looked for.
const runsSearchedMax = 100

// Describe returns how projections stand in a pool, in the order of the list.
func Describe(ctx context.Context, db events.Querier, pool string, list ...projections.Projection) ([]Status, error) {
	lags, err := projections.ReadLag(ctx, db, pool, list...)
	if err != nil {
		return nil, err
	}
	runs, err := List(ctx, db, runsSearchedMax)
	if err != nil {
		return nil, err
	}
	all := make([]Status, len(list))
	for i, p := range list {
		all[i] = Status{
			Name: p.Name, Tables: p.Tables, Checkpoint: lags[i].Checkpoint, LagEvents: lags[i].Events, LagSeconds: lags[i].Age.Seconds(),
		}
		if at := slices.IndexFunc(runs, func(r RunRecord) bool { return slices.Contains(r.Projections, p.Name) }); at >= 0 {
			all[i].Run = &runs[at]
		}
		const letters = `SELECT count(*) FROM dead_letters WHERE source = $1 AND pool = $2 AND status = 'parked'`
		if err := db.QueryRow(ctx, letters, p.Name, pool).Scan(&all[i].Parked); err != nil {
			return nil, fmt.Errorf("count dead letters of %s: %w", p.Name, err)
		}
		if all[i].Old, err = findOld(ctx, db, p.Name, pool); err != nil {
			return nil, fmt.Errorf("look for old tables of %s: %w", p.Name, err)
		}
	}
	return all, nil
}

func findOld(ctx context.Context, db events.Querier, projection, pool string) (*OldTables, error) {
	h, err := findSchemas(ctx, db, projection)
	if err != nil {
		return nil, err
	}
	checkpoints := pgx.Identifier{h.old, "checkpoints"}.Sanitize()
	var kept bool
	if err := db.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, checkpoints).Scan(&kept); err != nil || !kept {
		return nil, err
	}
	old := new(OldTables)
	err = db.QueryRow(ctx, `SELECT seq, updated_at FROM `+checkpoints+` WHERE projection = $1 AND pool = $2`, projection, pool).Scan(&old.Seq, &old.Replaced)
	if err != nil {
		return nil, err
	}
	old.Replaced = old.Replaced.UTC()
	return old, nil
}
