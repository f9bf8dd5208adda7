package events

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// PartState says where a part is.
type PartState string

// A detached part may still be in the database as a table of its own, or be gone from it.
const (
	PartAttached PartState = "attached"
	PartDetached PartState = "detached"
	PartGone     PartState = "gone"
)

// PartReport is a part with what is in it.
type PartReport struct {
	Part
	State    PartState
	Events   int64     // of an attached part, by the seqs of its first and last events
	Bytes    int64     // of its table with its indexes; 0 where it is gone
	FirstAt  time.Time // when its first event was decided; zero where there is none, or the part is detached
	LastAt   time.Time // and its last
	NeededBy []Reader  // readers that have not passed it; of an attached part
}

// DescribeParts returns all parts in order, attached and detached. Readers are those to look out for.
func DescribeParts(ctx context.Context, db Querier, readers []Reader) ([]PartReport, error) {
	attached, err := Parts(ctx, db)
	if err != nil {
		return nil, err
	}
	detached, err := DetachedParts(ctx, db)
	if err != nil {
		return nil, err
	}
	var reports []PartReport
	for _, part := range detached {
		report := PartReport{Part: part.Part, State: PartGone, Events: part.Events}
		here, err := tableIsHere(ctx, db, part.Name)
		if err != nil {
			return nil, err
		}
		if here {
			report.State = PartDetached
		}
		reports = append(reports, report)
	}
	for _, part := range attached {
		report := PartReport{Part: part, State: PartAttached, NeededBy: part.NeededBy(readers)}
		if err := report.look(ctx, db); err != nil {
			return nil, err
		}
		reports = append(reports, report)
	}
	for i := range reports {
		const query = `SELECT coalesce(pg_total_relation_size(to_regclass($1)), 0)`
		if err := db.QueryRow(ctx, query, identifier(reports[i].Name)).Scan(&reports[i].Bytes); err != nil {
			return nil, fmt.Errorf("size of %s: %w", reports[i].Name, err)
		}
	}
	slices.SortFunc(reports, func(a, b PartReport) int { return cmp.Compare(a.First, b.First) })
	return reports, nil
}

// look reads the first and the last event of each pool in a part: seqs are dense, so they tell the rest.
func (r *PartReport) look(ctx context.Context, db Querier) error {
	query := fmt.Sprintf(`
		SELECT coalesce(sum(l.seq - f.seq + 1), 0)::bigint, min(f.at), max(l.at)
		FROM (SELECT pool FROM checkpoints WHERE projection = $1) AS p,
		LATERAL (SELECT seq, at FROM %[1]s WHERE pool = p.pool ORDER BY seq LIMIT 1) AS f,
		LATERAL (SELECT seq, at FROM %[1]s WHERE pool = p.pool ORDER BY seq DESC LIMIT 1) AS l`, identifier(r.Name))
	var first, last *time.Time
	if err := db.QueryRow(ctx, query, JournalCheckpoint).Scan(&r.Events, &first, &last); err != nil {
		return fmt.Errorf("look into %s: %w", r.Name, err)
	}
	if first != nil && last != nil {
		r.FirstAt, r.LastAt = *first, *last
	}
	return nil
}
