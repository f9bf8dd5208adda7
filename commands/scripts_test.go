package commands

import (
	"path"
	"regexp"
	"strings"
	"testing"
)

// TestScriptHeaders holds that every script begins by saying what it does, takes, answers and keeps.
func TestScriptHeaders(t *testing.T) {
	t.Parallel()
	for name, text := range scriptTexts(t) {
		if name == "prelude" {
			continue
		}
		header := headerOf(text)
		for _, part := range []string{"KEYS ", "ARGV ", "Answers ", "Keeps "} {
			if !strings.Contains(header, "-- "+part) {
				t.Errorf("%s.lua: its header does not say %q", name, strings.TrimSpace(part))
			}
		}
		if body := strings.TrimPrefix(text, header); strings.Contains(body, "'stock:'") || strings.Contains(body, "'hold:'") {
			t.Errorf("%s.lua builds a key; keys come ready in KEYS", name)
		}
	}
}

// TestStatusWords holds that what the scripts answer and what Go knows are the same words, and that each script's
// header names those it answers.
func TestStatusWords(t *testing.T) {
	t.Parallel()
	known := map[string]bool{statusCreated: true, statusConfirmed: true, statusCancelled: true, statusExpired: true, statusAdjusted: true,
		statusReplayed: true, statusInitialised: true, statusExists: true, statusDecided: true, statusFailed: true,
		statusClosed: true, statusChanged: true, statusReopened: true, statusGone: true, statusBegun: true, statusOpen: true,
		statusSuperseded: true, statusPublished: true, statusOtherServer: true, statusRaised: true}
	for status := range refusals {
		known[status] = true
	}
	word := regexp.MustCompile(`(?:answer\(|refuse\(stock, |return \{|or )'([A-Z_]*[A-Z])'`)
	answered := map[string]bool{"HOLD_CONFIRMED": true, "HOLD_CANCELLED": true, "HOLD_EXPIRED": true, // 'HOLD_' .. state
		"CANCELLED": true, "EXPIRED": true, "ADJUSTED": true, "CREATED": true, "PUBLISHED": true} // ARGV, and the left side of an `or`
	for name, text := range scriptTexts(t) {
		for _, match := range word.FindAllStringSubmatch(text, -1) {
			answered[match[1]] = true
			if !known[match[1]] {
				t.Errorf("%s.lua answers %s, which Go does not know", name, match[1])
			}
			if name != "prelude" && !strings.Contains(headerOf(text), match[1]) {
				t.Errorf("%s.lua answers %s, which its header does not name", name, match[1])
			}
		}
	}
	for status := range known {
		if !answered[status] {
			t.Errorf("Go knows the status %s, which no script answers", status)
		}
	}
}

// headerOf returns the comment that a script begins with.
func headerOf(text string) string {
	var header strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#!") {
			continue
		}
		if !strings.HasPrefix(line, "--") {
			break
		}
		header.WriteString(line)
	}
	return header.String()
}

func scriptTexts(t *testing.T) map[string]string {
	t.Helper()
	entries, err := luaFiles.ReadDir("lua")
	if err != nil || len(entries) != 13 {
		t.Fatalf("got %d scripts (%v), want 13", len(entries), err)
	}
	texts := map[string]string{}
	for _, entry := range entries {
		name := strings.TrimSuffix(entry.Name(), path.Ext(entry.Name()))
		texts[name] = source(name)
	}
	return texts
}
