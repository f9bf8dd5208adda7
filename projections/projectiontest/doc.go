// Package projectiontest checks that a projection keeps the laws that every projection
// must keep. One call in a test does it:
//
//	projectiontest.CheckLaws(t, projections.SKUHours)
//
// CheckLaws generates histories of a shop and writes each into a journal on a real
// Postgres. One process applies the history in one batch; the rows that it writes are the
// baseline. Then the history is applied in every other way that an installation may apply
// it: in other batches, twice, by processes that are killed at every commit, from zero,
// by two workers at once, with an event that cannot be applied, and at another time in
// another time zone. The rows must equal the baseline each time. Everything goes through
// projections.AddTo on a Watermill Router, so that the real engine runs; the faults are
// injected from outside.
//
// The package is for tests only, and imports events, projections, projections/rebuild and
// internal/testenv. The TestMain of a package that uses it must call testenv.Main.
package projectiontest
