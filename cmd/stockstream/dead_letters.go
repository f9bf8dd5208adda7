package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/deadletters"
)

func newDeadLetters(config *Config) *cobra.Command {
	parent := newCommandGroup("dead-letters", "Show the messages that could not be handled")
	var (
		filter deadletters.Filter
		status string
		form   output
	)
	list := &cobra.Command{
		Use:   "list",
		Short: "List dead letters in the order in which they were parked",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := connectToLatestSchema(cmd.Context(), config)
			if err != nil {
				return err
			}
			defer conn.Close(cmd.Context())
			filter.Status = deadletters.Status(status)
			letters, err := deadletters.List(cmd.Context(), conn, filter)
			if err != nil {
				return err
			}
			if form == outputJSON {
				return printLettersJSON(cmd.OutOrStdout(), letters)
			}
			return printLetters(cmd.OutOrStdout(), letters)
		},
	}
	list.Flags().StringVar(&filter.Source, "source", "", "journal, saga, or a projection's name")
	list.Flags().StringVar(&status, "status", string(deadletters.StatusParked),
		"parked, resolved or discarded; empty for all")
	list.Flags().Int64Var(&filter.After, "after", 0, "only letters with a higher id")
	list.Flags().IntVar(&filter.Limit, "limit", 100, "the largest number of letters to list")
	addOutput(list, &form, "table, or json with all fields, one letter a line")
	parent.AddCommand(list)
	return parent
}

func printLetters(out io.Writer, letters []deadletters.Letter) error {
	table := newTable(out)
	fmt.Fprintln(table, "ID\tSOURCE\tKEY\tSEQ\tTYPE\tATTEMPTS\tLAST FAILED\tERROR")
	for _, l := range letters {
		lastFailed := l.LastFailed.UTC().Format(time.RFC3339)
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%d\t%s\t%.100q\n",
			l.ID, printable(l.Source), printable(orDash(l.SequenceKey)), seqOrDash(l.Seq),
			printable(orDash(string(l.EventType))), l.Attempts, lastFailed, l.Error)
	}
	return table.Flush()
}

// letterJSON is a dead letter as `list -o json` prints it. Raw is the message: unchanged
// if it is JSON, otherwise in base64.
type letterJSON struct {
	ID          int64             `json:"id"`
	Source      string            `json:"source"`
	MessageKey  string            `json:"message_key"`
	SequenceKey string            `json:"sequence_key"`
	Pool        string            `json:"pool"`
	Seq         int64             `json:"seq,omitempty"`
	EventType   string            `json:"event_type"`
	Raw         any               `json:"raw"`
	Metadata    map[string]string `json:"metadata"`
	Error       string            `json:"error"`
	Stack       string            `json:"stack,omitempty"`
	Attempts    int               `json:"attempts"`
	FirstFailed time.Time         `json:"first_failed_at"`
	LastFailed  time.Time         `json:"last_failed_at"`
	Status      string            `json:"status"`
}

func printLettersJSON(out io.Writer, letters []deadletters.Letter) error {
	rows := make([]letterJSON, len(letters))
	for i, l := range letters {
		rows[i] = letterJSON{
			ID:          l.ID,
			Source:      l.Source,
			MessageKey:  l.MessageKey,
			SequenceKey: l.SequenceKey,
			Pool:        l.Pool,
			Seq:         l.Seq,
			EventType:   string(l.EventType),
			Raw:         l.Raw,
			Metadata:    l.Metadata,
			Error:       l.Error,
			Stack:       l.Stack,
			Attempts:    l.Attempts,
			FirstFailed: l.FirstFailed.UTC(),
			LastFailed:  l.LastFailed.UTC(),
			Status:      string(l.Status),
		}
		if json.Valid(l.Raw) {
			rows[i].Raw = json.RawMessage(l.Raw)
		}
	}
	return printLines(out, rows)
}
