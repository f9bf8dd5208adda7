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

// connect returns a connection to a schema of the test's own, and a context that ends
// after a minute.
func connect(t *testing.T) (context.Context, *pgx.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx, testenv.Connect(t, testenv.ParseURL(t, testenv.Schema(t)))
}

func park(ctx context.Context, t *testing.T, conn *pgx.Conn, letters ...Letter) {
	t.Helper()
	if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		return Park(ctx, tx, letters...)
	}); err != nil {
		t.Fatal(err)
	}
}

// wantLetters lists letters and fails the test unless there are as many as wanted.
func wantLetters(
	ctx context.Context, t *testing.T, conn *pgx.Conn, filter Filter, want int,
) []Letter {
	t.Helper()
	letters, err := List(ctx, conn, filter)
	if err != nil {
		t.Fatal(err)
	}
	if len(letters) != want {
		t.Fatalf("%+v: got %d letters, want %d: %+v", filter, len(letters), want, letters)
	}
	return letters
}

func TestLetterKeepsAllFieldsAndBytes(t *testing.T) {
	t.Parallel()
	ctx, conn := connect(t)
	quoted := Letter{
		Source:      "holds",
		MessageKey:  "e1",
		SequenceKey: "h1",
		Pool:        "main",
		Seq:         7,
		EventType:   "HOLD_CREATED",
		Raw:         []byte(`{"a":1}`),
		Metadata:    map[string]string{"stream_id": "1-1"},
		Error:       "it's \"bad\"; DROP TABLE",
		Stack:       "goroutine 1",
	}
	binary := Letter{
		Source:     SourceJournal,
		MessageKey: "1-1",
		Pool:       "main",
		EventType:  "\xff\x00",
		Raw:        []byte{0, 1, 0xff},
		Error:      "\xff\x00 odd",
	}
	park(ctx, t, conn, quoted, binary)
	got := wantLetters(ctx, t, conn, Filter{}, 2)

	first := got[0]
	if first.ID == 0 {
		t.Error("the letter has no id")
	}
	if first.FirstFailed.IsZero() {
		t.Error("the letter has no time of its first failure")
	}
	if !first.LastFailed.Equal(first.FirstFailed) {
		t.Errorf("last failed: got %s, want the time of the first failure %s",
			first.LastFailed, first.FirstFailed)
	}
	want := quoted
	want.ID = first.ID
	want.FirstFailed = first.FirstFailed
	want.LastFailed = first.LastFailed
	want.Attempts = 1
	want.Status = StatusParked
	if !reflect.DeepEqual(first, want) {
		t.Errorf("got %+v, want %+v", first, want)
	}

	second := got[1]
	if string(second.Raw) != "\x00\x01\xff" {
		t.Errorf("raw: got %q, want the bytes that were parked", second.Raw)
	}
	if second.Seq != 0 {
		t.Errorf("seq: got %d, want 0", second.Seq)
	}
	if second.Error != "\uFFFD odd" {
		t.Errorf("error: got %q, want invalid bytes replaced and NUL removed", second.Error)
	}
}

func TestParkingAMessageAgainCountsAnAttempt(t *testing.T) {
	t.Parallel()
	ctx, conn := connect(t)
	letter := Letter{
		Source:      "holds",
		MessageKey:  "e1",
		SequenceKey: "h1",
		Pool:        "main",
		Seq:         7,
		Error:       "first",
	}
	park(ctx, t, conn, letter)
	if _, err := conn.Exec(ctx, `UPDATE dead_letters SET status = 'resolved'`); err != nil {
		t.Fatal(err)
	}
	letter.Error = "second"
	park(ctx, t, conn, letter)
	ofAnotherSource := letter
	ofAnotherSource.Source = "orders"
	ofAnotherPool := letter // two pools may have the same stream id
	ofAnotherPool.Pool = "eu"
	park(ctx, t, conn, ofAnotherSource, ofAnotherPool)

	letters := wantLetters(ctx, t, conn, Filter{Source: "holds"}, 2)
	if other := letters[1]; other.Pool != "eu" || other.Attempts != 1 {
		t.Errorf("the other pool's letter: got pool %s and %d attempts, want eu and 1", other.Pool, other.Attempts)
	}
	got := letters[0]
	if got.Attempts != 2 {
		t.Errorf("attempts: got %d, want 2", got.Attempts)
	}
	if got.Error != "second" {
		t.Errorf("error: got %q, want the newest", got.Error)
	}
	if got.Status != StatusParked {
		t.Errorf("status: got %s, want a resolved letter to be parked again", got.Status)
	}
	if got.LastFailed.Before(got.FirstFailed) {
		t.Errorf("last failed at %s, before the first failure at %s", got.LastFailed, got.FirstFailed)
	}
}

