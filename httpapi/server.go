package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
)

// Config has the dependencies of the API. The API closes none of them.
type Config struct {
	Commands *commands.Service
	// Ready returns nil if this process can do its work. /readyz answers accordingly.
	Ready       func(ctx context.Context) error
	Postgres    *pgxpool.Pool
	Redis       redis.Cmdable
	Pool        events.Pool
	Projections []projections.Projection
	Rebuilds    *rebuild.Background
	// Workers are the workers of this process whose state /readyz?verbose shows.
	Workers []*worker.Worker
	// Addr is the address that the API listens on. Its host is accepted in requests, as
	// are localhost and the loopback addresses. If it is not on loopback, every IP
	// address is.
	Addr string
	// Hosts are further names under which clients reach the API. "*" accepts every host.
	Hosts []string
	// CrossOrigin decides which web pages may send commands. If it is nil, only pages of
	// the API's own origin may.
	CrossOrigin *http.CrossOriginProtection
	// Draining is closed when the process is about to stop. /readyz then answers 503,
	// while commands still work.
	Draining <-chan struct{}
	// HealthOnly serves only /livez and /readyz.
	HealthOnly bool
	Log        *slog.Logger
}

type api struct {
	Config
	hosts    hosts
	failures failureLog
}

// NewServer returns a server for the API, without a listener. Its time and size limits
// are strict enough for untrusted clients.
func NewServer(config Config) *http.Server {
	return &http.Server{
		Handler:           NewHandler(config),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      40 * time.Second, // longer than any command can take
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(config.Log.Handler(), slog.LevelWarn),
	}
}

// NewHandler returns the API's routes.
func NewHandler(config Config) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	if config.CrossOrigin == nil {
		config.CrossOrigin = http.NewCrossOriginProtection()
	}
	a := &api{Config: config, hosts: hostsOf(config.Addr, config.Hosts)}
	engine := gin.New()
	engine.HandleMethodNotAllowed = true
	engine.RedirectTrailingSlash = false
	engine.UseRawPath = true // an encoded slash belongs to a name and does not divide the path
	engine.UnescapePathValues = true
	_ = engine.SetTrustedProxies(nil) // ignore X-Forwarded-For and the like
	engine.Use(a.recover, answerHeaders, a.hangUp, a.guard, a.echoRequestID)
	engine.NoRoute(func(c *gin.Context) {
		a.fail(c, &requestError{codeUnknownRoute, "there is nothing at this path"})
	})
	engine.NoMethod(func(c *gin.Context) { a.fail(c, errWrongMethod) })

	for _, method := range []string{http.MethodGet, http.MethodHead} {
		engine.Handle(method, "/livez", a.handle(a.livez))
		engine.Handle(method, "/readyz", a.handle(a.readyz, verboseParam))
	}
	if !config.HealthOnly {
		a.route(engine)
	}
	return engine
}

// route adds all routes except /livez and /readyz.
func (a *api) route(engine *gin.Engine) {
	engine.POST("/holds", a.handle(a.reserve))
	engine.POST("/holds/reserve", a.handle(a.reserve))
	engine.POST("/holds/confirm", a.handle(a.confirm))
	engine.POST("/holds/cancel", a.handle(a.cancel))
	engine.POST("/holds/:id/confirm", a.handle(a.confirm))
	engine.POST("/holds/:id/cancel", a.handle(a.cancel))
	// Without these routes, GET /holds/reserve would look for a hold with the id
	// "reserve".
	for _, command := range []string{"reserve", "confirm", "cancel"} {
		engine.GET("/holds/"+command, func(c *gin.Context) {
			c.Header("Allow", http.MethodPost)
			a.fail(c, errWrongMethod)
		})
	}
	engine.GET("/holds/:id", a.handle(a.getHold))
	engine.GET("/holds/:id/events", a.handle(a.holdEvents, "after", "limit", "type"))
	engine.POST("/stock/:sku/adjustments", a.handle(a.adjust))
	engine.GET("/stock/:sku", a.handle(a.getStock))
	engine.GET("/stock/:sku/events", a.handle(a.stockEvents, "after", "limit", "type"))
	engine.GET("/stock/:sku/hours", a.handle(a.getHours, "from", "to"))
	engine.GET("/events", a.handle(a.allEvents, "after", "limit", "type", "sku", "hold"))
	engine.GET("/orders/:id", a.handle(a.getOrder))
	engine.GET("/orders", a.handle(a.findOrder, "hold_id"))
	a.routeProjections(engine)
}
