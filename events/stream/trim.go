package stream

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/logonce"
)

// Trimmer removes the oldest entries of a stream once they are no longer needed. An entry
// stays
//
//   - while it is younger than Keep, by Redis's clock, or by its own time if ids are
//     ahead of the clock;
//   - while any consumer group of the stream has yet to read or to acknowledge it,
//     however long that takes;
//   - while the journal lacks it, even if the groups are past it: an operator may have
//     moved or acknowledged by hand.
//
// The length of the stream does not matter. Redis removes whole nodes of a stream, by
// default 100 entries, which costs next to nothing. So up to that many old entries may
// stay longer.
type Trimmer struct {
	Redis   redis.Cmdable
	Pool    events.Pool
	Keep    time.Duration
	Log     *slog.Logger
	problem logonce.Last
}

const (
	trimChunk  = 10_000 // entries that Redis removes in one call, which takes a few milliseconds
	trimRounds = 100    // calls in a row; the next trim continues
	agePage    = 1_000  // entries whose age is read in one call
)

// Run trims the stream, given the seq that the journal has reached. It logs a problem
// instead of returning it: the next trim catches up, and the journal need not stop.
func (t *Trimmer) Run(ctx context.Context, journaled int64) {
	trouble, err := t.Trim(ctx, journaled)
	if err != nil {
		trouble = err.Error()
	}
	if ctx.Err() == nil && t.problem.Changes(trouble) && trouble != "" {
		t.Log.Warn("the stream cannot be trimmed as far as it should be", "trouble", trouble)
	}
}

// Trim trims the stream, given the seq that the journal has reached, in these steps:
//
//  1. Find the group that is furthest behind.
//  2. Compute the lowest id to keep: the start of the window that Keep asks for, or that
//     group's position if it is lower.
//  3. Require that the journal has every event before that id.
//  4. Remove the entries before that id, in chunks.
//
// If old entries have to stay, trouble says why.
func (t *Trimmer) Trim(ctx context.Context, journaled int64) (trouble string, err error) {
	groups, err := Groups(ctx, t.Redis, t.Pool.StreamKey())
	if err != nil {
		return "", err
	}
	if !hasGroup(groups, events.ConsumerGroup) {
		return "", nil // Redis was emptied; the journal's worker will notice that too
	}
	last := furthestBehind(groups)
	lowest, err := t.windowStart(ctx, last.Needs)
	if err != nil {
		return "", err
	}
	if last.Needs.Less(lowest) {
		lowest = last.Needs
		if last.Name != events.ConsumerGroup {
			trouble = fmt.Sprintf("consumer group %s has not acknowledged the entries from %s on; if the group is no longer used, remove it with XGROUP DESTROY",
				last.Name, lowest)
		}
	}
	head, err := ReadHead(ctx, t.Redis, t.Pool)
	if err != nil {
		return "", err
	}
	if !head.Exists {
		return "", nil // the log is being rebuilt, and entries of both epochs may be on the stream
	}
	has, err := t.journalHas(ctx, lowest, journaled, head.Seq)
	if err != nil {
		return "", err
	}
	if !has {
		return fmt.Sprintf("events before %s were acknowledged, but the journal ends before them, at seq %d",
			lowest, journaled), nil
	}
	for range trimRounds {
		removed, err := t.Redis.XTrimMinIDApprox(ctx, t.Pool.StreamKey(), lowest.String(), trimChunk).Result()
		if err != nil {
			return "", fmt.Errorf("trim the stream: %w", err)
		}
		if removed == 0 {
			break
		}
	}
	return trouble, nil
}

// windowStart returns an id such that every entry before it is older than Keep. Usually
// that follows from Redis's clock, because ids contain the time. But if one id was ever
// ahead of the clock (the clock was wrong for a moment, or the id was set by hand), all
// later ids are ahead, too. Then the times in the entries decide. Only entries before
// upTo are read, because all later ones stay anyway.
func (t *Trimmer) windowStart(ctx context.Context, upTo ID) (ID, error) {
	now, err := ReadTime(ctx, t.Redis, t.Pool)
	if err != nil {
		return ID{}, err
	}
	start := ID{Ms: uint64(max(0, now.Add(-t.Keep).UnixMilli()))}
	// Entries appended since then have later ids, so allow a second before an id counts
	// as ahead.
	soon := ID{Ms: uint64(max(0, now.Add(time.Second).UnixMilli()))}
	ahead, err := t.Redis.XRevRangeN(ctx, t.Pool.StreamKey(), "+", soon.String(), 1).Result()
	if err != nil {
		return ID{}, fmt.Errorf("read the end of the stream: %w", err)
	}
	if len(ahead) == 0 {
		return start, nil
	}
	return t.windowStartByTimes(ctx, start, upTo, now)
}

// windowStartByTimes moves start forward while the entries' own times are older than
// Keep. It ignores an entry whose time is invalid or in the future: the next valid one
// decides.
func (t *Trimmer) windowStartByTimes(ctx context.Context, start, upTo ID, now time.Time) (ID, error) {
	edge := now.Add(-t.Keep)
	from := start
	for range trimRounds {
		page := t.Redis.XRangeN(ctx, t.Pool.StreamKey(), from.String(), "("+upTo.String(), agePage)
		entries, err := page.Result()
		if err != nil {
			return ID{}, fmt.Errorf("read the times of entries: %w", err)
		}
		for _, entry := range entries {
			id, err := ParseID(entry.ID)
			if err != nil {
				return ID{}, err
			}
			from = id.Next()
			at, err := events.ParseMillis(events.FieldText(entry.Values[events.FieldAt]))
			switch {
			case err != nil || at.After(now):
				continue
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
	return start, nil // the next trim continues here
}

// journalHas reports whether the journal has every event before an id, given the seq that
// it has reached and the log's head. Seqs grow along the stream, so the highest seq among
// the last entries before the id decides. A foreign entry may carry a lower seq, or one
// above the head, which does not count.
func (t *Trimmer) journalHas(ctx context.Context, before ID, journaled, head int64) (bool, error) {
	const lookBack = 100
	entries, err := t.Redis.XRevRangeN(ctx, t.Pool.StreamKey(), "("+before.String(), "-", lookBack).Result()
	if err != nil {
		return false, fmt.Errorf("read the entries before %s: %w", before, err)
	}
	highest := int64(0)
	for _, entry := range entries {
		if seq := events.EntrySeq(entry.Values); seq <= head {
			highest = max(highest, seq)
		}
	}
	if highest == 0 {
		// If the stream begins within these entries, it has no event before the id.
		// Otherwise only foreign entries were found, and the answer is unknown.
		return len(entries) < lookBack, nil
	}
	return highest <= journaled, nil
}
