package deadletters

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func store(t *testing.T) (context.Context, *pgx.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx, testenv.Connect(t, testenv.ParseURL(t, testenv.Schema(t)))
}

func park(t *testing.T, ctx context.Context, conn *pgx.Conn, letters ...Letter) { //nolint:revive // the test comes first
	t.Helper()
	if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return Park(ctx, tx, letters...) }); err != nil {
		t.Fatal(err)
	}
}

// TestLetterKeepsEverything parks letters with awkward content and reads them back.
func TestLetterKeepsEverything(t *testing.T) {
	t.Parallel()
	ctx, conn := store(t)
	letters := []Letter{
		{Source: "holds", MessageKey: "e1", SequenceKey: "h1", Pool: "main", Seq: 7, EventType: "HOLD_CREATED", Raw: []byte(`{"a":1}`),
			Metadata: map[string]string{"stream_id": "1-1"}, Error: "it's \"bad\"; DROP TABLE", Stack: "goroutine 1"},
		{Source: SourceJournal, MessageKey: "1-1", Pool: "main", EventType: "\xff\x00", Raw: []byte{0, 1, 0xff}, Error: "\xff\x00 odd"},
	}
	park(t, ctx, conn, letters...)
	got, err := List(ctx, conn, Filter{})
	if err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
	first := got[0]
	if first.ID == 0 || first.FirstFailed.IsZero() || !first.FirstFailed.Equal(first.LastFailed) || first.Attempts != 1 || first.Status != StatusParked {
		t.Errorf("got %+v", first)
	}
	want := letters[0]
	want.ID, want.FirstFailed, want.LastFailed, want.Attempts, want.Status = first.ID, first.FirstFailed, first.LastFailed, 1, StatusParked
	if !reflect.DeepEqual(first, want) {
		t.Errorf("got %+v, want %+v", first, want)
	}
	if second := got[1]; string(second.Raw) != "\x00\x01\xff" || second.Seq != 0 || second.Error != "\uFFFD odd" {
		t.Errorf("got %+v, want the bytes as they came", second)
	}
}

// TestParkedTwice holds that the same message is one letter, which counts its attempts.
func TestParkedTwice(t *testing.T) {
	t.Parallel()
	ctx, conn := store(t)
	letter := Letter{Source: "holds", MessageKey: "e1", SequenceKey: "h1", Pool: "main", Seq: 7, Error: "first"}
	park(t, ctx, conn, letter)
	if _, err := conn.Exec(ctx, `UPDATE dead_letters SET status = 'resolved'`); err != nil {
		t.Fatal(err)
	}
	letter.Error = "second"
	park(t, ctx, conn, letter)
	letter.Source = "orders"
	park(t, ctx, conn, letter)
	got, err := List(ctx, conn, Filter{Source: "holds"})
	if err != nil || len(got) != 1 || got[0].Attempts != 2 || got[0].Error != "second" || got[0].Status != StatusParked || got[0].LastFailed.Before(got[0].FirstFailed) {
		t.Errorf("got %+v (%v), want one letter, parked again, with two attempts", got, err)
	}
}

// TestParkMany holds that a whole batch of the journal can be parked, however large, and keeps its order.
func TestParkMany(t *testing.T) {
	t.Parallel()
	ctx, conn := store(t)
	letters := make([]Letter, 7000)
	for i := range letters {
		letters[i] = Letter{Source: SourceJournal, MessageKey: fmt.Sprintf("%d-0", i), Pool: "main", Raw: []byte("{}")}
	}
	park(t, ctx, conn, letters...)
	got, err := List(ctx, conn, Filter{Limit: len(letters) + 1})
	if err != nil || len(got) != len(letters) {
		t.Fatalf("got %d letters (%v), want %d", len(got), err, len(letters))
	}
	for i, letter := range got {
		if letter.MessageKey != letters[i].MessageKey {
			t.Fatalf("letter %d is of %s, want %s", i, letter.MessageKey, letters[i].MessageKey)
		}
	}
}

// TestParkedInTheTransaction holds that a letter is there exactly when the transaction is.
func TestParkedInTheTransaction(t *testing.T) {
	t.Parallel()
	ctx, conn := store(t)
	undo := errors.New("undo")
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		return errors.Join(Park(ctx, tx, Letter{Source: "holds", MessageKey: "e1", Pool: "main"}), undo)
	})
	if !errors.Is(err, undo) {
		t.Fatal(err)
	}
	if got, err := List(ctx, conn, Filter{}); err != nil || len(got) != 0 {
		t.Errorf("got %+v (%v), want nothing", got, err)
	}
}

// TestListAndKeys holds what the filters leave, page by page, and which keys count as parked.
func TestListAndKeys(t *testing.T) {
	t.Parallel()
	ctx, conn := store(t)
	var letters []Letter
	for _, key := range []string{"h1", "h2", "h3"} {
		letters = append(letters, Letter{Source: "holds", MessageKey: key, SequenceKey: key, Pool: "main"})
	}
	letters = append(letters, Letter{Source: "orders", MessageKey: "h9", SequenceKey: "h9", Pool: "main"}, Letter{Source: "holds", MessageKey: "none", Pool: "main"})
	park(t, ctx, conn, letters...)
	if _, err := conn.Exec(ctx, `UPDATE dead_letters SET status = 'discarded' WHERE message_key = 'h2'`); err != nil {
		t.Fatal(err)
	}
	page, err := List(ctx, conn, Filter{Source: "holds", Limit: 2})
	if err != nil || len(page) != 2 || page[0].MessageKey != "h1" || page[1].MessageKey != "h2" {
		t.Fatal(page, err)
	}
	rest, err := List(ctx, conn, Filter{Source: "holds", Status: StatusParked, After: page[0].ID})
	if err != nil || len(rest) != 2 || rest[0].MessageKey != "h3" || rest[1].MessageKey != "none" {
		t.Errorf("got %+v (%v), want h3 and none", rest, err)
	}
	keys, err := ParkedKeys(ctx, conn, "holds", "main")
	if err != nil || !reflect.DeepEqual(keys, map[string]bool{"h1": true, "h3": true}) {
		t.Errorf("keys: got %v (%v), want h1 and h3", keys, err)
	}
}

// TestParkEntries holds what becomes of an entry of the stream that is no event.
func TestParkEntries(t *testing.T) {
	t.Parallel()
	ctx, conn := store(t)
	entry := events.Entry{StreamID: "5-0", Fields: map[string]any{"hello": "world"}, Err: errors.New("no seq"), Envelope: events.Envelope{Pool: "main"}}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return ParkEntries(ctx, tx, []events.Entry{entry}) })
	if err != nil {
		t.Fatal(err)
	}
	got, err := List(ctx, conn, Filter{Source: SourceJournal})
	if err != nil || len(got) != 1 || got[0].MessageKey != "5-0" || string(got[0].Raw) != `{"hello":"world"}` || got[0].Error != "no seq" {
		t.Errorf("got %+v (%v)", got, err)
	}
}
