package journal

import (
	"errors"

	"github.com/stockstream/stockstream/events"
)

// CheckpointName is the name under which the journal keeps its own checkpoint.
const CheckpointName = "journal"

// notifyChannel is what the journal notifies its readers on.
const notifyChannel = "stockstream_journal"

// Errors that stop the journal's line. They are not healed by parking: an event is missing, or there are two.
var (
	ErrHole = errors.New("the log has a hole")
	ErrFork = errors.New("the log has forked")
)

// Topic is the topic under which a pool's journal is subscribed to.
func Topic(pool events.Pool) string { return "journal/" + pool.Name() }
