package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/httpapi"
	"github.com/stockstream/stockstream/internal/logonce"
)

func newEvents(config *Config) *cobra.Command {
	parent := newCommandGroup("events", "Show the events of the journal")
	parent.AddCommand(newEventsList(config), newEventsTail(config))
	return parent
}

// historyFlags are the flags that list and tail share.
type historyFlags struct {
	query journal.HistoryQuery
	after string
	form  output
}

func (h *historyFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&h.query.SKU, "sku", "", "only events of this SKU")
	f.StringVar(&h.query.HoldID, "hold", "", "only events of this hold")
	f.StringVar((*string)(&h.query.Type), "type", "", "only events of this type, such as HOLD_CREATED")
	addOutput(cmd, &h.form, "table, or json with all fields, one event a line")
}

// read checks the flags and completes the query. unset is the seq to start after if
// --after is not given.
func (h *historyFlags) read(unset int64) error {
	h.query.Pool = events.MainPool.Name()
	h.query.After = unset
	var f commands.Faults
	if h.query.SKU != "" {
		f.SKU("sku", h.query.SKU)
	}
	if h.query.HoldID != "" {
		f.HoldID("hold", h.query.HoldID)
	}
	if f.Err() != nil {
		return f.Err()
	}
	if h.query.Type != "" && !events.Known(h.query.Type) {
		return fmt.Errorf("type %q: want one of %v", h.query.Type, events.Types())
	}
	if h.after == "" {
		return nil
	}
	position, err := events.ParsePosition(h.after)
	if err == nil && position.Pool != h.query.Pool {
		err = fmt.Errorf("position %q: the only pool is %s", h.after, h.query.Pool)
	}
	h.query.After = position.Seq
	return err
}

func newEventsList(config *Config) *cobra.Command {
	var h historyFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List events of the journal, oldest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := h.read(0); err != nil {
				return err
			}
			if h.query.Limit < 1 {
				return fmt.Errorf("limit %d: must be at least 1", h.query.Limit)
			}
			conn, err := connectToLatestSchema(cmd.Context(), config)
			if err != nil {
				return err
			}
			defer conn.Close(cmd.Context())
			show := newEventPrinter(cmd.OutOrStdout(), h.form)
			next, err := listEvents(cmd.Context(), conn, h.query, show)
			if next != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "more events follow: --after %s\n", next)
			}
			return err
		},
	}
	h.add(cmd)
	cmd.Flags().StringVar(&h.after, "after", "", "only events after this position, such as main:42")
	cmd.Flags().IntVar(&h.query.Limit, "limit", 100, "the largest number of events to list")
	return cmd
}

// listEvents calls show with each page of events until the query's limit is reached. It
// returns the position of the last event shown if more events follow, and "" otherwise.
func listEvents(
	ctx context.Context, conn *pgx.Conn, q journal.HistoryQuery, show func([]journal.Recorded) error,
) (next string, err error) {
	for left := q.Limit; ; {
		q.Limit = min(left, eventsPageMax)
		page, err := journal.ReadHistory(ctx, conn, q)
		if err != nil {
			return "", err
		}
		if err := q.CheckEnd(page.End); err != nil {
			return "", err
		}
		if err := show(page.Events); err != nil {
			return "", err
		}
		left -= len(page.Events)
		q.After = page.Next
		switch {
		case !page.More:
			return "", nil
		case left == 0:
			return events.Position{Pool: q.Pool, Seq: page.Next}.String(), nil
		}
	}
}

// eventsPageMax is the largest number of events that are read into memory at once.
const eventsPageMax = 1000

func newEventsTail(config *Config) *cobra.Command {
	var h historyFlags
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print events as they are journaled, until Ctrl-C",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := h.read(journal.FromNow); err != nil {
				return err
			}
			postgres, err := latestSchemaConfig(cmd.Context(), config)
			if err != nil {
				return err
			}
			h.query.Limit = eventsPageMax
			var failure logonce.Last
			printWaiting := func(err error) {
				if failure.Changes(err.Error()) {
					fmt.Fprintln(cmd.ErrOrStderr(), "waiting for Postgres:", err)
				}
			}
			show := newEventPrinter(cmd.OutOrStdout(), h.form)
			err = journal.Follow(cmd.Context(), postgres, h.query, printWaiting, show)
			if errors.Is(err, journal.ErrRewritten) || errors.Is(err, journal.ErrDetached) {
				return fmt.Errorf("%w; start again, without --after or with a later position", err)
			}
			return err
		},
	}
	h.add(cmd)
	cmd.Flags().StringVar(&h.after, "after", "", "start after this position, such as main:42, instead of now")
	return cmd
}

// newEventPrinter returns a function that prints pages of events. The table's heading
// precedes the first page.
func newEventPrinter(out io.Writer, form output) func([]journal.Recorded) error {
	if form == outputJSON {
		return func(page []journal.Recorded) error {
			answers := make([]httpapi.EventAnswer, len(page))
			for i := range page {
				answers[i] = httpapi.NewEventAnswer(&page[i])
			}
			return printLines(out, answers)
		}
	}
	// The columns have fixed widths, because a tail prints rows before it knows the later
	// ones.
	const row = "%-12s %-24s %-14s %-20s %-36s %-32s %s\n"
	headed := false
	return func(page []journal.Recorded) error {
		if !headed {
			headed = true
			_, err := fmt.Fprintf(out, row, "POSITION", "AT", "TYPE", "SKU", "HOLD", "WHAT", "CAUSED BY")
			if err != nil {
				return err
			}
		}
		for i := range page {
			r := &page[i]
			_, err := fmt.Fprintf(out, row,
				events.Position{Pool: r.Pool, Seq: r.Seq},
				r.At.UTC().Format("2006-01-02T15:04:05.000Z"),
				printable(string(r.Type)),
				printable(orDash(r.SKU)),
				printable(orDash(r.HoldID)),
				printable(describeEvent(r)),
				printable(causedBy(r)),
			)
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// describeEvent returns a few words about an event: the fields of its payload except the
// SKU and the hold's id.
func describeEvent(r *journal.Recorded) string {
	event, err := r.Decode()
	if err != nil {
		return fmt.Sprintf("%.60s", r.Payload)
	}
	switch e := event.(type) {
	case *events.StockAdjusted:
		return fmt.Sprintf("%+d, %s", e.Delta, e.Reason)
	case *events.HoldCreated:
		return fmt.Sprintf("%d for %s, %s", e.Qty, e.UserID, time.Duration(e.TTLMs)*time.Millisecond)
	case *events.HoldConfirmed:
		return fmt.Sprintf("%d for %s, %s", e.Qty, e.UserID, e.PaymentRef)
	case *events.HoldCancelled:
		return fmt.Sprintf("%d of %s, %s", e.Qty, e.UserID, e.Reason)
	}
	return ""
}

// causedBy names the cause of an event: its causation id, its correlation id ("request
// …"), or both.
func causedBy(r *journal.Recorded) string {
	causation, correlation := r.Causes()
	switch {
	case causation != "" && correlation != "":
		return causation + ", request " + correlation
	case correlation != "":
		return "request " + correlation
	}
	return orDash(causation)
}
