package recovery

import (
	"context"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events/stream"
)

// noticeLag tells the gate how many events are not journaled, after a comparison. If the
// comparison failed before it read Redis's log, because Postgres does not answer, it
// counts from where the journal was last seen.
func (w *watcher) noticeLag(ctx context.Context, c comparison) {
	head := c.head
	if head.Exists { // compare reads it after the journal's end
		w.journaled = c.journal.Journaled
	} else {
		ctx, cancel := context.WithTimeout(ctx, compareTimeout)
		defer cancel()
		var err error
		head, err = stream.ReadHead(ctx, w.redis, w.pool)
		if err != nil || !head.Exists || w.journaled < 0 {
			return
		}
	}
	before, _ := w.gate.JournalLag()
	lag := commands.JournalLag{
		Seq:    w.journaled,
		Events: max(0, head.Seq-w.journaled),
		Max:    w.lagMax,
	}
	w.gate.SetJournalLag(lag)
	switch {
	case lag.AtLimit() && !before.AtLimit():
		w.log.Error("reserves are refused: too many events wait to be journaled",
			"pool", w.pool.Name(), "events", lag.Events, "limit", lag.Max)
	case before.AtLimit() && !lag.AtLimit():
		w.log.Info("reserves are taken again", "pool", w.pool.Name(), "events", lag.Events)
	}
}
