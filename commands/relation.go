package commands

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/postgres"
)

// Reasons for which a pool takes no commands.
var (
	ErrEmptied = errors.New("Redis was emptied: it has no log for this pool, which has been in use")
	ErrBehind  = errors.New("Redis is behind the journal: it was restored from an older state")
	// ErrUnjournaled passes by itself: nothing is written anew while Redis still has what the journal lacks.
	ErrUnjournaled = errors.New("Redis lost its place in the log, and still holds events that the journal has not taken; waiting for the journal")
	// ErrForked asks for a person: only one of the two logs can go on.
	ErrForked = errors.New("Redis and the journal have forked")
)

// relation is how Redis's log of a pool stands to the journal.
type relation int

const (
	relationUnclear     relation = iota // with an error that says why
	relationFits                        // level, or Redis is ahead and the journal will catch up
	relationNew                         // neither has ever seen the pool
	relationEarlierLife                 // Redis has all of the journal, but its epoch is not the newest
	relationLost                        // Redis was emptied, or is behind: the journal has what it lacks
)

// sides is what Redis and Postgres say of a pool's log. Everything that a log can only grow beyond was read first.
type sides struct {
	knownEpoch, knownSeq int64 // the fence of this process
	record               journal.PoolRecord
	log                  stream.Head
}

// requireVersion fails on a Redis that lacks what the scripts and the journal use. One that does not tell its version may
// have it.
func (s *Service) requireVersion(ctx context.Context) error {
	info, err := s.redis.InfoMap(ctx, "server").Result()
	if err != nil {
		return fmt.Errorf("ask Redis for its version: %w", err)
	}
	return checkVersion(info["Server"]["redis_version"])
}

func checkVersion(version string) error {
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err == nil && n < 7 {
		return fmt.Errorf("Redis %s is too old: 7.0 is the oldest that this works with", version)
	}
	return nil
}

// judge looks at both sides. The error is ErrUnjournaled, ErrForked, or that of whichever could not be asked.
func (s *Service) judge(ctx context.Context, db postgres.Querier) (sides, relation, error) {
	var both sides
	var err error
	if err = s.requireVersion(ctx); err != nil {
		return both, relationUnclear, err
	}
	both.knownEpoch, both.knownSeq = s.fence.known()
	if both.record, err = journal.ReadPoolRecord(ctx, db, s.pool.Name()); err != nil {
		return both, relationUnclear, err
	}
	if both.log, err = stream.ReadHead(ctx, s.redis, s.pool); err != nil {
		return both, relationUnclear, err
	}
	if !both.log.Exists {
		relation, err := s.judgeEmptied(ctx, both)
		return both, relation, err
	}
	agrees, err := s.agrees(ctx, both)
	switch {
	case err != nil:
		return both, relationUnclear, err
	case both.log.Seq < both.record.Journaled:
		return both, relationLost, nil
	case !both.earlierLife():
		return both, relationFits, nil
	case agrees:
		return both, relationEarlierLife, nil
	case both.log.Seq == both.record.Journaled:
		return both, relationLost, nil
	}
	return both, relationUnclear, fmt.Errorf("%w: Redis's log is of epoch %d and ends at seq %d, the newest epoch is %d, and the stream no longer holds seq %d, by which the two could be compared. %s",
		ErrForked, both.log.Epoch, both.log.Seq, both.newestEpoch(), both.record.Journaled, s.whatToDo())
}

// earlierLife reports whether Redis's log is of an epoch before the newest, or ends before what this process has seen
// acknowledged. Commands refuse such a log as stale.
func (b sides) earlierLife() bool {
	return b.log.Epoch < b.newestEpoch() || b.log.Epoch == b.knownEpoch && b.log.Seq < b.knownSeq
}

func (b sides) newestEpoch() int64 { return max(b.record.Epoch, b.knownEpoch) }

// judgeEmptied is for a Redis that has no log.
func (s *Service) judgeEmptied(ctx context.Context, both sides) (relation, error) {
	closed, err := stream.ReadClosedHead(ctx, s.redis, s.pool)
	if err != nil {
		return relationUnclear, err
	}
	tail, err := stream.Tail(ctx, s.redis, s.pool)
	if err != nil {
		return relationUnclear, err
	}
	entries, err := s.redis.XLen(ctx, s.pool.StreamKey()).Result()
	if err != nil {
		return relationUnclear, fmt.Errorf("look at the stream: %w", err)
	}
	end := max(tail, closed.Seq)
	switch {
	case end > both.record.Journaled:
		return relationUnclear, fmt.Errorf("%w (Redis has events up to seq %d, the journal ends at %d)", ErrUnjournaled, end, both.record.Journaled)
	case both.record.Epoch == 0 && both.record.Journaled == 0 && entries == 0:
		return relationNew, nil
	}
	return relationLost, nil
}

// everySecondMax bounds how far from the stream's end the journal's last event is looked for, where a look must be
// cheap. A journal that is further behind is compared by its own line, when it comes to the place.
const everySecondMax = 2000

// agrees compares the journal's last event with the stream's entry of that seq. Since an event is decided once and all
// before it stay what they were, two logs that agree in one event agree in everything before it. It fails with ErrForked
// where they differ, and is false where the stream no longer holds the entry.
func (s *Service) agrees(ctx context.Context, both sides) (bool, error) {
	seq := both.record.Journaled
	if seq == 0 {
		return true, nil
	}
	if both.log.Seq < seq || both.record.LastID == uuid.Nil {
		return false, nil
	}
	most := int64(everySecondMax)
	if both.earlierLife() {
		most = 0
	}
	id, found, err := stream.FindEntry(ctx, s.redis, s.pool, seq, most)
	if err != nil || !found {
		return false, err
	}
	if id != both.record.LastID {
		return false, fmt.Errorf("%w: seq %d is event %s in the journal and event %s in Redis. %s", ErrForked, seq, both.record.LastID, id, s.whatToDo())
	}
	return true, nil
}

// whatToDo says how a person ends a fork.
func (s *Service) whatToDo() string {
	stream, meta := s.pool.StreamKey(), s.pool.MetaKey()
	return fmt.Sprintf("Nothing was changed, and nothing is sold until you decide. If Redis was started on an old copy of its data and the newest still exist, start it on those. Otherwise the journal counts: `redis-cli RENAME %s %s.forked` keeps Redis's side for you to make good by hand, `redis-cli DEL %s` then has Redis restored from the journal", stream, stream, meta)
}

// forked gives a fork that the journal's own comparison found the words of this package.
func (s *Service) forked(err error) error {
	if errors.Is(err, journal.ErrFork) {
		return fmt.Errorf("%w: %w. %s", ErrForked, err, s.whatToDo())
	}
	return err
}
