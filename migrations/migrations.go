// Package migrations embeds the schema as numbered SQL files and applies them with
// golang-migrate.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	driver "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/stockstream/stockstream/internal/postgres"
)

//go:embed *.sql
var files embed.FS

// Latest is the schema version that this build works with.
var Latest = latest()

func latest() uint {
	entries, err := fs.Glob(files, "*.up.sql")
	if err != nil || len(entries) == 0 {
		panic("migrations: no embedded files")
	}
	m, err := source.DefaultParse(entries[len(entries)-1]) // Glob sorts, and the numbers are zero-padded
	if err != nil {
		panic(err)
	}
	return m.Version
}

// Up migrates the database to Latest. It may be called again, and by several processes at
// once. It fails with ErrSchema if the schema is newer than Latest, if a migration was
// left half done, or if the tables are in another schema.
func Up(ctx context.Context, databaseURL string) error {
	return run(ctx, databaseURL, 1, source.Driver.Prev)
}

// Down reverts all migrations, which drops the journal.
func Down(ctx context.Context, databaseURL string) error {
	return run(ctx, databaseURL, -1, source.Driver.Next)
}

// run applies all migrations, up with the step 1 or down with -1. before returns the
// version that the schema had before a migration, given the version that golang-migrate
// records for it.
func run(
	ctx context.Context, databaseURL string, step int, before func(source.Driver, uint) (uint, error),
) (err error) {
	config, err := postgres.ParseURL(databaseURL)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.PingContext(ctx); err != nil {
		return fmt.Errorf("connect to Postgres: %w", postgres.ExplainConnect(err))
	}
	if err := checkSchemaName(ctx, db); err != nil {
		return err
	}
	src, err := iofs.New(files, ".")
	if err != nil {
		return fmt.Errorf("prepare migrations: %w", err)
	}
	m, err := open(db, src)
	if err != nil {
		return fmt.Errorf("prepare migrations: %w", err)
	}
	// One at a time: golang-migrate reads later ones ahead, and leaks them if one fails.
	for err == nil {
		if err = ctx.Err(); err == nil {
			err = m.Steps(step)
		}
	}
	err = explain(m, err)
	if failed := new(database.Error); errors.As(err, failed) {
		err = errors.Join(err, clean(m, src, before))
	}
	sourceErr, databaseErr := m.Close()
	return errors.Join(err, sourceErr, databaseErr)
}

// explain returns golang-migrate's error in the words of Check. It does not look before
// golang-migrate has its lock, because the schema is dirty while another process
// migrates.
func explain(m *migrate.Migrate, err error) error {
	var dirty migrate.ErrDirty
	if errors.As(err, &dirty) {
		return judge(uint(dirty.Version), true)
	}
	if version, _, versionErr := m.Version(); versionErr == nil && version > Latest {
		return judge(version, false)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, migrate.ErrNoChange) { // none is left
		return nil
	}
	return fmt.Errorf("migrate: %w", err)
}

// clean records that the schema is at the version before a failed migration. Each
// migration is one transaction, so Postgres has rolled it back, and it can be applied
// again.
func clean(m *migrate.Migrate, src source.Driver, before func(source.Driver, uint) (uint, error)) error {
	recorded, dirty, err := m.Version()
	if err != nil || !dirty {
		return err
	}
	version, err := before(src, recorded)
	if errors.Is(err, fs.ErrNotExist) {
		return m.Force(database.NilVersion) // the first migration failed
	}
	if err != nil {
		return err
	}
	return m.Force(int(version))
}

func open(db *sql.DB, src source.Driver) (*migrate.Migrate, error) {
	dst, err := driver.WithInstance(db, &driver.Config{})
	if err != nil {
		return nil, err
	}
	return migrate.NewWithInstance("embedded", src, "postgres", dst)
}

// ErrSchema is Check's error for a schema that is not at this build's version.
var ErrSchema = errors.New("the schema is not at this build's version")

// Version returns the schema's version, or 0 for an empty database. dirty is true if a
// migration failed half-way.
func Version(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) (version uint, dirty bool, err error) {
	err = db.QueryRow(ctx, `SELECT version, dirty FROM schema_migrations`).Scan(&version, &dirty)
	const undefinedTable = "42P01"
	var fault *pgconn.PgError
	noTable := errors.As(err, &fault) && fault.Code == undefinedTable
	if noTable || errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read the schema's version: %w", err)
	}
	return version, dirty, nil
}

// Check fails with ErrSchema unless the schema's version is Latest. A newer version is
// refused too, because it may lack columns or tables that this build writes.
func Check(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) error {
	version, dirty, err := Version(ctx, db)
	if err != nil {
		return err
	}
	if version == 0 {
		var other string
		if err := db.QueryRow(ctx, otherSchemas).Scan(&other); err != nil {
			return fmt.Errorf("look for other schemas: %w", err)
		}
		if other != "" {
			return elsewhere(other)
		}
	}
	return judge(version, dirty)
}

// judge returns ErrSchema with the reason and an advice, unless version is Latest.
func judge(version uint, dirty bool) error {
	switch {
	case dirty:
		const advice = "in schema_migrations, set version to the version before it and dirty to false, " +
			"then run `stockstream migrate up`"
		return fmt.Errorf("%w: the migration to version %d was left half done, and Postgres has rolled it back; %s",
			ErrSchema, version, advice)
	case version < Latest:
		return fmt.Errorf("%w: it is at version %d, this build needs %d; run `stockstream migrate up`",
			ErrSchema, version, Latest)
	case version > Latest:
		return fmt.Errorf("%w: it is at version %d, this build knows only %d; use a newer build",
			ErrSchema, version, Latest)
	}
	return nil
}

// otherSchemas is a query for the schemas that have our tables, if the schema public has
// none and the tables are looked for there. An older build looked for them wherever the
// role's search_path led it.
const otherSchemas = `
	SELECT coalesce(string_agg(n.nspname, ', ' ORDER BY n.nspname), '')
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relname = 'schema_migrations' AND current_schema() = 'public'
	  AND to_regclass('public.schema_migrations') IS NULL
	  AND EXISTS (SELECT FROM pg_class t WHERE t.relnamespace = n.oid AND t.relname = 'checkpoints')`

// elsewhere returns ErrSchema for tables that are in another schema than public.
func elsewhere(other string) error {
	const format = "%w: public has no tables of StockStream, but these schemas have: %s; " +
		"add search_path=SCHEMA to the parameters of STOCKSTREAM_DATABASE_URL"
	return fmt.Errorf(format, ErrSchema, other)
}

// checkSchemaName fails if the schema does not exist, and with ErrSchema if a migration
// would create a second set of tables beside those in another schema.
func checkSchemaName(ctx context.Context, db *sql.DB) error {
	var exists bool
	if err := db.QueryRowContext(ctx, `SELECT current_schema() IS NOT NULL`).Scan(&exists); err != nil {
		return fmt.Errorf("look for the schema: %w", err)
	}
	if !exists {
		return errors.New("the schema that search_path names does not exist: create it first")
	}
	var other string
	if err := db.QueryRowContext(ctx, otherSchemas).Scan(&other); err != nil {
		return fmt.Errorf("look for other schemas: %w", err)
	}
	if other != "" {
		return elsewhere(other)
	}
	return nil
}
