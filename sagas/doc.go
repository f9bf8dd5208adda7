// Package sagas drives what has to happen later: holds whose deadline passed become cancellations.
//
// It imports events, commands and deadletters. Any number of processes may run it at once; the command is idempotent,
// so a hold that two of them find expires once.
package sagas
