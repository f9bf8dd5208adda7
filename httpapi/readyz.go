package httpapi

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/migrations"
	"github.com/stockstream/stockstream/projections"
)

// Readiness is the answer of GET /readyz. The HTTP status is 200 if this process can
// serve commands, or, without the API role, if its workers can run; it is 503 otherwise,
// and while the process is draining. With ?verbose the answer describes every dependency.
// A failure of Postgres appears there, but does not make the process unready, because
// commands do not need Postgres.
type Readiness struct {
	Status      string             `json:"status"` // ready, unready or draining
	Checks      []Check            `json:"checks,omitempty"`
	Workers     []WorkerReport     `json:"lines,omitempty"`
	Stream      *StreamReport      `json:"stream,omitempty"`
	Journal     *JournalReport     `json:"journal,omitempty"`
	Projections []ProjectionReport `json:"projections,omitempty"`
	Audit       *AuditReport       `json:"audit,omitempty"` // left out before the first audit
}

// Check is the state of one dependency.
type Check struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// WorkerReport is the state of one worker of this process.
type WorkerReport struct {
	Name  string    `json:"name"`
	State string    `json:"state"` // running, stopped, or waiting (for its lease or for a dependency)
	Error string    `json:"error,omitempty"`
	Since time.Time `json:"since"`
}

// StreamReport is the size of the stream. Entries in the journal are trimmed, except
// those that a consumer group has not yet read and acknowledged.
type StreamReport struct {
	Entries int64      `json:"entries"`
	Oldest  *time.Time `json:"oldest,omitempty"`  // when the first entry was appended
	HeldBy  string     `json:"held_by,omitempty"` // the consumer group that is furthest behind; "" if none is
}

// JournalReport is the journal's checkpoint, and its lag behind Redis's log. While
// Postgres does not answer, it is counted from the last known checkpoint.
type JournalReport struct {
	Seq        int64   `json:"seq"`
	LagEvents  int64   `json:"lag_events"`
	LagSeconds float64 `json:"lag_seconds"`       // the age of the oldest event that is not journaled
	LagMax     int64   `json:"lag_max,omitempty"` // the number of events at which reserves are refused
}

// ProjectionReport is a projection's checkpoint, and its lag behind the journal.
type ProjectionReport struct {
	Name       string  `json:"name"`
	Checkpoint int64   `json:"checkpoint"`
	LagEvents  int64   `json:"lag_events"`
	LagSeconds float64 `json:"lag_seconds"` // the age of the oldest event that is not applied yet
}

const readyTimeout = 2 * time.Second

// readyz serves GET /readyz.
func (a *api) readyz(c *gin.Context) error {
	ctx, cancel := context.WithTimeout(c.Request.Context(), readyTimeout)
	readyErr := a.Ready(ctx)
	cancel()
	report := Readiness{Status: "ready"}
	status := http.StatusOK
	switch {
	case a.draining():
		report.Status = "draining"
		status = http.StatusServiceUnavailable
	case readyErr != nil:
		report.Status = "unready"
		status = http.StatusServiceUnavailable
	}
	if _, verbose := c.GetQuery(verboseParam); verbose {
		a.describe(c.Request.Context(), &report, readyErr)
	}
	if status != http.StatusOK {
		c.Header("Retry-After", retryAfterSeconds)
	}
	return a.write(c, status, report)
}

// draining reports whether the process is about to stop.
func (a *api) draining() bool {
	select {
	case <-a.Draining:
		return true
	default:
		return false
	}
}

// describe fills the report with the state of every dependency, for ?verbose.
func (a *api) describe(request context.Context, report *Readiness, readyErr error) {
	ctx, cancel := context.WithTimeout(request, readyTimeout)
	defer cancel()
	var head stream.Head
	var streamState stream.State
	var redisErr, streamErr, postgresErr, schemaErr error
	// The queries run concurrently, so that one that hangs does not make the others time
	// out.
	var queries sync.WaitGroup
	queries.Go(func() { head, redisErr = stream.ReadHead(ctx, a.Redis, a.Pool) })
	queries.Go(func() { streamState, streamErr = stream.Describe(ctx, a.Redis, a.Pool) })
	queries.Go(func() { postgresErr = a.Postgres.Ping(ctx) })
	queries.Go(func() { schemaErr = migrations.Check(ctx, a.Postgres) })
	queries.Wait()
	report.Checks = []Check{
		check("ready", readyErr),
		check("redis", redisErr),
		check("postgres", postgresErr),
		check("schema", schemaErr),
	}
	for _, w := range a.Workers {
		s := w.Status()
		report.Workers = append(report.Workers, WorkerReport{
			Name:  s.Name,
			State: string(s.State),
			Error: s.Error,
			Since: s.Since.UTC().Truncate(time.Millisecond),
		})
	}
	if streamErr == nil {
		report.Stream = &StreamReport{Entries: streamState.Entries, HeldBy: streamState.HeldBy}
		if !streamState.Oldest.IsZero() {
			oldest := streamState.Oldest.UTC()
			report.Stream.Oldest = &oldest
		}
	}
	if redisErr == nil {
		a.describeJournal(request, report, head, schemaErr == nil)
	}
	if schemaErr != nil {
		return
	}
	var err error
	if report.Audit, err = a.lastAudit(ctx); err != nil {
		report.Checks = append(report.Checks, check("audit", err))
	}
	lags, err := projections.ReadLag(ctx, a.Postgres, a.Pool.Name(), a.Projections...)
	if err != nil {
		report.Checks = append(report.Checks, check("projections", err))
	}
	for _, lag := range lags {
		report.Projections = append(report.Projections, ProjectionReport{
			Name:       lag.Projection,
			Checkpoint: lag.Checkpoint,
			LagEvents:  lag.Events,
			LagSeconds: lag.Age.Seconds(),
		})
	}
}

// describeJournal reports how far the journal is behind Redis's log.
func (a *api) describeJournal(
	ctx context.Context, report *Readiness, head stream.Head, postgresAnswers bool,
) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	lag, known := a.Commands.Gate().JournalLag()
	journaled := lag.Seq
	if postgresAnswers {
		var err error
		journaled, err = worker.ReadCheckpoint(ctx, a.Postgres, journal.CheckpointName, a.Pool.Name())
		known = err == nil
	}
	if !known {
		return
	}
	report.Journal = &JournalReport{
		Seq:       journaled,
		LagEvents: max(0, head.Seq-journaled),
		LagMax:    lag.Max,
	}
	if lag.AtLimit() {
		report.Checks = append(report.Checks, check("journal", commands.ErrJournalBehind))
	}
	if report.Journal.LagEvents == 0 {
		return
	}
	age, err := stream.UnjournaledAge(ctx, a.Redis, a.Pool, journaled)
	if err != nil {
		report.Checks = append(report.Checks, check("stream", err))
	}
	report.Journal.LagSeconds = age.Seconds()
}

func check(name string, err error) Check {
	if err != nil {
		return Check{Name: name, Error: err.Error()}
	}
	return Check{Name: name, OK: true}
}
