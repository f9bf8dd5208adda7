package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
)

// ProjectionsAnswer is the answer of GET /ops/projections.
type ProjectionsAnswer struct {
	Projections []rebuild.Status `json:"projections"`
}

// RebuildRequest is the body of POST /ops/projections/{name}/rebuild; it may be left out.
type RebuildRequest struct {
	// AcceptDifferences swaps the rebuilt tables in even if they differ from the old
	// ones.
	AcceptDifferences bool `json:"accept_differences"`
}

// RebuildAnswer is the id of a rebuild that was started or cancelled. GET
// /ops/projections/{name} shows its progress.
type RebuildAnswer struct {
	Rebuild int64 `json:"rebuild"`
}

// OldTablesAnswer is the projection's checkpoint after its old tables were dropped or
// restored.
type OldTablesAnswer struct {
	Projection string `json:"projection"`
	Seq        int64  `json:"seq"`
}

// opsTimeout bounds the requests that change tables. A swap makes several short attempts
// to lock its tables within that time.
const opsTimeout = 25 * time.Second

func (a *api) routeProjections(engine *gin.Engine) {
	engine.GET("/ops/projections", a.handle(a.listProjections))
	engine.GET("/ops/projections/:name", a.handle(a.getProjection))
	engine.POST("/ops/projections/:name/rebuild", a.handle(a.startRebuild))
	engine.DELETE("/ops/projections/:name/rebuild", a.handle(a.cancelRebuild))
	engine.POST("/ops/projections/:name/drop-old", a.handle(a.dropOld))
	engine.POST("/ops/projections/:name/restore-old", a.handle(a.restoreOld))
}

func (a *api) listProjections(c *gin.Context) error {
	ctx, cancel := readContext(c)
	defer cancel()
	all, err := rebuild.Describe(ctx, a.Postgres, a.Pool.Name(), a.Projections...)
	if err != nil {
		return opsError(err)
	}
	return a.write(c, http.StatusOK, ProjectionsAnswer{Projections: all})
}

func (a *api) getProjection(c *gin.Context) error {
	p, err := a.projection(c)
	if err != nil {
		return err
	}
	ctx, cancel := readContext(c)
	defer cancel()
	all, err := rebuild.Describe(ctx, a.Postgres, a.Pool.Name(), p)
	if err != nil {
		return opsError(err)
	}
	return a.write(c, http.StatusOK, all[0])
}

// startRebuild answers 202 as soon as the rebuild has started. The rebuild runs in the
// background of this process.
func (a *api) startRebuild(c *gin.Context) error {
	p, err := a.projection(c)
	if err != nil {
		return err
	}
	var request RebuildRequest
	if err := decode(c, &request, true); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), opsTimeout)
	defer cancel()
	id, err := a.Rebuilds.Start(ctx, request.AcceptDifferences, p)
	if err != nil {
		return opsError(err)
	}
	c.Header("Location", "/ops/projections/"+p.Name)
	return a.write(c, http.StatusAccepted, RebuildAnswer{Rebuild: id})
}

// cancelRebuild cancels the rebuild that runs or was abandoned, if it is one of the
// projection that the path names.
func (a *api) cancelRebuild(c *gin.Context) error {
	p, err := a.projection(c)
	if err != nil {
		return err
	}
	ctx, cancel := readContext(c)
	defer cancel()
	runs, err := rebuild.List(ctx, a.Postgres, 1)
	if err != nil {
		return opsError(err)
	}
	// A run without an end may have lost its lease; Cancel then ends what it left behind.
	unfinished := len(runs) > 0 && runs[0].Finished.IsZero()
	if !unfinished || !slices.Contains(runs[0].Projections, p.Name) {
		return opsError(rebuild.ErrNotRunning)
	}
	id, err := rebuild.Cancel(ctx, a.Postgres)
	if err != nil {
		return opsError(err)
	}
	return a.write(c, http.StatusAccepted, RebuildAnswer{Rebuild: id})
}

func (a *api) dropOld(c *gin.Context) error {
	return a.changeOld(c, func(ctx context.Context, p projections.Projection) (int64, error) {
		if err := a.Rebuilds.DropOld(ctx, p); err != nil {
			return 0, err
		}
		return worker.ReadCheckpoint(ctx, a.Postgres, p.Name, a.Pool.Name())
	})
}

func (a *api) restoreOld(c *gin.Context) error {
	return a.changeOld(c, func(ctx context.Context, p projections.Projection) (int64, error) {
		result, err := a.Rebuilds.RestoreOld(ctx, p)
		return result.Seq, err
	})
}

// changeOld drops or restores the old tables of a projection, and answers with its
// checkpoint after that.
func (a *api) changeOld(
	c *gin.Context, change func(context.Context, projections.Projection) (seq int64, err error),
) error {
	p, err := a.projection(c)
	if err != nil {
		return err
	}
	if err := decodeNothing(c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), opsTimeout)
	defer cancel()
	seq, err := change(ctx, p)
	if err != nil {
		return opsError(err)
	}
	return a.write(c, http.StatusOK, OldTablesAnswer{Projection: p.Name, Seq: seq})
}

// projection returns the projection that the path names.
func (a *api) projection(c *gin.Context) (projections.Projection, error) {
	i := slices.IndexFunc(a.Projections, func(p projections.Projection) bool {
		return p.Name == c.Param("name")
	})
	if i < 0 {
		const detail = "there is no such projection; GET /ops/projections lists them"
		return projections.Projection{}, &requestError{codeUnknownProjection, detail}
	}
	return a.Projections[i], nil
}

// rebuildCodes maps the errors of a rebuild to codes.
var rebuildCodes = map[error]string{
	rebuild.ErrRebuildRunning: codeRebuildRuns,
	rebuild.ErrNotRunning:     codeNoRebuild,
	rebuild.ErrOldTablesKept:  codeOldTablesKept,
	rebuild.ErrNoOldTables:    codeNoOldTables,
	rebuild.ErrDependents:     codeDependents,
	rebuild.ErrOtherPools:     codeDependents,
	journal.ErrHole:           codeJournalHole,
}

// opsError turns an error of package rebuild into one with a code of this package.
func opsError(err error) error {
	for refusal, code := range rebuildCodes {
		if errors.Is(err, refusal) {
			return &requestError{code, err.Error()}
		}
	}
	if postgres.IsCode(err, postgres.UndefinedTable) {
		const detail = "the database schema does not match this build; run stockstream migrate up"
		return fmt.Errorf("%w: %w", &requestError{codeNotReady, detail}, err)
	}
	if postgres.IsCode(err, postgres.LockNotAvailable) { // the text names the session that has the lock
		return &requestError{codeUnavailable, err.Error()}
	}
	return readError(err, codeUnavailable, "")
}
