package worker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// TestMoveOfACheckpointThatIsElsewhereIsFenced checks that MoveCheckpoint fails with
// ErrFenced, and leaves the checkpoint where it is, if another runner has moved it.
func TestMoveOfACheckpointThatIsElsewhereIsFenced(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	db := testenv.Connect(t, testenv.ParseURL(t, testenv.Schema(t)))
	tx, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := MoveCheckpoint(ctx, tx, "x", "main", 0, 5); err != nil {
		t.Fatal(err)
	}
	if err := MoveCheckpoint(ctx, tx, "x", "main", 0, 6); !errors.Is(err, ErrFenced) {
		t.Errorf("move from seq 0 of a checkpoint at 5: got %v, want ErrFenced", err)
	}
	seq, err := ReadCheckpoint(ctx, tx, "x", "main")
	if err != nil {
		t.Fatal(err)
	}
	if seq != 5 {
		t.Errorf("checkpoint: got seq %d, want 5", seq)
	}
}
