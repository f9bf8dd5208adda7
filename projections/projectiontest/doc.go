// Package projectiontest holds a projection to the laws that every projection must keep, by one call in a test:
//
//	projectiontest.CheckLaws(t, projections.SKUHours)
//
// It makes up histories of a shop and puts them into a journal on a real Postgres. It has the projection apply each
// straight, in one batch, and then in every way in which an installation may come to apply it: in other batches,
// twice, in processes that die at every commit, from zero, by two runners at once, around an event that cannot be
// applied, at another time in another time zone. The rows must always be the same. All of it goes through
// projections.AddTo on a Watermill Router: it is the engine that runs, with faults put in from outside.
//
// It is for tests only, and imports events, projections, projections/rebuild and internal/testenv. The TestMain of a
// package that uses it calls testenv.Main.
package projectiontest
