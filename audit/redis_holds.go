package audit

import (
	"context"
	"fmt"
	"slices"

	"github.com/stockstream/stockstream/deadletters"
)

// redisHold is the hash of a hold, and its deadline in holds:due. A field is nil if Redis
// lacks it.
type redisHold struct {
	sku        *string
	qty        *string
	userID     *string
	state      *string
	expiresAt  *string
	paymentRef *string
	endedSeq   *string
	due        *string // the score in holds:due
}

// compareHolds compares the holds of a chunk with the expected state, which must be at
// the chunk's seq.
func (a *auditor) compareHolds(ctx context.Context, c *redisChunk) error {
	var divergences []divergence
	tracked := int64(0)
	for i, id := range c.ids {
		hold := a.expected.holds[id]
		if hold != nil {
			tracked++
		}
		if kind, differs := matchHold(hold, c.holds[i]); differs {
			divergences = append(divergences, a.holdDivergence(kind, hold, id, c.holds[i], c.seq))
		}
	}
	a.found.count(func(n *Compared) { n.Holds += tracked })
	return a.reportDivergences(ctx, a.conns.work, deadletters.SourceSaga, divergences)
}

// compareEndedHolds compares holds that have ended. They never change again, so any seq
// from the audit's end on will do.
func (a *auditor) compareEndedHolds(ctx context.Context, holds []*expectedHold) error {
	for chunk := range slices.Chunk(holds, keysPerChunk) {
		ids := make([]string, len(chunk))
		for i, hold := range chunk {
			ids[i] = hold.ID
		}
		expired, err := a.allHashesExpired(ctx, ids)
		if err != nil {
			return err
		}
		if expired {
			continue
		}
		c, err := a.readRedis(ctx, nil, ids)
		if err != nil || c == nil {
			return err
		}
		var divergences []divergence
		for i, hold := range chunk {
			if kind, differs := matchHold(hold, c.holds[i]); differs {
				divergences = append(divergences, a.holdDivergence(kind, hold, hold.ID, c.holds[i], c.seq))
			}
		}
		if err := a.reportDivergences(ctx, a.conns.ended, deadletters.SourceSaga, divergences); err != nil {
			return err
		}
	}
	return nil
}

// allHashesExpired reports, in a full audit, whether Redis has removed the hashes of all
// these ended holds. That is so for most of a long history, and saves running the script.
// A full audit still finds the deadline of a removed hold, since it compares the number
// of deadlines. Any other audit runs the script for each hold.
func (a *auditor) allHashesExpired(ctx context.Context, ids []string) (bool, error) {
	if !a.full {
		return false, nil
	}
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = a.config.Pool.HoldKey(id)
	}
	count, err := a.config.Redis.Exists(ctx, keys...).Result()
	if err != nil {
		return false, fmt.Errorf("read Redis: %w", err)
	}
	return count == 0, nil
}

// matchHold compares a hash and its deadline with the expected hold; nil if the hold is
// not tracked, and so not live. The hash of a hold that has ended may have been removed.
func matchHold(hold *expectedHold, found redisHold) (kind Kind, differs bool) {
	switch {
	case hold == nil:
		return KindUnexpected, equalsText(found.state, statusActive) || found.due != nil
	case hold.Status == statusActive && !found.exists():
		return KindMissing, true
	case hold.Status == statusActive:
		return KindChanged, !sameHash(hold, found) || !equalsNumber(found.due, hold.ExpiresAtMs)
	case !found.exists():
		return KindUnexpected, found.due != nil
	}
	sameEnd := found.endedSeq == nil || equalsNumber(found.endedSeq, hold.EndedSeq)
	samePayment := hold.Status != statusConfirmed || equalsText(found.paymentRef, hold.PaymentRef)
	return KindChanged, !sameHash(hold, found) || !sameEnd || !samePayment || found.due != nil
}

// sameHash compares the fields that every hash of a hold has.
func sameHash(hold *expectedHold, found redisHold) bool {
	return equalsText(found.sku, hold.SKU) &&
		equalsNumber(found.qty, hold.Qty) &&
		equalsText(found.userID, hold.UserID) &&
		equalsText(found.state, hold.Status) &&
		equalsNumber(found.expiresAt, hold.ExpiresAtMs)
}

// holdDivergence describes a hold that differs. If a live hold lacks nothing but its
// deadline, a dead letter of the saga may explain it: the saga removes a deadline when it
// parks the hold.
func (a *auditor) holdDivergence(
	kind Kind, hold *expectedHold, id string, found redisHold, seq int64,
) divergence {
	d := divergence{
		difference: Difference{
			Store:    StoreRedis,
			Kind:     kind,
			Key:      a.config.Pool.HoldKey(id),
			Expected: describeExpectedHold(hold),
			Found:    found.describe(),
			Seq:      seq,
		},
		hold: hold,
	}
	if kind == KindMissing {
		d.difference.Found = found.describeDue()
	}
	if hold != nil && hold.Status == statusActive && sameHash(hold, found) && found.due == nil {
		d.sequenceKey = id
	}
	return d
}

func describeExpectedHold(hold *expectedHold) string {
	if hold == nil {
		return "no live hold"
	}
	text := fmt.Sprintf("%s, %d of %s for %s, until %s",
		hold.Status, hold.Qty, hold.SKU, hold.UserID, clock(hold.ExpiresAtMs))
	if hold.PaymentRef != "" {
		text += ", paid by " + hold.PaymentRef
	}
	return text
}

func (h redisHold) exists() bool {
	return h.sku != nil || h.qty != nil || h.state != nil || h.expiresAt != nil
}

func (h redisHold) describe() string {
	if !h.exists() {
		return "no hash, " + h.describeDue()
	}
	return fmt.Sprintf("%s, %s of %s for %s, until %s, paid by %s, ended at seq %s, %s",
		orDash(h.state), orDash(h.qty), orDash(h.sku), orDash(h.userID), clockOrDash(h.expiresAt),
		orDash(h.paymentRef), orDash(h.endedSeq), h.describeDue())
}

func (h redisHold) describeDue() string {
	if h.due == nil {
		return "not in holds:due"
	}
	return "due " + clockOrDash(h.due)
}
