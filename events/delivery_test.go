package events

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/stockstream/stockstream/internal/testenv"
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
			s := NewJournalSubscriber(JournalSubscriberConfig{Postgres: p.config, Pool: MainPool, Pages: NewJournalPages(MainPool), Reader: "reader", Log: slog.New(slog.DiscardHandler)})
			testenv.RunRouter(t, func(router *message.Router) {
				router.AddConsumerHandler("reader", JournalTopic(MainPool), s, handle).AddMiddleware(ReportFault)
			})
			p.awaitFault(s.Line, want)
		})
	}
}
