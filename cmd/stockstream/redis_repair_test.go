package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
)

// TestRedisRepairCommand deletes the stream while the journal is behind. The service must
// stop selling and name the command, which must show what each way loses, and end the
// state in both ways.
func TestRedisRepairCommand(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		keep   string
		isKept bool // whether the hold survives that only Redis knows
	}{
		"the journal is kept": {keep: "journal"},
		"Redis is kept":       {keep: "redis", isKept: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t)
			v := s.serve().awaitReady()
			s.openTickets(v.url, 10)
			if _, _, err := v.reserve("ticket", "k1", 1, 300); err != nil {
				t.Fatal(err)
			}
			s.awaitCaughtUp()
			s.wantOutput("redis repair", "nothing to repair")
			s.wantOutput("redis repair --keep redis", "nothing to repair")
			s.wantError("redis repair --keep both", "journal or redis")
			if err := v.stop(); err != nil {
				t.Fatal(err)
			}

			v = s.serve("--roles", "api").awaitReady()
			_, lost, err := v.reserve("ticket", "k2", 2, 300)
			if err != nil {
				t.Fatal(err)
			}
			s.redisCommand("DEL inventory.events")
			testenv.Eventually(t, 10*time.Second, func() (bool, string) {
				status, answer, err := s.send(http.MethodGet, v.url+"/readyz?verbose", "")
				text := fmt.Sprint(answer, err)
				named := strings.Contains(text, "stockstream redis repair")
				return status == http.StatusServiceUnavailable && named, text
			})
			out, _ := s.runFailing("doctor", "findings are unsafe")
			if !strings.Contains(out, "events are lost between Redis and the journal") {
				t.Errorf("doctor: got %s, want the lost events", out)
			}
			s.wantOutput("redis repair",
				"the events 3 to 3",
				"new holds   ",
				" 1 (2 units)",
				"ticket: 9 in the journal, 7 in Redis",
				"--keep journal loses",
				"--keep redis records 1 events")

			file := filepath.Join(t.TempDir(), "lost.jsonl")
			command := "redis repair --keep " + test.keep + " --save " + file
			s.wantOutput(command, "write keys", file, "open again in epoch ")
			saved, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var line savedHold
			if err := json.Unmarshal(saved, &line); err != nil {
				t.Fatalf("saved: %v in %s", err, saved)
			}
			if line.Payload.HoldID != lost || line.Payload.IdempotencyKey != "k2" {
				t.Errorf("saved: got %+v, want the hold %s with the key k2", line, lost)
			}
			v.awaitReady()
			s.wantOutput("redis repair", "nothing to repair")
			if err := v.stop(); err != nil {
				t.Fatal(err)
			}
			v = s.serve().awaitReady()
			_, hold, err := v.reserve("ticket", "k2", 2, 300)
			if err != nil || (hold == lost) != test.isKept {
				t.Errorf("reserve again: got the hold %s (%v); the lost one was %s", hold, err, lost)
			}
			s.wantStoresAgreeExceptStream("ticket", 10)
			s.wantCleanAudit(true)
		})
	}
}

// savedHold is a line of the saved file, for a hold.
type savedHold struct {
	From    string `json:"from"`
	Payload struct {
		HoldID         string `json:"hold_id"`
		IdempotencyKey string `json:"idempotency_key"`
	} `json:"payload"`
}
