package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/commands/recovery"
)

// savedTimeFormat is the form of the time in the name of a saved file. It has no colons,
// which some file systems do not allow.
const savedTimeFormat = "20060102T150405Z"

func newRedisRepair(config *Config) *cobra.Command {
	var (
		keep string
		save string
		wait time.Duration
		form output
	)
	repair := &cobra.Command{
		Use:   "repair",
		Short: "Decide which log goes on if Redis and the journal do not fit together",
		Long: "Count the differences between Redis and the journal, and keep one of the two. This is needed if events are\n" +
			"lost between them, or if they forked: the service then answers 503 and its log says so. In all other states\n" +
			"it helps itself.\n\n" +
			"Without --keep, nothing is decided. With --keep journal, Redis is restored from the journal. With --keep\n" +
			"redis, the journal first gets events that record Redis's stock and holds. Either way, everything that the\n" +
			"journal lacks is saved to a file before.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			side, err := parseSide(keep)
			if err != nil {
				return err
			}
			if save == "" {
				save = fmt.Sprintf("stockstream-%s-lost-%s.jsonl",
					config.pool().Name(), time.Now().UTC().Format(savedTimeFormat))
			}
			r, closeClient, err := newRecovery(cmd, config)
			if err != nil {
				return err
			}
			defer closeClient()
			done, err := r.Repair(cmd.Context(), recovery.RepairOptions{
				Keep:   side,
				Wait:   wait,
				Save:   func(write func(io.Writer) error) error { return saveFile(save, write) },
				Report: recovery.EveryStep(time.Second, printProgress(cmd.ErrOrStderr())),
			})
			if errors.Is(err, recovery.ErrNothingToRepair) { // also if this call completed an earlier one
				return printNothing(cmd.OutOrStdout(), form, err)
			}
			if err != nil {
				return err
			}
			return printRepair(cmd.OutOrStdout(), form, done, side, save)
		},
	}
	repair.Flags().StringVar(&keep, "keep", "", "the log that goes on: journal or redis")
	repair.Flags().StringVar(&save, "save", "",
		"a new file for everything that the journal lacks, as lines of JSON (default: stockstream-POOL-lost-TIME.jsonl)")
	repair.Flags().DurationVar(&wait, "wait", 30*time.Second,
		"how long to wait until another process has restored Redis")
	addOutput(repair, &form, "table or json")
	return repair
}

func parseSide(keep string) (recovery.Side, error) {
	switch side := recovery.Side(keep); side {
	case recovery.SideNone, recovery.SideJournal, recovery.SideRedis:
		return side, nil
	}
	return "", fmt.Errorf("--keep %q: want journal or redis", keep)
}

// saveFile creates a file, writes to it, and waits until the disk has it.
func saveFile(path string, write func(io.Writer) error) error {
	const onlyNew = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	file, err := os.OpenFile(path, onlyNew, 0o600) //nolint:gosec // the caller named it
	if err != nil {
		return fmt.Errorf("%w (choose another file with --save)", err)
	}
	return errors.Join(write(file), file.Sync(), file.Close())
}

// repairJSON is the result of a repair as the command prints it with -o json.
type repairJSON struct {
	Reason    string `json:"reason"` // "" if there is nothing to repair
	Journaled int64  `json:"journal_seq"`
	RedisEnd  int64  `json:"redis_seq"`
	Streamed  int64  `json:"stream_events"`
	// The rest counts the differences.
	Created     holdCountJSON         `json:"holds_created"`
	Confirmed   holdCountJSON         `json:"holds_confirmed"`
	Ended       holdCountJSON         `json:"holds_ended"`
	Missing     holdCountJSON         `json:"holds_missing"`
	Conflicting holdCountJSON         `json:"holds_conflicting"`
	Stock       []stockDifferenceJSON `json:"stock"`
	Keys        int                   `json:"adjustment_keys"`
	Recorded    int64                 `json:"events_to_record"`
	Invalid     []string              `json:"invalid_keys,omitempty"`
	Kept        string                `json:"kept,omitempty"`
	Saved       string                `json:"saved,omitempty"`
	Epoch       int64                 `json:"epoch,omitempty"`
	Seq         int64                 `json:"seq,omitempty"`
}

type holdCountJSON struct {
	Holds int64 `json:"holds"`
	Units int64 `json:"units"`
}

type stockDifferenceJSON struct {
	SKU     string `json:"sku"`
	Journal int64  `json:"journal"`
	Redis   int64  `json:"redis"`
}

// printNothing prints that there is nothing to repair.
func printNothing(out io.Writer, form output, reason error) error {
	if form == outputJSON {
		return json.NewEncoder(out).Encode(repairJSON{Stock: []stockDifferenceJSON{}})
	}
	_, err := fmt.Fprintln(out, reason)
	return err
}

