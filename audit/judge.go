package audit

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
)

// divergence is a difference that a dead letter of its store may explain.
type divergence struct {
	difference  Difference
	sequenceKey string // of the letters; "" for what no letter explains
	hold        *expectedHold  // what to look at again if one does
	sku         string // likewise
}

// judge reports suspects: as parked where a letter of the source says why they differ, and as differences otherwise.
// Rows and letters must be of one snapshot where the source is a projection.
func (a *auditor) judge(ctx context.Context, db events.Querier, source string, suspects []divergence) error {
	if len(suspects) == 0 {
		return nil
	}
	var keys []string
	for _, s := range suspects {
		if s.sequenceKey != "" {
			keys = append(keys, s.sequenceKey)
		}
	}
	letters, err := explanations(ctx, db, source, a.config.Pool.Name(), keys)
	if err != nil {
		return err
	}
	for _, s := range suspects {
		because, explained := letters[s.sequenceKey]
		if !explained {
			a.found.differs(s.difference)
			continue
		}
		s.difference.Because = because
		a.found.parked(s.difference, s.hold, s.sku)
	}
	return nil
}

// explanations returns what the dead letters of a source say of sequence keys: that an event is parked, or that somebody
// decided to do without it.
func explanations(ctx context.Context, db events.Querier, source, pool string, keys []string) (map[string]string, error) {
	because := map[string]string{}
	if len(keys) == 0 {
		return because, nil
	}
	const query = `
		SELECT DISTINCT ON (sequence_key) sequence_key, id, status FROM dead_letters
		WHERE source = $1 AND pool = $2 AND status IN ('parked', 'discarded') AND sequence_key = ANY ($3)
		ORDER BY sequence_key, status = 'parked' DESC, id`
	rows, err := db.Query(ctx, query, source, pool, keys)
	if err != nil {
		return nil, fmt.Errorf("read dead letters of %s: %w", source, err)
	}
	var key, status string
	var id int64
	_, err = pgx.ForEachRow(rows, []any{&key, &id, &status}, func() error {
		because[key] = fmt.Sprintf("dead letter %d of %s is %s", id, source, status)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters of %s: %w", source, err)
	}
	return because, nil
}
