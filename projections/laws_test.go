package projections_test

import (
	"testing"

	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/projectiontest"
)

// TestLaws checks every built-in projection against the laws of projections.
func TestLaws(t *testing.T) {
	t.Parallel()
	for i, p := range projections.BuiltIn() {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			projectiontest.CheckLaws(t, func() projections.Projection { return projections.BuiltIn()[i] })
		})
	}
}

// TestLawsPerEvent checks the example of docs/how-to-add-a-projection.md against the
// laws.
func TestLawsPerEvent(t *testing.T) {
	t.Parallel()
	projectiontest.CheckLaws(t, projections.SKUHoursPerEvent)
}
