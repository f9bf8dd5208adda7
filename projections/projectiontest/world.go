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

// world is a Postgres schema with a journal and the tables of one projection.
type world struct {
	t          testing.TB
	config     *pgx.ConnConfig
	db         *pgx.Conn // of the test
	knife      *pgx.Conn // of whoever cuts a session
	schema     string
	build      func() projections.Projection
	projection projections.Projection // to look at; processes get their own
	others     []string               // tables that are not the projection's
	head       int64                  // seq of the journal's last event
}

// commitSetting is the setting of a session that says what becomes of its commits.
const commitSetting = "projectiontest.commit"

// commitFaults has a COMMIT that moves a checkpoint fail, or kill its session, as the session's setting asks for.
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

func newWorld(t testing.TB, build func() projections.Projection) *world {
	t.Helper()
	w := &world{t: t, config: testenv.ParseURL(t, testenv.Schema(t)), build: build, projection: build()}
	w.schema = w.config.RuntimeParams["search_path"]
	w.config.RuntimeParams["timezone"] = "UTC"
	w.db, w.knife = testenv.Connect(t, w.config), testenv.Connect(t, w.config)
	w.others = w.relations()
	if err := projections.CreateTables(w.t.Context(), w.db, w.projection); err != nil {
		t.Fatal(err)
	}
	w.exec(commitFaults)
	return w
}

// session returns how a process connects. Its application_name tells its sessions from the test's own.
func (w *world) session(settings map[string]string) *pgx.ConnConfig {
	config := w.config.Copy()
	config.RuntimeParams["application_name"] = "projectiontest " + w.schema
	for name, value := range settings {
		config.RuntimeParams[name] = value
	}
	return config
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.db.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// relations returns the tables of the schema.
func (w *world) relations() []string {
	w.t.Helper()
	return w.texts(`SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') ORDER BY relname`)
}

// texts returns the rows of a query that has one column.
func (w *world) texts(sql string, args ...any) []string {
	w.t.Helper()
	rows, err := w.db.Query(w.t.Context(), sql, args...)
	if err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return list
}

// journal replaces the journal, and takes everything else out of the tables that are not the projection's.
func (w *world) journal(list []entry) {
	w.t.Helper()
	const add = `
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT $1, $2, $3, $4, coalesce(p->>'sku', ''), coalesce(p->>'hold_id', ''), p, '{}', $6 FROM (SELECT $5::jsonb) AS given (p)`
	var sql pgx.Batch
	sql.Queue(`TRUNCATE ` + quoted(slices.DeleteFunc(slices.Clone(w.others), func(table string) bool { return table == "schema_migrations" })))
	for i, entry := range list {
		payload, err := json.Marshal(entry.event)
		if err != nil {
			w.t.Fatal(err)
		}
		id := uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, "projectiontest ", i))
		sql.Queue(add, events.MainPool.Name(), i+1, id, string(entry.event.Type()), string(payload), entry.at)
	}
	w.head = int64(len(list))
	sql.Queue(`INSERT INTO checkpoints (projection, pool, seq) VALUES ($1, $2, $3)`, journal.CheckpointName, events.MainPool.Name(), w.head)
	if err := w.db.SendBatch(w.t.Context(), &sql).Close(); err != nil {
		w.t.Fatalf("write the journal: %v", err)
	}
}

// empty has the projection begin at the first event again.
func (w *world) empty() {
	w.t.Helper()
	w.exec(`TRUNCATE ` + quoted(w.projection.Tables) + ` RESTART IDENTITY`)
	w.exec(`DELETE FROM checkpoints WHERE projection = $1`, w.projection.Name)
	w.exec(`DELETE FROM dead_letters WHERE source = $1`, w.projection.Name)
}

// quoted returns the names of tables as SQL lists them.
func quoted(tables []string) string {
	list := make([]string, len(tables))
	for i, table := range tables {
		list[i] = pgx.Identifier{table}.Sanitize()
	}
	return strings.Join(list, ", ")
}

func (w *world) checkpoint() int64 {
	w.t.Helper()
	seq, err := worker.ReadCheckpoint(w.t.Context(), w.db, w.projection.Name, events.MainPool.Name())
	if err != nil {
		w.t.Fatal(err)
	}
	return seq
}

