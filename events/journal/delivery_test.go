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

// TestHandlerFaultIsInTheStatus checks that a subscriber's status shows why its handler
// refused a message, be it an error or a panic, and that the stack of a panic is in the
// log but not in the status.
func TestHandlerFaultIsInTheStatus(t *testing.T) {
	t.Parallel()
	for want, test := range map[string]struct {
		handle message.NoPublishHandlerFunc
		panics bool
	}{
		"out of paper": {
			handle: func(*message.Message) error { return errors.New("out of paper") },
		},
		"paper is torn": {
			handle: func(*message.Message) error { panic("paper is torn") },
			panics: true,
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.insertAdjustments(1)
			var log testenv.LogBuffer
			config := f.subscriberConfig("reader", NewPageCache(events.MainPool))
			config.Log = slog.New(slog.NewTextHandler(&log, nil))
			s := NewSubscriber(config)
			testenv.RunRouter(t, func(router *message.Router) {
				handler := router.AddConsumerHandler("reader", Topic(events.MainPool), s, test.handle)
				handler.AddMiddleware(worker.ReportFault)
			})
			f.awaitFault(s.Worker, want)
			if text := s.Status().Error; strings.Contains(text, "goroutine") {
				t.Errorf("status: got an error with a stack, want one without: %s", text)
			}
			if test.panics {
				testenv.Eventually(t, 10*time.Second, func() (bool, string) {
					named := strings.Contains(log.String(), "delivery_test.go")
					return named, "the log has no stack that names this file"
				})
			}
		})
	}
}
