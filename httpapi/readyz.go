package httpapi

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/migrations"
	"github.com/stockstream/stockstream/projections"
)

// Readiness is the answer of GET /readyz. Its status code says whether commands are taken, or, in a process that takes
// none, whether its lines can work. With ?verbose it names everything that the service depends on. Trouble with
// Postgres is told, and does not make commands unready.
type Readiness struct {
	Status      string             `json:"status"` // ready, unready or draining
	Checks      []Check            `json:"checks,omitempty"`
	Workers       []WorkerReport       `json:"lines,omitempty"`
	Stream      *StreamReport      `json:"stream,omitempty"`
	Journal     *JournalReport     `json:"journal,omitempty"`
	Projections []ProjectionReport `json:"projections,omitempty"`
	Audit       *AuditReport       `json:"audit,omitempty"` // nothing before the first
}

// Check is one dependency.
type Check struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// WorkerReport is a line of work of this process.
type WorkerReport struct {
	Name  string    `json:"name"`
	State string    `json:"state"` // running, waiting (for its turn, or for a dependency) or stopped
	Error string    `json:"error,omitempty"`
	Since time.Time `json:"since"`
}

// StreamReport is what the stream holds. It is trimmed behind the journal, but never past what a consumer group has yet
// to read or to acknowledge.
type StreamReport struct {
	Entries int64      `json:"entries"`
	Oldest  *time.Time `json:"oldest,omitempty"`  // when its first entry was appended
	HeldBy  string     `json:"held_by,omitempty"` // the consumer group that is furthest behind, of those that are
}

// JournalReport is how far the journal is behind the stream.
type JournalReport struct {
	Seq       int64 `json:"seq"`
	LagEvents int64 `json:"lag_events"`
}

// ProjectionReport is how far a projection is behind the journal.
type ProjectionReport struct {
	Name       string  `json:"name"`
	Checkpoint int64   `json:"checkpoint"`
	LagEvents  int64   `json:"lag_events"`
	LagSeconds float64 `json:"lag_seconds"` // age of the oldest event not yet applied
}

const readyTimeout = 2 * time.Second

func (a *api) readyz(c *gin.Context) error {
	ctx, cancel := context.WithTimeout(c.Request.Context(), readyTimeout)
	readyErr := a.Ready(ctx)
	cancel()
	report := Readiness{Status: "ready"}
	status := http.StatusOK
	switch {
	case a.draining():
		report.Status, status = "draining", http.StatusServiceUnavailable
	case readyErr != nil:
		report.Status, status = "unready", http.StatusServiceUnavailable
	}
	if _, verbose := c.GetQuery("verbose"); verbose {
		a.describe(c.Request.Context(), &report, readyErr)
	}
	if status != http.StatusOK {
		c.Header("Retry-After", retryAfterSeconds)
	}
	return a.write(c, status, report)
}

func (a *api) draining() bool {
	select {
	case <-a.Draining:
		return true
	default:
		return false
	}
}

func (a *api) describe(ctx context.Context, report *Readiness, readyErr error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	var log events.Log
	var stream events.StreamState
	var redisErr, postgresErr, schemaErr, streamErr error
	var asked sync.WaitGroup // side by side: one that hangs must not look like a fault of another
	asked.Go(func() { log, redisErr = events.ReadLog(ctx, a.Redis, a.Pool) })
	asked.Go(func() { stream, streamErr = events.DescribeStream(ctx, a.Redis, a.Pool) })
	asked.Go(func() { postgresErr = a.Postgres.Ping(ctx) })
	asked.Go(func() { schemaErr = migrations.Check(ctx, a.Postgres) })
	asked.Wait()
	report.Checks = []Check{check("ready", readyErr), check("redis", redisErr), check("postgres", postgresErr), check("schema", schemaErr)}
	for _, line := range a.Workers {
		s := line.Status()
		report.Workers = append(report.Workers, WorkerReport{Name: s.Name, State: string(s.State), Error: s.Error, Since: s.Since.UTC().Truncate(time.Millisecond)})
	}
	if streamErr == nil {
		report.Stream = &StreamReport{Entries: stream.Entries, HeldBy: stream.HeldBy}
		if !stream.Oldest.IsZero() {
			oldest := stream.Oldest.UTC()
			report.Stream.Oldest = &oldest
		}
	}
	if schemaErr != nil {
		return
	}
	journaled, err := events.ReadCheckpoint(ctx, a.Postgres, events.JournalCheckpoint, a.Pool.Name())
	if err == nil && redisErr == nil {
		report.Journal = &JournalReport{Seq: journaled, LagEvents: max(0, log.Seq-journaled)}
	}
	if report.Audit, err = a.lastAudit(ctx); err != nil {
		report.Checks = append(report.Checks, check("audit", err))
	}
	lags, err := projections.ReadLag(ctx, a.Postgres, a.Pool.Name(), a.Projections...)
	if err != nil {
		report.Checks = append(report.Checks, check("projections", err))
	}
	for _, lag := range lags {
		report.Projections = append(report.Projections, ProjectionReport{
			Name: lag.Projection, Checkpoint: lag.Checkpoint, LagEvents: lag.Events, LagSeconds: lag.Age.Seconds(),
		})
	}
}

func check(name string, err error) Check {
	if err != nil {
		return Check{Name: name, Error: err.Error()}
	}
	return Check{Name: name, OK: true}
}
