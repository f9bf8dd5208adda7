package journal

import (
	"context"
	"sync"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/worker"
)

// PageCache lets the readers of one process share pages of the journal. Readers that work
// through a backlog need the same full pages, shortly after each other, and a full page
// of the journal never changes. So each is read and decoded once. Near the journal's end,
// where a page is not full yet, every reader reads for itself. A PageCache is safe for
// concurrent use.
type PageCache struct {
	pool string

	mu    sync.Mutex
	pages map[int64]*cachedPage // by the seq before a page's first event
	order []int64               // the keys of pages, the oldest first
}

type cachedPage struct {
	read   chan struct{}     // closed when the page was read
	events []events.Envelope // nil if reading it failed, or if the page is not full
}

const (
	pageEvents = worker.BatchMaxDefault // so that a batch is one page
	pagesMax   = 16                     // about 30 MB
)

// NewPageCache returns an empty cache for a pool's journal.
func NewPageCache(pool events.Pool) *PageCache {
	return &PageCache{pool: pool.Name(), pages: map[int64]*cachedPage{}}
}

// Read returns up to limit events after a seq, in order, or fewer if a page or the
// journal ends before. Several readers share the events, so callers must not change them.
func (p *PageCache) Read(
	ctx context.Context, db postgres.Querier, after int64, limit int,
) ([]events.Envelope, error) {
	limit = min(limit, int(pageEvents-after%pageEvents))
	if after%pageEvents != 0 {
		return ReadEvents(ctx, db, p.pool, after, limit)
	}
	page, first := p.page(after)
	if first {
		return p.fill(ctx, page, db, after, limit)
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-page.read:
	}
	if page.events == nil {
		return ReadEvents(ctx, db, p.pool, after, limit)
	}
	return page.events[:limit], nil
}

// Forget drops all pages. A reader calls it at the start of a run, because the journal
// may have been replaced meanwhile.
func (p *PageCache) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.pages)
	p.order = nil
}

// page returns the page after a seq. If first is true, the page is new and the caller
// must fill it.
func (p *PageCache) page(after int64) (page *cachedPage, first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if page := p.pages[after]; page != nil {
		return page, false
	}
	page = &cachedPage{read: make(chan struct{})}
	p.pages[after] = page
	p.order = append(p.order, after)
	if len(p.order) > pagesMax {
		delete(p.pages, p.order[0])
		p.order = p.order[1:]
	}
	return page, true
}

// fill reads a page and keeps it if it is full. Otherwise it removes the page from the
// cache.
func (p *PageCache) fill(
	ctx context.Context, page *cachedPage, db postgres.Querier, after int64, limit int,
) ([]events.Envelope, error) {
	defer close(page.read)
	found, err := ReadEvents(ctx, db, p.pool, after, pageEvents)
	if err == nil && len(found) == pageEvents {
		page.events = found
		return found[:limit], nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pages[after] == page {
		delete(p.pages, after)
	}
	return found[:min(limit, len(found))], err
}
