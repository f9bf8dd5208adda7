package projectiontest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/projections"
)

// fixture is a Postgres schema with a journal and the tables of one projection.
type fixture struct {
	t           testing.TB
	config      *pgx.ConnConfig
	db          *pgx.Conn // for the test's goroutine
	admin       *pgx.Conn // for terminate, which a handler's goroutine calls
	schema      string
	build       func() projections.Projection
	projection  projections.Projection // for its name, tables and key; each process has its own
	otherTables []string               // the tables of the schema that the projection does not own
	head        int64                  // seq of the journal's last event
}

// commitSetting is the session setting that makes commits fail; see commitFaults.
const commitSetting = "projectiontest.commit"

// commitFaults creates a trigger that runs in each COMMIT that moves a checkpoint. It
// raises an error, or terminates the session, if the session's setting asks for it.
const commitFaults = `
	CREATE FUNCTION fault_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF current_setting('` + commitSetting + `', true) = 'fails' THEN
			RAISE EXCEPTION 'projectiontest: this commit fails' USING ERRCODE = 'serialization_failure';
		ELSIF current_setting('` + commitSetting + `', true) = 'dies' THEN
			PERFORM pg_terminate_backend(pg_backend_pid());
			PERFORM pg_sleep(60); -- until the signal arrives
		END IF;
		RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER fault_at_commit AFTER INSERT OR UPDATE ON checkpoints
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fault_at_commit()`

func newFixture(t testing.TB, build func() projections.Projection) *fixture {
	t.Helper()
	config := testenv.ParseURL(t, testenv.Schema(t))
	config.RuntimeParams["timezone"] = "UTC"
	f := &fixture{
		t:          t,
		config:     config,
		db:         testenv.Connect(t, config),
		admin:      testenv.Connect(t, config),
		schema:     config.RuntimeParams["search_path"],
		build:      build,
		projection: build(),
	}
	f.otherTables = f.tables()
	if err := projections.CreateTables(t.Context(), f.db, f.projection); err != nil {
		t.Fatal(err)
	}
	f.exec(commitFaults)
	return f
}

// session returns the connection settings of a process. Their application_name tells the
// sessions of processes from those of the fixture.
func (f *fixture) session(settings map[string]string) *pgx.ConnConfig {
	config := f.config.Copy()
	config.RuntimeParams["application_name"] = f.applicationName()
	for name, value := range settings {
		config.RuntimeParams[name] = value
	}
	return config
}

func (f *fixture) applicationName() string { return "projectiontest " + f.schema }

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.db.Exec(f.t.Context(), sql, args...); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}

// tables returns the names of all tables of the schema.
func (f *fixture) tables() []string {
	f.t.Helper()
	return f.texts(`
		SELECT relname::text FROM pg_class
		WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') ORDER BY relname`)
}

// texts returns the rows of a query with one text column.
func (f *fixture) texts(sql string, args ...any) []string {
	f.t.Helper()
	rows, err := f.db.Query(f.t.Context(), sql, args...)
	if err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
	return list
}

// journal replaces the journal with a history, and empties the other tables that the
// projection does not own.
func (f *fixture) journal(list []entry) {
	f.t.Helper()
	const add = `
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT $1, $2, $3, $4, coalesce(p->>'sku', ''), coalesce(p->>'hold_id', ''), p, '{}', $6 FROM (SELECT $5::jsonb) AS given (p)`
	pool := events.MainPool.Name()
	emptied := slices.DeleteFunc(slices.Clone(f.otherTables), func(table string) bool {
		return table == "schema_migrations"
	})
	var sql pgx.Batch
	sql.Queue(`TRUNCATE ` + quoted(emptied))
	for i, entry := range list {
		payload, err := json.Marshal(entry.event)
		if err != nil {
			f.t.Fatal(err)
		}
		id := uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, "projectiontest ", i))
		sql.Queue(add, pool, i+1, id, string(entry.event.Type()), string(payload), entry.at)
	}
	f.head = int64(len(list))
	const checkpoint = `INSERT INTO checkpoints (projection, pool, seq) VALUES ($1, $2, $3)`
	sql.Queue(checkpoint, journal.CheckpointName, pool, f.head)
	if err := f.db.SendBatch(f.t.Context(), &sql).Close(); err != nil {
		f.t.Fatalf("write the journal: %v", err)
	}
}

// reset deletes the projection's rows, checkpoint and dead letters, so that it starts at
// the first event.
func (f *fixture) reset() {
	f.t.Helper()
	f.exec(`TRUNCATE ` + quoted(f.projection.Tables) + ` RESTART IDENTITY`)
	f.exec(`DELETE FROM checkpoints WHERE projection = $1`, f.projection.Name)
	f.exec(`DELETE FROM dead_letters WHERE source = $1`, f.projection.Name)
}

// quoted returns table names as a list in SQL.
func quoted(tables []string) string {
	list := make([]string, len(tables))
	for i, table := range tables {
		list[i] = pgx.Identifier{table}.Sanitize()
	}
	return strings.Join(list, ", ")
}

func (f *fixture) checkpoint() int64 {
	f.t.Helper()
	seq, err := worker.ReadCheckpoint(f.t.Context(), f.db, f.projection.Name, events.MainPool.Name())
	if err != nil {
		f.t.Fatal(err)
	}
	return seq
}

// terminate ends a session as a crash does, and waits until Postgres has removed it.
func (f *fixture) terminate(ctx context.Context, conn *pgx.Conn) error {
	pid := conn.PgConn().PID()
	if _, err := f.admin.Exec(ctx, `SELECT pg_terminate_backend($1)`, pid); err != nil {
		return fmt.Errorf("terminate a session: %w", err)
	}
	return awaitNone(ctx, f.admin, `SELECT count(*) FROM pg_stat_activity WHERE pid = $1`, pid)
}

// awaitNoSessions waits until Postgres has removed the sessions of all processes, and
// with them their locks.
func (f *fixture) awaitNoSessions() {
	f.t.Helper()
	const query = `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1`
	if err := awaitNone(f.t.Context(), f.db, query, f.applicationName()); err != nil {
		f.t.Fatal(err)
	}
}

// awaitNone waits until a query that counts returns 0.
func awaitNone(ctx context.Context, conn *pgx.Conn, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, processTimeout)
	defer cancel()
	for {
		var count int
		if err := conn.QueryRow(ctx, query, args...).Scan(&count); err != nil || count == 0 {
			return err
		}
		<-time.After(time.Millisecond)
	}
}