func printRepair(out io.Writer, form output, done recovery.Repair, side recovery.Side, saved string) error {
	if side == recovery.SideNone {
		saved = ""
	}
	if form == outputJSON {
		found := done.Facts
		result := repairJSON{
			Reason:      done.Reason.Error(),
			Journaled:   done.Journaled,
			RedisEnd:    done.RedisEnd,
			Streamed:    done.Streamed,
			Created:     holdCountJSON(found.Created),
			Confirmed:   holdCountJSON(found.Confirmed),
			Ended:       holdCountJSON(found.Ended),
			Missing:     holdCountJSON(found.Missing),
			Conflicting: holdCountJSON(found.Conflicting),
			Stock:       []stockDifferenceJSON{},
			Keys:        len(found.Keys),
			Recorded:    done.Recorded,
			Invalid:     found.Invalid,
			Kept:        string(side),
			Saved:       saved,
			Epoch:       done.Done.Epoch,
			Seq:         done.Done.Seq,
		}
		for _, difference := range found.Stock {
			result.Stock = append(result.Stock, stockDifferenceJSON(difference))
		}
		return json.NewEncoder(out).Encode(result)
	}
	printFacts(out, done)
	if side == recovery.SideNone {
		printChoice(out, done)
		return nil
	}
	fmt.Fprintf(out, "\n%s is kept. The differences are saved in %s.\n", sideNames[side], saved)
	fmt.Fprintf(out, "Redis's log is open again in epoch %d at seq %d.\n", done.Done.Epoch, done.Done.Seq)
	return nil
}

var sideNames = map[recovery.Side]string{
	recovery.SideJournal: "The journal",
	recovery.SideRedis:   "Redis",
}

// stockLinesMax is how many SKUs are printed. The JSON output has all of them.
const stockLinesMax = 20

// printFacts prints the differences between Redis and the journal.
func printFacts(out io.Writer, done recovery.Repair) {
	found := done.Facts
	fmt.Fprintf(out, "%s\n\n", done.Reason)
	fmt.Fprintf(out, "The journal ends at seq %d, Redis's log at seq %d.\n", done.Journaled, done.RedisEnd)
	fmt.Fprintln(out, "In Redis, and not in the journal:")
	counts := []struct {
		name  string
		count recovery.HoldCount
	}{
		{"new holds", found.Created},
		{"confirmed holds", found.Confirmed},
		{"cancelled or expired holds", found.Ended},
	}
	for _, line := range counts {
		fmt.Fprintf(out, "  %-38s %d (%d units)\n", line.name, line.count.Holds, line.count.Units)
	}
	fmt.Fprintf(out, "  %-38s %d\n", "idempotency keys of stock adjustments", len(found.Keys))
	fmt.Fprintf(out, "  %-38s %d\n", "events on the stream", done.Streamed)
	fmt.Fprintf(out, "Active in the journal, and not in Redis: %d holds (%d units)\n",
		found.Missing.Holds, found.Missing.Units)
	if found.Conflicting.Holds > 0 {
		fmt.Fprintf(out, "Ended in the journal, and in another state in Redis: %d holds (%d units)\n",
			found.Conflicting.Holds, found.Conflicting.Units)
	}
	fmt.Fprintf(out, "SKUs whose available stock differs: %d\n", len(found.Stock))
	for i, sku := range found.Stock {
		if i == stockLinesMax {
			fmt.Fprintf(out, "  and %d more; -o json has all\n", len(found.Stock)-stockLinesMax)
			break
		}
		fmt.Fprintf(out, "  %s: %d in the journal, %d in Redis\n", sku.SKU, sku.Journal, sku.Redis)
	}
	if len(found.Invalid) > 0 {
		const ignored = "Left out, because no command wrote their values: %s\n"
		fmt.Fprintf(out, ignored, strings.Join(found.Invalid, ", "))
	}
}

// printChoice prints the losses of each way.
func printChoice(out io.Writer, done recovery.Repair) {
	found := done.Facts
	fmt.Fprint(out, `
--keep journal loses everything that only Redis has. Shoppers were told of these holds,
and their units are sold again.
`)
	if done.RedisEnd < done.Journaled || done.RedisEnd == 0 {
		fmt.Fprint(out, "--keep redis is not possible: Redis has no log, or it ends before the journal.\n")
		return
	}
	fmt.Fprintf(out, `--keep redis records %d events. It cancels the %d active holds that Redis does not have,
and loses %d idempotency keys: such an adjustment, sent again, is made again.
`, done.Recorded, found.Missing.Holds, len(found.Keys))
	if found.Conflicting.Holds > 0 {
		fmt.Fprintf(out, "The %d holds that ended in the journal stay ended.\n", found.Conflicting.Holds)
	}
}
