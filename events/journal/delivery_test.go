package journal

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// TestFaultsReachTheLine holds that a line says why its handler did not take a message, be it an error or a panic.
func TestFaultsReachTheLine(t *testing.T) {
	t.Parallel()
	for want, handle := range map[string]message.NoPublishHandlerFunc{
		"out of paper":  func(*message.Message) error { return errors.New("out of paper") },
		"paper is torn": func(*message.Message) error { panic("paper is torn") },
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.fill(1)
			var log lines
			s := NewSubscriber(SubscriberConfig{Postgres: p.config, Pool: events.MainPool, Pages: NewPageCache(events.MainPool), Reader: "reader", Log: slog.New(slog.NewTextHandler(&log, nil))})
			testenv.RunRouter(t, func(router *message.Router) {
				router.AddConsumerHandler("reader", Topic(events.MainPool), s, handle).AddMiddleware(worker.ReportFault)
			})
			p.awaitFault(s.Worker, want)
			if text := s.Status().Error; strings.Contains(text, "goroutine") {
				t.Errorf("the status holds a stack: %s", text)
			}
			if strings.Contains(want, "torn") {
				testenv.Eventually(t, 10*time.Second, func() (bool, string) { return log.count("delivery_test.go") > 0, "the log has no stack" })
			}
		})
	}
}
