package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// byHand reads entries through the journal's group, as somebody may with redis-cli.
func (p *plant) byHand(count int64) error {
	args := &redis.XReadGroupArgs{Group: events.ConsumerGroup, Consumer: "somebody", Streams: []string{events.MainPool.StreamKey(), ">"}, Count: count, Block: 10 * time.Second}
	taken, err := p.redis.XReadGroup(p.ctx, args).Result()
	if err == nil && int64(len(taken[0].Messages)) != count {
		err = fmt.Errorf("read %v, want %d entries", taken, count)
	}
	return err
}

// TestReadByHand holds that somebody who reads through the group takes nothing from the journal, be it at work or not, and
// holds nothing on the stream.
func TestReadByHand(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(5)
	p.raw(map[string]any{"hello": "world"})
	if err := p.redis.XGroupCreate(p.ctx, events.MainPool.StreamKey(), events.ConsumerGroup, "0").Err(); err != nil {
		t.Fatal(err)
	}
	if err := p.byHand(6); err != nil { // everything there is
		t.Fatal(err)
	}
	_, stop := p.journal(0)
	p.awaitJournal(5)
	p.awaitAcknowledged()
	p.awaitParked(1)
	stop()
	p.append(5)
	p.raw(map[string]any{"hello": "again"})
	if err := p.byHand(6); err != nil {
		t.Fatal(err)
	}
	line, _ := p.journal(0)
	p.awaitJournal(10)
	p.awaitAcknowledged()
	p.awaitParked(2)

	// And while it runs.
	read := make(chan error)
	go func() { read <- p.byHand(1) }()
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		info := p.redis.InfoMap(p.ctx, "clients").Val()["Clients"]
		return info["blocked_clients"] == "2", fmt.Sprint(info)
	})
	p.append(20)
	p.awaitJournal(30)
	if err := <-read; err != nil {
		t.Error(err)
	}
	if status := line.Status(); status.State != worker.Running || status.Error != "" {
		t.Errorf("line: got %+v, want it running", status)
	}
	p.awaitAcknowledged()
}

// TestForeignReadByHand holds that an entry which no command wrote is parked although somebody has read it through the group
// and every event before it is journaled: where the group stands says nothing then.
func TestForeignReadByHand(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.journaled(5)
	p.raw(map[string]any{"hello": "world"})
	if err := p.byHand(1); err != nil {
		t.Fatal(err)
	}
	p.journal(0)
	p.awaitParked(1)
	p.awaitAcknowledged()
}

// awaitParked waits until so many entries were parked.
func (p *plant) awaitParked(want int) {
	p.t.Helper()
	testenv.Eventually(p.t, 10*time.Second, func() (bool, string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		ids := map[string]bool{} // what was parked before may be parked again, which the letters' table knows
		for _, entry := range p.parked {
			ids[entry.StreamID] = true
		}
		return len(ids) == want, fmt.Sprintf("parked %v, want %d", ids, want)
	})
}

// TestMovedGroup holds that it makes no difference to the journal where somebody moves its group, and that the group is put
// back.
func TestMovedGroup(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(3)
	_, stop := p.journal(0)
	p.awaitJournal(3)
	for _, id := range []string{"0", "9999999999999-0", "18446744073709551615-18446744073709551615", "$"} {
		move := func() {
			t.Helper()
			if err := p.redis.XGroupSetID(p.ctx, events.MainPool.StreamKey(), events.ConsumerGroup, id).Err(); err != nil {
				t.Fatal(err)
			}
		}
		move() // while it runs
		p.awaitAcknowledged()
		stop()
		move() // while nothing is to be read
		_, stop = p.journal(0)
		p.awaitAcknowledged()
		stop()
		p.append(2)
		move() // past events that are to be read
		_, stop = p.journal(0)
		p.awaitJournal(p.seq)
		p.awaitAcknowledged()
	}
}

// TestMovedGroupHidesNoFork holds that a log which parted from the journal's stops the line, although somebody has moved
// the group past the events by which they differ, and the next ones would fit.
func TestMovedGroupHidesNoFork(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.journaled(10)
	for _, entry := range p.entries()[5:] { // a Redis that lost its last events, and went on
		p.redis.XDel(p.ctx, events.MainPool.StreamKey(), entry.StreamID)
	}
	p.seq = 5
	p.append(10)
	if err := p.redis.XGroupSetID(p.ctx, events.MainPool.StreamKey(), events.ConsumerGroup, "$").Err(); err != nil {
		t.Fatal(err)
	}
	line, _ := p.journal(0)
	p.awaitFault(line, ErrFork.Error())
	p.awaitJournal(10)
}