// cut ends a session as a crash would, and returns when Postgres is rid of it.
func (w *world) cut(ctx context.Context, conn *pgx.Conn) error {
	pid := conn.PgConn().PID()
	if _, err := w.knife.Exec(ctx, `SELECT pg_terminate_backend($1)`, pid); err != nil {
		return fmt.Errorf("cut a session: %w", err)
	}
	return awaitNone(ctx, w.knife, `SELECT count(*) FROM pg_stat_activity WHERE pid = $1`, pid)
}

// awaitNoSessions returns when Postgres is rid of the sessions of all processes, and of their locks.
func (w *world) awaitNoSessions() {
	w.t.Helper()
	const query = `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1`
	if err := awaitNone(w.t.Context(), w.db, query, "projectiontest "+w.schema); err != nil {
		w.t.Fatal(err)
	}
}

func awaitNone(ctx context.Context, conn *pgx.Conn, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		var count int
		if err := conn.QueryRow(ctx, query, args...).Scan(&count); err != nil || count == 0 {
			return err
		}
		<-time.After(time.Millisecond)
	}
}

// otherRows returns a digest of each table that is not the projection's, and of what is not the projection's in those
// that the engine keeps for all.
func (w *world) otherRows() map[string]string {
	w.t.Helper()
	digests := map[string]string{}
	for _, table := range w.others {
		of := pgx.Identifier{table}.Sanitize() + ` AS r`
		switch table {
		case "checkpoints":
			of += ` WHERE projection <> $1`
		case "dead_letters":
			of += ` WHERE source <> $1`
		default:
			of += ` WHERE $1 <> ''`
		}
		digest := w.texts(`SELECT coalesce(md5(string_agg(r::text, E'\n' ORDER BY r::text COLLATE "C")), '') FROM `+of, w.projection.Name)
		digests[table] = digest[0]
	}
	return digests
}

// rows is what a projection came to: the rows of each of its tables as text, in order; and of its dead letters.
type rows map[string][]string

// deadLetters is the name of the projection's dead letters among its tables.
const deadLetters = "dead_letters"

// read returns the rows. Times in them are moved back by some days.
func (w *world) read(daysBack int) rows {
	w.t.Helper()
	found := rows{}
	for _, table := range w.projection.Tables {
		const columns = `
			SELECT string_agg(CASE atttypid
				WHEN 'timestamptz'::regtype THEN format('%I - make_interval(days => %s)', attname, $2::int)
				WHEN 'timestamp'::regtype THEN format('%I - make_interval(days => %s)', attname, $2::int)
				WHEN 'date'::regtype THEN format('%I - %s', attname, $2::int)
				ELSE quote_ident(attname) END, ', ' ORDER BY attnum)
			FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped`
		name := pgx.Identifier{table}.Sanitize()
		list := w.texts(columns, name, daysBack)
		found[table] = w.texts(`SELECT ROW(` + list[0] + `)::text FROM ` + name)
		slices.Sort(found[table])
	}
	found[deadLetters] = w.texts(`SELECT (seq, sequence_key)::text FROM dead_letters WHERE source = $1 AND status = 'parked' ORDER BY seq`, w.projection.Name)
	return found
}

// firstLetter returns why the first of the projection's dead letters is one, or "".
func (w *world) firstLetter() string {
	w.t.Helper()
	list := w.texts(`SELECT seq || ': ' || error FROM dead_letters WHERE source = $1 ORDER BY seq LIMIT 1`, w.projection.Name)
	return strings.Join(list, "")
}

// difference returns "" for rows that are the same, and otherwise those that only one side has.
func difference(want, got rows) string {
	const shown = 10
	var lines []string
	for _, table := range tablesOf(want) {
		missing, extra := without(want[table], got[table]), without(got[table], want[table])
		for _, row := range missing {
			lines = append(lines, fmt.Sprintf("  %s: %s is missing", table, row))
		}
		for _, row := range extra {
			lines = append(lines, fmt.Sprintf("  %s: %s should not be", table, row))
		}
	}
	if len(lines) > shown {
		lines = append(lines[:shown], fmt.Sprintf("  and %d more rows", len(lines)-shown))
	}
	return strings.Join(lines, "\n")
}

func tablesOf(r rows) []string {
	list := make([]string, 0, len(r))
	for table := range r {
		list = append(list, table)
	}
	slices.Sort(list)
	return list
}

// without returns the rows of one list that another has not, or has not as often.
func without(list, other []string) (left []string) {
	counts := map[string]int{}
	for _, row := range other {
		counts[row]++
	}
	for _, row := range list {
		if counts[row]--; counts[row] < 0 {
			left = append(left, row)
		}
	}
	return left
}
