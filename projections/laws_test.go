package projections_test

import (
	"testing"

	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/projectiontest"
)

// TestLaws holds every projection that is registered to the laws of projections.
func TestLaws(t *testing.T) {
	t.Parallel()
	for i, p := range projections.BuiltIn() {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			projectiontest.CheckLaws(t, func() projections.Projection { return projections.BuiltIn()[i] })
		})
	}
}

// TestLawsPerEvent holds the example of the how-to to them.
func TestLawsPerEvent(t *testing.T) {
	t.Parallel()
	projectiontest.CheckLaws(t, projections.SKUHoursPerEvent)
}
