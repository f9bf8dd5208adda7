package stream

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// Trimmer cuts the beginning of a stream off, once nobody needs it any more. An entry stays
//   - for the window that is kept in any case, by Redis's clock, or by its own time where ids are ahead of that clock;
//   - while any consumer group of the stream has yet to read or to acknowledge it, however long that takes;
//   - while the journal lacks it, whatever the groups say: somebody may have moved or acknowledged by hand.
//
// Length never matters. Redis drops whole nodes of a stream at a time (100 entries, unless it is told otherwise), which
// costs next to nothing; up to so many may stay longer.
type Trimmer struct {
	Redis      redis.Cmdable
	Pool       events.Pool
	Keep       time.Duration
	Log        *slog.Logger
	lastLogged string // what was logged last, so that it is not repeated every few seconds
}

const (
	trimChunk  = 10_000 // entries that Redis drops in one go, in some milliseconds
	trimRounds = 100    // chunks in a row; the rest comes at the next interval
	agePage    = 1_000  // entries whose age is looked at in one go
)

// Run trims what it may, given how far the journal has come. It returns no error: what cannot be trimmed now is trimmed
// later, and the journal goes on meanwhile.
func (t *Trimmer) Run(ctx context.Context, journaled int64) {
	trouble, err := t.Trim(ctx, journaled)
	if err != nil {
		trouble = err.Error()
	}
	if trouble != t.lastLogged && ctx.Err() == nil {
		t.lastLogged = trouble
		if trouble != "" {
			t.Log.Warn("the stream is not trimmed as it should be", "trouble", trouble)
		}
	}
}

// Trim returns what keeps entries on the stream that ought to be gone, if anything does.
func (t *Trimmer) Trim(ctx context.Context, journaled int64) (trouble string, err error) {
	groups, err := Groups(ctx, t.Redis, t.Pool.StreamKey())
	if err != nil {
		return "", err
	}
	if !hasGroup(groups, events.ConsumerGroup) {
		return "", nil // an emptied Redis; the line finds out, too
	}
	last := furthestBehind(groups)
	first, err := t.windowStart(ctx, last.Needs)
	if err != nil {
		return "", err
	}
	if last.Needs.Less(first) {
		first = last.Needs
		if last.Name != events.ConsumerGroup {
			trouble = fmt.Sprintf("consumer group %s has not acknowledged what comes from %s on; remove it where nobody reads with it any more (XGROUP DESTROY)", last.Name, first)
		}
	}
	log, err := ReadHead(ctx, t.Redis, t.Pool)
	if err != nil || !log.Exists {
		return "", err // a log that is being restored; which entries are of which life, nobody can tell
	}
	has, err := t.journalHas(ctx, first, journaled, log.Seq)
	if err != nil {
		return "", err
	}
	if !has {
		return fmt.Sprintf("events before %s were acknowledged, and the journal ends before them, at seq %d", first, journaled), nil
	}
	for range trimRounds {
		dropped, err := t.Redis.XTrimMinIDApprox(ctx, t.Pool.StreamKey(), first.String(), trimChunk).Result()
		if err != nil {
			return "", fmt.Errorf("trim the stream: %w", err)
		}
		if dropped == 0 {
			break
		}
	}
	return trouble, nil
}

// windowStart returns an id before which every entry is older than the window. Redis's clock tells, as a rule. Once an id
// is ahead of it (the clock was, for a moment, or somebody typed the id), all later ones are, too: then the entries' own
// times tell, up to an id from which all stay anyway.
func (t *Trimmer) windowStart(ctx context.Context, upTo ID) (ID, error) {
	now, err := t.Redis.Time(ctx).Result()
	if err != nil {
		return ID{}, fmt.Errorf("read Redis's clock: %w", err)
	}
	start := ID{Ms: uint64(max(0, now.Add(-t.Keep).UnixMilli()))}
	soon := ID{Ms: uint64(max(0, now.Add(time.Second).UnixMilli()))} // entries go on coming meanwhile
	newest, err := t.Redis.XRevRangeN(ctx, t.Pool.StreamKey(), "+", soon.String(), 1).Result()
	if err != nil {
		return ID{}, fmt.Errorf("look at the stream: %w", err)
	}
	if len(newest) == 0 {
		return start, nil
	}
	return t.windowStartByTimes(ctx, start, upTo, now)
}

// windowStartByTimes goes on from a start before which every entry is older than the window.
func (t *Trimmer) windowStartByTimes(ctx context.Context, start, upTo ID, now time.Time) (ID, error) {
	edge, from := now.Add(-t.Keep), start
	for range trimRounds {
		entries, err := t.Redis.XRangeN(ctx, t.Pool.StreamKey(), from.String(), "("+upTo.String(), agePage).Result()
		if err != nil {
			return ID{}, fmt.Errorf("look at the stream: %w", err)
		}
		for _, entry := range entries {
			id, err := ParseID(entry.ID)
			if err != nil {
				return ID{}, err
			}
			from = id.Next()
			at, err := events.ParseMillis(events.FieldText(entry.Values[events.FieldAt]))
			switch {
			case err != nil || at.After(now): // nobody knows; one that comes later may tell
			case at.Before(edge):
				start = from
			default:
				return start, nil
			}
		}
		if len(entries) < agePage {
			return start, nil
		}
	}
	return start, nil // the rest comes at the next interval
}

// journalHas reports whether the journal has every event before an id. The sequence of a stream only grows, so the highest
// seq of the last entries before it tells; what no command wrote may carry a lower one, and one that was never assigned
// tells nothing.
func (t *Trimmer) journalHas(ctx context.Context, before ID, journaled, end int64) (bool, error) {
	const lookBack = 100
	entries, err := t.Redis.XRevRangeN(ctx, t.Pool.StreamKey(), "("+before.String(), "-", lookBack).Result()
	if err != nil {
		return false, fmt.Errorf("look at the stream: %w", err)
	}
	highest := int64(0)
	for _, entry := range entries {
		if seq := events.EntrySeq(entry.Values); seq <= end {
			highest = max(highest, seq)
		}
	}
	if highest == 0 {
		return len(entries) < lookBack, nil // nothing of ours is before it, or nothing is known
	}
	return highest <= journaled, nil
}
