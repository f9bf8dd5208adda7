package projections

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockstream/stockstream/internal/testenv"
)

// TestPermanent checks which errors park an event, and which stop the worker.
func TestPermanent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, raised := f.db.Exec(f.ctx, `DO $$ BEGIN RAISE EXCEPTION 'not this one'; END $$`)
	_, tooLarge := f.db.Exec(f.ctx, `SELECT 1e9::int`)
	_, noTable := f.db.Exec(f.ctx, `SELECT FROM nothing`)
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"an exception of a trigger":       {raised, true},
		"a number out of range":           {tooLarge, true},
		"a violated constraint":           {&pgconn.PgError{Code: "23505"}, true},
		"an error of the projection":      {errors.New("cannot be"), true},
		"a missing table":                 {noTable, false},
		"a deadlock":                      {&pgconn.PgError{Code: "40P01"}, false},
		"a shutdown":                      {context.Canceled, false},
		"a deadline":                      {context.DeadlineExceeded, false},
		"an ended session":                {io.EOF, false},
		"a session that ended mid-answer": {io.ErrUnexpectedEOF, false},
		"a closed connection":             {net.ErrClosed, false},
		"a reset connection": {&net.OpError{Op: "read", Err: errors.New("connection reset by peer")},
			false},
		"a statement that was not sent": {notSent(t, f), false},
	} {
		if got := permanent(fmt.Errorf("apply: %w", test.err)); got != test.want {
			t.Errorf("%s (%v): got permanent: %t, want %t", name, test.err, got, test.want)
		}
	}
}

// notSent returns the error of a statement on a session that was closed before.
func notSent(t *testing.T, f *fixture) error {
	t.Helper()
	conn := testenv.Connect(t, f.config)
	if err := conn.Close(f.ctx); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Exec(f.ctx, `SELECT 1`)
	return err
}
