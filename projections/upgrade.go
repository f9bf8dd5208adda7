package projections

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Upgrade changes a table that an older build created, so that it has the columns and the
// key of today's Schema. It saves a rebuild where the old rows already say everything.
type Upgrade struct {
	// Needed is a query that returns true if the table is still the older one.
	Needed string
	// SQL makes the change. It runs in one transaction, and locks the table with the
	// function lock_tables, which does not block readers for long.
	SQL string
	// EndsOlderBuilds is true if the workers of an older build cannot write to the table
	// after the change. Such a change waits until a worker of this build has the lease.
	EndsOlderBuilds bool
}

// current is the SQL for a table of the current schema.
func current(table string) string {
	return `to_regclass(quote_ident(current_schema()) || '.` + table + `')`
}

// addPoolColumn gives a table of the time before there were pools the column pool. Its
// rows are of the pool main, and so are those that an older build still adds.
func addPoolColumn(table string) Upgrade {
	return Upgrade{
		Needed: `SELECT NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = ` + current(table) + ` AND attname = 'pool')`,
		SQL: `SELECT lock_tables('` + table + `');
			ALTER TABLE ` + table + ` ADD COLUMN pool text NOT NULL DEFAULT 'main'`,
	}
}

// addPoolToKey puts the pool into the primary key of a table, before its other columns.
// Readers go on while the index is built.
func addPoolToKey(table string, columns ...string) Upgrade {
	return Upgrade{
		Needed: `
			SELECT NOT EXISTS (SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
			WHERE indisprimary AND indrelid = ` + current(table) + ` AND attname = 'pool')`,
		SQL: fmt.Sprintf(`
			CREATE UNIQUE INDEX %[1]s_of_pool ON %[1]s (pool, %[2]s);
			SELECT lock_tables('%[1]s');
			ALTER TABLE %[1]s DROP CONSTRAINT %[1]s_pkey, ADD CONSTRAINT %[1]s_pkey PRIMARY KEY USING INDEX %[1]s_of_pool`,
			table, strings.Join(columns, ", ")),
		EndsOlderBuilds: true,
	}
}

// upgrade makes the changes that the tables of a projection still need. withLease is true
// if the caller has the lease of the projection.
func upgrade(ctx context.Context, db Beginner, p Projection, withLease bool) error {
	for _, u := range p.Upgrades {
		if u.EndsOlderBuilds && !withLease {
			continue
		}
		err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			var needed bool
			if err := tx.QueryRow(ctx, u.Needed).Scan(&needed); err != nil || !needed {
				return err
			}
			_, err := tx.Exec(ctx, u.SQL)
			return err
		})
		if err != nil {
			return fmt.Errorf("upgrade the tables of projection %s: %w", p.Name, err)
		}
	}
	return nil
}
