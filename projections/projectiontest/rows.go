package projectiontest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// rows are the rows that a projection wrote: for each of its tables the rows as text,
// sorted. Its dead letters stand under the name deadLetters.
type rows map[string][]string

const deadLetters = "dead_letters"

// read returns the projection's rows, with all times moved back by some days.
func (f *fixture) read(daysBack int) rows {
	f.t.Helper()
	const columns = `
		SELECT string_agg(CASE atttypid
			WHEN 'timestamptz'::regtype THEN format('%I - make_interval(days => %s)', attname, $2::int)
			WHEN 'timestamp'::regtype THEN format('%I - make_interval(days => %s)', attname, $2::int)
			WHEN 'date'::regtype THEN format('%I - %s', attname, $2::int)
			ELSE quote_ident(attname) END, ', ' ORDER BY attnum)
		FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped`
	const letters = `
		SELECT (seq, sequence_key)::text FROM dead_letters WHERE source = $1 AND status = 'parked' ORDER BY seq`
	found := rows{}
	for _, table := range f.projection.Tables {
		name := pgx.Identifier{table}.Sanitize()
		columnList := f.texts(columns, name, daysBack)[0]
		found[table] = f.texts(`SELECT ROW(` + columnList + `)::text FROM ` + name)
		slices.Sort(found[table])
	}
	found[deadLetters] = f.texts(letters, f.projection.Name)
	return found
}

// firstLetter returns the seq and error of the projection's first dead letter, or "" if
// there is none.
func (f *fixture) firstLetter() string {
	f.t.Helper()
	const query = `SELECT seq || ': ' || error FROM dead_letters WHERE source = $1 ORDER BY seq LIMIT 1`
	return strings.Join(f.texts(query, f.projection.Name), "")
}

// digestsOfOtherTables returns a digest of the rows of each table that the projection
// does not own. Of checkpoints and dead_letters it leaves out the projection's own rows.
func (f *fixture) digestsOfOtherTables() map[string]string {
	f.t.Helper()
	digests := map[string]string{}
	for _, table := range f.otherTables {
		from := pgx.Identifier{table}.Sanitize() + ` AS r`
		switch table {
		case "checkpoints":
			from += ` WHERE projection <> $1`
		case "dead_letters":
			from += ` WHERE source <> $1`
		default:
			from += ` WHERE $1 <> ''` // all rows; the statement must use its parameter
		}
		query := `SELECT coalesce(md5(string_agg(r::text, E'\n' ORDER BY r::text COLLATE "C")), '') FROM ` + from
		digests[table] = f.texts(query, f.projection.Name)[0]
	}
	return digests
}

// difference lists the rows that are only in want or only in got. It returns "" if there
// are none.
func difference(want, got rows) string {
	const shown = 10
	var lines []string
	for _, table := range slices.Sorted(maps.Keys(want)) {
		for _, row := range subtract(want[table], got[table]) {
			lines = append(lines, fmt.Sprintf("  %s: %s is missing", table, row))
		}
		for _, row := range subtract(got[table], want[table]) {
			lines = append(lines, fmt.Sprintf("  %s: %s should not be there", table, row))
		}
	}
	if len(lines) > shown {
		lines = append(lines[:shown], fmt.Sprintf("  and %d more rows", len(lines)-shown))
	}
	return strings.Join(lines, "\n")
}

// subtract returns the rows of list that are not in other. A row that list has twice and
// other once is returned once.
func subtract(list, other []string) (left []string) {
	counts := map[string]int{}
	for _, row := range other {
		counts[row]++
	}
	for _, row := range list {
		counts[row]--
		if counts[row] < 0 {
			left = append(left, row)
		}
	}
	return left
}
