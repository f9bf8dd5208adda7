package testenv

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy forwards TCP connections to a server, and can lose answers and cut connections
// like a faulty network.
type Proxy struct {
	listener net.Listener
	lost     atomic.Int64 // number of answers still to lose
	silent   atomic.Bool  // drop all answers, but keep the connections open

	mu     sync.Mutex
	server string
	conns  map[net.Conn]bool
	done   sync.WaitGroup
}

// NewProxy starts a proxy to a server's address. It stops when the test ends.
func NewProxy(t testing.TB, server string) *Proxy {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, server: server, conns: map[net.Conn]bool{}}
	p.done.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.Cut()
		p.done.Wait()
	})
	return p
}

// Addr returns the address to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// LoseAnswers drops the next n answers and cuts their connections. The server has carried
// out the requests by then.
func (p *Proxy) LoseAnswers(n int64) { p.lost.Store(n) }

// Silence drops all answers but keeps the connections open, until it is called with
// false.
func (p *Proxy) Silence(silent bool) { p.silent.Store(silent) }

// Redirect forwards new connections to another server, and closes all others.
func (p *Proxy) Redirect(server string) {
	p.RedirectNew(server)
	p.Cut()
}

// RedirectNew forwards new connections to another server, and keeps all others.
func (p *Proxy) RedirectNew(server string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = server
}

// Cut closes all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
	clear(p.conns)
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		addr := p.server
		p.mu.Unlock()
		server, err := new(net.Dialer).DialContext(context.Background(), "tcp", addr)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client] = true
		p.conns[server] = true
		p.mu.Unlock()
		p.done.Go(func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		})
		p.done.Go(func() {
			p.forwardAnswers(client, server)
			_ = client.Close()
			_ = server.Close()
		})
	}
}

// forwardAnswers copies the server's answers to the client, except those to lose.
func (p *Proxy) forwardAnswers(client, server net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		switch {
		case p.silent.Load():
			continue
		case p.lost.Load() > 0:
			p.lost.Add(-1)
			return
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}
