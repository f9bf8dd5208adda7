package testenv

import (
	"context"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
)

// RunRouter runs a Watermill Router until stop is called or the test ends. add adds the
// handlers to it.
func RunRouter(t testing.TB, add func(*message.Router)) (stop func()) {
	t.Helper()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	add(router)
	done := make(chan error, 1)
	go func() { done <- router.Run(context.Background()) }()
	<-router.Running()
	stop = sync.OnceFunc(func() {
		if err := router.Close(); err != nil {
			t.Errorf("close the router: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("run the router: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}