// TestParkManyLettersKeepsTheirOrder parks more letters than one statement could take
// with a parameter per value.
func TestParkManyLettersKeepsTheirOrder(t *testing.T) {
	t.Parallel()
	ctx, conn := connect(t)
	letters := make([]Letter, 7000)
	for i := range letters {
		letters[i] = Letter{
			Source:     SourceJournal,
			MessageKey: fmt.Sprintf("%d-0", i),
			Pool:       "main",
			Raw:        []byte("{}"),
		}
	}
	park(ctx, t, conn, letters...)
	got := wantLetters(ctx, t, conn, Filter{Limit: len(letters) + 1}, len(letters))
	for i, letter := range got {
		if letter.MessageKey != letters[i].MessageKey {
			t.Fatalf("letter %d: got the message %s, want %s", i, letter.MessageKey, letters[i].MessageKey)
		}
	}
}

func TestRollbackRemovesTheLetter(t *testing.T) {
	t.Parallel()
	ctx, conn := connect(t)
	errRollback := errors.New("roll back")
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		return errors.Join(Park(ctx, tx, Letter{
			Source:     "holds",
			MessageKey: "e1",
			Pool:       "main",
		}), errRollback)
	})
	if !errors.Is(err, errRollback) {
		t.Fatal(err)
	}
	wantLetters(ctx, t, conn, Filter{}, 0)
}

// TestListFiltersAndParkedKeys checks paging by id, the filters by source and status, and
// that only parked letters with a sequence key count as parked keys.
func TestListFiltersAndParkedKeys(t *testing.T) {
	t.Parallel()
	ctx, conn := connect(t)
	var letters []Letter
	for _, key := range []string{"h1", "h2", "h3"} {
		letters = append(letters, Letter{
			Source:      "holds",
			MessageKey:  key,
			SequenceKey: key,
			Pool:        "main",
		})
	}
	otherSource := Letter{
		Source:      "orders",
		MessageKey:  "h9",
		SequenceKey: "h9",
		Pool:        "main",
	}
	withoutKey := Letter{Source: "holds", MessageKey: "none", Pool: "main"}
	park(ctx, t, conn, append(letters, otherSource, withoutKey)...)
	if _, err := conn.Exec(ctx, `UPDATE dead_letters SET status = 'discarded' WHERE message_key = 'h2'`); err != nil {
		t.Fatal(err)
	}

	messageKeys := func(letters []Letter) (keys []string) {
		for _, letter := range letters {
			keys = append(keys, letter.MessageKey)
		}
		return keys
	}
	page := wantLetters(ctx, t, conn, Filter{Source: "holds", Limit: 2}, 2)
	if got, want := messageKeys(page), []string{"h1", "h2"}; !reflect.DeepEqual(got, want) {
		t.Errorf("first page: got %v, want %v", got, want)
	}
	rest := wantLetters(ctx, t, conn, Filter{
		Source: "holds",
		Status: StatusParked,
		After:  page[0].ID,
	}, 2)
	if got, want := messageKeys(rest), []string{"h3", "none"}; !reflect.DeepEqual(got, want) {
		t.Errorf("parked letters after h1: got %v, want %v", got, want)
	}
	keys, err := ParkedKeys(ctx, conn, "holds", "main")
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]bool{"h1": true, "h3": true}; !reflect.DeepEqual(keys, want) {
		t.Errorf("parked keys: got %v, want %v", keys, want)
	}
}

func TestParkEntriesKeepsTheEntryThatIsNoEvent(t *testing.T) {
	t.Parallel()
	ctx, conn := connect(t)
	entry := events.Entry{
		StreamID: "5-0",
		Fields:   map[string]any{"hello": "world"},
		Err:      errors.New("no seq"),
		Envelope: events.Envelope{Pool: "main"},
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		return ParkEntries(ctx, tx, []events.Entry{entry})
	})
	if err != nil {
		t.Fatal(err)
	}
	got := wantLetters(ctx, t, conn, Filter{Source: SourceJournal}, 1)[0]
	if got.MessageKey != "5-0" {
		t.Errorf("message key: got %q, want the stream id 5-0", got.MessageKey)
	}
	if string(got.Raw) != `{"hello":"world"}` {
		t.Errorf("raw: got %s, want the entry's fields", got.Raw)
	}
	if got.Error != "no seq" {
		t.Errorf("error: got %q, want %q", got.Error, "no seq")
	}
}
