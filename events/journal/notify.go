package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// notifyChannel is the Postgres channel on which the Writer notifies the journal's
// readers.
const notifyChannel = "stockstream_journal"

// journalPoll is how long a reader waits for a notification before it looks at the
// journal anyway.
const journalPoll = time.Second

// awaitJournal waits for a notification that the journal was written to, at most for
// journalPoll.
func awaitJournal(ctx context.Context, conn *pgx.Conn) (notified bool, err error) {
	wait, cancel := context.WithTimeout(ctx, journalPoll)
	defer cancel()
	_, err = conn.WaitForNotification(wait)
	if err == nil {
		return true, nil
	}
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return false, nil
	}
	return false, fmt.Errorf("wait for the journal: %w", err)
}
