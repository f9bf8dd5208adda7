package rebuild

import (
	"encoding/json"
	"fmt"
	"strings"
)

// TableDifference counts the differences between a new table and the live one at the same
// seq.
type TableDifference struct {
	Projection string `json:"projection"`
	Table      string `json:"table"`
	Seq        int64  `json:"seq"`
	LiveRows   int64  `json:"live_rows"`
	NewRows    int64  `json:"new_rows"`
	OnlyLive   int64  `json:"only_live"` // keys that only the live table has
	OnlyNew    int64  `json:"only_new"`  // keys that only the new table has
	Changed    int64  `json:"changed"`   // keys whose rows differ
	// First are the differences of the first 20 keys, in the order of their text.
	First []RowDifference `json:"first"`
	// Lost are the indexes and columns that only the live table has.
	Lost []string `json:"lost,omitempty"`
}

// RowDifference is one key whose rows differ. Live or New is null if that table lacks the
// key.
type RowDifference struct {
	Key  string          `json:"key"`
	Live json.RawMessage `json:"live"`
	New  json.RawMessage `json:"new"`
}

// String returns the counts as text.
func (d TableDifference) String() string {
	text := fmt.Sprintf("%s at seq %d: %d rows live, %d new; %d changed, %d only live, %d only new",
		d.Table, d.Seq, d.LiveRows, d.NewRows, d.Changed, d.OnlyLive, d.OnlyNew)
	if len(d.Lost) > 0 {
		text += "; the new table lacks " + strings.Join(d.Lost, ", ")
	}
	return text
}

// DifferencesError is returned by Run if the new tables differ from the live ones and
// Config.AcceptDifferences is not set. No table was swapped.
type DifferencesError struct{ Differences []TableDifference }

func (e *DifferencesError) Error() string {
	texts := make([]string, len(e.Differences))
	for i, d := range e.Differences {
		texts[i] = d.String()
	}
	return "the new tables differ from the live ones: " + strings.Join(texts, "; ")
}

// firstRowsMax is how many differing rows are shown; all are counted.
const firstRowsMax = 20

// addRow adds a row difference to First, unless First is full.
func (d *TableDifference) addRow(key string, live, shadow json.RawMessage) {
	if len(d.First) < firstRowsMax {
		d.First = append(d.First, RowDifference{Key: key, Live: live, New: shadow})
	}
}
