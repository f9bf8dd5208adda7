package journal

import (
	"errors"
	"fmt"
)

// Errors that stop the Writer until an operator acts. Parking an entry would not help: an
// event is missing, or two events have the same seq.
var (
	ErrHole = errors.New("the log has a hole")
	ErrFork = errors.New("the log has forked")
)

// stopError is an ErrHole or an ErrFork that was found at an entry of a batch. The
// entries before it can be journaled.
type stopError struct {
	error
	preceding int // the number of entries before it
}

func (e *stopError) Unwrap() error { return e.error }

// ErrDetached is the ErrHole of a journal from which partitions were detached. The
// message names them.
var ErrDetached = fmt.Errorf("%w: a partition of the journal is detached", ErrHole)

// ErrRewritten is returned by Follow if the journal became shorter: it was replaced or
// restored from a backup, so its seqs no longer mean the same events.
var ErrRewritten = errors.New("the journal is not the one that was followed")

// ErrBeyondEnd is returned for a position after the journal's end. It may belong to
// another installation.
var ErrBeyondEnd = errors.New("the position is beyond the end of the journal")

// ErrPartitionNeeded is returned for a partition that must stay attached: a reader has
// yet to read it, or it is not the oldest.
var ErrPartitionNeeded = errors.New("the partition is still needed")

// ErrPartitionGone is returned by AttachPartition if the detached table must first be
// restored from its dump.
var ErrPartitionGone = errors.New("the partition's table is not in this database")
