package rebuild

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/projections"
)

// Status describes a projection: its lag, its old tables and its latest rebuild.
type Status struct {
	Name       string     `json:"name"`
	Tables     []string   `json:"tables"`
	Checkpoint int64      `json:"checkpoint"`
	LagEvents  int64      `json:"lag_events"`
	LagSeconds float64    `json:"lag_seconds"` // age of the oldest event that is not applied
	Parked     int64      `json:"parked"`      // parked dead letters
	Old        *OldTables `json:"old"`         // null if no old tables are kept
	Run        *RunRecord `json:"rebuild"`     // the latest rebuild of the projection; null if there is none
}

// OldTables describes the old tables that a swap replaced.
type OldTables struct {
	Seq      int64     `json:"seq"` // their checkpoint
	Replaced time.Time `json:"replaced_at"`
}

// runsSearchedMax is how many of the latest runs are searched for the latest rebuild of a
// projection.
const runsSearchedMax = 100

// Describe returns the status of each projection in a pool, in the order of the list.
func Describe(
	ctx context.Context, db postgres.Querier, pool string, list ...projections.Projection,
) ([]Status, error) {
	lags, err := projections.ReadLag(ctx, db, pool, list...)
	if err != nil {
		return nil, err
	}
	runs, err := List(ctx, db, runsSearchedMax)
	if err != nil {
		return nil, err
	}
	statuses := make([]Status, len(list))
	for i, p := range list {
		s := Status{
			Name:       p.Name,
			Tables:     p.Tables,
			Checkpoint: lags[i].Checkpoint,
			LagEvents:  lags[i].Events,
			LagSeconds: lags[i].Age.Seconds(),
		}
		latest := slices.IndexFunc(runs, func(r RunRecord) bool {
			return slices.Contains(r.Projections, p.Name)
		})
		if latest >= 0 {
			s.Run = &runs[latest]
		}
		const parked = `SELECT count(*) FROM dead_letters WHERE source = $1 AND pool = $2 AND status = 'parked'`
		if err := db.QueryRow(ctx, parked, p.Name, pool).Scan(&s.Parked); err != nil {
			return nil, fmt.Errorf("count the parked dead letters of %s: %w", p.Name, err)
		}
		if s.Old, err = findOldTables(ctx, db, p.Name, pool); err != nil {
			return nil, fmt.Errorf("find the old tables of %s: %w", p.Name, err)
		}
		statuses[i] = s
	}
	return statuses, nil
}

// findOldTables returns nil if no old tables of the projection are kept.
func findOldTables(ctx context.Context, db postgres.Querier, projection, pool string) (*OldTables, error) {
	s, err := findSchemas(ctx, db, projection)
	if err != nil {
		return nil, err
	}
	checkpoints := pgx.Identifier{s.old, "checkpoints"}.Sanitize()
	kept, err := tableExists(ctx, db, checkpoints)
	if err != nil || !kept {
		return nil, err
	}
	old := new(OldTables)
	query := `SELECT seq, updated_at FROM ` + checkpoints + ` WHERE projection = $1 AND pool = $2`
	if err := db.QueryRow(ctx, query, projection, pool).Scan(&old.Seq, &old.Replaced); err != nil {
		return nil, err
	}
	old.Replaced = old.Replaced.UTC()
	return old, nil
}
