package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// connection is one keep-alive HTTP connection that sends reservations. It uses no HTTP
// client, to take as little CPU time as possible from the server, which runs on the same
// machine.
type connection struct {
	conn    net.Conn
	reader  *bufio.Reader
	request []byte
	key     []byte // the bytes of request with the idempotency key
}

// lastKey is the number in the last idempotency key.
var lastKey atomic.Int64

const keyDigits = 12

// dial opens a connection and prepares its request. The key has a fixed length, so that
// it can be replaced in place.
func dial(ctx context.Context, addr string) (*connection, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	zeros := bytes.Repeat([]byte("0"), keyDigits)
	body := fmt.Sprintf(`{"sku":"hot","qty":1,"user_id":"buyer","idempotency_key":"k%s"}`, zeros)
	const format = "POST /holds HTTP/1.1\r\n" +
		"Host: localhost\r\n" +
		"Content-Type: application/json\r\n" +
		"Content-Length: %d\r\n" +
		"\r\n" +
		"%s"
	request := fmt.Appendf(nil, format, len(body), body)
	at := bytes.LastIndex(request, zeros)
	return &connection{
		conn:    conn,
		reader:  bufio.NewReader(conn),
		request: request,
		key:     request[at : at+keyDigits],
	}, nil
}

// reserve sends a reservation with a new key and returns the answer's body. Every status
// except 201 is an error.
func (c *connection) reserve() ([]byte, error) {
	n := lastKey.Add(1)
	for i := keyDigits - 1; i >= 0; i-- {
		c.key[i] = byte('0' + n%10)
		n /= 10
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return nil, err
	}
	return c.answer()
}

// stockHotSKU gives the SKU of every reservation more units than a benchmark sells.
func stockHotSKU(ctx context.Context, client *redis.Client) error {
	return client.Set(ctx, events.MainPool.StockKey("hot"), 1_000_000_000, 0).Err()
}

var (
	created       = []byte("HTTP/1.1 201")
	contentLength = []byte("Content-Length: ")
)

// answer reads one HTTP answer.
func (c *connection) answer() ([]byte, error) {
	status, err := c.reader.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	accepted := bytes.HasPrefix(status, created)
	text := string(bytes.TrimSpace(status[9:]))
	length := 0
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		if len(line) <= 2 {
			break
		}
		if bytes.HasPrefix(line, contentLength) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(contentLength):]))); err != nil {
				return nil, err
			}
		}
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(c.reader, body); err != nil {
		return nil, err
	}
	if !accepted {
		return nil, fmt.Errorf("answered %s: %s", text, body)
	}
	return body, nil
}

// loadResult is the result of a measurement under load.
type loadResult struct {
	perSecond float64         // accepted reservations per second
	cpu       []time.Duration // CPU time per reservation, of each watched process
}

// measureAccepted measures the reservations per second that a server accepts over a
// number of connections, and the CPU time per reservation of the processes with the
// watched pids.
func measureAccepted(
	ctx context.Context, addr string, connections int, duration time.Duration, watched ...int,
) (done loadResult, err error) {
	setSchedulingPolicy(ctx, "--batch")
	defer setSchedulingPolicy(ctx, "--other")
	var count atomic.Int64
	var counting, stop atomic.Bool
	var group sync.WaitGroup
	errs := make(chan error, connections)
	for range connections {
		c, err := dial(ctx, addr)
		if err != nil {
			return done, err
		}
		group.Go(func() {
			defer c.conn.Close()
			for !stop.Load() {
				if _, err := c.reserve(); err != nil {
					errs <- err
					return
				}
				if counting.Load() {
					count.Add(1)
				}
			}
		})
	}
	time.Sleep(duration / 4) // warm up
	for _, pid := range watched {
		done.cpu = append(done.cpu, -cpuTime(pid))
	}
	counting.Store(true)
	began := time.Now()
	time.Sleep(duration)
	elapsed := time.Since(began)
	reservations := count.Load()
	done.perSecond = float64(reservations) / elapsed.Seconds()
	for i, pid := range watched {
		done.cpu[i] = (done.cpu[i] + cpuTime(pid)) / time.Duration(max(1, reservations))
	}
	stop.Store(true)
	group.Wait()
	close(errs)
	return done, errors.Join(<-errs, ctx.Err())
}
