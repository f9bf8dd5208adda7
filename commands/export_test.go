package commands

import (
	"testing"

	"pgregory.net/rapid"
)

// This file exports the model of model_test.go to package commands_test, which may import
// commands/recovery.

// Fixture is a service on the Redis and the Postgres schema of one test.
type Fixture = fixture

// Machine runs the same commands on a model and on Redis.
type Machine = machine

// ClosedFixture returns a fixture whose Redis is empty and whose gate is closed.
func ClosedFixture(t testing.TB) *Fixture {
	t.Helper()
	return closedFixture(t)
}

// NewMachine returns a machine with an empty model, whose SKUs and keys no other machine
// uses.
func NewMachine(f *Fixture) *Machine { return newMachine(f) }

// Actions returns the machine's actions for rapid's Repeat.
func (m *machine) Actions() map[string]func(*rapid.T) { return m.actions() }

// RecordExternalChanges makes the script record what an operator changed, SKU by SKU. It
// sends a reservation that is refused, and a refusal records the change as an event.
func (m *machine) RecordExternalChanges(t *rapid.T) {
	for sku, units := range m.model.stock {
		_, err := m.Reserve(m.Ctx, Reserve{
			SKU:            sku,
			Qty:            QtyMax,
			UserID:         "ann",
			IdempotencyKey: m.prefix + "too-many",
		})
		if units < QtyMax {
			m.want(t, err, ErrSoldOut)
		}
	}
}
