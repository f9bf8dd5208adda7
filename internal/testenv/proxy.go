package testenv

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy stands between a client and a server, and can do to them what networks do.
type Proxy struct {
	listener net.Listener
	server   string
	lost     atomic.Int64 // answers to lose
	silent   atomic.Bool  // answers do not arrive, and connections stay open

	mu    sync.Mutex
	conns map[net.Conn]bool
	done  sync.WaitGroup
}

// NewProxy returns a proxy to a server's address, until the test ends.
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

// Addr is what to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// LoseAnswers has the next n answers swallowed after the server has done what was asked, and their connections cut.
func (p *Proxy) LoseAnswers(n int64) { p.lost.Store(n) }

// Silence has answers vanish while the connections stay open; with false, they arrive again.
func (p *Proxy) Silence(silent bool) { p.silent.Store(silent) }

// Cut closes every connection.
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
		server, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		p.done.Go(func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		})
		p.done.Go(func() {
			p.answers(client, server)
			_, _ = client.Close(), server.Close()
		})
	}
}

// answers passes on what the server says, unless it is to be lost.
func (p *Proxy) answers(client, server net.Conn) {
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