// TestStreamThatBeganAgain holds that a journal at work notices when Redis was emptied, although the new stream's entries
// have lower ids than the old one's, as where a clock goes back.
func TestStreamThatBeganAgain(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(5)
	p.journal(0)
	p.awaitJournal(5)
	if err := p.redis.FlushAll(p.ctx).Err(); err != nil {
		t.Fatal(err)
	}
	if err := p.redis.XAdd(p.ctx, &redis.XAddArgs{Stream: events.MainPool.StreamKey(), ID: "1-1", Values: p.event(6)}).Err(); err != nil {
		t.Fatal(err)
	}
	p.logEndsAt(6)
	p.awaitJournal(6)
	p.awaitAcknowledged()
}

// TestStreamThatCameBackOlder holds the same of a Redis that lost its last entries and kept the group, as after a failover
// to a replica whose clock is behind.
func TestStreamThatCameBackOlder(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(5)
	p.journal(0)
	p.awaitJournal(5)
	p.awaitAcknowledged()
	older, err := p.redis.Dump(p.ctx, events.MainPool.StreamKey()).Result()
	if err != nil {
		t.Fatal(err)
	}
	ahead := fmt.Sprintf("%d-0", time.Now().Add(time.Hour).UnixMilli())
	p.seq++
	if err := p.redis.XAdd(p.ctx, &redis.XAddArgs{Stream: events.MainPool.StreamKey(), ID: ahead, Values: p.event(p.seq)}).Err(); err != nil {
		t.Fatal(err)
	}
	p.logEndsAt(p.seq)
	p.awaitJournal(6)
	if err := p.redis.RestoreReplace(p.ctx, events.MainPool.StreamKey(), 0, older).Err(); err != nil {
		t.Fatal(err)
	}
	p.append(4)
	p.awaitJournal(10)
	p.awaitAcknowledged()
}

// TestFellBackWithoutLog holds that a journal which lost its last events finds them on the stream although Redis does not
// say where the log ends, as while it is closed.
func TestFellBackWithoutLog(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.fallBack()
	p.redis.Del(p.ctx, events.MainPool.MetaKey())
	p.journal(0)
	p.awaitJournal(20)
}

// TestInventedSeq holds that an entry with a seq that was not assigned then is no event that the journal lacks, so that none
// looks back for it; and that it stops no journal which has to look back once the seq was assigned.
func TestInventedSeq(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(5)
	_, stop := p.journal(0)
	p.awaitJournal(5)
	p.raw(p.event(12))
	p.awaitParked(1)
	p.awaitAcknowledged()
	stop()
	_, stop = p.journal(0)
	p.append(1)
	p.awaitJournal(6)
	p.mu.Lock()
	if len(p.parked) != 1 {
		t.Errorf("parked %d times, want once", len(p.parked))
	}
	p.mu.Unlock()
	p.append(19)
	p.awaitJournal(25)
	p.awaitAcknowledged()
	stop()
	p.append(1)
	if err := p.byHand(1); err != nil {
		t.Fatal(err)
	}
	p.journal(0)
	p.awaitJournal(26)
	p.awaitParked(1)
}

// TestFullRedis holds that a journal which begins on a Redis that takes nothing any more still reads and trims: that is
// what makes room.
func TestFullRedis(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.smallNodes()
	p.append(5)
	_, stop := p.journal(0)
	p.awaitJournal(5)
	p.append(20)
	stop()
	if err := p.redis.ConfigSet(p.ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if err := p.redis.Set(p.ctx, "any", "thing", 0).Err(); !redis.HasErrorPrefix(err, "OOM") {
		t.Fatal(errors.New("the Redis is not full"), err)
	}
	p.journalWith(StreamSubscriberConfig{}, slog.New(slog.DiscardHandler))
	p.awaitJournal(25)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		n, err := p.redis.XLen(p.ctx, events.MainPool.StreamKey()).Result()
		return err == nil && n == 0, fmt.Sprintf("the stream has %d entries (%v)", n, err)
	})
}

// TestCountHeals holds that the group's lag is right in the end, although an entry was deleted that nobody had read.
func TestCountHeals(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(3)
	_, stop := p.journal(0)
	p.awaitJournal(3)
	stop()
	p.redis.XDel(p.ctx, events.MainPool.StreamKey(), p.raw(map[string]any{"hello": "world"}))
	p.append(3)
	p.journal(0)
	p.awaitJournal(6)
	p.awaitAcknowledged()
}
