// Package sagas does work that becomes due later: it cancels holds whose deadline has
// passed.
//
// It imports events, commands and deadletters. Any number of processes may run it at
// once: Cancel is idempotent, so a hold that two processes find expires once.
package sagas
