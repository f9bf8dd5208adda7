package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// journalPoll is how often the journal is looked at without having been notified.
const journalPoll = time.Second

// awaitJournal returns when the journal was written to, or when it is time to look anyway.
func awaitJournal(ctx context.Context, conn *pgx.Conn) (notified bool, err error) {
	wait, cancel := context.WithTimeout(ctx, journalPoll)
	defer cancel()
	_, err = conn.WaitForNotification(wait)
	if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
		return false, fmt.Errorf("wait for the journal: %w", err)
	}
	return err == nil, nil
}
