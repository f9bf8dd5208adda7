package events

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Errors of AttachPart.
var (
	ErrUnknownPart = errors.New("no such detached part")
	ErrPartGone    = errors.New("the part's table is not in this database")
	ErrPartChanged = errors.New("the part is not what was detached")
)

// AttachPart brings a detached part back into the journal, after making sure that its table holds exactly the rows that
// were detached. It fails with ErrUnknownPart, ErrPartGone or ErrPartChanged, and changes nothing then.
func AttachPart(ctx context.Context, conn *pgx.Conn, name string) (attached DetachedPart, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := lockParts(ctx, tx); err != nil {
			return err
		}
		if attached, err = findDetached(ctx, tx, name); err != nil {
			return err
		}
		here, err := tableIsHere(ctx, tx, name)
		if err != nil {
			return err
		}
		if !here {
			return fmt.Errorf("%w: restore its dump first, with pg_restore", ErrPartGone)
		}
		events, digest, err := digestPart(ctx, tx, name)
		if err != nil {
			return err
		}
		if events != attached.Events || digest != attached.Digest {
			return fmt.Errorf("%w: it had %d events with digest %s, and has %d with %s", ErrPartChanged, attached.Events, attached.Digest, events, digest)
		}
		query := fmt.Sprintf(`ALTER TABLE events ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)`, identifier(name), attached.First, attached.Last+1)
		if _, err := tx.Exec(ctx, query); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM detached_parts WHERE part = $1`, name)
		return err
	})
	if err != nil {
		return DetachedPart{}, fmt.Errorf("attach %s: %w", name, err)
	}
	return attached, nil
}

func findDetached(ctx context.Context, db Querier, name string) (DetachedPart, error) {
	parts, err := DetachedParts(ctx, db)
	if err != nil {
		return DetachedPart{}, err
	}
	for _, part := range parts {
		if part.Name == name {
			return part, nil
		}
	}
	return DetachedPart{}, fmt.Errorf("%w; `stockstream journal parts` lists them", ErrUnknownPart)
}

func tableIsHere(ctx context.Context, db Querier, name string) (here bool, err error) {
	if err := db.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, identifier(name)).Scan(&here); err != nil {
		return false, fmt.Errorf("look for table %s: %w", name, err)
	}
	return here, nil
}
