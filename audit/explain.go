package audit

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// divergence is a difference that a dead letter may explain: the event or the due hold
// that would have changed the key is parked.
type divergence struct {
	difference  Difference
	sequenceKey string // the sequence key of such dead letters; "" if none can explain it
	// hold or sku is the key that the next audit compares again, if a dead letter
	// explains the difference.
	hold *expectedHold
	sku  string
}

// reportDivergences reports each divergence as parked if a dead letter of the source
// explains it, and as a difference otherwise. For a read table, db must be the
// transaction in which the rows were read: a retry between the two reads would resolve
// the letter.
func (a *auditor) reportDivergences(
	ctx context.Context, db postgres.Querier, source string, divergences []divergence,
) error {
	if len(divergences) == 0 {
		return nil
	}
	var keys []string
	for _, d := range divergences {
		if d.sequenceKey != "" {
			keys = append(keys, d.sequenceKey)
		}
	}
	explanations, err := readExplanations(ctx, db, source, a.pool, keys)
	if err != nil {
		return err
	}
	for _, d := range divergences {
		because, explained := explanations[d.sequenceKey]
		if !explained {
			a.found.addDifference(d.difference)
			continue
		}
		d.difference.Because = because
		a.found.addParked(d)
	}
	return nil
}

// readExplanations returns, by sequence key, a text that names the first dead letter of
// the source with that key. A parked letter comes before a discarded one.
func readExplanations(
	ctx context.Context, db postgres.Querier, source, pool string, keys []string,
) (map[string]string, error) {
	explanations := map[string]string{}
	if len(keys) == 0 {
		return explanations, nil
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
		explanations[key] = fmt.Sprintf("dead letter %d of %s is %s", id, source, status)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters of %s: %w", source, err)
	}
	return explanations, nil
}
