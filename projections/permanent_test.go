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

// TestPermanent holds which errors an event is parked for, and which stop the line instead.
func TestPermanent(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	_, raised := p.db.Exec(p.ctx, `DO $$ BEGIN RAISE EXCEPTION 'not this one'; END $$`)
	_, tooLarge := p.db.Exec(p.ctx, `SELECT 1e9::int`)
	_, noTable := p.db.Exec(p.ctx, `SELECT FROM nothing`)
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"an exception of a trigger":    {raised, true},
		"a number that does not fit":   {tooLarge, true},
		"a constraint":                 {&pgconn.PgError{Code: "23505"}, true},
		"the projection's own":         {errors.New("cannot be"), true},
		"a table that is not there":    {noTable, false},
		"a deadlock":                   {&pgconn.PgError{Code: "40P01"}, false},
		"a shutdown":                   {context.Canceled, false},
		"a deadline":                   {context.DeadlineExceeded, false},
		"the end of the session":       {io.EOF, false},
		"the end within an answer":     {io.ErrUnexpectedEOF, false},
		"a connection that was closed": {net.ErrClosed, false},
		"a connection that was reset":  {&net.OpError{Op: "read", Err: errors.New("connection reset by peer")}, false},
		"what was never sent":          {neverSent(t, p), false},
	} {
		if got := permanent(fmt.Errorf("apply: %w", test.err)); got != test.want {
			t.Errorf("%s (%v): permanent is %t, want %t", name, test.err, got, test.want)
		}
	}
}

// neverSent returns the error of a statement on a session that had ended.
func neverSent(t *testing.T, p *plant) error {
	t.Helper()
	conn := testenv.Connect(t, p.config)
	if err := conn.Close(p.ctx); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Exec(p.ctx, `SELECT 1`)
	return err
}
